"""When market_data may flow, and when the bells ring.

One MarketClock an exchange; an exchange without a calendar of its own follows the primary one.
Pure: it is told the time.
"""

from collections.abc import Mapping

from odin.market.sessions import MarketClock
from odin.model import MarketStatus

_MAX_CHANGES = 256
"""Changes looked at after a jump of the clock; a longer jump (weeks) rings no bells in between."""


class MarketGate:
    """Says whether an exchange streams, and which openings and closings have passed.

    clocks: by exchange; the first one is the primary, whose bells are rung.
    is_forced: stream at any hour, for testing; no bells then.
    """

    def __init__(self, clocks: Mapping[str, MarketClock], *, is_forced: bool = False) -> None:
        self._clocks = dict(clocks)
        self._primary = next(iter(self._clocks.values()))
        self.is_forced = is_forced
        self.next_change_ms = 0
        self._seen_ms = 0
        self._was_open: bool | None = None

    @property
    def name(self) -> str:
        """ "always" when forced open, else "calendar"."""
        return "always" if self.is_forced else "calendar"

    def is_streaming(self, exchange: str, now_ms: int) -> bool:
        """Whether market_data of the exchange may flow at this instant."""
        return self.is_forced or self._clocks.get(exchange, self._primary).is_open(now_ms)

    def is_before_open(self, exchange: str, now_ms: int) -> bool:
        """Whether no session of today has begun; there may be none."""
        return self._clocks.get(exchange, self._primary).is_before_open(now_ms)

    def status(self, now_ms: int) -> MarketStatus:
        """Return the primary exchange's status."""
        return self._primary.status(now_ms)

    def reset(self) -> None:
        """Forget what was known: the calendar or the clock was replaced."""
        self.next_change_ms = 0

    def bells(self, now_ms: int) -> list[tuple[int, MarketStatus]]:
        """Return the openings and closings since the last call as (instant, status), oldest first.

        Nothing at the first call. A clock that was set back rings once where that changes anything.
        """
        if self._seen_ms <= now_ms < self.next_change_ms:
            self._seen_ms = now_ms
            return []
        rung = []
        at_ms = self.next_change_ms
        if self._was_open is not None and self._seen_ms <= now_ms:
            for _ in range(_MAX_CHANGES):
                if not 0 < at_ms <= now_ms:
                    break
                status = self._primary.status(at_ms)
                if status.is_open != self._was_open:
                    self._was_open = status.is_open
                    rung.append((at_ms, status))
                at_ms = status.next_change_ms
        status = self._primary.status(now_ms)
        if self._was_open is not None and status.is_open != self._was_open:
            rung.append((now_ms, status))  # a calendar that changed, or a very long jump
        self._was_open = status.is_open
        self._seen_ms = now_ms
        self.next_change_ms = status.next_change_ms
        return [] if self.is_forced else rung
