"""The shipped sample and a real master in the registry."""

import time
from importlib.resources import files

import pytest

from odin.market.instruments import InstrumentRegistry
from odin.market.masters import SAMPLE_ALIASES, parse_master, parse_sample
from tests.support.shared import shared


@pytest.fixture(scope="module")
def real() -> InstrumentRegistry:
    path = shared("data/instruments/dhan_scrip_master_2026-07-01.csv")
    return InstrumentRegistry(parse_master(path.read_bytes()).instruments)


@pytest.fixture(scope="module")
def sample() -> InstrumentRegistry:
    text = files("odin.market").joinpath("sample_instruments.csv").read_text("utf-8")
    return InstrumentRegistry(parse_sample(text), aliases=SAMPLE_ALIASES)


class TestSample:
    @pytest.mark.parametrize(
        ("symbol", "token"),
        [
            ("SBIN", "3045"),
            ("RELIANCE", "2885"),
            ("TCS", "11536"),
            ("INFY", "1594"),
            ("HDFCBANK", "1333"),
            ("BHARTIARTL", "10604"),
            ("ICICIBANK", "4963"),
            ("HINDUNILVR", "1394"),
            ("ITC", "1660"),
            ("KOTAKBANK", "1922"),
        ],
    )
    def test_the_stocks_of_the_integration_guide(
        self, sample: InstrumentRegistry, symbol: str, token: str
    ) -> None:
        by_symbol, by_token = sample.resolve_many([symbol, token])
        assert by_symbol.instrument is not None
        assert by_symbol.instrument is by_token.instrument
        assert by_symbol.instrument.token == token
        assert (by_symbol.label, by_token.label) == (symbol, f"{symbol} (NSE)")

    def test_the_guides_own_numbers_are_aliases(self, sample: InstrumentRegistry) -> None:
        labels = [resolution.label for resolution in sample.resolve_many(["356", "424", "492"])]
        assert labels == ["HINDUNILVR (NSE)", "ITC (NSE)", "KOTAKBANK (NSE)"]

    def test_rows_are_complete(self, sample: InstrumentRegistry) -> None:
        assert 45 <= len(sample) <= 60
        for instrument in sample:
            is_index = instrument.key.segment == "INDEX"
            assert instrument.kind == ("index" if is_index else "equity")
            assert bool(instrument.isin) is not is_index
            assert (instrument.reference_close is None) is is_index
            assert instrument.name
            assert 0.01 <= instrument.tick_size <= 1
            assert instrument.lot_size == 1

    def test_rows_agree_with_a_real_master(
        self, sample: InstrumentRegistry, real: InstrumentRegistry
    ) -> None:
        for instrument in sample:
            listing = real.get(instrument.key)
            assert listing is not None
            assert (listing.symbol, listing.series) == (instrument.symbol, instrument.series)
            assert (listing.tick_size, listing.kind) == (instrument.tick_size, instrument.kind)


class TestRealMaster:
    @pytest.mark.parametrize(
        ("stock", "key"),
        [
            ("SBIN", ("NSE", "CM", 3045)),
            ("3045", ("NSE", "CM", 3045)),
            (3045, ("NSE", "CM", 3045)),
            ("BSE:SBIN", ("BSE", "CM", 500112)),
            ("500112", ("BSE", "CM", 500112)),
            ("M&M", ("NSE", "CM", 2031)),
            ("CHOLAFIN", ("NSE", "CM", 685)),
            ("BAJAJ-AUTO", ("NSE", "CM", 16669)),
            ("SUMEET-RE", ("NSE", "CM", 754145)),
            ("NIFTY", ("NSE", "INDEX", 13)),
            ("nifty bank", ("NSE", "INDEX", 25)),
            ("KALYANI$", None),
            ("356", None),
            ("424", None),
        ],
    )
    def test_resolution_rule(
        self, real: InstrumentRegistry, stock: str | int, key: tuple[str, str, int] | None
    ) -> None:
        instrument = real.resolve(stock).instrument
        if stock == "KALYANI$":
            assert instrument is not None
            assert instrument.exchange == "BSE"
        else:
            assert (instrument and instrument.key) == key

    def test_every_instrument_has_a_name_of_its_own(self, real: InstrumentRegistry) -> None:
        assert len(real) == 23_116
        for instrument in real:
            exchange, segment, token = instrument.key
            assert real.resolve(f"{exchange}_{segment}:{token}").instrument is instrument

    def test_every_label_is_accepted_back(self, real: InstrumentRegistry) -> None:
        for instrument in real:
            found = real.resolve(instrument.label).instrument
            assert found is not None
            assert found.label == instrument.label

    def test_loads_in_no_time(self, real: InstrumentRegistry) -> None:
        instruments = list(real)
        start = time.perf_counter()
        InstrumentRegistry(instruments)
        assert time.perf_counter() - start < 0.5
