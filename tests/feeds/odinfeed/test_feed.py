import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from odin.errors import FeedRejected, FeedUnavailable
from odin.feeds.base import Feed, LinkEvent
from odin.feeds.credentials import CredentialSource
from odin.feeds.odinfeed.feed import MAX_NOTICES_LOGGED, OdinFeed
from odin.feeds.odinfeed.framing import encode_frame, encode_messages, inflate
from odin.feeds.odinfeed.requests import BestFive, Login, Scrip, Touchline
from odin.feeds.odinfeed.wire import (
    ADMIN_TEXT,
    HEARTBEAT,
    LOGOFF,
    LOGON,
    MARKET_STATUS,
    TOKEN_NOT_FOUND,
    TOUCHLINE,
    encode_message,
)
from odin.feeds.socket import Connector
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey, Tick
from odin.settings import OdinFeedSettings
from tests.support.odin_server import INDICES, NIFTY, OdinServer

SECRET = "s3cret-api-key"
ENVIRON = {"ODINFEED_USER": "ME", "ODINFEED_API_KEY": SECRET}
ACC = InstrumentKey("NSE", "CM", 22)
RELIANCE = InstrumentKey("NSE", "CM", 2885)
SENSEX_STOCK = InstrumentKey("BSE", "CM", 500325)
NIFTY_FUTURE = InstrumentKey("NSE", "FO", 35001)
NOWHERE = InstrumentKey("NCDEX", "CO", 1)
AT_MS = 1_346_752_748_000


def instruments(*keys: InstrumentKey) -> list[Instrument]:
    return [Instrument(key, str(key.token)) for key in keys]


class Client:
    """A feed that runs, and what it delivered."""

    def __init__(
        self, server: OdinServer, environ: dict[str, str] = ENVIRON, **values: object
    ) -> None:
        options = {name: values.pop(name) for name in ("login_timeout_s",) if name in values}
        self.metrics = Metrics()
        self.feed = OdinFeed(
            OdinFeedSettings(url=server.url, **values),  # type: ignore[arg-type]
            credentials=CredentialSource("env:ODINFEED", environ=environ),
            indices=INDICES,
            connector=Connector(self.metrics),
            metrics=self.metrics,
            pace_s=0.0,
            **options,  # type: ignore[arg-type]
        )
        self.ticks: asyncio.Queue[Tick] = asyncio.Queue()
        self.events: list[LinkEvent] = []
        self.heard = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> "asyncio.Task[None]":
        self.task = asyncio.create_task(self.feed.run(self.ticks.put_nowait, self._report))
        return self.task

    def _report(self, event: LinkEvent) -> None:
        self.events.append(event)
        if event == "heard":
            self.heard.set()

    async def tick(self) -> Tick:
        return await asyncio.wait_for(self.ticks.get(), 5)

    async def failure(self) -> BaseException:
        """Why the run ends."""
        assert self.task is not None
        with pytest.raises((FeedRejected, FeedUnavailable)) as caught:
            await asyncio.wait_for(self.task, 5)
        return caught.value


@asynccontextmanager
async def streaming(
    server: OdinServer, *keys: InstrumentKey, **values: object
) -> AsyncIterator[Client]:
    """A client that has subscribed to these."""
    client = Client(server, **values)  # type: ignore[arg-type]
    client.feed.want(instruments(*keys))
    task = client.start()
    try:
        await server.wait_wanted(set(keys))
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_it_is_a_feed() -> None:
    client = Client(OdinServer())
    feed: Feed = client.feed
    assert (feed.name, feed.is_simulated) == ("odin", False)


async def test_ticks_arrive() -> None:
    async with OdinServer() as server, streaming(server, ACC, NIFTY, NIFTY_FUTURE) as client:
        assert client.events == ["login", "ready"]
        server.tick(ACC, 1300.35, AT_MS)
        tick = await client.tick()
        assert (tick.key, tick.exchange_ms, tick.ltp, tick.volume) == (ACC, AT_MS, 1300.35, 1)
        assert (tick.open, tick.high, tick.low) == (1300.35, 1300.35, 1300.35)
        assert tick.prev_close == 1300.35
        for key in (NIFTY, NIFTY_FUTURE):
            server.tick(key, 25000.05, AT_MS)
            assert (await client.tick()).key == key
        assert server.nonsense == client.metrics.feed_malformed == 0


