"""The Kite feed against a ticker that speaks its protocol on a real socket."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from odin.errors import FeedError, FeedRejected, FeedUnavailable
from odin.feeds.base import LinkEvent
from odin.feeds.credentials import CredentialSource
from odin.feeds.kite.feed import BATCH, CAPACITY, KiteFeed
from odin.feeds.kite.text import (
    SetMode,
    Subscribe,
    Text,
    Unsubscribe,
)
from odin.feeds.kite.wire import (
    LtpPacket,
)
from odin.feeds.socket import Connector, FeedSocket
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey, Tick
from odin.settings import KiteSettings
from tests.support.kite_server import INDICES, NIFTY, KiteServer

API_KEY, ACCESS_TOKEN = "apikeyCANARY", "accesstokenCANARY"
TIMEOUT_S = 20.0


def share(token: int, symbol: str = "") -> Instrument:
    return Instrument(InstrumentKey("NSE", "CM", token), symbol or f"S{token}")


RELIANCE, SBIN = share(2885, "RELIANCE"), share(3045, "SBIN")
NIFTY_50 = Instrument(NIFTY, "NIFTY 50", kind="index")
R_TOKEN, S_TOKEN, N_TOKEN = 738561, 779521, 256265


class Scene:
    """A feed, the server it talks to, and all that it has said."""

    def __init__(
        self,
        server: KiteServer,
        *,
        connections: int = 3,
        silence_s: float = 10.0,
        connector: Connector | None = None,
    ) -> None:
        self.server = server
        self.metrics = Metrics()
        self.environ = {"KITE_API_KEY": API_KEY, "KITE_ACCESS_TOKEN": ACCESS_TOKEN}
        self.feed = KiteFeed(
            KiteSettings(url=server.url, connections=connections),
            credentials=CredentialSource("env:KITE", environ=self.environ),
            indices=INDICES,
            connector=connector or Connector(self.metrics),
            metrics=self.metrics,
            silence_s=silence_s,
        )
        self.ticks: list[Tick] = []
        self.events: list[LinkEvent] = []
        self._has_said = asyncio.Event()

    def take(self, tick: Tick) -> None:
        self.ticks.append(tick)
        self._has_said.set()

    def hear(self, event: LinkEvent) -> None:
        self.events.append(event)
        self._has_said.set()

    async def wait(self, *, ticks: int = 0, heard: int = 0) -> None:
        """Wait until the feed has said so much in all."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.ticks) < ticks or self.events.count("heard") < heard:
                self._has_said.clear()
                await self._has_said.wait()

    async def run(self) -> None:
        """Run the feed until it breaks."""
        async with asyncio.timeout(TIMEOUT_S):
            await self.feed.run(self.take, self.hear)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run the feed, and cancel it at the end where it still runs."""
        task = asyncio.create_task(self.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
async def server() -> AsyncIterator[KiteServer]:
    async with KiteServer(credentials=(API_KEY, ACCESS_TOKEN), heartbeat_s=0.05) as server:
        yield server


@pytest.fixture
def canary(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that is logged, which must hold no secret."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert "CANARY" not in caplog.text


# ---------------------------------------------------------------------- connecting


async def test_credentials_are_proven_though_nothing_is_wanted(server: KiteServer) -> None:
    scene = Scene(server)
    async with scene.running():
        await scene.wait(heard=2)
        assert scene.events[:3] == ["login", "ready", "heard"]
        assert server.connects == 1
        assert server.headers["X-Kite-Version"] == "3"
        assert server.connections[0].requests == []
    assert scene.ticks == []


async def test_refused_credentials_are_a_rejection_and_tried_once(
    server: KiteServer, canary: pytest.LogCaptureFixture
) -> None:
    scene = Scene(server)
    scene.environ["KITE_ACCESS_TOKEN"] = "yesterdaysCANARY"
    scene.feed.want([share(token) for token in range(1, 2 * CAPACITY + 2)])
    with pytest.raises(FeedRejected, match="HTTP 403") as refused:
        await scene.run()
    assert "CANARY" not in str(refused.value)
    assert (server.refusals, server.connects) == (1, 1)
    assert scene.events == []


async def test_credentials_are_read_on_every_connect(server: KiteServer) -> None:
    scene = Scene(server)
    scene.environ["KITE_ACCESS_TOKEN"] = "yesterdays"
    with pytest.raises(FeedRejected):
        await scene.run()
    scene.environ["KITE_ACCESS_TOKEN"] = ACCESS_TOKEN
    async with scene.running():
        await scene.wait(heard=1)


async def test_credentials_that_are_missing_may_come(server: KiteServer) -> None:
    scene = Scene(server)
    del scene.environ["KITE_ACCESS_TOKEN"]
    with pytest.raises(FeedUnavailable, match="access_token"):
        await scene.run()
    assert server.connects == 0


async def test_a_ticker_that_cannot_be_reached_is_tried_again(
    canary: pytest.LogCaptureFixture,
) -> None:
    async with KiteServer() as server:
        scene = Scene(server)
    with pytest.raises(FeedUnavailable, match="could not be reached") as failure:
        await scene.run()
    assert "CANARY" not in str(failure.value)


async def test_tokens_that_die_at_night(server: KiteServer) -> None:
    scene = Scene(server)
    scene.feed.want([RELIANCE])
    async with scene.running() as task:
        await server.wait_wanted({RELIANCE.key})
        server.kill_tokens()
        with pytest.raises(FeedUnavailable, match="the connection"):
            await task
    with pytest.raises(FeedRejected):
        await scene.run()
    server.refuse_credentials(False)
    async with scene.running():
        await server.wait_wanted({RELIANCE.key})


async def test_an_error_about_the_token_is_a_rejection(
    server: KiteServer, canary: pytest.LogCaptureFixture
) -> None:
    scene = Scene(server)
    async with scene.running() as task:
        await scene.wait(heard=1)
        server.say(Text("error", f"Invalid access token {ACCESS_TOKEN}\nfor you"))
        with pytest.raises(FeedRejected) as refused:
            await task
    assert str(refused.value) == r"the ticker said: Invalid access token ********\nfor you"
    assert server.connects == 1


# ---------------------------------------------------------------------- subscribing


async def test_what_is_wanted_arrives_in_its_mode(server: KiteServer) -> None:
    scene = Scene(server)
    scene.feed.want([RELIANCE], "ltp")
    scene.feed.want([SBIN, NIFTY_50], "full")
    async with scene.running():
        await server.wait_subscribed({R_TOKEN: "ltp", S_TOKEN: "full", N_TOKEN: "full"})
        server.tick(RELIANCE.key, 1365.55)
        server.tick(SBIN.key, 812.35, 1_756_971_590_000)
        server.tick(NIFTY, 24734.1, 1_756_971_591_000)
        await scene.wait(ticks=3)
    ltp, full, index = scene.ticks
    assert (ltp.key, ltp.ltp, ltp.volume, ltp.detail) == (RELIANCE.key, 1365.55, None, None)
    assert full[:3] == (SBIN.key, 1_756_971_590_000, 812.35)
    assert full.detail is not None
    assert full.detail.depth is not None
    assert [level.price for level in full.detail.depth.sell] == [
        812.4,
        812.45,
        812.5,
        812.55,
        812.6,
    ]
    assert index[:4] == (NIFTY, 1_756_971_591_000, 24734.1, None)
    assert server.nonsense == 0


async def test_changes_are_told_and_nothing_else(server: KiteServer) -> None:
    scene = Scene(server)
    async with scene.running():
        scene.feed.want([RELIANCE, SBIN])
        await server.wait_subscribed({R_TOKEN: "quote", S_TOKEN: "quote"})
        scene.feed.want([RELIANCE, SBIN])
        scene.feed.want([RELIANCE], "full")
        await server.wait_subscribed({R_TOKEN: "full", S_TOKEN: "quote"})
        scene.feed.want([RELIANCE], "quote")
        await server.wait_subscribed({R_TOKEN: "quote", S_TOKEN: "quote"})
        scene.feed.unwant([SBIN.key, InstrumentKey("NSE", "CM", 1), SBIN.key])
        await server.wait_wanted({RELIANCE.key})
        scene.feed.unwant([RELIANCE.key])
        scene.feed.want([RELIANCE])  # before anybody was told
        scene.feed.want([SBIN], "ltp")
        await server.wait_subscribed({R_TOKEN: "quote", S_TOKEN: "ltp"})
        assert server.connections[0].requests == [
            Subscribe((R_TOKEN, S_TOKEN)),
            SetMode(("full", (R_TOKEN,))),
            SetMode(("quote", (R_TOKEN,))),
            Unsubscribe((S_TOKEN,)),
            Subscribe((S_TOKEN,)),
            SetMode(("ltp", (S_TOKEN,))),
        ]


async def test_many_are_told_in_batches(server: KiteServer) -> None:
    scene = Scene(server)
    scene.feed.want([share(token) for token in range(1, 451)], "full")
    async with scene.running():
        await server.wait_subscribed({token << 8 | 1: "full" for token in range(1, 451)})
        scene.feed.unwant([share(token).key for token in range(1, 451)])
        await server.wait_wanted(set())
        requests = server.connections[0].requests
    sizes = [len(r.mode_and_tokens[1] if isinstance(r, SetMode) else r.tokens) for r in requests]
    kinds = [type(request) for request in requests]
    assert sizes == [BATCH, BATCH, 50] * 3
    assert kinds == [Subscribe] * 3 + [SetMode] * 3 + [Unsubscribe] * 3


async def test_all_is_told_again_after_a_reconnect(server: KiteServer) -> None:
    scene = Scene(server)
    scene.feed.want([RELIANCE, SBIN])
    scene.feed.want([NIFTY_50], "full")
    before = {R_TOKEN: "quote", S_TOKEN: "quote", N_TOKEN: "full"}
    async with scene.running() as task:
        await server.wait_for(lambda: server.subscriptions == before)
        server.drop()
        with pytest.raises(FeedUnavailable):
            await task
    scene.feed.unwant([SBIN.key])
    scene.feed.want([RELIANCE], "ltp")
    async with scene.running():
        await server.wait_subscribed({R_TOKEN: "ltp", N_TOKEN: "full"})
        assert server.connects == 2
        server.tick(RELIANCE.key, 1400.0)
        await scene.wait(ticks=1)


async def test_what_kite_does_not_have_is_left_out_and_told_once(
    server: KiteServer, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(server)
    foreign = [Instrument(InstrumentKey("NCDEX", "CO", token), "X") for token in range(1, 50)]
    other_index = Instrument(InstrumentKey("NSE", "INDEX", 26009), "NIFTY BANK")
    scene.feed.want([*foreign, other_index, RELIANCE])
    async with scene.running():
        await server.wait_wanted({RELIANCE.key})
    assert scene.feed.left_out == 50
    assert len([r for r in caplog.records if "has no instruments" in r.message]) == 2
    scene.feed.unwant([instrument.key for instrument in foreign])
    assert scene.feed.left_out == 1


# ---------------------------------------------------------------------- several connections


async def test_more_than_one_connection_holds_are_spread(server: KiteServer) -> None:
    scene = Scene(server)
    everything = [share(token) for token in range(1, 2 * CAPACITY + 501)]
    scene.feed.want(everything[:CAPACITY])
    async with scene.running() as task:
        await server.wait_for(lambda: len(server.wanted) == CAPACITY)
        assert server.connects == 1
        scene.feed.want(everything)
        await server.wait_wanted({instrument.key for instrument in everything})
        assert [len(client.modes) for client in server.connections] == [CAPACITY, CAPACITY, 500]
        places = [set(client.modes) for client in server.connections]
        for instrument in (everything[0], everything[CAPACITY], everything[-1]):
            assert server.tick(instrument.key, 5.05) == 1
        await scene.wait(ticks=3)
        keys = {tick.key for tick in scene.ticks}
        assert keys == {everything[0].key, everything[CAPACITY].key, everything[-1].key}
        assert [event for event in scene.events if event != "heard"] == ["login", "ready"]
        server.drop()
        with pytest.raises(FeedUnavailable):
            await task
    async with scene.running():
        await server.wait_wanted({instrument.key for instrument in everything})
        assert [set(client.modes) for client in server.connections] == places


async def test_what_there_is_no_room_for_waits_until_there_is(
    server: KiteServer, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(server, connections=1)
    scene.feed.want([share(token) for token in range(1, CAPACITY + 1)])
    scene.feed.want([RELIANCE, share(CAPACITY)])  # they are among the first
    scene.feed.want([share(9000), share(9001), share(9002)])
    scene.feed.want([share(9001)], "full")
    assert scene.feed.left_out == 3
    async with scene.running():
        await server.wait_for(lambda: len(server.wanted) == CAPACITY)
        scene.feed.unwant([RELIANCE.key, share(9000).key])
        await server.wait_for(lambda: server.subscriptions.get(9001 << 8 | 1) == "full")
        assert RELIANCE.key not in server.wanted
        assert len(server.wanted) == CAPACITY
        assert scene.feed.left_out == 1
        assert server.connects == 1
    assert len([record for record in caplog.records if "room" in record.message]) == 1


async def test_one_connection_that_breaks_ends_them_all(server: KiteServer) -> None:
    scene = Scene(server)
    scene.feed.want([share(token) for token in range(1, CAPACITY + 2)])
    async with scene.running() as task:
        await server.wait_for(lambda: len(server.wanted) == CAPACITY + 1)
        server.connections[1].transport.abort()
        with pytest.raises(FeedUnavailable):
            await task
        await server.wait_for(lambda: not server.connections)


async def test_a_connection_nobody_needs_is_not_made_again(server: KiteServer) -> None:
    scene = Scene(server)
    scene.feed.want([share(token) for token in range(1, CAPACITY + 2)])
    async with scene.running() as task:
        await server.wait_for(lambda: len(server.wanted) == CAPACITY + 1)
        scene.feed.unwant([share(CAPACITY + 1).key])
        await server.wait_for(lambda: len(server.wanted) == CAPACITY)
        server.drop()
        with pytest.raises(FeedUnavailable):
            await task
    async with scene.running():
        await server.wait_for(lambda: len(server.wanted) == CAPACITY)
        await scene.wait(heard=scene.events.count("heard") + 3)
        assert len(server.connections) == 1


# ---------------------------------------------------------------------- what goes wrong


async def test_a_ticker_that_falls_silent_is_left(server: KiteServer) -> None:
    scene = Scene(server, silence_s=0.3)
    async with scene.running() as task:
        await scene.wait(heard=10)  # heartbeats keep it
        server.stay_silent()
        with pytest.raises(FeedUnavailable, match=r"nothing was received for 0\.3 s"):
            await task


async def test_a_connection_cut_in_the_middle_of_a_message(server: KiteServer) -> None:
    scene = Scene(server)
    async with scene.running() as task:
        await scene.wait(heard=1)
        server.cut_in_mid_frame()
        with pytest.raises(FeedUnavailable):
            await task
    assert scene.ticks == []


async def test_garbage_is_counted_and_survived(server: KiteServer) -> None:
    scene = Scene(server)
    scene.feed.want([RELIANCE])
    async with scene.running():
        await server.wait_wanted({RELIANCE.key})
        server.send_garbage()
        server.tick(RELIANCE.key, 1365.55)
        server.send_garbage()
        server.tick(RELIANCE.key, 1365.6)
        await scene.wait(ticks=2)
        assert server.connects == 1
    assert [tick.ltp for tick in scene.ticks] == [1365.55, 1365.6]
    assert scene.metrics.feed_malformed == 2 * 8


async def test_texts_are_no_reason_to_end(
    server: KiteServer, canary: pytest.LogCaptureFixture
) -> None:
    scene = Scene(server)
    scene.feed.want([RELIANCE])
    async with scene.running():
        await server.wait_wanted({RELIANCE.key})
        server.say(Text("order", {"order_id": "CANARY"}))
        server.say(Text("message", "CANARY"))
        server.say(Text("error", f"Invalid instrument token\n{API_KEY}" + "x" * 10_000))
        server.tick(RELIANCE.key, 1365.55)
        await scene.wait(ticks=1)
    [said] = [record.message for record in canary.records if "said" in record.message]
    assert said.startswith(r"the ticker of kite said: Invalid instrument token\n********xxx")
    assert len(said) < 200
    assert scene.metrics.feed_malformed == 0


async def test_a_burst_arrives_whole_and_in_order(server: KiteServer) -> None:
    scene = Scene(server)
    scene.feed.want([RELIANCE])
    async with scene.running():
        await server.wait_wanted({RELIANCE.key})
        assert server.burst(50_000) == 50_000
        await scene.wait(ticks=50_000)
    assert [tick.ltp for tick in scene.ticks] == [(10_000 + 5 * n) / 100 for n in range(50_000)]
    times = [tick.exchange_ms for tick in scene.ticks]
    assert times == sorted(times)
    assert scene.metrics.feed_rests > 0


async def test_a_fault_of_who_takes_the_ticks_comes_out_as_it_is(server: KiteServer) -> None:
    scene = Scene(server)

    def fail(tick: Tick) -> None:
        raise ZeroDivisionError(tick.ltp)

    task = asyncio.create_task(scene.feed.run(fail, scene.hear))
    await scene.wait(heard=1)
    server.send(LtpPacket(R_TOKEN, 100))
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(task, TIMEOUT_S)


class _TwoFailures(Connector):
    """Its first two connections fail in the same moment, the first one, a little later than the
    other, with a rejection."""

    def __init__(self) -> None:
        super().__init__(Metrics())
        self._both = asyncio.Event()

    @asynccontextmanager
    async def open(self, url: str, *, stream: int = 0, **_: object) -> AsyncIterator[FeedSocket]:
        if stream:
            self._both.set()
        yield _Failing(self._both, FeedUnavailable("broke") if stream else FeedRejected("no"))


class _Failing(FeedSocket):
    def __init__(self, moment: asyncio.Event, error: FeedError) -> None:
        self._moment = moment
        self._error = error

    async def send(self, message: str | bytes) -> None:
        pass

    async def receive(self, timeout_s: float | None = None) -> tuple[bytes | str, int]:
        await self._moment.wait()
        raise self._error


async def test_a_rejection_counts_more_than_what_broke_beside_it(server: KiteServer) -> None:
    scene = Scene(server, connector=_TwoFailures())
    scene.feed.want([share(token) for token in range(1, CAPACITY + 2)])
    with pytest.raises(FeedRejected):
        await scene.run()


async def test_it_says_nothing_of_its_secrets(server: KiteServer) -> None:
    scene = Scene(server)
    shown = repr(scene.feed) + repr(vars(scene.feed))
    assert "CANARY" not in shown
    assert (scene.feed.name, scene.feed.is_simulated) == ("kite", False)
