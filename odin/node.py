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
from odin.clock import NS_PER_MS, Clock, WallClock, ist_date
from odin.errors import StoreError
from odin.feeds import sources
from odin.feeds.base import Emit, Feed
from odin.feeds.demand import Demand, Want
from odin.feeds.router import FeedRouter, Routes
from odin.feeds.simulator import Simulator
from odin.feeds.sources import Source
from odin.feeds.supervisor import FeedSupervisor
from odin.hub.hub import Hub
from odin.market.gate import MarketGate
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.market.sessions import Calendar, MarketClock
from odin.market.staleness import Staleness
from odin.metrics import Exposition, Metrics
from odin.model import FeedGap, FeedStatus, Instrument, InstrumentKey, MarketStatus, Mode, Tick
from odin.protocols.access import Access
from odin.protocols.admission import Origins
from odin.protocols.enhanced.endpoint import EnhancedEndpoint
from odin.protocols.enhanced.wire import MarketView
from odin.settings import Settings
from odin.store.journal import Journal
from odin.store.sqlite import SqliteStore
from odin.topics import QuoteTopic, Topic
from odin.upkeep import EXCHANGES, Upkeep, read_calendars

if TYPE_CHECKING:
    from odin.feeds.replay import Replay

log = logging.getLogger("odin.node")