async def test_binary_touchlines_have_no_volume() -> None:
    async with OdinServer() as server, streaming(server, ACC, is_binary=True) as client:
        server.tick(ACC, 1300.35, AT_MS)
        assert await client.tick() == Tick(
            ACC, AT_MS, 1300.35, None, 1300.35, 1300.35, 1300.35, 1300.35
        )


@pytest.mark.parametrize("chop_bytes", [0, 1, 7, 100])
@pytest.mark.parametrize("is_plain", [True, False])
async def test_frames_may_be_cut_and_joined_anywhere(chop_bytes: int, is_plain: bool) -> None:
    async with OdinServer(is_plain=is_plain) as server:
        server.chop_bytes = chop_bytes
        async with streaming(server, ACC, RELIANCE) as client:
            assert server.burst(450) == 450
            ticks = [await client.tick() for _ in range(450)]
            assert [tick.ltp for tick in ticks] == [round(100 + 0.05 * n, 2) for n in range(450)]
            assert client.metrics.feed_malformed == 0


# ---------------------------------------------------------------------- login


@pytest.mark.parametrize(
    ("values", "login", "tail"),
    [
        ({"login": "token"}, Login("ME", SECRET, "token"), b""),
        ({"login": "password"}, Login("ME", SECRET, "password"), b""),
        ({"version": "FIX3.0"}, Login("ME", SECRET, "token"), b""),
        ({"dialect": "padded"}, Login("ME", SECRET, "token"), bytes(4)),
    ],
)
async def test_the_login_follows_the_settings(
    values: dict[str, object], login: Login, tail: bytes
) -> None:
    server = OdinServer(credentials=("ME", SECRET))
    async with server, streaming(server, ACC, **values):
        assert server.requests[0] == login
        raw = server.connections[0].raw[0]
        assert int(raw[1:6]) == len(raw) - 6
        assert raw.endswith(tail)
        assert inflate(raw[6:]).startswith(f"63={values.get('version', 'FT3.0')}|".encode())
        assert server.nonsense == 0


