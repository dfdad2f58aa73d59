"""The composition root: builds the parts from the settings, wires them, starts and stops them.

The only module that knows everyone. It adds no behaviour of its own but the walk of a tick (feed
to board to gate to protocols) and the housekeeping that needs several parts at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from odin import reference
from odin.clock import NS_PER_MS, Clock, SessionClock, WallClock, ist_date
from odin.errors import OdinError, StoreError
from odin.feeds.base import Demand, Feed, FeedSupervisor
from odin.feeds.simulator import Simulator
from odin.hub.hub import Hub
from odin.market.gate import MarketGate
from odin.market.history import window_start
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.market.sessions import Calendar, MarketClock
from odin.metrics import Exposition, Metrics
from odin.model import (
    FeedStatus,
    Instrument,
    InstrumentKey,
    MarketStatus,
    Tick,
    YearSummary,
)
from odin.protocols.access import Access
from odin.protocols.admission import Origins
from odin.protocols.enhanced.endpoint import EnhancedEndpoint
from odin.protocols.enhanced.wire import MarketView
from odin.settings import Settings
from odin.store.journal import Journal
from odin.store.sqlite import SqliteStore
from odin.topics import QuoteTopic, Topic

if TYPE_CHECKING:
    from odin.feeds.recordings import Recording

log = logging.getLogger("odin.node")

EXCHANGES = ("NSE", "BSE")
"""Exchanges with a calendar; the first is the one whose status clients are told."""
BELL_CHECK_S = 0.1
RELOAD_CHECK_S = 2.0
KEY_CHECK_S = 0.5  # a revoked key must be without effect in two seconds
TOUCH_S = 60.0
MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What `odin replay` plays. `speed` is a multiple of real time, None as fast as it goes."""

    paths: tuple[str, ...]
    speed: float | None = 1.0
    symbol: str | None = None
    """Symbol of recordings that do not name one."""