QUIET_STATES = frozenset({"idle", "connecting", "streaming"})
"""Between these a feed changes by demand alone: no news to clients."""
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
        recording: "sources.AnyRecording | None" = None,
        speed: float | None = None,
        clock: Clock | None = None,
        instruments_version: int = -1,
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
        self._is_replay = recording is not None
        self._sources: list[Source]
        if recording is not None:
            replay = self._replay(recording, speed)
            self.clock = replay.clock
            self._sources = [Source(replay)]
        else:
            self.clock = clock or sources.market_clock(settings, self._calendar)
            self._sources = sources.build_all(settings, registry, self.metrics, self._simulator)
        self.hub = Hub(
            self.metrics,
            stall_timeout_s=settings.limits.progress_timeout_s,
            on_wanted=self._on_wanted,
            on_unwanted=self._on_unwanted,
        )
        feeds = [source.feed for source in self._sources]
        routes = sources.routes(settings) if recording is None else Routes("replay", {})
        self._feed_states: dict[str, tuple[bool, bool, str]] = {}
        self._began_ms = self.clock.now_ms()
        self._staleness = Staleness(
            self.board,
            now_ms=self.clock.now_ms,
            since_ms=self._expected_since_ms,
            after_ms=int(settings.feed.instrument_stale_after_s * 1000),
        )
        self.router = FeedRouter(
            feeds,
            routes,
            standby="" if self._is_replay else settings.feed.standby,
            supervise=self._supervise,
            emit=self.on_tick,
            on_status=self._on_feed_status,
            on_gap=self._on_feed_gap,
            now_ms=self.clock.now_ms,
            metrics=self.metrics,
        )
        self.demand = Demand(
            registry.get,
            self._ask,
            self.router.unwant,
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
        self._tasks: list[asyncio.Task[None]] = []
        self.problems: dict[str, str] = {}
        """What could not be done lately, by what it concerns, until it succeeds again."""
        self.dead_tasks: list[str] = []
        """Names of tasks that ended by a fault: the server needs a restart."""
        self.upkeep = Upkeep(
            store,
            registry,
            self.board,
            self.gate,
            self.clocks,
            calendar_file=settings.market.calendar_file,
            extra_instruments=self.extra_instruments,
            instruments_version=instruments_version,
            now_ms=self.clock.now_ms,
            on_instruments=self.demand.refresh,
            problems=self.problems,
        )
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
        sources.check(settings)
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
                paths = [Path(path) for path in replay.paths]
                recording = sources.read_recording(settings, paths, replay.symbol, registry)
            node = cls(
                settings,
                store,
                registry,
                read_calendars(settings.market.calendar_file),
                recording,
                replay.speed if replay is not None else None,
                clock,
                version,
            )
            if node.extra_instruments:
                await reference.fill_registry(store, registry, node.extra_instruments)
            await node._run()
        except BaseException:
            await store.close()
            raise
        return node

    async def _run(self) -> None:
        await self.upkeep.start()
        self.gate.bells(self.clock.now_ms())
        self._start("journal", self.journal.run())
        self._start("bells", self._repeat("bells", BELL_CHECK_S, self._check_bells))
        if self.access.auth is not None:
            await self.access.refresh()
            self._start("keys", self._repeat("keys", KEY_CHECK_S, self.access.refresh))
        self._start("reload", self._repeat("reload", RELOAD_CHECK_S, self.upkeep.check))
        self._start("housekeeping", self._repeat("housekeeping", TOUCH_S, self._keep_house))
        for name, supervisor in self.router.supervisors.items():
            self._start(f"feed {name}", supervisor.run())
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
        self.router.close()
        await self.journal.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for source in self._sources:
            if source.capture is not None:
                await source.capture.close()
        await self.store.close()

    # ------------------------------------------------------------------ the walk of a tick

    def on_tick(self, tick: Tick, source: str = "") -> None:
        """Apply a tick and send its quote. Never awaits, never raises for a bad tick.

        source: the feed's name, where quotes are to say it.
        """
        now_ns = self.clock.now_ns()
        now_ms = now_ns // NS_PER_MS
        exchange = tick.key.exchange
        is_streaming = self.gate.is_streaming(exchange, now_ms)
        is_pre_open = not is_streaming and self.gate.is_before_open(exchange, now_ms)
        quote = self.board.apply(tick, now_ns, is_pre_open=is_pre_open, source=source)
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
        self.demand.add(_wants(topics))

    def _on_unwanted(self, topics: Sequence[Topic]) -> None:
        self.enhanced.quotes.unwant(topics)
        self.demand.remove(_wants(topics))

    def _ask(self, instruments: Sequence[Instrument], mode: Mode) -> None:
        """Want these of their feeds, and forget the details of another mode's time."""
        for instrument in instruments:
            self.board.forget_detail(instrument.key)
        self.router.want(instruments, mode)

    # ------------------------------------------------------------------ the market, for protocols

    @property
    def is_simulated(self) -> bool:
        """Whether data or time are not the real market's."""
        return self.clock.is_simulated or any(s.feed.is_simulated for s in self._sources)

    @property
    def feed_status(self) -> FeedStatus:
        """What the feed is doing that now carries what no route names."""
        return self.router.status

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
            feeds=self.router.statuses,
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
        """Tell of a change, unless it came by demand alone."""
        log.info("feed", extra={"feed": status.name, "state": status.state})
        is_quiet = status.state in QUIET_STATES
        news = (is_quiet, status.is_stale, self.feed_status.name)
        before = self._feed_states.get(status.name, (True, False, news[2]))
        self._feed_states[status.name] = news
        if news != before or not is_quiet:
            self.enhanced.push_market_status(self.view())

    def _on_feed_gap(self, gap: FeedGap) -> None:
        log.warning("a feed missed data", extra=gap._asdict())
        self.enhanced.push_gap(gap)

    def is_stale(self, key: InstrumentKey) -> bool:
        """Whether an instrument had no tick for long though the market is open."""
        return self._staleness.is_stale(key)

    def _expected_since_ms(self, now_ms: int) -> int | None:
        if not self._is_data_expected():
            return None
        session = self._session_at(now_ms)
        return self._began_ms if session is None else session[0]

    def _check_bells(self) -> None:
        for at_ms, status in self.gate.bells(self.clock.now_ms()):
            log.info("market opened" if status.is_open else "market closed")
            self.enhanced.push_market_status(self._view(at_ms, status))

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

    def _replay(self, recording: "sources.AnyRecording", speed: float | None) -> "Replay":
        from odin.feeds.replay import Replay

        self.extra_instruments = [
            item for item in recording.instruments if self.registry.get(item.key) is None
        ]
        for problem in recording.problems:
            log.warning("a line of the recording was left out", extra={"problem": str(problem)})
        return Replay(
            recording,
            speed=speed,
            end_at_ms=self._close_after,
            is_ready=lambda: self.hub.has_room,
        )

    def _supervise(
        self,
        feed: Feed,
        emit: Emit,
        on_status: Callable[[FeedStatus], None],
        on_gap: Callable[[FeedGap], None],
    ) -> FeedSupervisor:
        credentials = next(s.credentials for s in self._sources if s.feed is feed)
        return FeedSupervisor(
            feed,
            emit,
            metrics=self.metrics,
            clock_ms=self.clock.now_ms,
            is_expected=self._is_data_expected,
            stale_after_s=self.settings.feed.stale_after_s,
            on_status=on_status,
            on_gap=on_gap,
            has_new_credentials=None if credentials is None else credentials.has_changed,
        )

    def _simulator(self) -> Simulator:
        settings = self.settings.simulator
        return Simulator(
            seed=settings.seed,
            rate_hz=settings.rate_hz,
            clock=self.clock,
            is_streaming=lambda: self.is_streaming(EXCHANGES[0]),
            prev_close=lambda key: self.upkeep.last_close(key),
        )

    def _close_after(self, at_ms: int) -> int:
        """Return the close of the session that contains an instant, or the instant itself."""
        session = self._session_at(at_ms)
        return at_ms if session is None else session[1]

    def _session_at(self, at_ms: int) -> tuple[int, int] | None:
        """Return the opening and close of the session that contains an instant."""
        windows = self._calendar.day(ist_date(at_ms)).windows
        return next((window for window in windows if window[0] <= at_ms < window[1]), None)

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
        gauge(
            "stale_instruments",
            "Wanted instruments without a tick for feed.instrument_stale_after_s in an open market",
            lambda: sum(map(self.is_stale, self.demand.wanted)),
        )
        self.exposition.states(
            "feed_state",
            "1 for the state each feed is in",
            lambda: {status.name: status.state for status in self.router.statuses},
        )


def _wants(topics: Sequence[Topic]) -> list[Want]:
    return [
        Want(InstrumentKey(*topic.key), topic.mode)
        for topic in topics
        if isinstance(topic, QuoteTopic)
    ]
