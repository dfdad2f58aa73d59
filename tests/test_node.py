"""What the node does by itself: the walk of a tick, bells, reloading, housekeeping, its end."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from odin.clock import NS_PER_MS, ManualClock, SessionClock, WallClock
from odin.errors import (
    ConfigError,
    FeedUnavailable,
    OdinError,
    ReferenceDataError,
    StoreUnavailable,
)
from odin.feeds.base import Emit, Report
from odin.model import InstrumentKey, Tick
from odin.node import Node
from tests.feeds import fake_venue
from tests.feeds.fake_venue import FakeVenueFeed
from tests.support.server import (
    BELL_CLOSE_MS,
    CLOSED_MS,
    INFY,
    OPEN_MS,
    SBIN,
    TCS,
    Client,
    Server,
    running,
    settings_for,
    start_server,
)

BELL_OPEN_MS = 1756957500000
"""Thursday 2025-09-04 09:15:00 IST."""
NEXT_OPEN_MS = 1757043900000
"""Friday 2025-09-05 09:15:00 IST."""
DAY_MS = 86_400_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for changes and keep house many times a second."""
    monkeypatch.setattr("odin.node.RELOAD_CHECK_S", 0.02)
    monkeypatch.setattr("odin.node.TOUCH_S", 0.02)


async def eventually(condition: Callable[[], object], timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path / "odin.db")) as connection:
        found = connection.execute(query).fetchall()
        connection.commit()
        return found


def bells(messages: list[dict[str, Any]]) -> list[tuple[bool, str, str]]:
    """Return what the pushed market_status messages say, in order."""
    return [
        (m["data"]["market_open"], m["data"]["current_date"], m["data"]["current_time"])
        for m in messages
        if m["type"] == "market_status" and "request_id" not in m
    ]


# ---------------------------------------------------------------------- the walk of a tick


@pytest.mark.parametrize(
    ("at_ms", "is_sent"),
    [
        (BELL_OPEN_MS - 1, False),
        (BELL_OPEN_MS, True),
        (BELL_CLOSE_MS - 1, True),
        (BELL_CLOSE_MS, False),
        (CLOSED_MS, False),
    ],
)
async def test_data_flows_in_the_session_to_the_millisecond(
    server: Server, at_ms: int, is_sent: bool
) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.clock.set_ms(at_ms)
        server.tick(SBIN, 800.0)
        got = [m for m in await client.nothing_but_pong() if m["type"] == "market_data"]
        assert [m["data"]["ltp"] for m in got] == [800.0] * is_sent
        assert server.node.metrics.ticks_gated == (not is_sent)
        data = (await client.ask("snapshot"))["data"]
        assert [quote["ltp"] for quote in data["quotes"]] == [800.0], "applied in any case"


async def test_with_the_gate_forced_open_no_bell_rings(tmp_path: Path) -> None:
    async with running(tmp_path, market={"gate": "always"}) as server:
        async with Client(server.ws, "me") as client:
            await client.subscribe("SBIN")
            for at_ms in (BELL_CLOSE_MS, CLOSED_MS, NEXT_OPEN_MS + 3 * DAY_MS):
                server.clock.set_ms(at_ms)
                server.tick(SBIN, 800.0)
                assert (await client.quote())["timestamp"] == at_ms
            assert bells(client.seen) == []


async def test_ticks_that_cannot_be_used_are_counted_and_harm_nothing(server: Server) -> None:
    metrics = server.node.metrics
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.tick(SBIN, 800.0)
        server.tick(InstrumentKey("NSE", "CM", 999_999_999), 1.0)
        server.tick(SBIN, 700.0, exchange_ms=OPEN_MS - 1)
        for price in (0.0, -1.0, float("nan"), float("inf")):
            server.tick(SBIN, price)
        server.tick(SBIN, 801.0, volume=-5, open=float("nan"), high=float("inf"), low=-1.0)
        server.tick(SBIN, 802.0, exchange_ms=OPEN_MS + 10 * DAY_MS)
        assert [m["data"]["ltp"] for m in await client.nothing_but_pong()] == [800.0, 801.0]
    assert (metrics.ticks_unknown, metrics.ticks_out_of_order, metrics.ticks_invalid) == (1, 1, 5)


