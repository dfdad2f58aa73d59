from collections.abc import Iterable, Iterator

import pytest

from odin.errors import MAX_REFLECTED_CHARS, STOCK_ERRORS, ReferenceDataError
from odin.market.instruments import (
    ODIN_SEGMENTS,
    SEGMENT_NAMES,
    SUGGESTED_PER_CALL,
    SUGGESTIONS,
    InstrumentRegistry,
)
from odin.model import Instrument, InstrumentKey


def listed(
    place: str, token: int, symbol: str, series: str = "", name: str = "", kind: str = "equity"
) -> Instrument:
    exchange, segment = place.split()
    return Instrument(InstrumentKey(exchange, segment, token), symbol, series, name, kind=kind)


SBIN = listed("NSE CM", 3045, "SBIN", "EQ", "State Bank of India")
SBIN_BSE = listed("BSE CM", 500112, "SBIN", "A", "State Bank of India")
RELIANCE = listed("NSE CM", 2885, "RELIANCE", "EQ", "Reliance Industries")
RELIANCE_FUTURE = listed("NSE CD", 2885, "EURINR26JULFUT", kind="future")
HDFCBANK = listed("NSE CM", 1333, "HDFCBANK", "EQ", "HDFC Bank")
M_AND_M = listed("NSE CM", 2031, "M&M", "EQ", "Mahindra & Mahindra")
BAJAJ_AUTO = listed("NSE CM", 16669, "BAJAJ-AUTO", "EQ", "Bajaj Auto")
CHOLAFIN_BOND = listed("NSE CM", 19257, "CHOLAFIN", "D1", "CIFCL 7.5% NCD", "debt")
CHOLAFIN = listed("NSE CM", 685, "CHOLAFIN", "EQ", "Cholamandalam")
MICRONS = listed("NSE CM", 16921, "20MICRONS", "EQ", "20 Microns")
HINDUNILVR = listed("NSE CM", 1394, "HINDUNILVR", "EQ", "Hindustan Unilever")
NIFTY = listed("NSE INDEX", 13, "NIFTY", "", "Nifty 50", "index")
SENSEX = listed("BSE INDEX", 51, "SENSEX", "", "Sensex", "index")
ABB = listed("NSE CM", 13, "ABB", "EQ", "ABB India")
GOLD = listed("MCX CO", 51, "GOLD26AUGFUT", kind="future")
NIFTY_FUTURE = listed("NSE FO", 77001, "NIFTY26JULFUT", kind="future")
ONLY_BSE = listed("BSE CM", 590001, "ONLYBSE", "B")

EVERYBODY = [
    SBIN_BSE,
    SBIN,
    RELIANCE_FUTURE,
    RELIANCE,
    HDFCBANK,
    M_AND_M,
    BAJAJ_AUTO,
    CHOLAFIN_BOND,
    CHOLAFIN,
    MICRONS,
    HINDUNILVR,
    NIFTY,
    SENSEX,
    ABB,
    GOLD,
    NIFTY_FUTURE,
    ONLY_BSE,
]


def broken_off(*instruments: Instrument) -> Iterator[Instrument]:
    yield from instruments
    raise OSError("the disk is gone")


@pytest.fixture(scope="module")
def registry() -> InstrumentRegistry:
    return InstrumentRegistry(EVERYBODY, aliases={"356": HINDUNILVR.key})


