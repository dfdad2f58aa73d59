"""The only source of time.

Instants are integer nanoseconds or milliseconds since the Unix epoch. Production runs on the wall
clock; a simulated or replayed market brings its own, so that hours, timestamps and flags agree
with the data that is streamed. Nothing here sleeps.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import pytz

IST = pytz.timezone("Asia/Kolkata")

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Where now comes from."""

    @property
    def is_simulated(self) -> bool:
        """True where now is not the wall clock's."""
        ...

    def now_ns(self) -> int:
        """Return now in nanoseconds since the epoch."""
        ...

    def now_ms(self) -> int:
        """Return now in milliseconds since the epoch."""
        ...


class WallClock:
    """The machine's clock."""

    is_simulated = False

    def now_ns(self) -> int:
        return time.time_ns()

    def now_ms(self) -> int:
        return time.time_ns() // NS_PER_MS


class ManualClock:
    """A clock that stands still until it is set: replay at full speed, and tests."""

    def __init__(self, now_ns: int = 0, *, is_simulated: bool = True) -> None:
        self._now_ns = now_ns
        self.is_simulated = is_simulated

    def now_ns(self) -> int:
        return self._now_ns

    def now_ms(self) -> int:
        return self._now_ns // NS_PER_MS

    def set_ns(self, now_ns: int) -> None:
        """Jump to an instant, forward or back."""
        self._now_ns = now_ns

    def set_ms(self, now_ms: int) -> None:
        """Jump to an instant, forward or back."""
        self._now_ns = now_ms * NS_PER_MS

    def advance_ms(self, delta_ms: int) -> None:
        """Move by a number of milliseconds."""
        self._now_ns += delta_ms * NS_PER_MS


class PacedClock:
    """Market time that starts at an instant and runs at `speed` times real time."""

    is_simulated = True

    def __init__(
        self,
        start_ns: int,
        *,
        speed: float = 1.0,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.speed = speed
        self._monotonic_ns = monotonic_ns
        self._base_ns = start_ns
        self._base_mono_ns = monotonic_ns()

    def now_ns(self) -> int:
        elapsed = self._monotonic_ns() - self._base_mono_ns
        return self._base_ns + (elapsed if self.speed == 1.0 else int(elapsed * self.speed))

    def now_ms(self) -> int:
        return self.now_ns() // NS_PER_MS

    def rebase(self, now_ns: int) -> None:
        """Make `now_ns` the present."""
        self._base_ns = now_ns
        self._base_mono_ns = self._monotonic_ns()


class SessionClock(PacedClock):
    """Market time for a simulated market: always near or in a session.

    It runs from an opening to the close, stays `pause_s` beyond it so that everybody sees the
    market closed, then jumps to the next opening.

    next_session: for an instant in ns, the (open, close) in ns of the session that contains it,
        or else of the next one.
    """

    def __init__(
        self,
        start_ns: int,
        next_session: Callable[[int], tuple[int, int]],
        *,
        pause_s: float = 5.0,
        speed: float = 1.0,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(start_ns, speed=speed, monotonic_ns=monotonic_ns)
        self._next_session = next_session
        self._pause_ns = int(pause_s * NS_PER_S)
        self._jump_ns = next_session(start_ns)[1] + self._pause_ns

    def now_ns(self) -> int:
        now = super().now_ns()
        if now >= self._jump_ns:
            now, close = self._next_session(self._jump_ns)
            self.rebase(now)
            self._jump_ns = close + self._pause_ns
        return now


def ist_datetime(epoch_ms: int) -> datetime:
    """Return the instant as an aware datetime in Asia/Kolkata."""
    return datetime.fromtimestamp(epoch_ms / 1000, IST)


def ist_date(epoch_ms: int) -> str:
    """Return the ISO date in India at the instant."""
    return ist_datetime(epoch_ms).strftime("%Y-%m-%d")


def ist_time_text(epoch_ms: int) -> str:
    """Return "15:04:05", the time of day in India."""
    return ist_datetime(epoch_ms).strftime("%H:%M:%S")


def ist_datetime_text(epoch_ms: int) -> str:
    """Return "2025-09-04 13:09:51", date and time in India."""
    return ist_datetime(epoch_ms).strftime("%Y-%m-%d %H:%M:%S")


class Rfc3339:
    """Writes and reads instants as RFC 3339 with nanoseconds and +05:30.

    The part up to the second is kept between calls: ticks come many to a second, and building it
    costs ten times what the rest does.
    """

    def __init__(self) -> None:
        self._second: int | None = None
        self._prefix = ""

    def __call__(self, epoch_ns: int) -> str:
        second, nanos = divmod(epoch_ns, NS_PER_S)
        if second != self._second:
            self._prefix = datetime.fromtimestamp(second, IST).strftime("%Y-%m-%dT%H:%M:%S.")
            self._second = second
        return f"{self._prefix}{nanos:09d}+05:30"

    def epoch_ns(self, text: str) -> int:
        """Return the instant of a text that this class wrote. Raises ValueError for others."""
        prefix = text[:20]
        if prefix != self._prefix or self._second is None:
            self._second = int(datetime.fromisoformat(f"{prefix[:19]}+05:30").timestamp())
            self._prefix = prefix
        return self._second * NS_PER_S + int(text[20:29])