async def test_what_nobody_subscribes_costs_no_frame(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.tick(TCS, 3000.0)
        assert await client.nothing_but_pong() == []
    assert server.node.metrics.frames_published == 0


# ---------------------------------------------------------------------- bells


async def test_a_bell_is_heard_within_250_ms_without_a_tick(server: Server) -> None:
    """By the real timer. The best of some, since the machine may be busy with something else."""
    loop = asyncio.get_running_loop()
    took = []
    async with Client(server.ws, "me") as client:
        for at_ms in (BELL_CLOSE_MS, NEXT_OPEN_MS, NEXT_OPEN_MS + 22_500_000):
            started = loop.time()
            server.clock.set_ms(at_ms)
            message = await client.receive()
            took.append(loop.time() - started)
            assert message["type"] == "market_status"
            assert message["timestamp"] == at_ms
        assert [is_open for is_open, _, _ in bells(client.seen)] == [False, True, False]
    assert min(took) < 0.25


async def test_a_tick_rings_the_bell_before_its_own_quote(tmp_path: Path) -> None:
    clock = ManualClock((BELL_OPEN_MS - 1) * NS_PER_MS)
    async with running(tmp_path, clock=clock) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        clock.set_ms(BELL_OPEN_MS)
        server.tick(SBIN, 800.0)
        kinds = [(await client.receive())["type"] for _ in range(2)]
        assert kinds == ["market_status", "market_data"]


async def test_data_of_the_session_goes_before_the_word_that_it_ended(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.clock.set_ms(BELL_CLOSE_MS - 1)
        server.tick(SBIN, 800.0)
        server.clock.set_ms(BELL_CLOSE_MS)
        server.tick(SBIN, 801.0)
        messages = await client.nothing_but_pong()
        assert [m["type"] for m in messages] == ["market_data", "market_status"]
        assert messages[0]["data"]["ltp"] == 800.0


async def test_a_jump_rings_every_bell_on_its_way_once(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        server.clock.set_ms(NEXT_OPEN_MS + 3 * DAY_MS + 1000)  # Monday
        for _ in range(4):
            await client.until(lambda message: message["type"] == "market_status")
        await client.nothing_but_pong()
        assert bells(client.seen) == [
            (False, "2025-09-04", "15:30:00"),
            (True, "2025-09-05", "09:15:00"),
            (False, "2025-09-05", "15:30:00"),
            (True, "2025-09-08", "09:15:00"),
        ]


async def test_a_clock_that_is_set_back_rings_nothing_and_goes_on(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.clock.set_ms(OPEN_MS - 7 * DAY_MS)
        server.node._check_bells()
        assert bells(await client.nothing_but_pong()) == []
        server.clock.set_ms(OPEN_MS)
        server.tick(SBIN, 800.0)
        assert (await client.quote())["data"]["ltp"] == 800.0


# ---------------------------------------------------------------------- the simulated market


class Hand:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def advance_s(self, seconds: float) -> None:
        self.ns += int(seconds * 1_000_000_000)


def session_clock(hand: Hand) -> SessionClock:
    """Return a clock a second before a close, with the session of the next day behind it."""
    spans = [(BELL_OPEN_MS, BELL_CLOSE_MS), (NEXT_OPEN_MS, NEXT_OPEN_MS + 22_500_000)]

    def next_session(at_ns: int) -> tuple[int, int]:
        opens, closes = next(span for span in spans if at_ns < span[1] * NS_PER_MS)
        return opens * NS_PER_MS, closes * NS_PER_MS

    return SessionClock((BELL_CLOSE_MS - 1000) * NS_PER_MS, next_session, monotonic_ns=hand)


async def test_a_simulated_session_closes_once_and_the_next_one_opens_once(tmp_path: Path) -> None:
    hand = Hand()
    options = {"feed": {"kind": "simulator"}, "simulator": {"rate_hz": 50}}
    async with (
        running(tmp_path, clock=session_clock(hand), **options) as server,
        Client(server.ws, "me") as client,
    ):
        assert client.welcome["data"]["simulated"] is True
        await client.subscribe("SBIN")
        before = await client.quote()
        assert before["data"]["last_updated"].startswith("2025-09-04T15:29:59")
        hand.advance_s(2)
        closed = await client.until(lambda message: message["type"] == "market_status")
        assert (closed["data"]["market_open"], closed["data"]["phase"]) == (False, "closed")
        hand.advance_s(5)  # beyond the pause: on to the next opening
        opened = await client.until(lambda message: message["type"] == "market_status")
        assert (opened["data"]["market_open"], opened["data"]["phase"]) == (True, "open")
        after = await client.quote()
        assert after["data"]["last_updated"].startswith("2025-09-05T09:15:0")
        assert after["data"]["open"] is not None
        await client.quote()
        await client.nothing_but_pong()
        assert bells(client.seen) == [
            (False, "2025-09-04", "15:30:00"),
            (True, "2025-09-05", "09:15:00"),
        ]
        between = client.seen[client.seen.index(closed) : client.seen.index(opened)]
        assert [m for m in between if m["type"] == "market_data"] == []


async def test_the_demo_market_is_open_at_any_hour_and_says_that_it_is_simulated(
    tmp_path: Path,
) -> None:
    settings = settings_for(
        tmp_path, feed={"kind": "simulator"}, simulator={"clock": "session", "rate_hz": 50}
    )
    node = await Node.start(settings)
    view = node.view()
    assert (view.is_streaming, view.is_simulated, view.gate) == (True, True, "calendar")
    assert view.status.phase == "open"
    assert node.clock.is_simulated
    await node.stop()


async def test_without_a_feed_there_is_the_real_time_and_nothing_else(tmp_path: Path) -> None:
    node = await Node.start(settings_for(tmp_path))
    assert abs(node.clock.now_ms() - WallClock().now_ms()) < 1000
    assert (node.is_simulated, node.router.supervisors) == (False, {})
    await node.stop()


async def test_no_feed_is_said_to_be_none(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        data = (await client.ask("market_status"))["data"]
        assert data["feed"] == {"name": "none", "state": "stopped", "stale": False}
        assert data["streaming_data"] is False
        assert client.welcome["data"]["feed"] == data["feed"]
        assert server.node.demand.wanted == {SBIN}


# ---------------------------------------------------------------------- housekeeping


@pytest.mark.usefixtures("hurried")
async def test_housekeeping_goes_on_after_bad_reference_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that fails is told to the operator and tried again; it never ends in silence."""
    async with running(tmp_path) as server:
        ask = server.node.store.outside_changes
        refused: list[bool] = []
        ask_count = [0]

        async def broken_once() -> int:
            if not refused:
                refused.append(True)
                raise ReferenceDataError("NSE CM 1 is listed twice")
            ask_count[0] += 1
            return await ask()

        monkeypatch.setattr(server.node.store, "outside_changes", broken_once)
        await eventually(lambda: refused)
        asked = ask_count[0]
        await eventually(lambda: ask_count[0] > asked, timeout=2)
    assert "listed twice" in caplog.text + str([vars(record) for record in caplog.records])


# ---------------------------------------------------------------------- idle clients


def age(path: Path, days: float) -> None:
    """Make everything in the database older."""
    ms = int(days * DAY_MS)
    change = f"created_ms = created_ms - {ms}, last_seen_ms = last_seen_ms - {ms}"
    rows(path, f"update clients set {change}")


def ids(path: Path) -> list[str]:
    return [row[0] for row in rows(path, "select client_id from clients order by 1")]


@pytest.mark.usefixtures("hurried")
async def test_idle_clients_are_forgotten_but_never_connected_ones(tmp_path: Path) -> None:
    async with running(tmp_path, store={"client_expiry_days": 1}) as server:
        async with Client(server.ws, "idle") as client:
            await client.subscribe("SBIN")
        async with Client(server.ws, "stays") as client:
            await client.subscribe("TCS")

            def only_one_is_left() -> bool:
                age(tmp_path, 2)  # again and again, for who was just here is noted as seen
                return ids(tmp_path) == ["stays"]

            await eventually(only_one_is_left)
            query = "select last_seen_ms from clients"
            await eventually(
                lambda: abs(rows(tmp_path, query)[0][0] - WallClock().now_ms()) < 60_000
            )
            await eventually(lambda: server.node.metrics.clients_expired == 1)
        async with Client(server.ws, "idle") as client:
            assert client.welcome["data"]["subscribed_stocks"] == 0
        assert rows(tmp_path, "select token from subscriptions") == [(11536,)]


async def test_clients_within_the_expiry_are_kept(tmp_path: Path) -> None:
    async with running(tmp_path, store={"client_expiry_days": 3}) as server:
        async with Client(server.ws, "away") as client:
            await client.subscribe("SBIN")
        age(tmp_path, 2)
        await server.node._keep_house()
        assert ids(tmp_path) == ["away"]


async def test_a_short_visit_between_two_rounds_of_housekeeping_counts_as_seen(
    tmp_path: Path,
) -> None:
    """A client that connects for half a minute every day is not one that has not connected."""
    async with running(tmp_path, store={"client_expiry_days": 1}) as server:
        async with Client(server.ws, "daily") as client:
            await client.subscribe("SBIN")
        age(tmp_path, 2)
        async with Client(server.ws, "daily") as client:
            assert client.welcome["data"]["subscribed_stocks"] == 1
        await server.node._keep_house()
        assert ids(tmp_path) == ["daily"]


# ---------------------------------------------------------------------- demand


async def test_an_instrument_stays_wanted_for_a_while_after_its_last_subscriber(
    tmp_path: Path,
) -> None:
    options = {"feed": {"kind": "simulator", "linger_s": 0.3}}
    async with running(tmp_path, **options) as server:
        wanted = server.node.demand
        async with Client(server.ws, "one") as one, Client(server.ws, "two") as two:
            await one.subscribe("SBIN", "TCS")
            await two.subscribe("SBIN")
            await one.ask("unsubscribe", stocks=["TCS"])
            assert wanted.wanted == {SBIN, TCS}
            await eventually(lambda: wanted.wanted == {SBIN})
        await eventually(lambda: not server.node.enhanced.connection_count)
        assert wanted.wanted == {SBIN}
        async with Client(server.ws, "two"):
            assert wanted.wanted == {SBIN}
        await eventually(lambda: not wanted.wanted)
        assert server.node.feed_status.state == "idle"


async def test_whoever_comes_back_in_time_finds_the_data_flowing(tmp_path: Path) -> None:
    options = {"feed": {"kind": "simulator", "linger_s": 60}, "simulator": {"rate_hz": 100}}
    async with running(tmp_path, **options) as server:
        async with Client(server.ws, "me") as client:
            await client.subscribe("SBIN")
            await client.quote()
        await eventually(lambda: not server.node.enhanced.connection_count)
        ticks = server.node.metrics.ticks
        await eventually(lambda: server.node.metrics.ticks > ticks)
        async with Client(server.ws, "me") as client:
            assert (await client.receive())["snapshot"] is True


# ---------------------------------------------------------------------- several feeds


class Venues:
    """Two venues, odin with kite standing by, that break off when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.feeds: dict[str, FakeVenueFeed] = {}
        self.emits: dict[str, Emit] = {}
        self.breaks = {"odin": asyncio.Event(), "kite": asyncio.Event()}
        monkeypatch.setattr("odin.feeds.supervisor.BACKOFF_FIRST_S", 0.01)
        fake_venue.install(monkeypatch, self._run)

    async def _run(self, feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        self.feeds[feed.name], self.emits[feed.name] = feed, emit
        report("login")
        report("ready")
        await self.breaks[feed.name].wait()
        self.breaks[feed.name].clear()
        raise FeedUnavailable("the connection broke")

    def tick(self, name: str, ltp: float) -> None:
        self.emits[name](Tick(SBIN, OPEN_MS, ltp))


TWO_FEEDS = {
    "feed": {"kind": "odin", "standby": "kite", "linger_s": 0},
    "odin": {"url": "wss://broker.example"},
}


async def test_a_standby_takes_over_and_clients_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venues = Venues(monkeypatch)
    async with running(tmp_path, **TWO_FEEDS) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        assert SBIN in venues.feeds["odin"].wanted
        assert SBIN not in venues.feeds["kite"].wanted
        venues.tick("odin", 800.0)
        assert (await client.quote())["data"]["source"] == "odin"
        venues.breaks["odin"].set()
        told = await client.until(lambda m: m["type"] == "market_status")
        assert told["data"]["feed"]["name"] == "kite"
        assert SBIN in venues.feeds["kite"].wanted
        venues.tick("kite", 801.0)
        data = (await client.quote())["data"]
        assert (data["ltp"], data["source"]) == (801.0, "kite")
        venues.tick("odin", 700.0)
        assert [m for m in await client.nothing_but_pong() if m["type"] == "market_data"] == []
        assert server.node.metrics.feed_takeovers == 1
    assert server.node.metrics.feed_takeovers == 1, "the end of the server is no failure"


async def test_each_feed_has_its_state_in_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venues = Venues(monkeypatch)
    async with running(tmp_path, **TWO_FEEDS) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        venues.tick("odin", 800.0)
        text = server.node.exposition.render().decode()
    assert 'odin_feed_state{name="odin",state="streaming"} 1.0' in text
    assert 'odin_feed_state{name="kite",state="idle"} 1.0' in text


async def test_feeds_that_cannot_be_built_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"odin\.url: must be set"):
        await Node.start(settings_for(tmp_path, feed={"kind": "odin"}))
    assert not (tmp_path / "odin.db").exists()


# ---------------------------------------------------------------------- start and stop


@pytest.mark.parametrize("text", ["[[day", None])
async def test_a_calendar_that_cannot_be_read_at_start_stops_the_start(
    tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "days.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OdinError) as caught:
        await Node.start(settings_for(tmp_path, market={"calendar_file": str(path)}))
    assert "days.toml" in str(caught.value), "an operator has several files"


async def test_what_was_asked_before_the_stop_is_finished_or_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(tmp_path)
    record, reached, release = server.node.journal.record, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> None:
        reached.set()
        await release.wait()
        await record(*args, **kwargs)

    monkeypatch.setattr(server.node.journal, "record", slow)
    async with Client(server.ws, "me") as client:
        await client.send({"action": "subscribe", "stocks": ["SBIN"]})
        await reached.wait()
        stopping = asyncio.ensure_future(server.close(1012))
        assert await client.closed() == 1012
        assert not stopping.done(), "it waits for what is under way"
        release.set()
        await stopping
        is_acknowledged = any(m["type"] == "subscription_response" for m in client.seen)
    stored = rows(tmp_path, "select token from subscriptions")
    assert stored == [(3045,)] if is_acknowledged else stored in ([], [(3045,)])


async def test_a_stop_lets_go_of_everything_in_order(tmp_path: Path) -> None:
    feed = {"kind": "simulator", "linger_s": 60}
    server = await start_server(tmp_path, feed=feed, simulator={"rate_hz": 100})
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        await client.quote()
        node = server.node
        tasks = list(node._tasks)
        reading = asyncio.ensure_future(client.closed())
        async with asyncio.timeout(5):
            await node.stop(1001)
        assert await reading == 1001
        assert not node.is_ready
        assert all(task.done() for task in tasks)
        assert len(node.hub) == 0
        assert node.demand.wanted == set()
        with pytest.raises(StoreUnavailable):
            await node.store.clients()
        with pytest.raises(StoreUnavailable):
            await node.journal.record("me", remove=[SBIN])
        assert node.enhanced.connection_count == 0
    await server.runner.cleanup()


async def test_nobody_is_let_in_once_it_stops(tmp_path: Path) -> None:
    server = await start_server(tmp_path)
    await server.node.stop()
    with pytest.raises(Exception, match="503"):
        async with Client(server.ws, "late"):
            pass
    await server.runner.cleanup()


async def test_a_database_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "odin.db").write_bytes(b"not a database, but 100 bytes long " * 100)
    with pytest.raises(OdinError, match=r"odin\.db"):
        await Node.start(settings_for(tmp_path))
    assert (tmp_path / "odin.db").read_bytes().startswith(b"not a database")


async def test_a_second_start_finds_what_the_first_one_left(tmp_path: Path) -> None:
    for number in range(3):
        async with running(tmp_path) as server, Client(server.ws, "me") as client:
            assert client.welcome["data"]["subscribed_stocks"] == number
            await client.subscribe(["SBIN", "TCS", "INFY"][number])
            assert len(server.node.hub.topics) == number + 1


# ---------------------------------------------------------------------- gauges


async def test_gauges_say_what_is(tmp_path: Path) -> None:
    async with running(tmp_path, feed={"linger_s": 60}) as server:

        def gauges() -> dict[str, float]:
            text = server.node.exposition.render().decode()
            return {
                sample.name.removeprefix("odin_"): sample.value
                for family in text_string_to_metric_families(text)
                if family.type == "gauge"
                for sample in family.samples
            }

        empty = gauges()
        assert (empty["connected"], empty["wanted_instruments"], empty["market_open"]) == (0, 0, 1)
        async with Client(server.ws, "one") as one, Client(server.ws, "two") as two:
            await one.subscribe("SBIN", "TCS")
            await two.subscribe("SBIN", "INFY")
            full = gauges()
            assert (full["connected"], full["subscribed_topics"]) == (2, 3)
            assert (full["wanted_instruments"], full["late_peers"]) == (3, 0)
            assert full["instruments"] == len(server.node.registry) > 40
            assert full["feed_stale"] == 0
            await two.ask("unsubscribe", stocks=["INFY"])
            assert gauges()["subscribed_topics"] == 2
            assert gauges()["wanted_instruments"] == 3, "it lingers"
            server.clock.set_ms(BELL_CLOSE_MS)
            assert gauges()["market_open"] == 0


async def test_a_tick_may_come_before_anybody_is_there(server: Server) -> None:
    server.node.on_tick(Tick(INFY, OPEN_MS, 1500.0))
    assert server.node.metrics.frames_published == 0
    async with Client(server.ws, "me") as client:
        await client.send({"action": "subscribe", "stocks": ["INFY"]})
        assert (await client.receive())["type"] == "subscription_response"
        assert (await client.receive())["data"]["ltp"] == 1500.0


@pytest.mark.parametrize("at_ms", [CLOSED_MS, BELL_CLOSE_MS + 60_000, BELL_OPEN_MS - 900_000])
async def test_no_tick_is_so_broken_that_it_raises_at_any_hour(server: Server, at_ms: int) -> None:
    server.clock.set_ms(at_ms)
    for exchange_ms in (-1, 10**30, -(10**30), None, 1.5):
        server.node.on_tick(Tick(SBIN, exchange_ms, 800.0))  # type: ignore[arg-type]
    assert server.node.metrics.ticks_invalid == 5
    assert server.node.board.quote(SBIN) is None


async def test_what_comes_before_the_opening_is_no_part_of_the_day(server: Server) -> None:
    server.clock.set_ms(BELL_OPEN_MS - 900_000)
    server.tick(SBIN, 500.0)
    server.tick(SBIN, 990.0)
    server.clock.set_ms(BELL_OPEN_MS)
    server.tick(SBIN, 800.0)
    quote = server.node.board.quote(SBIN)
    assert quote is not None
    assert (quote.open, quote.high, quote.low) == (800.0, 800.0, 800.0)
