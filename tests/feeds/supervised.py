"""A supervisor, a feed that does what the test tells it, and time that does too."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from odin.feeds.base import Emit, Report, ignore
from odin.feeds.supervisor import FeedSupervisor
from odin.metrics import Metrics
from odin.model import FeedGap, FeedStatus, Instrument, InstrumentKey, Mode, Tick
from tests.feeds.fake_time import FakeTime, settle

SBIN = Instrument(InstrumentKey("NSE", "CM", 3045), "SBIN")
INFY = Instrument(InstrumentKey("NSE", "CM", 1594), "INFY")

Ending = Exception | None


class FakeFeed:
    """A feed that does what the test tells it."""

    name = "fake"
    is_simulated = False

    def __init__(self) -> None:
        self.wanted: dict[InstrumentKey, tuple[Instrument, Mode]] = {}
        self.wanted_at_start: list[dict[str, Mode]] = []
        self.emit: Emit | None = None
        self.report: Report = ignore
        self.closing: asyncio.Event | None = None
        """What its connection waits for when it is told to end."""
        self._ending: asyncio.Future[Ending] | None = None

    @property
    def is_running(self) -> bool:
        return self._ending is not None

    @property
    def runs(self) -> int:
        return len(self.wanted_at_start)

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        self.wanted_at_start.append({item.symbol: mode for item, mode in self.wanted.values()})
        self.emit = emit
        self.report = report
        self._ending = asyncio.get_running_loop().create_future()
        try:
            error = await self._ending
        finally:
            if self.closing is not None:
                await self.closing.wait()
            self._ending = None
        if error is not None:
            raise error

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        self.wanted.update((item.key, (item, mode)) for item in instruments)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        for key in keys:
            self.wanted.pop(key, None)

    def forget(self) -> None:
        """What a feed may do that keeps its subscriptions in the connection."""
        self.wanted.clear()

    async def end(self, error: Ending = None) -> None:
        assert self._ending is not None
        self._ending.set_result(error)
        await settle()

    def tick(self, instrument: Instrument = SBIN, exchange_ms: int = 1) -> None:
        assert self.emit is not None
        self.emit(Tick(instrument.key, exchange_ms, 800.0))

    def link(self) -> None:
        """What a feed with a connection reports when all goes well."""
        self.report("login")
        self.report("ready")


class Scene:
    """A supervisor with everything around it under the test's control."""

    def __init__(
        self,
        stale_after_s: float = 15.0,
        has_new_credentials: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.time = FakeTime()
        self.feed = FakeFeed()
        self.metrics = Metrics()
        self.ticks: list[Tick] = []
        self.statuses: list[FeedStatus] = []
        self.is_expected = True
        self.chance = 0.5
        self.gaps: list[FeedGap] = []
        self.told: list[str] = []
        """Ticks and gaps in the order in which they came out."""
        self.supervisor = FeedSupervisor(
            self.feed,
            self._take,
            metrics=self.metrics,
            clock_ms=lambda: self.now_ms,
            on_gap=self._note,
            has_new_credentials=has_new_credentials,
            is_expected=lambda: self.is_expected,
            stale_after_s=stale_after_s,
            on_status=self.statuses.append,
            monotonic=self.time.monotonic,
            sleep=self.time.sleep,
            uniform=lambda: self.chance,
        )

    def _take(self, tick: Tick) -> None:
        self.ticks.append(tick)
        self.told.append("tick")

    def _note(self, gap: FeedGap) -> None:
        self.gaps.append(gap)
        self.told.append("gap")

    @property
    def now_ms(self) -> int:
        return round(self.time.now_s * 1000)

    async def busy(self, seconds: float, *instruments: Instrument, per_s: float = 4) -> None:
        """Let ticks of each instrument come for a while, at a steady rate."""
        for _ in range(round(seconds * per_s)):
            for instrument in instruments or (SBIN,):
                self.feed.tick(instrument)
            await self.time.advance(1 / per_s)

    async def quiet(self, seconds: float) -> None:
        await self.time.advance(seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run())
        await settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def states(self) -> list[str]:
        return [status.state for status in self.statuses]

    @property
    def state(self) -> str:
        return self.supervisor.status.state