async def test_nothing_is_asked_before_the_login_is_accepted() -> None:
    async with OdinServer() as server:
        server.is_mute = True
        client = Client(server)
        client.feed.want(instruments(ACC))
        task = client.start()
        await server.wait_for(lambda: len(server.requests) == 1)
        client.feed.want(instruments(RELIANCE))
        server.say(MARKET_STATUS, (1, 1))
        await asyncio.wait_for(client.heard.wait(), 5)
        assert client.events == ["login", "heard"]
        assert [type(request) for request in server.requests] == [Login]
        server.connections[0].is_in = True
        server.say(LOGON, (70, 10000))
        await server.wait_wanted({ACC, RELIANCE})
        assert client.events == ["login", "heard", "ready"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_refused_credentials_are_a_rejection_without_the_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with OdinServer() as server:
        server.refuse_credentials()
        client = Client(server)
        client.start()
        error = await client.failure()
        assert isinstance(error, FeedRejected)
        assert str(error) == "the login was refused: 70=10001, 58=no such key: …"
        assert "ready" not in client.events
        assert SECRET not in caplog.text


async def test_new_credentials_are_read_on_the_next_run() -> None:
    environ = {"ODINFEED_USER": "ME", "ODINFEED_API_KEY": "old"}
    async with OdinServer(credentials=("ME", SECRET)) as server:
        client = Client(server, environ)
        client.feed.want(instruments(ACC))
        client.start()
        assert isinstance(await client.failure(), FeedRejected)
        environ["ODINFEED_API_KEY"] = SECRET
        task = client.start()
        await server.wait_wanted({ACC})
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_secret_that_cannot_be_sent_is_a_rejection() -> None:
    async with OdinServer() as server:
        client = Client(server, {"ODINFEED_USER": "ME", "ODINFEED_API_KEY": "a|b"})
        client.start()
        error = await client.failure()
        assert isinstance(error, FeedRejected)
        assert "a|b" not in str(error)


async def test_missing_credentials_are_tried_again_later() -> None:
    client = Client(OdinServer(), {})
    client.start()
    assert "the credentials lack user" in str(await client.failure())


async def test_a_login_that_is_about_to_expire_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with OdinServer() as server:
        server.expires_in_days = 3
        async with streaming(server, ACC) as client:
            server.say(LOGON, (70, 10004), (97, 3))
            server.say(HEARTBEAT)
            await asyncio.wait_for(client.heard.wait(), 5)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == ["the login of feed odin expires in 3 days"]


async def test_a_login_without_an_answer_is_tried_again_later() -> None:
    async with OdinServer() as server:
        server.is_mute = True
        client = Client(server, login_timeout_s=0.05)
        client.start()
        error = await client.failure()
        assert isinstance(error, FeedUnavailable)
        assert str(error) == "the login was not answered within 0.05 s"


async def test_an_earlier_login_counts_for_nothing() -> None:
    async with OdinServer() as server, streaming(server, ACC, login_timeout_s=0.5) as client:
        server.is_mute = True
        server.drop()
        await client.failure()
        client.start()
        assert "the login was not answered" in str(await client.failure())


async def test_a_server_that_is_not_there_is_tried_again_later() -> None:
    server = OdinServer()
    await server.start()
    await server.stop()
    client = Client(server)
    client.start()
    assert isinstance(await client.failure(), FeedUnavailable)


# ---------------------------------------------------------------------- how a connection ends


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (1111, FeedUnavailable, "the server disconnected the broadcast"),
        (LOGOFF, FeedUnavailable, "the server logged us off: 58=why"),
        (TOKEN_NOT_FOUND, FeedRejected, "the server does not know the token: 58=why"),
        (LOGON, FeedRejected, "the login was refused: 58=why"),
    ],
)
async def test_the_server_may_end_it(code: int, kind: type[Exception], text: str) -> None:
    async with OdinServer() as server, streaming(server, ACC) as client:
        server.say(code, (58, "why"))
        error = await client.failure()
        assert (type(error), str(error)) == (kind, text)


@pytest.mark.parametrize("how", ["drop", "cut_in_mid_frame"])
async def test_a_broken_connection_is_told_everything_again(how: str) -> None:
    async with OdinServer() as server, streaming(server, ACC, RELIANCE) as client:
        client.feed.want(instruments(NIFTY), "full")
        await server.wait_for(lambda: BestFive(Scrip(1, 26000)) in server.requests)
        getattr(server, how)()
        assert isinstance(await client.failure(), FeedUnavailable)
        client.feed.unwant([RELIANCE])
        task = client.start()
        await server.wait_wanted({ACC, NIFTY})
        await server.wait_for(lambda: BestFive(Scrip(1, 26000)) in server.requests)
        assert server.connects == 2
        server.tick(ACC, 1300.35, AT_MS)
        assert (await client.tick()).ltp == 1300.35
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_fault_of_the_receiver_of_ticks_ends_the_run() -> None:
    async with OdinServer() as server:
        client = Client(server)
        client.feed.want(instruments(ACC))

        def fail(tick: Tick) -> None:
            raise ZeroDivisionError(tick.ltp)

        task = asyncio.create_task(client.feed.run(fail))
        await server.wait_wanted({ACC})
        server.tick(ACC, 100)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(task, 5)


# ---------------------------------------------------------------------- subscriptions


