"""The quote board against the protocol's own example, and against what a quote promises."""

import lzma
import math
from collections.abc import Mapping
from datetime import datetime

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.market.history import parse_daily, summarise, window_start
from odin.market.quotes import MAX_AHEAD_NS, QuoteBoard
from odin.metrics import Metrics
from odin.model import (
    MAX_PRICE,
    Depth,
    Detail,
    Instrument,
    InstrumentKey,
    Level,
    Quote,
    Tick,
    YearSummary,
)
from tests.support.shared import shared

RELIANCE = InstrumentKey("NSE", "CM", 2885)
RELIANCE_BSE = InstrumentKey("BSE", "CM", 500325)
SBIN = InstrumentKey("NSE", "CM", 3045)
STRANGER = InstrumentKey("NSE", "CM", 999_999)

DAY_MS = 86_400_000
THU_MS = 1_756_957_500_000  # 2025-09-04 09:15:00 IST
FRI_MS = THU_MS + DAY_MS
NOW_NS = 1_756_971_591_651_469_068  # 2025-09-04 13:09:51.651469068 IST
FARTHEST_MS = (NOW_NS + MAX_AHEAD_NS) // 1_000_000

YEAR = YearSummary(
    high=1551.0,
    high_date="2025-09-02",
    low=1115.55,
    low_date="2025-09-02",
    avg_volume_5d=8053013,
    prev_close=1372.6,
    prev_date="2025-09-03",
)

# The `data` object of the integration guide, in its order.
GUIDE_DATA = (
    b'{"symbol":"RELIANCE","token":"2885","exchange":"NSE","ltp":1365.5,"open":1371.8,'
    b'"high":1374.0,"low":1360.3,"close":1372.6,"prev_close":1372.6,"volume":8053013,'
    b'"percent_change":-0.5172665015299366,"week_52_high":1551.0,"week_52_low":1115.55,'
    b'"week_52_high_date":"2025-09-02","week_52_low_date":"2025-09-02","day_high":1374.0,'
    b'"day_low":1360.3,"avg_volume_5d":8053013,"timestamp":1756971590198,'
    b'"last_updated":"2025-09-04T13:09:51.651469068+05:30","is_new_week_52_high":false,'
    b'"is_new_week_52_low":false}'
)


class Master:
    """Instruments that can be renamed and removed, as a new master would."""

    def __init__(self) -> None:
        self.symbols = {RELIANCE: "RELIANCE", RELIANCE_BSE: "RELIANCE", SBIN: "SBIN"}
        self.asked = 0

    def find(self, key: InstrumentKey) -> Instrument | None:
        self.asked += 1
        symbol = self.symbols.get(key)
        return None if symbol is None else Instrument(key, symbol)


class Desk:
    """A board with its master and counters; `tick` needs only what a test is about."""

    def __init__(self, history: Mapping[InstrumentKey, YearSummary] | None = None) -> None:
        self.now_ns = NOW_NS
        self.master = Master()
        self.metrics = Metrics()
        self.board = QuoteBoard(self.master.find, self.metrics)
        if history is not None:
            self.board.load_history(history, "2025-09-04")

    def offer(
        self, ltp: object, at_ms: object = THU_MS, key: InstrumentKey = RELIANCE, **fields: object
    ) -> Quote | None:
        tick = Tick(key, at_ms, ltp, **fields)  # type: ignore[arg-type]
        return self.board.apply(tick, self.now_ns)

    def tick(
        self, ltp: object, at_ms: object = THU_MS, key: InstrumentKey = RELIANCE, **fields: object
    ) -> Quote:
        quote = self.offer(ltp, at_ms, key, **fields)
        assert quote is not None
        return quote

    @property
    def dropped(self) -> tuple[int, int, int]:
        """Ticks out of order, invalid, unknown."""
        counted = self.metrics
        return counted.ticks_out_of_order, counted.ticks_invalid, counted.ticks_unknown


@pytest.fixture
def desk() -> Desk:
    return Desk()


def year(quote: Quote) -> tuple[float | None, str | None, float | None, str | None]:
    return (
        quote.week_52_high,
        quote.week_52_high_date,
        quote.week_52_low,
        quote.week_52_low_date,
    )


def flags(quote: Quote) -> tuple[bool, bool]:
    return quote.is_new_week_52_high, quote.is_new_week_52_low