class Node:
    """One running server without its sockets: from `await Node.start(settings)` to `stop()`."""

    def __init__(
        self,
        settings: Settings,
        store: SqliteStore,
        registry: InstrumentRegistry,
        calendars: dict[str, Calendar],
        recording: "Recording | None" = None,
        speed: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.store = store
        self.registry = registry
        self.journal = Journal(store, self.metrics)
        self.clocks = {exchange: MarketClock(calendar) for exchange, calendar in calendars.items()}
        self.gate = MarketGate(self.clocks, is_forced=settings.market.gate == "always")
        self.board = QuoteBoard(registry.get, self.metrics)
        self.extra_instruments: list[Instrument] = []
        self.clock: Clock
        self.feed: Feed | None
        self._is_replay = recording is not None
        if recording is not None:
            from odin.feeds.replay import Replay

            self.extra_instruments = [
                item for item in recording.instruments if registry.get(item.key) is None
            ]
            for problem in recording.problems:
                log.warning("a line of the recording was left out", extra={"problem": str(problem)})
            self.feed = replay = Replay(
                recording,
                speed=speed,
                end_at_ms=self._close_after,
                is_ready=lambda: self.hub.has_room,
            )
            self.clock = replay.clock
        else:
            self.clock = clock or self._market_clock()
            self.feed = self._simulator() if settings.feed.kind == "simulator" else None
        self.hub = Hub(
            self.metrics,
            stall_timeout_s=settings.limits.progress_timeout_s,
            on_wanted=self._on_wanted,
            on_unwanted=self._on_unwanted,
        )
        self.supervisor: FeedSupervisor | None = None
        if self.feed is not None:
            self.supervisor = FeedSupervisor(
                self.feed,
                self.on_tick,
                metrics=self.metrics,
                clock_ms=self.clock.now_ms,
                is_expected=self._is_data_expected,
                stale_after_s=settings.feed.stale_after_s,
                on_status=self._on_feed_status,
            )
        self.demand = Demand(
            registry.get,
            self.supervisor.want if self.supervisor else lambda _: None,
            self.supervisor.unwant if self.supervisor else lambda _: None,
            linger_s=settings.feed.linger_s,
        )
        self.access = Access.of(settings, store)
        self.origins = Origins.of(settings)
        self.enhanced = EnhancedEndpoint(
            hub=self.hub,
            registry=registry,
            board=self.board,
            store=store,
            journal=self.journal,
            market=self,
            limits=settings.limits,
            origins=self.origins,
            access=self.access,
            require_resume_token=settings.auth.require_resume_token,
            metrics=self.metrics,
            now_ms=self.clock.now_ms,
            wall_ms=WallClock().now_ms,
        )
        self.access.on_gone = self.enhanced.expel
        self.started_ms = WallClock().now_ms()
        self.is_ready = False
        self._is_feed_well = True
        self._tasks: list[asyncio.Task[None]] = []
        self.problems: dict[str, str] = {}
        """What could not be done lately, by what it concerns, until it succeeds again."""
        self.dead_tasks: list[str] = []
        """Names of tasks that ended by a fault: the server needs a restart."""
        self._instruments_version = -1
        self._outside_changes = -1
        self._summaries: dict[InstrumentKey, YearSummary] = {}
        self._history_day = ""
        self._calendar_stamp: float | None = None
        self.exposition = Exposition(self.metrics)
        self._add_gauges()

    # ------------------------------------------------------------------ life

    @classmethod
    async def start(
        cls,
        settings: Settings,
        replay: ReplayOptions | None = None,
        *,
        clock: Clock | None = None,
    ) -> Self:
        """Build a node and set it running; whatever is wrong is raised here.

        clock: market time, where neither the settings' nor the recording's is wanted.
        """
        store = await SqliteStore.open(
            settings.store.path,
            busy_timeout_s=settings.store.busy_timeout_s,
            max_clients=settings.limits.stored_clients,
        )
        try:
            registry = InstrumentRegistry()
            version = await store.instruments_version()
            await reference.fill_registry(store, registry)
            recording = None
            if replay is not None:
                from odin.feeds.recordings import Recording

                recording = Recording.load(
                    [Path(path) for path in replay.paths],
                    resolve=lambda name: registry.resolve(name).instrument,
                    symbol=replay.symbol,
                )
            node = cls(
                settings,
                store,
                registry,
                read_calendars(settings.market.calendar_file),
                recording,
                replay.speed if replay is not None else None,
                clock,
            )
            node._instruments_version = version
            if node.extra_instruments:
                await reference.fill_registry(store, registry, node.extra_instruments)
            await node._run()
        except BaseException:
            await store.close()
            raise
        return node

    async def _run(self) -> None:
        self._calendar_stamp = self._calendar_mtime()
        self._outside_changes = await self.store.outside_changes()
        await self._load_history()
        self.gate.bells(self.clock.now_ms())
        self._start("journal", self.journal.run())
        self._start("bells", self._repeat("bells", BELL_CHECK_S, self._check_bells))
        if self.access.auth is not None:
            await self.access.refresh()
            self._start("keys", self._repeat("keys", KEY_CHECK_S, self.access.refresh))
        self._start("reload", self._repeat("reload", RELOAD_CHECK_S, self._check_reload))
        self._start("housekeeping", self._repeat("housekeeping", TOUCH_S, self._keep_house))
        if self.supervisor is not None:
            self._start("feed", self.supervisor.run())
        self.is_ready = True
        log.info(
            "ready",
            extra={
                "instruments": len(self.registry),
                "feed": self.feed_status.name,
                "simulated": self.is_simulated,
            },
        )

    async def stop(self, close_code: int = 1001) -> None:
        """Close every connection with the code, finish what was asked, and let go of everything."""
        self.is_ready = False
        await self.enhanced.stop(close_code, self.settings.server.shutdown_grace_s)
        self.demand.close()
        await self.journal.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.close()

    # ------------------------------------------------------------------ the walk of a tick

    def on_tick(self, tick: Tick) -> None:
        """Apply a tick and send its quote. Never awaits, never raises for a bad tick."""
        now_ns = self.clock.now_ns()
        now_ms = now_ns // NS_PER_MS
        exchange = tick.key.exchange
        is_streaming = self.gate.is_streaming(exchange, now_ms)
        is_pre_open = not is_streaming and self.gate.is_before_open(exchange, now_ms)
        quote = self.board.apply(tick, now_ns, is_pre_open=is_pre_open)
        if quote is None:
            return
        if now_ms >= self.gate.next_change_ms:
            self._check_bells()
        if is_streaming:
            self.enhanced.quotes.publish(tick.key, quote, now_ms)
        else:
            self.metrics.ticks_gated += 1

    def _on_wanted(self, topics: Sequence[Topic]) -> None:
        self.enhanced.quotes.want(topics)
        self.demand.add(_keys(topics))

    def _on_unwanted(self, topics: Sequence[Topic]) -> None:
        self.enhanced.quotes.unwant(topics)
        self.demand.remove(_keys(topics))

    # ------------------------------------------------------------------ the market, for protocols

    @property
    def is_simulated(self) -> bool:
        """Whether data or time are not the real market's."""
        return self.clock.is_simulated or (self.feed is not None and self.feed.is_simulated)

    @property
    def feed_status(self) -> FeedStatus:
        """What the feed is doing."""
        if self.supervisor is None:
            return FeedStatus("none", "stopped", is_stale=False, last_tick_ms=None)
        return self.supervisor.status

    def view(self) -> MarketView:
        """Return what clients are told about the market now."""
        now_ms = self.clock.now_ms()
        return self._view(now_ms, self.gate.status(now_ms))

    def _view(self, now_ms: int, status: MarketStatus) -> MarketView:
        return MarketView(
            now_ms=now_ms,
            status=status,
            is_streaming=status.is_open or self.gate.is_forced,
            gate=self.gate.name,
            is_simulated=self.is_simulated,
            feed=self.feed_status,
        )

    def is_streaming(self, exchange: str) -> bool:
        """Whether market_data of the exchange flows now."""
        return self.gate.is_streaming(exchange, self.clock.now_ms())

    # ------------------------------------------------------------------ housekeeping

    def _is_data_expected(self) -> bool:
        if self._is_replay:
            return False  # it has the silences of its recording
        if self.gate.is_forced:
            return True
        status = self.gate.status(self.clock.now_ms())
        return status.is_open and status.phase == "open"

    def _on_feed_status(self, status: FeedStatus) -> None:
        log.info("feed", extra={"feed": status.name, "state": status.state})
        is_well = status.state in {"idle", "connecting", "streaming"} and not status.is_stale
        if is_well != self._is_feed_well:
            self._is_feed_well = is_well
            self.enhanced.push_market_status(self.view())

    def _check_bells(self) -> None:
        for at_ms, status in self.gate.bells(self.clock.now_ms()):
            log.info("market opened" if status.is_open else "market closed")
            self.enhanced.push_market_status(self._view(at_ms, status))

    async def _check_reload(self) -> None:
        """Take in what was imported, edited or begun since the last look."""
        changes = await self.store.outside_changes()
        if changes != self._outside_changes:
            await self._load_instruments()
            await self._load_history()
            self._outside_changes = changes  # only now: what failed is tried again
        stamp = self._calendar_mtime()
        if stamp != self._calendar_stamp:
            self._calendar_stamp = stamp
            self._reload_calendars()
        if self._trading_day() != self._history_day:
            await self._load_history()

    async def _keep_house(self) -> None:
        """Note who was here, and forget who has not been for long."""
        now_ms = WallClock().now_ms()
        seen = self.enhanced.seen_clients.union(self.enhanced.connected_clients())
        await self.store.touch(seen, now_ms)
        self.enhanced.seen_clients.difference_update(seen)
        expiry_ms = int(self.settings.store.client_expiry_days * MS_PER_DAY)
        expired = await self.store.expire_clients(
            now_ms - expiry_ms, keep=self.enhanced.connected_clients
        )
        self.metrics.clients_expired += expired

    async def _load_instruments(self) -> None:
        """Take in a master that was imported since the last time, if there is one."""
        version = await self.store.instruments_version()
        if version == self._instruments_version:
            return
        await reference.fill_registry(self.store, self.registry, self.extra_instruments)
        self._instruments_version = version
        self.board.refresh_names()
        self.demand.refresh()
        log.info("instruments were loaded", extra={"instruments": len(self.registry)})

    async def _load_history(self) -> None:
        """Give the board the year before the market's current trading day, if it is news."""
        day = self._trading_day()
        previous = self._calendar.previous_trading_day(day)
        summaries = await self.store.year_summaries(window_start(previous), previous)
        if (day, summaries) != (self._history_day, self._summaries):
            self._summaries, self._history_day = summaries, day
            self.board.load_history(summaries, day)

    def _reload_calendars(self) -> None:
        try:
            calendars = read_calendars(self.settings.market.calendar_file)
        except OdinError as error:
            # The operator is in the middle of an edit: what was known stays in force.
            log.error("the calendar file was not read again", extra={"problem": str(error)})
            self.problems["calendar file"] = str(error)
            return
        self.problems.pop("calendar file", None)
        for exchange, calendar in calendars.items():
            self.clocks[exchange].use(calendar)
        self.gate.reset()
        log.info("the calendar file was read again")

    async def _repeat(
        self, name: str, every_s: float, job: Callable[[], Awaitable[None] | None]
    ) -> None:
        """Do a job for ever; whatever goes wrong, it is tried again next time."""
        while True:
            try:
                pending = job()
                if pending is not None:
                    await pending
                self.problems.pop(name, None)
            except StoreError as error:
                log.warning(f"{name} will be tried again", extra={"problem": str(error)})
                self.problems[name] = str(error)
            except Exception:
                # One fault must not end the bells or the reloads of a process that runs for months.
                self.metrics.faults += 1
                log.exception(f"{name} failed and will be tried again")
                self.problems[name] = "failed unexpectedly, see the log"
            await asyncio.sleep(every_s)

    def _start(self, name: str, body: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(body, name=name)
        task.add_done_callback(self._note_end)
        self._tasks.append(task)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.metrics.faults += 1
            self.dead_tasks.append(task.get_name())
            log.critical("a task of the server ended", exc_info=error)

    # ------------------------------------------------------------------ building

    @property
    def _calendar(self) -> Calendar:
        return self.clocks[EXCHANGES[0]].calendar

    def _trading_day(self) -> str:
        return self._calendar.latest_trading_day(ist_date(self.clock.now_ms()))

    def _market_clock(self) -> Clock:
        wall = WallClock()
        if self.settings.simulator.clock == "wall" or self.settings.feed.kind != "simulator":
            return wall
        day = self._calendar.day(self._calendar.latest_trading_day(ist_date(wall.now_ms())))
        start_ms = day.windows[0][0]

        def next_session(at_ns: int) -> tuple[int, int]:
            opens_ms, closes_ms = self._calendar.next_session(at_ns // NS_PER_MS)
            return opens_ms * NS_PER_MS, closes_ms * NS_PER_MS

        return SessionClock(start_ms * NS_PER_MS, next_session)

    def _simulator(self) -> Simulator:
        settings = self.settings.simulator
        return Simulator(
            seed=settings.seed,
            rate_hz=settings.rate_hz,
            clock=self.clock,
            is_streaming=lambda: self.is_streaming(EXCHANGES[0]),
            prev_close=self._last_close,
        )

    def _last_close(self, key: InstrumentKey) -> float | None:
        """Return the close the history has of the day before the market's current one."""
        summary = self._summaries.get(key)
        return None if summary is None else summary.prev_close

    def _close_after(self, at_ms: int) -> int:
        """Return the close of the session that contains an instant, or the instant itself."""
        for opens_ms, closes_ms in self._calendar.day(ist_date(at_ms)).windows:
            if opens_ms <= at_ms < closes_ms:
                return closes_ms
        return at_ms

    def _calendar_mtime(self) -> float | None:
        path = self.settings.market.calendar_file
        try:
            return Path(path).stat().st_mtime if path else None
        except OSError:
            return None

    def _add_gauges(self) -> None:
        gauge = self.exposition.gauge
        gauge("connected", "Open connections", lambda: self.enhanced.connection_count)
        gauge("late_peers", "Clients that are late now", lambda: self.hub.late_count)
        gauge("subscribed_topics", "Topics with a subscriber", lambda: len(self.hub.topics))
        gauge(
            "wanted_instruments",
            "Instruments wanted from the feed",
            lambda: len(self.demand.wanted),
        )
        gauge("instruments", "Instruments in the registry", lambda: len(self.registry))
        gauge("market_open", "1 while market_data flows", lambda: self.view().is_streaming)
        gauge("tasks", "Tasks of the event loop", lambda: len(asyncio.all_tasks()))
        gauge("feed_stale", "1 while the feed is stale", lambda: self.feed_status.is_stale)


def read_calendars(overrides: str) -> dict[str, Calendar]:
    """Return the calendar of every exchange, with the operator's overrides if there are any."""
    path = Path(overrides) if overrides else None
    return {exchange: reference.read_calendar(exchange, path) for exchange in EXCHANGES}


def _keys(topics: Sequence[Topic]) -> list[InstrumentKey]:
    return [InstrumentKey(*topic.key) for topic in topics if isinstance(topic, QuoteTopic)]
