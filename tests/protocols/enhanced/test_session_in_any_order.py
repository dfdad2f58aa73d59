"""Sessions, hub and demand in any order of what clients may do.

Whatever they do, the hub routes and upstream is asked for exactly what the connected sessions hold;
what is acknowledged is in the store; and after an answer nothing of a mode before it comes.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec
import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from odin.clock import ManualClock
from odin.feeds.demand import Demand, Want
from odin.hub.hub import HIGH_WATER_BYTES, Hub
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.model import (
    MODES,
    Depth,
    Detail,
    Instrument,
    InstrumentKey,
    Level,
    Mode,
    Subscription,
    Tick,
)
from odin.protocols.accounts import Accounts
from odin.protocols.enhanced.encodings import ENCODINGS
from odin.protocols.enhanced.publisher import QuotePublisher
from odin.protocols.enhanced.services import Services
from odin.protocols.enhanced.session import Session
from odin.protocols.enhanced.wire import MarketView
from odin.protocols.frames import text_frame
from odin.settings import LimitSettings
from odin.topics import Encoding, QuoteTopic, Topic
from tests.protocols.enhanced.test_wire import VIEW
from tests.protocols.test_frames import read_frame
from tests.support.server import OPEN_MS

LISTED = [
    Instrument(InstrumentKey("NSE", "CM", token), symbol)
    for token, symbol in ((3045, "SBIN"), (11536, "TCS"), (1594, "INFY"))
]
NAMES = {item.symbol: item.key for item in LISTED}
DETAIL = Detail(oi=7, depth=Depth((Level(1.0, 1, 1),), ()))
CLIENTS = ("a", "b")
KINDS: dict[int, Mode] = {1: "quote", 2: "ltp", 3: "full"}
LIMITS = LimitSettings(subscriptions_per_client=2)


class Wire:
    """A connection as its session knows it, and what its client reads.

    Every quote must be of a stock and a mode that the client was told it holds.
    """

    def __init__(self, session: Session, encoding: Encoding) -> None:
        self.session = session
        self.encoding = encoding
        self.backlog = 0
        self.is_ending = False
        self.told: set[tuple[int, Mode]] = set()
        """Token and mode of what it held at the last welcome or answer."""
        self.quotes: list[tuple[int, Mode]] = []

    def write(self, data: bytes) -> int:
        assert not self.is_ending
        while data:
            opcode, payload, data = read_frame(data)
            if opcode == 2 and self.encoding == "binary":
                self.read((int.from_bytes(payload[8:16], "little"), KINDS[payload[0]]))
                continue
            message = orjson.loads(payload) if opcode == 1 else msgspec.msgpack.decode(payload)
            if message["type"] == "market_data":
                self.read((int(message["token"]), message.get("mode", "quote")))
            elif message["type"] == "error":
                assert message["code"] in {"subscription_limit", "session_taken_over"}
            else:
                held = self.session._watchlist
                self.told = {(key.token, held.mode(key)) for key in held}
        return self.backlog

    def read(self, quote: tuple[int, Mode]) -> None:
        assert quote in self.told
        self.quotes.append(quote)

    def backlog_bytes(self) -> int:
        return self.backlog

    def on_stalled(self) -> None:
        raise AssertionError("nobody stalls here")

    on_fault = on_stalled

    def end(self, _code: int) -> None:
        self.is_ending = True


class Disk:
    """Journal and store; changes wait while it is not quick."""

    def __init__(self) -> None:
        self.held: dict[str, dict[InstrumentKey, Subscription]] = {}
        self.is_quick = asyncio.Event()
        self.is_quick.set()

    async def load_subscriptions(self, client_id: str) -> list[Subscription]:
        return list(self.held.get(client_id, {}).values())

    async def record(
        self,
        client_id: str,
        add: Sequence[Subscription] = (),
        remove: Sequence[InstrumentKey] = (),
        now_ms: int = 0,
        resume_sha256: str | None = None,
        modes: Sequence[tuple[InstrumentKey, Mode]] = (),
    ) -> None:
        await self.is_quick.wait()
        held = self.held.setdefault(client_id, {})
        held.update((item.key, item) for item in add)
        for key, mode in modes:
            held[key] = held[key]._replace(mode=mode)
        for key in remove:
            del held[key]

    async def resume_sha256(self, client_id: str) -> str | None:
        return None

    async def keep_resume_token(self, client_id: str, resume_sha256: str) -> None:
        raise AssertionError("no tokens are required here")


class Market:
    """An open market; upstream is a table of what it was asked for."""

    def __init__(self, disk: Disk) -> None:
        self.metrics = Metrics()
        self.clock = ManualClock(OPEN_MS * 1_000_000)
        self.registry = InstrumentRegistry()
        self.registry.replace(LISTED)
        self.board = QuoteBoard(self.registry.get, self.metrics)
        self.hub = Hub(self.metrics, on_wanted=self.on_wanted, on_unwanted=self.on_unwanted)
        self.quotes = QuotePublisher(self.hub, self.metrics, self.board.detail)
        self.upstream: dict[InstrumentKey, Mode] = {}
        self.demand = Demand(self.registry.get, self.ask, self.let_go, linger_s=0.0)
        self.services = Services(
            hub=self.hub,
            quotes=self.quotes,
            registry=self.registry,
            board=self.board,
            store=disk,
            journal=disk,
            market=self,
            limits=LIMITS,
            announced_limits={},
            now_ms=self.clock.now_ms,
            wall_ms=self.clock.now_ms,
            metrics=self.metrics,
            accounts=Accounts(LIMITS),
        )

    def ask(self, instruments: Sequence[Instrument], mode: Mode) -> None:
        self.upstream.update((item.key, mode) for item in instruments)

    def let_go(self, keys: Sequence[InstrumentKey]) -> None:
        for key in keys:
            del self.upstream[key]

    def on_wanted(self, topics: Sequence[Topic]) -> None:
        self.quotes.want(topics)
        self.demand.add(wants(topics))

    def on_unwanted(self, topics: Sequence[Topic]) -> None:
        self.quotes.unwant(topics)
        self.demand.remove(wants(topics))

    def view(self) -> MarketView:
        return VIEW

    def is_streaming(self, exchange: str) -> bool:
        return True

    def is_stale(self, key: InstrumentKey) -> bool:
        return False

    def tick(self, key: InstrumentKey) -> None:
        now_ns = self.clock.now_ns()
        tick = Tick(key, self.clock.now_ms(), 100.0, detail=DETAIL)
        quote = self.board.apply(tick, now_ns)
        assert quote is not None
        self.quotes.publish(key, quote, self.clock.now_ms())


def wants(topics: Sequence[Topic]) -> list[Want]:
    return [Want(InstrumentKey(*t.key), t.mode) for t in topics if isinstance(t, QuoteTopic)]


class SessionMachine(RuleBasedStateMachine):
    """Two client_ids with any encoding, stocks and modes; a disk and readers that may be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.store = Disk()
        self.market = Market(self.store)
        self.sessions = {name: Session(name, self.market.services) for name in CLIENTS}
        self.wires: dict[str, Any] = {}
        self.encodings: dict[str, Encoding] = {}
        self.pending: list[asyncio.Task[None]] = []

    def go(self, *bodies: Coroutine[Any, Any, None]) -> None:
        """Start these, and carry on until all has happened that the disk lets through."""

        async def carry_on() -> None:
            self.pending += map(asyncio.ensure_future, bodies)
            if self.store.is_quick.is_set():
                async with asyncio.timeout(5):
                    await asyncio.gather(*self.pending)
                self.pending.clear()
            else:
                for _ in range(10):
                    await asyncio.sleep(0)
            self.market.hub.flush_now()

        self.loop.run_until_complete(carry_on())

    # ------------------------------------------------------------------ what clients do

    @rule(name=st.sampled_from(CLIENTS), encoding=st.sampled_from(ENCODINGS))
    def connect(self, name: str, encoding: Encoding) -> None:
        """Take over, where another connection is there."""
        session = self.sessions[name]
        wire = self.wires[name] = Wire(session, encoding)
        self.encodings[name] = encoding
        session.displace(wire)  # type: ignore[arg-type]
        self.go(session.restore(wire, encoding))  # type: ignore[arg-type]

    @rule(name=st.sampled_from(CLIENTS))
    def leave(self, name: str) -> None:
        wire = self.wires.pop(name, None)
        if wire is not None:
            self.sessions[name].leave(wire)
            wire.is_ending = True

    @precondition(lambda self: self.store.is_quick.is_set())
    @rule(name=st.sampled_from(CLIENTS))
    def forget(self, name: str) -> None:
        """The last connection is gone: what is left is on the disk."""
        self.leave(name)
        self.sessions[name].forget()
        self.sessions[name] = Session(name, self.market.services)

    @rule(
        name=st.sampled_from(CLIENTS),
        action=st.sampled_from(["subscribe", "subscribe", "unsubscribe"]),
        stocks=st.lists(st.sampled_from(list(NAMES)), min_size=1, max_size=3),
        modes=st.lists(st.none() | st.sampled_from(MODES), min_size=1, max_size=3),
    )
    def ask(
        self, name: str, action: str, stocks: Sequence[str], modes: Sequence[Mode | None]
    ) -> None:
        """Send some requests at once; they are carried out one after the other."""
        wire = self.wires.get(name)

        async def carry_out() -> None:
            for mode in modes:
                request = {"action": action, "stocks": stocks, "mode": mode, "request_id": 1}
                await self.sessions[name].on_text(wire, orjson.dumps(request).decode())

        if wire is not None:
            self.go(carry_out())

    # ------------------------------------------------------------------ what happens to them

    @rule(is_quick=st.booleans())
    def write(self, is_quick: bool) -> None:
        (self.store.is_quick.set if is_quick else self.store.is_quick.clear)()
        self.go()

    @rule(name=st.sampled_from(CLIENTS))
    def fall_behind(self, name: str) -> None:
        subscriber = self.sessions[name]._subscriber

        async def fill() -> None:
            self.wires[name].backlog = HIGH_WATER_BYTES + 1
            self.market.hub.put(subscriber, text_frame(b'{"type": "pong"}'))

        if subscriber is not None:
            self.loop.run_until_complete(fill())

    @rule()
    def drain(self) -> None:
        async def drain() -> None:
            for wire in self.wires.values():
                wire.backlog = 0
            self.market.hub._check_late()

        self.loop.run_until_complete(drain())

    @rule(key=st.sampled_from(list(NAMES.values())))
    def tick(self, key: InstrumentKey) -> None:
        async def publish() -> None:
            for wire in self.wires.values():
                wire.quotes.clear()
            self.market.tick(key)
            self.market.hub.flush_now()

        healthy = {
            name: session
            for name, session in self.sessions.items()
            if session._subscriber is not None and session._subscriber.backlog is None
        }
        self.loop.run_until_complete(publish())
        for name, session in healthy.items():
            held = session._watchlist
            assert self.wires[name].quotes == ([(key.token, held.mode(key))] if key in held else [])

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def the_hub_routes_and_upstream_carries_what_is_held(self) -> None:
        topics: set[QuoteTopic] = set()
        for name, session in self.sessions.items():
            if session._subscriber is not None:
                held = session._watchlist
                own = {QuoteTopic(key, self.encodings[name], held.mode(key)) for key in held}
                assert session._subscriber.topics == own
                topics |= own
        assert set(self.market.hub.topics) == topics
        assert {topic for read in self.market.quotes._read.values() for topic in read} == topics
        assert set(self.market.quotes._sent) <= topics
        fullest: dict[InstrumentKey, Mode] = {}
        for topic in sorted(topics, key=lambda topic: MODES.index(topic.mode)):
            fullest[InstrumentKey(*topic.key)] = topic.mode
        assert self.market.upstream == fullest

    @invariant()
    def what_is_held_is_on_the_disk_and_counted(self) -> None:
        held = 0
        for name, session in self.sessions.items():
            if session._is_loaded:
                stored = self.store.held.get(name, {})
                watchlist = session._watchlist
                held += len(watchlist)
                assert len(watchlist) <= LIMITS.subscriptions_per_client
                if self.store.is_quick.is_set():
                    modes = [(item.key, item.mode) for item in stored.values()]
                    assert modes == [(key, watchlist.mode(key)) for key in watchlist]
        if self.store.is_quick.is_set():
            assert self.market.services.accounts.of("")._held == held

    def teardown(self) -> None:
        self.write(is_quick=True)
        for name in CLIENTS:
            self.forget(name)
        assert self.market.upstream == {}
        hub = self.market.hub
        assert len(hub) == 0
        if hub._late_timer is not None:
            hub._late_timer.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        asyncio.set_event_loop(None)


SessionMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestSessions = SessionMachine.TestCase