# ---------------------------------------------------------------- the protocol's example


def test_the_guides_example_comes_out_bit_for_bit() -> None:
    desk = Desk({RELIANCE: YEAR})
    quote = desk.tick(
        1365.5,
        1756971590198,
        volume=8053013,
        open=1371.8,
        high=1374.0,
        low=1360.3,
        prev_close=1372.6,
    )
    assert msgspec.json.encode(quote) == GUIDE_DATA
    assert desk.board.quote(RELIANCE) == quote


def test_percent_change_is_not_rounded(desk: Desk) -> None:
    assert desk.tick(1365.5, prev_close=1372.6).percent_change == -0.5172665015299366


def test_what_nobody_said_is_null_and_not_made_up(desk: Desk) -> None:
    quote = desk.tick(1365.5)
    assert quote.prev_close is None
    assert quote.close is None
    assert quote.percent_change == 0.0
    assert quote.avg_volume_5d is None
    assert year(quote) == (None, None, None, None)
    assert flags(quote) == (False, False)
    assert quote.volume == 0


def test_timestamp_is_the_exchanges_and_not_the_time_of_receipt(desk: Desk) -> None:
    quote = desk.tick(1365.5, THU_MS + 7)
    assert quote.timestamp == THU_MS + 7
    assert quote.last_updated == "2025-09-04T13:09:51.651469068+05:30"


# ---------------------------------------------------------------- what is dropped


@pytest.mark.parametrize(
    "ltp",
    [
        0.0,
        -0.0,
        -1.5,
        0,
        math.nan,
        math.inf,
        -math.inf,
        MAX_PRICE,
        None,
        True,
        False,
        "1365.5",
        10**400,
    ],
)
def test_an_impossible_price_is_dropped_and_counted(desk: Desk, ltp: object) -> None:
    first = desk.tick(1365.5)
    assert desk.offer(ltp, THU_MS + 1) is None
    assert desk.dropped == (0, 1, 0)
    assert desk.board.quote(RELIANCE) == first


@pytest.mark.parametrize("at_ms", [-1, FARTHEST_MS + 1, 10**30, 1.5, None, True])
def test_an_impossible_exchange_time_is_dropped_and_counted(desk: Desk, at_ms: object) -> None:
    assert desk.offer(1365.5, at_ms) is None
    assert desk.dropped == (0, 1, 0)
    assert desk.board.quote(RELIANCE) is None


def test_a_feed_whose_clock_is_hours_ahead_is_believed_and_a_day_ahead_is_not(desk: Desk) -> None:
    assert desk.tick(1365.5, FARTHEST_MS).timestamp == FARTHEST_MS
    desk = Desk()
    assert desk.offer(1365.5, FARTHEST_MS + 1) is None
    assert desk.tick(1366.0).ltp == 1366.0, "one broken time does not silence the instrument"


def test_a_whole_number_is_a_price(desk: Desk) -> None:
    quote = desk.tick(1365, high=1370, low=1360, open=1361, prev_close=1300)
    assert orjson.dumps([quote.ltp, quote.high, quote.low, quote.open, quote.close]) == (
        b"[1365.0,1370.0,1360.0,1361.0,1300.0]"
    )


def test_an_unknown_instrument_is_dropped_and_counted(desk: Desk) -> None:
    assert desk.offer(10.0, key=STRANGER) is None
    assert desk.dropped == (0, 0, 1)
    assert desk.board.quote(STRANGER) is None


def test_an_older_tick_is_dropped_and_counted_an_equally_old_one_is_not(desk: Desk) -> None:
    desk.tick(1365.5, THU_MS + 5)
    assert desk.offer(9999.0, THU_MS + 4) is None
    assert desk.dropped == (1, 0, 0)
    quote = desk.tick(1366.0, THU_MS + 5)
    assert (quote.ltp, quote.high) == (1366.0, 1366.0)


def test_order_is_each_instruments_own(desk: Desk) -> None:
    desk.tick(1365.5, THU_MS + 5)
    desk.tick(810.0, THU_MS, SBIN)
    assert desk.dropped == (0, 0, 0)


