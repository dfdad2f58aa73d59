"""What holds for every registry and every question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import MAX_ERROR_CHARS, MAX_REFLECTED_CHARS, STOCK_ERRORS, ReferenceDataError
from odin.market.instruments import SUGGESTIONS, InstrumentRegistry, Resolution
from odin.model import Instrument
from tests.market.test_instruments import listed

place = st.sampled_from(["NSE CM", "BSE CM", "NSE INDEX", "BSE INDEX", "NSE FO", "MCX CO"])
instruments = st.lists(
    st.builds(
        listed,
        place,
        st.integers(1, 30),
        st.text("AB&-19", min_size=1, max_size=4),
        st.sampled_from(["", "EQ", "BE", "A", "D1"]),
        st.text("ab 1", max_size=4),
    ),
    max_size=30,
    unique_by=lambda instrument: instrument.key,
)
awkward = st.one_of(
    st.text(),
    st.text("ABN SE:_.()-0123456789", max_size=12),
    st.integers(),
    st.integers(1, 31),
    st.booleans(),
    st.none(),
    st.floats(),
    st.lists(st.text(), max_size=2),
)


@given(instruments, st.lists(awkward, max_size=10))
def test_resolve_answers_whatever_it_is_asked(
    listings: list[Instrument], stocks: list[object]
) -> None:
    registry = InstrumentRegistry(listings)
    resolutions = registry.resolve_many(stocks)
    assert len(resolutions) == len(stocks)
    for resolution in resolutions:
        assert len(resolution.stock) <= MAX_REFLECTED_CHARS or resolution.instrument
        resolution.stock.encode()
        if resolution.instrument is None:
            assert resolution.code in STOCK_ERRORS
            assert resolution.message
            assert len(resolution.message) <= MAX_ERROR_CHARS
            assert len(resolution.suggestions) <= SUGGESTIONS
            assert all(registry.resolve(name).instrument for name in resolution.suggestions)
        else:
            assert resolution == Resolution(resolution.stock, *resolution[1:3], None, None, ())
            assert resolution.instrument in listings
            again = registry.resolve(resolution.label).instrument
            if not resolution.instrument.symbol.isdigit():  # which would be read as a token
                assert again is not None
                assert again.symbol == resolution.instrument.symbol


@given(instruments)
def test_every_instrument_resolves_by_exchange_and_token(listings: list[Instrument]) -> None:
    registry = InstrumentRegistry(listings)
    for instrument in listings:
        exchange, segment, token = instrument.key
        rivals = [i for i in listings if i.exchange == exchange and i.token == instrument.token]
        cash = [i for i in rivals if i.key.segment == "CM"]
        found = registry.resolve(f"{exchange}:{token}")
        if cash or len(rivals) == 1:
            assert found.instrument == (cash or rivals)[0]
        else:
            assert found.code == "ambiguous_token"
        assert registry.resolve(f"{exchange}_{segment}:{token}").instrument is instrument


@given(instruments, instruments, st.booleans())
def test_replacing_is_the_same_as_starting_anew(
    before: list[Instrument], after: list[Instrument], is_broken: bool
) -> None:
    registry = InstrumentRegistry(before)
    if is_broken and after:
        with pytest.raises(ReferenceDataError):
            registry.replace([*after, after[0]])
        expected = before
    else:
        registry.replace(after)
        expected = after
    anew = InstrumentRegistry(expected)
    assert list(registry) == expected
    for stock in ("A", "1", "B-EQ", "NSE:1", "BSE:A", "9"):
        assert registry.resolve(stock) == anew.resolve(stock)
