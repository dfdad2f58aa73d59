"""Which instruments are quiet for longer than an open market lets one expect.

Not the same as a stale feed: one stock may be halted, or not traded. Pure: it is told the time.
"""

from collections.abc import Callable

from odin.market.quotes import QuoteBoard
from odin.model import InstrumentKey


class Staleness:
    """Judges instruments by the exchange time of their last tick.

    since_ms: for an instant, since when ticks should have been arriving; None where none should,
        as out of hours.
    after_ms: the longest silence that is no news.
    """

    def __init__(
        self,
        board: QuoteBoard,
        *,
        now_ms: Callable[[], int],
        since_ms: Callable[[int], int | None],
        after_ms: int,
    ) -> None:
        self._board = board
        self._now_ms = now_ms
        self._since_ms = since_ms
        self._after_ms = after_ms
        self._judged_s = -1
        self._limit_ms = 0

    def is_stale(self, key: InstrumentKey) -> bool:
        """Whether the instrument had no tick for long though the market is open."""
        now_ms = self._now_ms()
        if now_ms // 1000 != self._judged_s:  # a client may ask this of thousands at once
            self._judged_s = now_ms // 1000
            since_ms = self._since_ms(now_ms)
            limit_ms = now_ms - self._after_ms
            self._limit_ms = limit_ms if since_ms is not None and limit_ms >= since_ms else 0
        return (self._board.last_tick_ms(key) or 0) < self._limit_ms