@pytest.mark.parametrize(
    "bad", [0.0, -5.0, math.nan, math.inf, MAX_PRICE, -math.inf, "x", True, 10**400]
)
@pytest.mark.parametrize("field", ["open", "high", "low", "prev_close"])
def test_an_impossible_field_is_ignored_by_itself(desk: Desk, field: str, bad: object) -> None:
    fields = {"open": 1371.8, "high": 1374.0, "low": 1360.3, "prev_close": 1372.6}
    expected = desk.tick(1365.5, **fields)
    assert desk.tick(1365.5, **{**fields, field: bad}) == expected
    assert desk.dropped == (0, 0, 0)


@pytest.mark.parametrize("bad", [-1, 2**63, True, "5", 1e6, math.nan])
def test_an_impossible_volume_is_ignored(desk: Desk, bad: object) -> None:
    desk.tick(1365.5, volume=70)
    assert desk.tick(1365.5, volume=bad).volume == 70


# ---------------------------------------------------------------- the trading day


def test_high_and_low_come_from_the_ticks(desk: Desk) -> None:
    for ltp in (1371.8, 1374.0, 1360.3):
        desk.tick(ltp)
    quote = desk.tick(1365.5)
    assert (quote.open, quote.high, quote.low) == (1371.8, 1374.0, 1360.3)
    assert (quote.day_high, quote.day_low) == (1374.0, 1360.3)


def test_the_feeds_extremes_count_and_are_kept(desk: Desk) -> None:
    desk.tick(1365.5, high=1374.0, low=1360.3)
    quote = desk.tick(1366.0, high=1370.0, low=1364.0)
    assert (quote.high, quote.low) == (1374.0, 1360.3)


def test_the_feeds_open_replaces_the_first_price_seen(desk: Desk) -> None:
    assert desk.tick(1365.5).open == 1365.5
    assert desk.tick(1366.0, open=1371.8).open == 1371.8
    quote = desk.tick(1366.0)
    assert quote.open == 1371.8
    assert quote.high == 1371.8, "the opening trade is a trade of the day"


def test_volume_never_goes_back_within_a_day(desk: Desk) -> None:
    assert desk.tick(10.0, volume=500).volume == 500
    assert desk.tick(10.0, volume=400).volume == 500
    assert desk.tick(10.0).volume == 500
    assert desk.tick(10.0, volume=501).volume == 501


def test_a_new_day_begins_at_midnight_in_india(desk: Desk) -> None:
    midnight = 1_757_010_600_000  # 2025-09-05 00:00 IST, still the 4th in UTC
    desk.tick(1365.5, midnight - 2, open=1371.8, high=1374.0, low=1360.3, volume=8053013)
    same_day = desk.tick(1366.0, midnight - 1)
    assert (same_day.open, same_day.high, same_day.volume) == (1371.8, 1374.0, 8053013)
    next_day = desk.tick(1367.0, midnight)
    assert (next_day.open, next_day.high, next_day.low, next_day.volume) == (
        1367.0,
        1367.0,
        1367.0,
        0,
    )


# ---------------------------------------------------------------- the previous close


def test_the_feeds_previous_close_is_believed_first() -> None:
    desk = Desk({RELIANCE: YEAR})
    quote = desk.tick(1365.5, prev_close=1400.0)
    assert (quote.close, quote.prev_close) == (1400.0, 1400.0)
    assert desk.tick(1365.5).prev_close == 1400.0


def test_the_history_gives_the_previous_close_at_the_start() -> None:
    assert Desk({RELIANCE: YEAR}).tick(1365.5).prev_close == 1372.6


def test_a_history_that_holds_the_day_itself_gives_no_previous_close() -> None:
    todays = YEAR._replace(prev_date="2025-09-04")
    assert Desk({RELIANCE: todays}).tick(1365.5).prev_close is None


def test_the_last_price_of_the_day_before_is_the_previous_close_without_better() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1360.0, THU_MS, prev_close=1372.6)
    desk.tick(1359.1, THU_MS + 1)
    quote = desk.tick(1370.0, FRI_MS)
    assert quote.prev_close == 1359.1
    assert quote.percent_change == (1370.0 - 1359.1) / 1359.1 * 100


def test_the_official_close_of_the_day_before_beats_the_last_price_seen() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1359.1)
    desk.board.load_history(
        {RELIANCE: YEAR._replace(prev_close=1359.3, prev_date="2025-09-04")}, "2025-09-05"
    )
    assert desk.tick(1370.0, FRI_MS).prev_close == 1359.3