class TestForms:
    @pytest.mark.parametrize(
        ("stock", "instrument", "label"),
        [
            ("SBIN", SBIN, "SBIN"),
            ("sbin", SBIN, "SBIN"),
            ("  Sbin\t\n", SBIN, "SBIN"),
            ("3045", SBIN, "SBIN (NSE)"),
            (" 3045 ", SBIN, "SBIN (NSE)"),
            ("03045", SBIN, "SBIN (NSE)"),
            (3045, SBIN, "SBIN (NSE)"),
            ("NSE:SBIN", SBIN, "SBIN (NSE)"),
            ("nse:sbin", SBIN, "SBIN (NSE)"),
            ("NSE: SBIN", SBIN, "SBIN (NSE)"),
            ("NSE:3045", SBIN, "SBIN (NSE)"),
            ("NSE_EQ:3045", SBIN, "SBIN (NSE)"),
            ("NSE_CM:SBIN", SBIN, "SBIN (NSE)"),
            ("SBIN (NSE)", SBIN, "SBIN (NSE)"),
            ("sbin (nse)", SBIN, "SBIN (NSE)"),
            ("SBIN-EQ", SBIN, "SBIN (NSE)"),
            ("NSE:SBIN-EQ", SBIN, "SBIN (NSE)"),
            ("SBIN.NSE", SBIN, "SBIN (NSE)"),
            ("1_3045", SBIN, "SBIN (NSE)"),
            ("BSE:SBIN", SBIN_BSE, "SBIN (BSE)"),
            ("BSE:500112", SBIN_BSE, "SBIN (BSE)"),
            ("500112", SBIN_BSE, "SBIN (BSE)"),
            ("SBIN (BSE)", SBIN_BSE, "SBIN (BSE)"),
            ("SBIN.BSE", SBIN_BSE, "SBIN (BSE)"),
            ("SBIN-A", SBIN_BSE, "SBIN (BSE)"),
            ("3_500112", SBIN_BSE, "SBIN (BSE)"),
            ("ONLYBSE", ONLY_BSE, "ONLYBSE"),
            ("M&M", M_AND_M, "M&M"),
            ("M&M-EQ", M_AND_M, "M&M (NSE)"),
            ("BAJAJ-AUTO", BAJAJ_AUTO, "BAJAJ-AUTO"),
            ("BAJAJ-AUTO-EQ", BAJAJ_AUTO, "BAJAJ-AUTO (NSE)"),
            ("20MICRONS", MICRONS, "20MICRONS"),
            ("CHOLAFIN", CHOLAFIN, "CHOLAFIN"),
            ("CHOLAFIN-D1", CHOLAFIN_BOND, "CHOLAFIN (NSE)"),
            ("19257", CHOLAFIN_BOND, "CHOLAFIN (NSE)"),
            ("NIFTY", NIFTY, "NIFTY"),
            ("Nifty 50", NIFTY, "NIFTY (NSE)"),
            ("NSE:NIFTY 50", NIFTY, "NIFTY (NSE)"),
            ("NSE_INDEX:13", NIFTY, "NIFTY (NSE)"),
            ("NFO:77001", NIFTY_FUTURE, "NIFTY26JULFUT (NSE)"),
            ("2_77001", NIFTY_FUTURE, "NIFTY26JULFUT (NSE)"),
            ("13_2885", RELIANCE_FUTURE, "EURINR26JULFUT (NSE)"),
            ("5_51", GOLD, "GOLD26AUGFUT (MCX)"),
            ("MCX:51", GOLD, "GOLD26AUGFUT (MCX)"),
            ("356", HINDUNILVR, "HINDUNILVR (NSE)"),
        ],
    )
    def test_accepts(
        self, registry: InstrumentRegistry, stock: str | int, instrument: Instrument, label: str
    ) -> None:
        resolution = registry.resolve(stock)
        assert resolution.instrument is instrument
        assert resolution.label == label
        assert resolution[3:] == (None, None, ())

    @pytest.mark.parametrize(
        ("stock", "code", "message"),
        [
            ("NOSUCH", "unknown_symbol", "No instrument is called NOSUCH"),
            ("nosuch", "unknown_symbol", "No instrument is called nosuch"),
            ("SBIN-BE", "unknown_symbol", "No instrument is called SBIN-BE"),
            ("SBIN-", "unknown_symbol", "No instrument is called SBIN-"),
            ("NIFTY-", "unknown_symbol", "No instrument is called NIFTY-"),
            ("BSE:HDFCBANK", "unknown_symbol", "No instrument is called BSE:HDFCBANK"),
            ("MCX:SBIN", "unknown_symbol", "No instrument is called MCX:SBIN"),
            (":SBIN", "unknown_symbol", "No instrument is called :SBIN"),
            ("(NSE)", "unknown_symbol", "No instrument is called (NSE)"),
            ("_3045", "unknown_symbol", "No instrument is called _3045"),
            ("3045.5", "unknown_symbol", "No instrument is called 3045.5"),
            ("99999", "unknown_token", "No instrument has the token 99999"),
            (99999, "unknown_token", "No instrument has the token 99999"),
            (-3045, "unknown_token", "No instrument has the token -3045"),
            (0, "unknown_token", "No instrument has the token 0"),
            ("1_26000", "unknown_token", "No instrument has the token 1_26000"),
            ("BSE:3045", "unknown_token", "No instrument has the token BSE:3045"),
            ("9" * 60, "unknown_token", f"No instrument has the token {'9' * 60}"),
            ("51", "ambiguous_token", "Token 51 is listed more than once, write EXCHANGE:TOKEN"),
            ("NYSE:IBM", "unknown_exchange", "No exchange or segment is called NYSE"),
            ("SBIN (LSE)", "unknown_exchange", "No exchange or segment is called LSE"),
            ("77_3045", "unknown_exchange", "No exchange or segment is called 77"),
            ("", "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            ("   ", "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            ("S" * 65, "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            ("SB\0IN", "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            ("SB\u200bIN", "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            ("\ud800", "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            (True, "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            (None, "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            (3045.0, "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
            (["SBIN"], "invalid_stock", STOCK_ERRORS["invalid_stock"].text),
        ],
    )
    def test_refuses(
        self, registry: InstrumentRegistry, stock: object, code: str, message: str
    ) -> None:
        resolution = registry.resolve(stock)
        assert (resolution.instrument, resolution.code) == (None, code)
        assert resolution.message == message

    def test_a_failed_stock_is_shown_as_it_was_given(self, registry: InstrumentRegistry) -> None:
        assert registry.resolve("noSuch").stock == "noSuch"
        assert registry.resolve(" noSuch ").stock == " noSuch "
        assert registry.resolve(-1).stock == "-1"
        assert registry.resolve(True).stock == "true"

    def test_what_cannot_be_shown_is_escaped_and_shortened(
        self, registry: InstrumentRegistry
    ) -> None:
        assert registry.resolve("a\nb").stock == "a\\nb"
        assert registry.resolve("\ud800").stock == "\\ud800"
        assert len(registry.resolve("x" * 100_000).stock) == MAX_REFLECTED_CHARS

    def test_an_integer_too_long_to_print_is_an_invalid_stock(
        self, registry: InstrumentRegistry
    ) -> None:
        for stock in (10**5000, -(10**5000)):
            resolution = registry.resolve(stock)
            assert resolution.code == "invalid_stock"
            assert resolution.stock == "an integer of 16610 bits"

    def test_only_ascii_digits_are_a_token(self, registry: InstrumentRegistry) -> None:
        for stock in ("３０４５", "٣٠٤٥", "²"):
            assert registry.resolve(stock).code == "unknown_symbol"

    def test_look_alike_letters_are_other_letters(self, registry: InstrumentRegistry) -> None:
        for stock in ("\u0405BIN", "\u017fbin", "ＳＢＩＮ", "SBI\u0274"):
            assert registry.resolve(stock).instrument is None

    def test_sharp_s_does_not_become_two_letters(self) -> None:
        registry = InstrumentRegistry([listed("NSE CM", 1, "STRASSE", "EQ")])
        assert registry.resolve("straße").instrument is None


class TestPreference:
    def resolve(self, name: str, *instruments: Instrument) -> Instrument | None:
        """Resolve against all orders of listing, which must not matter."""
        found = {
            InstrumentRegistry(order).resolve(name).instrument
            for order in (instruments, instruments[::-1])
        }
        assert len(found) == 1
        return found.pop()

    def test_series_of_nse(self) -> None:
        series = ["EQ", "BE", "BZ", "SM", "ST", "D1", "N0"]
        group = [listed("NSE CM", 90 - n, "X", s) for n, s in enumerate(series)]
        while group:
            assert self.resolve("X", *group) == group.pop(0)

    def test_shares_before_debt_among_the_other_series(self) -> None:
        debt = listed("NSE CM", 1, "X", "D1", kind="debt")
        fund = listed("NSE CM", 2, "X", "MF", kind="etf")
        odd = listed("NSE CM", 3, "X", "AA", kind="other")
        assert self.resolve("X", debt, fund, odd) == fund
        assert self.resolve("X", debt, odd) == odd

    def test_markets(self) -> None:
        group = [
            listed("NSE CM", 9, "X", "D1", kind="debt"),
            listed("NSE INDEX", 8, "X", kind="index"),
            listed("BSE CM", 7, "X", "Z"),
            listed("BSE INDEX", 6, "X", kind="index"),
            listed("MCX CO", 5, "X", kind="future"),
        ]
        while group:
            assert self.resolve("X", *group) == group.pop(0)

    def test_tokens(self) -> None:
        nse = listed("NSE CM", 7, "A", "EQ")
        bse = listed("BSE CM", 7, "B", "A")
        index = listed("NSE INDEX", 7, "C", kind="index")
        future = listed("NSE FO", 7, "D", kind="future")
        assert self.resolve("7", nse, bse, index, future) == nse
        assert self.resolve("7", bse, index, future) == bse
        assert self.resolve("7", index, future) is None
        assert self.resolve("7", future) == future
        assert self.resolve("NSE:7", bse, index) == index
        assert self.resolve("NSE:7", nse, index, future) == nse
        assert self.resolve("NSE:7", index, future) is None
        assert self.resolve("BSE:7", nse, bse) == bse

    def test_an_ambiguous_token_comes_with_names_that_are_not(self) -> None:
        index = listed("NSE INDEX", 7, "C", kind="index")
        future = listed("NSE FO", 7, "D", kind="future")
        registry = InstrumentRegistry([future, index])
        for stock in ("7", "NSE:7"):
            resolution = registry.resolve(stock)
            assert resolution.code == "ambiguous_token"
            assert resolution.suggestions == ("NSE_INDEX:7", "NSE_FO:7")
        found = [registry.resolve(name).instrument for name in ("NSE_INDEX:7", "NSE_FO:7")]
        assert found == [index, future]

    def test_a_symbol_that_is_all_digits_does_not_take_a_token(self) -> None:
        digits = listed("NSE CM", 1, "3045", "EQ")
        assert self.resolve("3045", digits, SBIN) == SBIN
        assert self.resolve("3045", digits) is None
        assert self.resolve("1", digits) == digits

    def test_a_whole_symbol_goes_before_symbol_and_series(self) -> None:
        right = listed("NSE CM", 1, "ACME-BE", "EQ")
        moved = listed("NSE CM", 2, "ACME", "BE")
        assert self.resolve("ACME-BE", right, moved) == right
        assert self.resolve("ACME-BE", moved) == moved

    def test_a_symbol_with_the_name_of_an_exchange_behind_a_dot_stays_itself(self) -> None:
        dotted = listed("NSE CM", 1, "8.9BSE", "EQ")
        assert self.resolve("8.9BSE", dotted) == dotted

    def test_a_listed_name_goes_before_an_alias(self) -> None:
        registry = InstrumentRegistry(
            [SBIN, HINDUNILVR], aliases={"3045": HINDUNILVR.key, "HUL": HINDUNILVR.key}
        )
        assert registry.resolve("3045").instrument is SBIN
        assert registry.resolve("hul").instrument is HINDUNILVR
        assert registry.resolve("hul").label == "HINDUNILVR (NSE)"


class TestSuggestions:
    @pytest.mark.parametrize(
        ("stock", "expected"),
        [
            ("SBINN", "SBIN"),
            ("SBN", "SBIN"),
            ("SBIM", "SBIN"),
            ("RELAINCE", "RELIANCE"),
            ("HDFC BANK", "HDFCBANK"),
            ("hdfcbnk", "HDFCBANK"),
            ("HDFCB", "HDFCBANK"),
            ("BAJAJ AUTO", "BAJAJ-AUTO"),
            ("RELIANCEIND", "RELIANCE"),
            ("RELYENCE", "RELIANCE"),
            ("NSE:SBINN", "NSE:SBIN"),
            ("SBIN-BE", "SBIN"),
            ("NES:SBIN", "NSE:SBIN"),
            ("BSE:HDFCBANK", "NSE:HDFCBANK"),
            ("BSE:3045", "NSE:3045"),
            ("\u0405BIN", "SBIN"),
        ],
    )
    def test_near_misses(self, registry: InstrumentRegistry, stock: str, expected: str) -> None:
        suggestions = registry.resolve(stock).suggestions
        assert suggestions[0] == expected
        assert len(suggestions) <= SUGGESTIONS
        assert all(registry.resolve(name).instrument for name in suggestions)

    def test_nothing_is_suggested_for_what_is_not_near_anything(
        self, registry: InstrumentRegistry
    ) -> None:
        for stock in ("QQQQQQQQ", "9999999", "X" * 60, "-", "(", ""):
            assert registry.resolve(stock).suggestions == ()

    def test_a_request_full_of_unknown_names_does_bounded_work(
        self, registry: InstrumentRegistry
    ) -> None:
        resolutions = registry.resolve_many(["SBINN"] * 100 + ["SBIN"])
        suggested = [r for r in resolutions if r.suggestions]
        assert len(suggested) == SUGGESTED_PER_CALL
        assert {r.code for r in resolutions[:100]} == {"unknown_symbol"}
        assert resolutions[-1].instrument is SBIN

    def test_known_stocks_do_not_use_up_the_suggestions(self, registry: InstrumentRegistry) -> None:
        assert registry.resolve_many(["SBIN"] * 100 + ["SBINN"])[-1].suggestions == ("SBIN",)


class TestContent:
    def test_get_by_key_or_plain_tuple(self, registry: InstrumentRegistry) -> None:
        assert registry.get(InstrumentKey("NSE", "CM", 3045)) is SBIN
        assert registry.get(("BSE", "CM", 500112)) is SBIN_BSE
        assert registry.get(("NSE", "CD", 2885)) is RELIANCE_FUTURE
        assert registry.get(("NSE", "CM", 500112)) is None

    def test_length_and_order_of_listing(self, registry: InstrumentRegistry) -> None:
        assert len(registry) == len(EVERYBODY)
        assert list(registry) == EVERYBODY

    def test_lookup_is_exact(self, registry: InstrumentRegistry) -> None:
        assert registry.lookup("SBIN") is SBIN
        assert registry.lookup("3045") is SBIN
        assert registry.lookup("sbin") is None
        assert registry.lookup("51") is None

    def test_an_empty_registry_resolves_nothing(self) -> None:
        registry = InstrumentRegistry()
        assert len(registry) == 0
        assert registry.resolve("SBIN").code == "unknown_symbol"
        assert registry.resolve("NSE:3045").code == "unknown_token"
        assert registry.search("SBIN") == []

    def test_resolve_many_keeps_the_order_and_repetitions(
        self, registry: InstrumentRegistry
    ) -> None:
        stocks = ["SBIN", 2885, "NOSUCH", "SBIN", "500112"]
        resolutions = registry.resolve_many(stocks)
        assert [r.stock for r in resolutions] == ["SBIN", "2885", "NOSUCH", "SBIN", "500112"]
        assert resolutions == [registry.resolve(stock) for stock in stocks]

    def test_replace_swaps_everything(self) -> None:
        registry = InstrumentRegistry([SBIN, HINDUNILVR], aliases={"356": HINDUNILVR.key})
        assert registry.version == 0
        renamed = listed("NSE CM", 3045, "STATEBANK", "EQ")
        assert registry.resolve("SBIN").instrument is SBIN
        registry.replace(iter([renamed]))
        assert registry.version == 1
        assert registry.resolve("SBIN").instrument is None
        assert registry.resolve("3045").label == "STATEBANK (NSE)"
        assert registry.resolve("356").instrument is None
        assert list(registry) == [renamed]

    @pytest.mark.parametrize(
        ("instruments", "aliases", "problem"),
        [
            (
                [HDFCBANK, listed("NSE CM", 1333, "OTHER")],
                {},
                "NSE CM 1333 is listed twice, as HDFCBANK and as OTHER",
            ),
            (
                [HDFCBANK],
                {"X": InstrumentKey("NSE", "CM", 5)},
                "The alias X leads to NSE CM 5, which is not listed",
            ),
            (broken_off(HDFCBANK), {}, "the disk is gone"),
        ],
        ids=["duplicate", "alias", "iterable"],
    )
    def test_a_failed_replace_changes_nothing(
        self, instruments: Iterable[Instrument], aliases: dict[str, InstrumentKey], problem: str
    ) -> None:
        registry = InstrumentRegistry([SBIN, RELIANCE], aliases={"HUL": SBIN.key})
        with pytest.raises((ReferenceDataError, OSError), match=problem):
            registry.replace(instruments, aliases=aliases)
        assert list(registry) == [SBIN, RELIANCE]
        assert registry.version == 0
        assert registry.resolve("HUL").instrument is SBIN
        assert registry.resolve("HDFCBANK").instrument is None

    def test_the_same_instrument_twice_is_a_duplicate_too(self) -> None:
        with pytest.raises(ReferenceDataError, match="listed twice"):
            InstrumentRegistry([SBIN, SBIN])

    def test_segment_tables_agree(self) -> None:
        assert SEGMENT_NAMES["NFO"] == SEGMENT_NAMES["NSE_FO"] == ODIN_SEGMENTS[2]
        assert SEGMENT_NAMES["MCX_FO"] == ODIN_SEGMENTS[5]


class TestSearch:
    def test_best_matches_first(self) -> None:
        name_only = listed("NSE CM", 1, "AAA", "EQ", "Formerly sbin")
        inside = listed("NSE CM", 2, "XSBIN", "EQ")
        longer = listed("BSE CM", 3, "SBINEQ", "B")
        longer_nse = listed("NSE CM", 4, "SBINZZ", "EQ")
        everything = [name_only, inside, longer, longer_nse, SBIN_BSE, SBIN, RELIANCE]
        expected = [SBIN, SBIN_BSE, longer_nse, longer, inside, name_only]
        assert InstrumentRegistry(everything).search(" sbin ") == expected
        assert InstrumentRegistry(everything[::-1]).search("SBIN") == expected
        assert InstrumentRegistry(everything).search("sbin", limit=2) == expected[:2]

    def test_by_token_prefix_and_by_name(self, registry: InstrumentRegistry) -> None:
        assert registry.search("30") == [SBIN]
        assert registry.search("500112") == [SBIN_BSE]
        assert registry.search("state bank") == [SBIN, SBIN_BSE]
        assert registry.search("nifty 50")[0] is NIFTY

    def test_nothing(self, registry: InstrumentRegistry) -> None:
        assert registry.search("") == registry.search("  ") == []
        assert registry.search("sbin", limit=0) == registry.search("sbin", limit=-1) == []
        assert registry.search("no such thing") == []