async def test_each_mode_subscribes_and_a_change_unsubscribes() -> None:
    acc = Scrip(1, 22)
    async with OdinServer() as server, streaming(server, ACC) as client:
        client.feed.want(instruments(ACC), "full")
        await server.wait_for(lambda: BestFive(acc) in server.requests)
        server.tick(ACC, 1300.35, AT_MS)
        line, book = await client.tick(), await client.tick()
        assert line.detail is not None
        assert line.detail.depth is None
        assert book.detail is not None
        assert book.detail.depth is not None
        assert book.detail.depth.buy[0].price == 1300.30
        client.feed.want(instruments(ACC), "ltp")
        await server.wait_for(lambda: BestFive(acc, is_on=False) in server.requests)
        assert server.connections[0].lines == {acc: Touchline((acc,), is_ltp_change_only=True)}
        for price in (100.0, 100.0, 101.0):
            server.tick(ACC, price, AT_MS)
        assert [(await client.tick()).ltp for _ in range(2)] == [100.0, 101.0]
        client.feed.unwant([ACC])
        await server.wait_wanted(set())


async def test_many_are_asked_for_in_batches() -> None:
    keys = [InstrumentKey("NSE", "CM", token) for token in range(1, 121)]
    async with OdinServer() as server, streaming(server, *keys):
        sizes = [len(r.scrips) for r in server.requests if isinstance(r, Touchline)]
        assert sizes == [50, 50, 20]


async def test_what_the_venue_cannot_carry_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with OdinServer() as server, streaming(server, SENSEX_STOCK) as client:
        for token in range(3):
            client.feed.want(instruments(NOWHERE._replace(token=token)))
            client.feed.unwant([NOWHERE._replace(token=token)])
        assert server.wanted == {SENSEX_STOCK}
    assert caplog.text.count("cannot carry NCDEX:CO") == 1


# ---------------------------------------------------------------------- hostile servers


async def test_garbage_is_counted_and_costs_nothing_else() -> None:
    async with OdinServer() as server, streaming(server, ACC) as client:
        server.send_garbage()
        server.send_garbage()
        server.tick(ACC, 1300.35, AT_MS)
        assert (await client.tick()).ltp == 1300.35
        assert client.metrics.feed_malformed >= 10


async def test_ticks_are_as_the_server_sent_them() -> None:
    """Before the first trade, twice, out of order, and with tags missing."""
    async with OdinServer() as server, streaming(server, ACC) as client:
        server.tick(ACC, 0, AT_MS)
        for at_ms in (AT_MS, AT_MS, AT_MS - 5000):
            server.tick(ACC, 1300.35, at_ms)
        server.send(encode_message(TOUCHLINE, ((1, 1), (7, 22), (79, 77))))
        ticks = [await client.tick() for _ in range(4)]
        assert [tick.exchange_ms for tick in ticks[:3]] == [AT_MS, AT_MS, AT_MS - 5000]
        assert (ticks[3].ltp, ticks[3].volume) == (1300.35, 77)
        assert client.metrics.feed_malformed == 0


async def test_what_the_broker_says_is_logged_escaped_and_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "odin")
    said = b"63=FT3.0|64=907|1=\x1b[2Jforged\n2026 line " + SECRET.encode() + b"x" * 3000
    async with OdinServer() as server, streaming(server, ACC) as client:
        for _ in range(MAX_NOTICES_LOGGED + 10):
            server.send_raw(encode_frame(encode_messages([said])))
        server.say(ADMIN_TEXT, (1, "last"))
        server.tick(ACC, 100)
        await client.tick()
    lines = [r.getMessage() for r in caplog.records if "was told" in r.getMessage()]
    assert len(lines) == MAX_NOTICES_LOGGED
    assert lines[0].startswith(r"feed odin was told (907): 1=\x1b[2Jforged\n2026 line …xxx")
    assert all(line.isprintable() and len(line) < 200 for line in lines)
    assert SECRET not in caplog.text


async def test_a_silent_server_is_left_to_the_watchdog() -> None:
    async with OdinServer() as server, streaming(server, ACC) as client:
        server.stay_silent()
        assert server.tick(ACC, 100) == 0
        server.stay_silent(False)
        server.tick(ACC, 101)
        assert (await client.tick()).ltp == 101