def test_a_history_loaded_late_gives_todays_quotes_their_previous_close(desk: Desk) -> None:
    desk.tick(1365.5)
    desk.board.load_history({RELIANCE: YEAR}, "2025-09-04")
    quote = desk.board.quote(RELIANCE)
    assert quote is not None
    assert quote.prev_close == 1372.6
    assert quote.percent_change == -0.5172665015299366


@pytest.mark.parametrize("prev_date", ["2025-09-01", "2025-09-04"])
def test_loading_history_never_takes_a_better_previous_close_away(prev_date: str) -> None:
    desk = Desk()
    desk.tick(1380.0, THU_MS - DAY_MS)
    assert desk.tick(1365.5).prev_close == 1380.0
    desk.board.load_history({RELIANCE: YEAR}, "2025-09-04")
    assert desk.tick(1365.5).prev_close == 1372.6, "the official close of the same day"
    other = YEAR._replace(prev_close=1.0, prev_date=prev_date)
    desk.board.load_history({RELIANCE: other}, "2025-09-05")
    assert desk.tick(1365.5).prev_close == 1372.6, "older, or the close of this very day"


def test_loading_history_leaves_the_feeds_previous_close_alone(desk: Desk) -> None:
    desk.tick(1365.5, prev_close=1400.0)
    desk.board.load_history({RELIANCE: YEAR}, "2025-09-04")
    assert desk.tick(1365.5).prev_close == 1400.0


def test_the_feeds_previous_close_holds_for_its_day_only(desk: Desk) -> None:
    desk.tick(1359.1, prev_close=1372.6)
    assert desk.tick(1370.0, FRI_MS).prev_close == 1359.1
    official = YEAR._replace(prev_close=1359.3, prev_date="2025-09-04")
    desk.board.load_history({RELIANCE: official}, "2025-09-05")
    assert desk.tick(1370.0, FRI_MS).prev_close == 1359.3


# ---------------------------------------------------------------- 52 weeks


def test_average_volume_is_the_histories_and_not_todays() -> None:
    desk = Desk({RELIANCE: YEAR._replace(avg_volume_5d=7_000_000)})
    quote = desk.tick(1365.5, volume=12)
    assert (quote.avg_volume_5d, quote.volume) == (7_000_000, 12)


def test_dates_are_those_of_the_extremes_and_not_of_the_import() -> None:
    summary = YEAR._replace(high_date="2025-07-09", low=1114.85, low_date="2025-04-07")
    quote = Desk({RELIANCE: summary}).tick(1365.5)
    assert year(quote) == (1551.0, "2025-07-09", 1114.85, "2025-04-07")


def test_each_exchange_has_its_own_year() -> None:
    desk = Desk({RELIANCE: YEAR, RELIANCE_BSE: YEAR._replace(high=1550.9, low=1115.6)})
    assert desk.tick(1365.5).week_52_high == 1551.0
    assert desk.tick(1365.5, key=RELIANCE_BSE).week_52_high == 1550.9


def test_a_new_high_is_flagged_on_its_own_tick_only() -> None:
    desk = Desk({RELIANCE: YEAR})
    assert flags(desk.tick(1551.0)) == (False, False), "reached is not passed"
    first = desk.tick(1551.05)
    assert flags(first) == (True, False)
    assert year(first)[:2] == (1551.05, "2025-09-04")
    again = desk.tick(1551.05)
    assert flags(again) == (False, False), "the day's high is not new the second time"
    assert flags(desk.tick(1551.0)) == (False, False)
    assert flags(desk.tick(1551.1)) == (True, False)


def test_a_new_low_is_flagged_on_its_own_tick_only() -> None:
    desk = Desk({RELIANCE: YEAR})
    assert flags(desk.tick(1115.55)) == (False, False)
    first = desk.tick(1115.5)
    assert flags(first) == (False, True)
    assert year(first)[2:] == (1115.5, "2025-09-04")
    assert flags(desk.tick(1115.5)) == (False, False)
    assert flags(desk.tick(1115.45)) == (False, True)


