"""When data may flow, and the bells."""

from importlib import resources

import pytest

from odin.market.gate import MarketGate
from odin.market.sessions import Calendar, MarketClock

DAY_MS = 86_400_000
OPENS_MS = 1756957500000
"""Thursday 2025-09-04 09:15:00 IST."""
CLOSES_MS = 1756980000000
"""Thursday 2025-09-04 15:30:00 IST."""
NOON_MS = 1756967400000


def calendar(overrides: str | None = None) -> Calendar:
    text = (resources.files("odin.market") / "calendars" / "nse.toml").read_text("utf-8")
    return Calendar.parse(text, overrides)


@pytest.fixture
def gate() -> MarketGate:
    return MarketGate({"NSE": MarketClock(calendar())})


def test_the_window_is_half_open(gate: MarketGate) -> None:
    assert not gate.is_streaming("NSE", OPENS_MS - 1)
    assert gate.is_streaming("NSE", OPENS_MS)
    assert gate.is_streaming("NSE", CLOSES_MS - 1)
    assert not gate.is_streaming("NSE", CLOSES_MS)


def test_an_exchange_without_a_calendar_follows_the_primary_one(gate: MarketGate) -> None:
    assert gate.is_streaming("MCX", OPENS_MS)
    assert not gate.is_streaming("MCX", CLOSES_MS)


def test_forced_open_streams_on_a_sunday_and_rings_no_bells() -> None:
    gate = MarketGate({"NSE": MarketClock(calendar())}, is_forced=True)
    assert gate.name == "always"
    assert gate.is_streaming("NSE", NOON_MS + 3 * DAY_MS)
    gate.bells(OPENS_MS - 1)
    assert gate.bells(CLOSES_MS) == []


def test_each_bell_rings_once_at_its_instant(gate: MarketGate) -> None:
    rung = []
    for at_ms in range(OPENS_MS - 3_600_000, CLOSES_MS + 3_600_000, 60_007):
        rung += [(at, status.is_open) for at, status in gate.bells(at_ms)]
    assert rung == [(OPENS_MS, True), (CLOSES_MS, False)]


def test_nothing_rings_at_the_start(gate: MarketGate) -> None:
    assert gate.bells(NOON_MS) == []


def test_next_change_is_the_instant_of_the_next_bell(gate: MarketGate) -> None:
    gate.bells(NOON_MS)
    assert gate.next_change_ms == CLOSES_MS


def test_a_jump_over_a_night_rings_both_bells_in_order(gate: MarketGate) -> None:
    gate.bells(NOON_MS)
    rung = gate.bells(NOON_MS + DAY_MS)
    assert [(at, status.is_open) for at, status in rung] == [
        (CLOSES_MS, False),
        (OPENS_MS + DAY_MS, True),
    ]


def test_a_jump_over_a_year_says_where_the_market_is_now(gate: MarketGate) -> None:
    gate.bells(NOON_MS)
    rung = gate.bells(NOON_MS + 366 * DAY_MS + 12 * 3_600_000)
    assert rung[-1][1].is_open is False
    assert gate.bells(NOON_MS + 366 * DAY_MS + 12 * 3_600_000) == []


def test_a_clock_set_back_says_where_the_market_is_then(gate: MarketGate) -> None:
    gate.bells(NOON_MS)
    gate.bells(CLOSES_MS)
    assert [status.is_open for _, status in gate.bells(NOON_MS)] == [True]
    assert gate.next_change_ms == CLOSES_MS


def test_a_calendar_that_closes_the_day_rings(gate: MarketGate) -> None:
    clock = MarketClock(calendar())
    gate = MarketGate({"NSE": clock})
    gate.bells(NOON_MS)
    clock.use(
        calendar('[[day]]\nexchange = "NSE"\ndate = 2025-09-04\nname = "Storm"\nclosed = true\n')
    )
    gate.reset()
    rung = gate.bells(NOON_MS + 1000)
    assert [(status.is_open, status.holiday) for _, status in rung] == [(False, "Storm")]
