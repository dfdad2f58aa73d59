"""Instruments that are quiet for too long."""

import pytest

from odin.market.quotes import QuoteBoard
from odin.market.staleness import Staleness
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey, Tick

SBIN = InstrumentKey("NSE", "CM", 3045)
TCS = InstrumentKey("NSE", "CM", 11536)
OPEN_MS = 1_756_957_500_000
AFTER_MS = 300_000


class Desk:
    def __init__(self) -> None:
        known = {key: Instrument(key, str(key.token)) for key in (SBIN, TCS)}
        self.board = QuoteBoard(known.get, Metrics())
        self.now_ms = OPEN_MS
        self.since_ms: int | None = OPEN_MS
        self.staleness = Staleness(
            self.board,
            now_ms=lambda: self.now_ms,
            since_ms=lambda _: self.since_ms,
            after_ms=AFTER_MS,
        )

    def tick(self, key: InstrumentKey, at_ms: int) -> None:
        self.board.apply(Tick(key, at_ms, 100.0), at_ms * 1_000_000)

    def stale(self, at_ms: int) -> set[InstrumentKey]:
        self.now_ms = at_ms
        return {key for key in (SBIN, TCS) if self.staleness.is_stale(key)}


def test_who_is_silent_for_longer_than_the_limit_is_stale() -> None:
    desk = Desk()
    desk.tick(SBIN, OPEN_MS + 200_000)
    desk.tick(TCS, OPEN_MS + 1_000)
    assert desk.stale(OPEN_MS + 301_000) == set()
    assert desk.stale(OPEN_MS + 302_000) == {TCS}
    desk.tick(TCS, OPEN_MS + 302_500)
    assert desk.stale(OPEN_MS + 303_000) == set()
    assert desk.stale(OPEN_MS + 501_000) == {SBIN}


def test_silence_counts_from_the_opening() -> None:
    desk = Desk()
    desk.tick(SBIN, OPEN_MS - 3_600_000)
    assert desk.stale(OPEN_MS + 299_000) == set()
    assert desk.stale(OPEN_MS + 300_000) == {SBIN, TCS}


@pytest.mark.parametrize("later_ms", [0, AFTER_MS, 10 * AFTER_MS])
def test_nothing_is_stale_while_nothing_is_expected(later_ms: int) -> None:
    desk = Desk()
    desk.since_ms = None
    assert desk.stale(OPEN_MS + later_ms) == set()