def test_a_high_that_only_the_feed_saw_moves_the_year_without_the_flag() -> None:
    desk = Desk({RELIANCE: YEAR})
    quote = desk.tick(1552.0, high=1560.0)
    assert flags(quote) == (False, False)
    assert year(quote)[:2] == (1560.0, "2025-09-04")
    assert flags(desk.tick(1560.0)) == (False, False)
    assert flags(desk.tick(1560.05, high=1560.05)) == (True, False)


def test_a_low_that_only_the_feed_saw_moves_the_year_without_the_flag() -> None:
    desk = Desk({RELIANCE: YEAR})
    quote = desk.tick(1110.0, low=1100.0)
    assert flags(quote) == (False, False)
    assert year(quote)[2:] == (1100.0, "2025-09-04")
    assert flags(desk.tick(1099.95, low=1099.95)) == (False, True)


def test_a_price_equal_to_the_extreme_moves_its_date_as_the_history_would() -> None:
    desk = Desk({RELIANCE: YEAR})
    assert year(desk.tick(1551.0)) == (1551.0, "2025-09-04", 1115.55, "2025-09-02")
    quote = desk.tick(1115.55)
    assert year(quote) == (1551.0, "2025-09-04", 1115.55, "2025-09-04")
    assert flags(quote) == (False, False)


def test_without_history_nothing_is_a_record() -> None:
    desk = Desk({SBIN: YEAR})
    for ltp in (1.0, 1e6, 0.5):
        quote = desk.tick(ltp)
        assert flags(quote) == (False, False)
        assert year(quote) == (None, None, None, None)


def test_loading_again_in_the_day_keeps_todays_extremes() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1600.0)
    desk.board.load_history({RELIANCE: YEAR._replace(low=1000.0)}, "2025-09-04")
    quote = desk.board.quote(RELIANCE)
    assert quote is not None
    assert year(quote) == (1600.0, "2025-09-04", 1000.0, "2025-09-02")
    assert flags(quote) == (True, False), "the quote still is that of its tick"
    assert flags(desk.tick(1599.0)) == (False, False)


def test_loading_a_history_without_the_instrument_takes_its_year_away() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1365.5)
    desk.board.load_history({}, "2025-09-04")
    quote = desk.board.quote(RELIANCE)
    assert quote is not None
    assert year(quote) == (None, None, None, None)
    assert quote.avg_volume_5d is None


def test_yesterdays_extremes_hold_on_a_day_the_history_was_not_loaded_for() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1600.0, THU_MS)
    quote = desk.tick(1590.0, FRI_MS)
    assert flags(quote) == (False, False)
    assert year(quote)[:2] == (1600.0, "2025-09-04")


def test_yesterdays_extremes_outlive_a_load_that_does_not_reach_them() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1600.0, THU_MS)
    desk.tick(1100.0, THU_MS)
    desk.tick(1590.0, FRI_MS)
    desk.board.load_history({RELIANCE: YEAR}, "2025-09-05")
    assert year(desk.tick(1590.0, FRI_MS)) == (1600.0, "2025-09-04", 1100.0, "2025-09-04")


def test_a_load_that_reaches_yesterday_is_believed_over_what_was_seen() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1600.0, THU_MS)
    desk.tick(1500.0, FRI_MS)
    official = YEAR._replace(high=1598.0, high_date="2025-09-04", prev_date="2025-09-04")
    desk.board.load_history({RELIANCE: official}, "2025-09-05")
    assert year(desk.tick(1500.0, FRI_MS))[:2] == (1598.0, "2025-09-04")


def test_the_day_of_the_history_is_known_and_must_be_a_date(desk: Desk) -> None:
    assert desk.board.history_day is None
    desk.board.load_history({}, "2025-09-04")
    assert desk.board.history_day == "2025-09-04"
    with pytest.raises(ValueError, match="04-Sep-2025"):
        desk.board.load_history({}, "04-Sep-2025")


# ---------------------------------------------------------------- names and look-ups


def test_a_renamed_instrument_shows_its_new_symbol(desk: Desk) -> None:
    desk.tick(1365.5)
    desk.master.symbols[RELIANCE] = "RIL"
    desk.board.refresh_names()
    quote = desk.board.quote(RELIANCE)
    assert quote is not None
    assert (quote.symbol, quote.ltp) == ("RIL", 1365.5)
    assert desk.tick(1366.0).symbol == "RIL"


