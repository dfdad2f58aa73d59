"""Plays a recording as if it happened now, at any speed.

The replay owns market time: its clock stands at the first tick until something is wanted, and
never passes a tick that has not been emitted, however busy the machine is. Everything in the
recording is played, wanted or not, so that the quotes of the whole market stay right. It can be
played once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol

from odin.clock import NS_PER_MS, NS_PER_S
from odin.feeds.base import Emit, Report, ignore
from odin.model import Instrument, InstrumentKey, Mode, Tick

GAP_MS: Final = 600_000
"""Silence in market time, a night for example, that is cut short when it is longer than this."""
SLICE_TICKS: Final = 256
"""Ticks between two turns of the event loop, so that sockets are served in between."""


class Playable(Protocol):
    """What can be replayed."""

    start_ms: int
    """Where its time begins."""

    def timeline(self) -> Iterator[tuple[int, Tick]]:
        """Yield every tick with the instant at which it is due, ms, oldest first."""
        ...


class ReplayClock:
    """Market time of a replay: satisfies `odin.clock.Clock`.

    It starts standing. While it runs it goes at `speed` times real time but stops at its limit, the
    time of the next tick; without a speed it stands at the limit.
    """

    is_simulated = True

    def __init__(
        self, start_ms: int, *, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._speed: float | None = None
        self._limit_ns = start_ms * NS_PER_MS
        self._base_ns = self._limit_ns
        self._base_mono_ns = 0

    def now_ns(self) -> int:
        """Return now in nanoseconds since the epoch."""
        if self._speed is None:
            return self._limit_ns
        return min(self._free_ns(self._speed), self._limit_ns)

    def now_ms(self) -> int:
        """Return now in milliseconds since the epoch."""
        return self.now_ns() // NS_PER_MS

    def run(self, speed: float) -> None:
        """Run on from now at this many times real time."""
        self._base_ns = self.now_ns()
        self._base_mono_ns = self._monotonic_ns()
        self._speed = speed

    def extend(self, limit_ms: int) -> None:
        """Let time pass until the given instant; a limit never goes back."""
        self._limit_ns = max(self._limit_ns, limit_ms * NS_PER_MS)

    def wait_s(self) -> float:
        """Return how many real seconds are left until the limit; 0 or less when it is reached."""
        if self._speed is None:
            return 0.0
        return (self._limit_ns - self._free_ns(self._speed)) / NS_PER_S / self._speed

    def _free_ns(self, speed: float) -> int:
        """Where time would be without the limit."""
        return self._base_ns + int((self._monotonic_ns() - self._base_mono_ns) * speed)


class Replay:
    """A feed that plays one recording, once.

    speed: times real time; None for as fast as the machine allows.
    end_at_ms: for an instant, when its market session ends; the clock stops there after each
        day's last tick, so that everybody sees the market close. None leaves it at the last tick.
    gap_pause_s: the most real time spent on a stretch of over ten minutes without ticks.
    is_ready: at full speed, ticks wait while this is False: lets the slowest client set the pace.
    """

    name = "replay"
    is_simulated = True

    def __init__(
        self,
        recording: Playable,
        *,
        speed: float | None = 1.0,
        end_at_ms: Callable[[int], int] | None = None,
        gap_pause_s: float = 1.0,
        is_ready: Callable[[], bool] | None = None,
        slice_ticks: int = SLICE_TICKS,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if speed is not None and not speed > 0:
            raise ValueError(f"the speed was {speed}, it must be more than 0")
        self.recording = recording
        self.clock = ReplayClock(recording.start_ms, monotonic_ns=monotonic_ns)
        self._speed = speed
        self._end_at_ms = end_at_ms
        self._gap_pause_s = gap_pause_s
        self._is_ready = is_ready
        self._slice_ticks = slice_ticks
        self._sleep = sleep
        self._is_wanted = asyncio.Event()
        self._ticks = recording.timeline()
        self._at_ms = recording.start_ms
        """Where in the recording the last tick was."""

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        """Start playing, if anything at all is wanted."""
        if instruments:
            self._is_wanted.set()

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Nothing: once started, everything is played to the end."""

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        """Wait until something is wanted, play, and return after the close of the last day.

        Where `emit` raised, a second call goes on behind the tick it raised for.
        """
        await self._is_wanted.wait()
        if self._speed is not None:
            self.clock.run(self._speed)
        left = self._slice_ticks
        for at_ms, tick in self._ticks:
            if at_ms > self._at_ms:
                if at_ms - self._at_ms > GAP_MS:
                    await self._cross(at_ms)
                self._at_ms = at_ms
                self.clock.extend(at_ms)
                if self._speed is not None:
                    wait_s = self.clock.wait_s()
                    if wait_s > 0:
                        left = self._slice_ticks
                        while wait_s > 0:  # a timer may fire a little early
                            await self._sleep(wait_s)
                            wait_s = self.clock.wait_s()
            left -= 1
            if left < 0:
                left = self._slice_ticks - 1
                await self._sleep(0)
                while self._speed is None and self._is_ready is not None and not self._is_ready():
                    await self._sleep(0.001)
            emit(tick)
        if self._end_at_ms is not None:
            await self._cross(self._end_at_ms(self._at_ms))

    async def _cross(self, until_ms: int) -> None:
        """Let a stretch without ticks pass, in at most `gap_pause_s` of real time."""
        if self._speed is None:
            close_ms = until_ms if self._end_at_ms is None else self._end_at_ms(self._at_ms)
            if self._at_ms < close_ms <= until_ms:
                self.clock.extend(close_ms)
                await self._sleep(self._gap_pause_s)
            return
        gap_s = (until_ms - self._at_ms) / 1000
        if gap_s <= 0:
            return
        speed = max(self._speed, gap_s / self._gap_pause_s)
        self.clock.run(speed)
        self.clock.extend(until_ms)
        while (wait_s := self.clock.wait_s()) > 0:
            await self._sleep(wait_s)
        self.clock.run(self._speed)
