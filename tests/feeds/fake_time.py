"""Time that passes only when a test says so."""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count


class FakeTimer:
    """What `call_later` returns."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self._call = None

    def fire(self) -> None:
        if self._call is not None:
            self._call()

    @property
    def is_cancelled(self) -> bool:
        return self._call is None


class FakeTime:
    """A monotonic clock with the sleep and call_later that belong to it."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s
        self.slept: list[float] = []
        self.timers: list[FakeTimer] = []
        self._due: list[tuple[float, int, FakeTimer]] = []
        self._order = count()

    def monotonic(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(call)
        self.timers.append(timer)
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._order), timer))
        return timer

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        timer = self.call_later(delay_s, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking everybody at their moment and in order."""
        end_s = self.now_s + seconds
        await settle()
        while self._due and self._due[0][0] <= end_s:
            at_s, _, timer = heapq.heappop(self._due)
            self.now_s = max(self.now_s, at_s)
            timer.fire()
            await settle()
        self.now_s = end_s
        await settle()


async def settle() -> None:
    """Let everything that can run now do so."""
    for _ in range(8):
        await asyncio.sleep(0)