def test_an_instrument_that_left_is_unknown_and_loses_nothing_when_it_is_back() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1600.0, volume=70)
    del desk.master.symbols[RELIANCE]
    desk.board.refresh_names()
    assert desk.board.quote(RELIANCE) is None
    assert desk.offer(1500.0) is None
    assert desk.dropped == (0, 0, 1)
    desk.board.load_history({RELIANCE: YEAR._replace(low=1000.0)}, "2025-09-04")
    desk.master.symbols[RELIANCE] = "RIL"
    quote = desk.tick(1500.0)
    assert (quote.symbol, quote.open, quote.high, quote.volume) == ("RIL", 1600.0, 1600.0, 70)
    assert (quote.week_52_high, quote.week_52_low) == (1600.0, 1000.0)


def test_a_refresh_finds_an_instrument_that_came_back(desk: Desk) -> None:
    quote = desk.tick(1365.5)
    symbol = desk.master.symbols.pop(RELIANCE)
    desk.board.refresh_names()
    desk.master.symbols[RELIANCE] = symbol
    desk.board.refresh_names()
    assert desk.board.quote(RELIANCE) == quote


def test_the_master_is_asked_once_for_an_instrument(desk: Desk) -> None:
    for _ in range(3):
        desk.tick(1365.5)
    assert desk.master.asked == 1


def test_quotes_come_in_the_order_asked_and_only_where_there_are_any(desk: Desk) -> None:
    reliance = desk.tick(1365.5)
    sbin = desk.tick(810.0, key=SBIN)
    desk.offer(math.nan, key=RELIANCE_BSE)
    assert desk.board.quotes([SBIN, STRANGER, RELIANCE_BSE, RELIANCE]) == [sbin, reliance]


def test_the_newest_tick_time_is_known(desk: Desk) -> None:
    assert desk.board.last_tick_ms(RELIANCE) is None
    desk.tick(1365.5, THU_MS + 9)
    assert desk.board.last_tick_ms(RELIANCE) == THU_MS + 9


def test_a_forgotten_instrument_begins_anew() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.tick(1600.0, THU_MS + 5)
    desk.board.forget(RELIANCE)
    desk.board.forget(STRANGER)
    assert desk.board.quote(RELIANCE) is None
    quote = desk.tick(1365.5, THU_MS)
    assert (quote.open, quote.week_52_high) == (1365.5, 1551.0)


# ---------------------------------------------------------------- beyond the quote

DEPTH = Depth((Level(1365.45, 10, 2),), (Level(1365.55, 20, 3),))


def test_what_a_feed_tells_beyond_the_quote_is_kept_beside_it(desk: Desk) -> None:
    assert desk.board.detail(RELIANCE) is None
    plain = desk.tick(1365.5)
    assert desk.board.detail(RELIANCE) is None
    detail = Detail(1366.12, 100, 200, 0, DEPTH)
    quote = desk.tick(1365.5, detail=detail)
    assert desk.board.detail(RELIANCE) == detail
    assert quote == plain, "a quote does not show it"
    assert desk.board.detail(STRANGER) is None


def test_what_a_detail_is_silent_about_stays_as_it_was(desk: Desk) -> None:
    desk.tick(1365.5, detail=Detail(1366.12, 100, 200, 7, DEPTH))
    desk.tick(1365.5, detail=Detail(total_buy_qty=90))
    desk.tick(1365.5)
    assert desk.board.detail(RELIANCE) == Detail(1366.12, 90, 200, 7, DEPTH)
    empty = Depth((), ())
    desk.tick(1365.5, detail=Detail(depth=empty))
    assert desk.board.detail(RELIANCE) == Detail(1366.12, 90, 200, 7, empty)


def test_a_dropped_tick_tells_nothing(desk: Desk) -> None:
    desk.tick(1365.5, THU_MS + 5, detail=Detail(oi=1))
    assert desk.offer(1365.5, THU_MS, detail=Detail(oi=2)) is None
    assert desk.offer(-1.0, THU_MS + 6, detail=Detail(oi=2)) is None
    assert desk.board.detail(RELIANCE) == Detail(oi=1)


def test_details_end_with_their_day(desk: Desk) -> None:
    desk.tick(1365.5, detail=Detail(1366.12, 100, 200, 7, DEPTH))
    desk.now_ns += DAY_MS * 1_000_000
    desk.tick(1365.5, FRI_MS)
    assert desk.board.detail(RELIANCE) is None


def test_an_order_book_is_no_part_of_another_feeds_quote(desk: Desk) -> None:
    def apply(source: str, detail: Detail | None = None) -> Detail | None:
        desk.board.apply(Tick(RELIANCE, THU_MS, 1365.5, detail=detail), NOW_NS, source=source)
        return desk.board.detail(RELIANCE)

    assert apply("kite", Detail(oi=7, depth=DEPTH)) == Detail(oi=7, depth=DEPTH)
    assert apply("kite") == Detail(oi=7, depth=DEPTH)
    assert apply("odin", Detail(oi=8)) == Detail(oi=8)
    assert apply("kite") is None


def test_a_detail_that_is_forgotten_is_not_completed_later(desk: Desk) -> None:
    quote = desk.tick(1365.5, detail=Detail(1366.12, 100, 200, 7, DEPTH))
    desk.board.forget_detail(RELIANCE)
    desk.board.forget_detail(STRANGER)
    assert desk.board.detail(RELIANCE) is None
    assert desk.board.quote(RELIANCE) == quote
    desk.tick(1365.5, detail=Detail(oi=8))
    assert desk.board.detail(RELIANCE) == Detail(oi=8)


def test_a_quote_says_its_source_where_it_is_told_one(desk: Desk) -> None:
    quote = desk.board.apply(Tick(RELIANCE, THU_MS, 1365.5), NOW_NS, source="kite")
    assert quote is not None
    assert quote.source == "kite"
    assert desk.board.quote(RELIANCE) == quote
    desk.board.load_history({RELIANCE: YEAR}, "2025-09-04")
    corrected = desk.board.quote(RELIANCE)
    assert corrected is not None
    assert corrected.source == "kite"
    assert b"source" not in msgspec.json.encode(desk.tick(1365.5, THU_MS + 1))


# ---------------------------------------------------------------- whatever a feed sends

numbers = st.one_of(
    st.floats(min_value=0.05, max_value=1e6),
    st.integers(min_value=1, max_value=10**6),
    st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, True]),
)
ticks = st.builds(
    Tick,
    key=st.sampled_from([RELIANCE, SBIN, STRANGER]),
    exchange_ms=st.integers(min_value=THU_MS, max_value=THU_MS + 3 * DAY_MS),
    ltp=numbers,
    volume=st.none() | st.integers(min_value=-5, max_value=2**64),
    open=st.none() | numbers,
    high=st.none() | numbers,
    low=st.none() | numbers,
    prev_close=st.none() | numbers,
)


@given(st.lists(ticks, max_size=30))
def test_every_quote_is_sound_and_every_drop_is_counted(stream: list[Tick]) -> None:
    desk = Desk({RELIANCE: YEAR})
    made = 0
    for tick in stream:
        quote = desk.board.apply(tick, NOW_NS)
        if quote is None:
            continue
        made += 1
        assert quote.timestamp == tick.exchange_ms
        assert quote.ltp == float(tick.ltp)
        assert 0.0 < quote.low <= min(quote.open, quote.ltp)
        assert max(quote.open, quote.ltp) <= quote.high < math.inf
        assert (quote.day_high, quote.day_low) == (quote.high, quote.low)
        assert quote.prev_close is None or 0.0 < quote.prev_close < math.inf
        assert math.isfinite(quote.percent_change)
        assert quote.prev_close is not None or quote.percent_change == 0.0
        if quote.week_52_high is not None:
            assert quote.week_52_high >= quote.high
        if quote.is_new_week_52_high:
            assert quote.ltp == quote.high == quote.week_52_high
        read = orjson.loads(msgspec.json.encode(quote))
        assert read == msgspec.to_builtins(quote)
    assert made + sum(desk.dropped) == len(stream)


@given(
    st.lists(st.floats(min_value=1000.0, max_value=2000.0), min_size=1, max_size=40),
)
def test_the_flags_are_those_of_a_running_record(prices: list[float]) -> None:
    desk = Desk({RELIANCE: YEAR})
    highest, lowest = YEAR.high, YEAR.low
    for ltp in prices:
        assert flags(desk.tick(ltp)) == (ltp > highest, ltp < lowest)
        highest, lowest = max(highest, ltp), min(lowest, ltp)


# ---------------------------------------------------------------- real days


@pytest.mark.shared
def test_a_month_of_real_days_ends_where_the_history_of_that_month_does() -> None:
    """The board, fed the four prices of each day over an ageing history, equals the summary
    that the daily history gives once it holds those days."""
    header, *rows = lzma.decompress(shared("data/daily/*.xz").read_bytes()).splitlines()
    data = b"\n".join([header, *(row for row in rows if b",SBIN,EQ," in row)])
    bars = list(parse_daily(data, lambda name, series: SBIN).bars)
    live = [bar for bar in bars if bar.date > "2025-10-14"]
    assert len(live) > 20
    previous = bars[-len(live) - 1].date
    known = [bar for bar in bars if window_start(previous) <= bar.date <= previous]
    desk = Desk()
    desk.board.load_history({SBIN: summarise(known)}, live[0].date)
    for number, bar in enumerate(live):
        opening = datetime.fromisoformat(f"{bar.date}T09:15:00+05:30")
        desk.now_ns = int(opening.timestamp()) * 1_000_000_000
        for ltp in (bar.open, bar.low, bar.high, bar.close):
            quote = desk.tick(ltp, int(opening.timestamp()) * 1000, SBIN, volume=bar.volume)
        assert (quote.open, quote.high, quote.low, quote.ltp, quote.volume) == bar[2:]
        expected = summarise(known + live[: number + 1])
        assert year(quote) == expected[:4]
        assert quote.prev_close == (live[number - 1] if number else known[-1]).close


# ---------------------------------------------------------------- before the opening


def test_prices_before_the_opening_are_shown_but_are_no_part_of_the_day(desk: Desk) -> None:
    """The first seconds of a real index file, 09:00, hold 17659.0 and then 16529.4."""
    opening_ms = THU_MS
    early = desk.board.apply(
        Tick(RELIANCE, opening_ms - 900_000, 17659.0), NOW_NS, is_pre_open=True
    )
    assert early is not None
    assert early.ltp == 17659.0
    desk.board.apply(Tick(RELIANCE, opening_ms - 899_000, 16529.4), NOW_NS, is_pre_open=True)
    first = desk.tick(17600.0, opening_ms)
    assert (first.open, first.high, first.low) == (17600.0, 17600.0, 17600.0)
    second = desk.tick(17610.0, opening_ms + 1000)
    assert (second.open, second.high, second.low) == (17600.0, 17610.0, 17600.0)


def test_yesterdays_volume_under_todays_time_does_not_outlive_the_opening(desk: Desk) -> None:
    """A feed without times of its own shows yesterday's state to whoever subscribes early."""
    yesterday = Tick(RELIANCE, THU_MS - 900_000, 1360.0, volume=9_000_000, high=1400.0)
    early = desk.board.apply(yesterday, NOW_NS, is_pre_open=True)
    assert early is not None
    assert early.volume == 9_000_000
    first = desk.board.apply(Tick(RELIANCE, THU_MS, 1365.5, volume=120), NOW_NS)
    assert first is not None
    assert (first.volume, first.high) == (120, 1365.5)


def test_prices_before_the_opening_leave_the_year_alone() -> None:
    desk = Desk({RELIANCE: YEAR})
    early = desk.board.apply(Tick(RELIANCE, THU_MS - 900_000, 9999.0), NOW_NS, is_pre_open=True)
    assert early is not None
    assert not early.is_new_week_52_high
    first = desk.tick(1365.5)
    assert (first.week_52_high, first.is_new_week_52_high) == (YEAR.high, False)
    record = desk.tick(YEAR.high + 1, THU_MS + 1000)
    assert record.is_new_week_52_high


def test_a_day_of_nothing_but_early_prices_leaves_no_extremes() -> None:
    desk = Desk({RELIANCE: YEAR})
    desk.board.apply(Tick(RELIANCE, THU_MS - 900_000, 9999.0), NOW_NS, is_pre_open=True)
    assert desk.tick(1365.5, FRI_MS).week_52_high == YEAR.high


def test_without_a_previous_close_the_change_is_nought(desk: Desk) -> None:
    quote = desk.tick(1365.5)
    assert (quote.prev_close, quote.close, quote.percent_change) == (None, None, 0.0)
