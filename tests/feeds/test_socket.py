import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from odin.errors import FeedError, FeedRejected, FeedUnavailable
from odin.feeds import socket as feed_socket
from odin.feeds.capture import Capture, Record, read_records
from odin.feeds.socket import SLICE_TICKS, TURN_S, Connector, FeedSocket, check_url
from odin.metrics import Metrics
from odin.model import InstrumentKey, Tick

SECRET = "hunter2"
KEY = InstrumentKey("NSE", "CM", 3045)

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talk = Callable[[web.WebSocketResponse], Awaitable[None]]


@asynccontextmanager
async def venue(serve: Serve) -> AsyncIterator[str]:
    """A server on a real socket; yields its address."""
    app = web.Application()
    app.router.add_get("/{tail:.*}", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0]
        yield f"ws://{host}:{port}/feed"
    finally:
        await runner.cleanup()


def talking(talk: Talk) -> Serve:
    """Serve a WebSocket that does this and then waits for the other side to leave."""

    async def serve(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await talk(ws)
        async for _ in ws:
            pass
        return ws

    return serve


@asynccontextmanager
async def connected(talk: Talk, metrics: Metrics | None = None) -> AsyncIterator[FeedSocket]:
    async with venue(talking(talk)) as url:
        async with Connector(metrics or Metrics()).open(url) as socket:
            yield socket


async def silent(_: web.WebSocketResponse) -> None:
    """A venue that has nothing to say."""


# ---------------------------------------------------------------------- messages


async def test_text_and_binary_arrive_stamped_and_counted() -> None:
    async def talk(ws: web.WebSocketResponse) -> None:
        await ws.send_str("hello")
        await ws.send_bytes(b"\x00\xff")
        await ws.send_bytes(b"")

    metrics, times_ns = Metrics(), iter([5_000_000, 6_999_999, 7_000_000])
    async with venue(talking(talk)) as url:
        async with Connector(metrics, now_ns=lambda: next(times_ns)).open(url) as socket:
            assert await socket.receive() == ("hello", 5)
            assert await socket.receive() == (b"\x00\xff", 6)
            assert await socket.receive() == (b"", 7)
    assert metrics.feed_messages == 3
    assert metrics.feed_bytes == 7


async def test_what_is_sent_arrives_as_it_was_sent() -> None:
    async def talk(ws: web.WebSocketResponse) -> None:
        for _ in range(2):
            message = await ws.receive()
            await ws.send_str(f"{message.type.name} {message.data!r}")

    async with connected(talk) as socket:
        await socket.send("login")
        await socket.send(b"\x01")
        assert (await socket.receive())[0] == "TEXT 'login'"
        assert (await socket.receive())[0] == "BINARY b'\\x01'"


async def test_headers_and_parameters_reach_the_venue() -> None:
    seen: list[tuple[str, str]] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        seen.append((request.query["token"], request.headers["X-Version"]))
        return await talking(silent)(request)

    async with venue(serve) as url:
        params, headers = {"token": "a&b=c/ü"}, {"X-Version": "3"}
        async with Connector(Metrics()).open(url, params=params, headers=headers):
            pass
    assert seen == [("a&b=c/ü", "3")]


async def test_a_capture_gets_every_byte_of_every_connection(tmp_path: Path) -> None:
    async def talk(ws: web.WebSocketResponse) -> None:
        await ws.send_str("ü")
        await ws.send_bytes(bytes(range(256)))

    capture = Capture(tmp_path, "kite", Metrics(), max_bytes=1 << 20)
    connector = Connector(Metrics(), capture, now_ns=lambda: 7)
    async with venue(talking(talk)) as url:
        for stream in (0, 2):
            async with connector.open(url, stream=stream) as socket:
                await socket.receive()
                await socket.receive()
    await capture.close()
    (path,) = tmp_path.iterdir()
    assert list(read_records(path)) == [
        Record(7, stream, data) for stream in (0, 2) for data in (None, "ü", bytes(range(256)))
    ]


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, FeedRejected),
        (403, FeedRejected),
        (200, FeedUnavailable),
        (400, FeedUnavailable),
        (404, FeedUnavailable),
        (429, FeedUnavailable),
        (500, FeedUnavailable),
        (503, FeedUnavailable),
    ],
)
async def test_what_an_answer_without_an_upgrade_means(status: int, error: type[FeedError]) -> None:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="x" * 100_000)

    async with venue(serve) as url:
        with pytest.raises(error) as why:
            async with Connector(Metrics()).open(url, params={"token": SECRET}):
                pytest.fail("it is not open")
    host = url.removeprefix("ws://").removesuffix("/feed")
    assert str(why.value) == f"{host} answered HTTP {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_credentials_do_not_follow_a_redirect(status: int) -> None:
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        reached.append(str(request.rel_url))
        return await talking(silent)(request)

    async with venue(elsewhere) as other:

        async def serve(request: web.Request) -> web.StreamResponse:
            target = f"{other.replace('ws', 'http')}?{request.query_string}"
            return web.Response(status=status, headers={"Location": target})

        async with venue(serve) as url:
            with pytest.raises(FeedUnavailable, match="redirect, which was refused") as why:
                async with Connector(Metrics()).open(
                    url, params={"token": SECRET}, headers={"Authorization": SECRET}
                ):
                    pytest.fail("it is not open")
    assert reached == []
    assert SECRET not in str(why.value)


async def test_nobody_listens() -> None:
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(FeedUnavailable, match="could not be reached") as why:
            async with Connector(Metrics()).open(url, params={"token": SECRET}):
                pytest.fail("it is not open")
    assert SECRET not in str(why.value)


async def test_a_venue_that_accepts_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_socket, "CONNECT_TIMEOUT_S", 0.1)
    with sockets.create_server(("127.0.0.1", 0)) as listening:
        url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(FeedUnavailable, match=r"did not answer in 0\.1 s"):
            async with Connector(Metrics()).open(url):
                pytest.fail("it is not open")


async def test_a_venue_that_answers_with_garbage() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(FeedUnavailable, match="could not be reached"):
            async with Connector(Metrics()).open(f"ws://{host}:{port}"):
                pytest.fail("it is not open")


async def test_a_credential_that_cannot_be_a_header() -> None:
    async with venue(talking(silent)) as url:
        with pytest.raises(FeedUnavailable, match="could not be reached") as why:
            async with Connector(Metrics()).open(url, headers={"X-Key": f"{SECRET}\r\nX: y"}):
                pytest.fail("it is not open")
    assert SECRET not in str(why.value)


# ---------------------------------------------------------------------- endings


async def _end_of(talk: Talk) -> str:
    async with connected(talk) as socket:
        async with asyncio.timeout(10):
            with pytest.raises(FeedUnavailable) as why:
                while True:
                    await socket.receive()
            with pytest.raises(FeedUnavailable):
                await socket.receive()
            with pytest.raises(FeedUnavailable, match="the connection broke"):
                await socket.send("too late")
    return str(why.value)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4401])
async def test_a_close_code_is_told(code: int) -> None:
    async def talk(ws: web.WebSocketResponse) -> None:
        await ws.send_str("last words")
        await ws.close(code=code, message=SECRET.encode())

    assert await _end_of(talk) == f"the connection was closed with {code}"


async def test_a_cut_is_an_end_like_any_other() -> None:
    async def talk(ws: web.WebSocketResponse) -> None:
        await ws.send_str("last words")
        transport = ws._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()

    assert await _end_of(talk) == "the connection was closed with 1006"


async def test_a_message_over_the_limit_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_socket, "MAX_MESSAGE_BYTES", 1000)

    async def talk(ws: web.WebSocketResponse) -> None:
        await ws.send_bytes(b"x" * 1001)

    assert await _end_of(talk) == "the connection was closed with 1009"


async def test_text_that_is_not_utf_8_ends_the_connection() -> None:
    async def talk(ws: web.WebSocketResponse) -> None:
        await ws.send_frame(b"\xff", WSMsgType.TEXT)

    assert await _end_of(talk) == "the connection was closed with 1007"


async def test_silence_is_limited_where_that_is_asked_for() -> None:
    async with connected(silent) as socket:
        with pytest.raises(FeedUnavailable, match=r"nothing was received for 0\.05 s"):
            await socket.receive(0.05)


async def test_a_venue_that_answers_no_pings_is_left() -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(autoping=False)
        await ws.prepare(request)
        async for _ in ws:
            pass
        return ws

    async with venue(serve) as url:
        async with Connector(Metrics()).open(url, ping_s=0.1) as socket:
            async with asyncio.timeout(10):
                with pytest.raises(FeedUnavailable, match="1006"):
                    await socket.receive()


async def test_a_venue_that_goes_on_talking_cannot_keep_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It never reads, so it never learns that it was told goodbye."""
    monkeypatch.setattr(feed_socket, "CLOSE_TIMEOUT_S", 0.2)

    async def talk(ws: web.WebSocketResponse) -> None:
        while True:
            await ws.send_str("and another thing")
            await asyncio.sleep(0)

    async with venue(talking(talk)) as url:
        async with asyncio.timeout(10):
            async with Connector(Metrics()).open(url) as socket:
                await socket.receive()


async def test_cancelling_a_receive_closes_the_connection() -> None:
    left = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for _ in ws:
            pass
        left.set()
        return ws

    async with venue(serve) as url:
        is_open = asyncio.Event()

        async def run() -> None:
            async with Connector(Metrics()).open(url) as socket:
                is_open.set()
                await socket.receive()

        task = asyncio.create_task(run())
        async with asyncio.timeout(10):
            await is_open.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await left.wait()


# ---------------------------------------------------------------------- the budget

TICK_S = 0.000_01
"""What a tick costs by the clock of these tests."""


class Bystander:
    """Something else that runs on the event loop, and sees how long it had to wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.emitted = 0
        self.turns = 0
        self.longest_s = 0.0
        monkeypatch.setattr(feed_socket, "perf_counter", lambda: self.now_s)

    def emit(self, _: Tick) -> None:
        self.emitted += 1
        self.now_s += TICK_S

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            before_s = self.now_s
            await asyncio.sleep(0)
            self.turns += 1
            self.longest_s = max(self.longest_s, self.now_s - before_s)


def _ticks(count: int) -> Iterator[Tick]:
    return (Tick(KEY, n, 800.0) for n in range(count))


LONGEST_S = TURN_S + 2 * SLICE_TICKS * TICK_S


async def test_a_burst_in_one_message_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    async with connected(silent, metrics) as socket:
        bystander = Bystander(monkeypatch)
        async with bystander.watching():
            await socket.deliver(_ticks(50_000), bystander.emit)
    assert bystander.emitted == 50_000
    assert bystander.longest_s <= LONGEST_S
    assert bystander.turns >= 50_000 * TICK_S / LONGEST_S
    assert metrics.feed_rests == pytest.approx(50_000 * TICK_S / TURN_S, rel=0.5)


async def test_what_holds_no_ticks_lets_others_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(silent) as socket:
        bystander = Bystander(monkeypatch)

        def nothing() -> Iterator[None]:
            for _ in range(100):
                bystander.now_s += TURN_S / 2
                yield None

        async with bystander.watching():
            await socket.deliver(nothing(), bystander.emit)
    assert bystander.emitted == 0
    assert bystander.turns >= 25
    assert bystander.longest_s <= 2 * TURN_S


async def test_a_burst_of_messages_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    count, each = 5_000, 10
    all_sent = asyncio.Event()

    async def talk(ws: web.WebSocketResponse) -> None:
        for _ in range(count):
            await ws.send_bytes(b"x")
        all_sent.set()

    metrics = Metrics()
    async with connected(talk, metrics) as socket:
        await all_sent.wait()
        bystander = Bystander(monkeypatch)
        async with bystander.watching():
            for _ in range(count):
                await socket.receive()
                await socket.deliver(_ticks(each), bystander.emit)
    assert bystander.emitted == count * each
    assert bystander.longest_s <= LONGEST_S
    assert metrics.feed_rests > 0


async def test_messages_that_come_one_by_one_need_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            await ws.send_str(message.data)

    metrics = Metrics()
    async with connected(talk, metrics) as socket:
        bystander = Bystander(monkeypatch)
        for _ in range(50):
            bystander.now_s += 1
            await socket.send("next")
            await socket.receive()
            await socket.deliver(_ticks(10), bystander.emit)
    assert metrics.feed_rests == 0


# ---------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "url",
    [
        "wss://ws.kite.trade",
        "wss://broker.example:4510/odin/",
        "WSS://BROKER.EXAMPLE",
        "wss://203.0.113.7:443",
        "wss://[2001:db8::1]:443",
        "ws://localhost:8080",
        "ws://127.0.0.1:8080/feed",
        "ws://127.9.9.9",
        "ws://[::1]:8080",
    ],
)
def test_an_address_that_is_well(url: str) -> None:
    assert check_url(url) == ""


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must begin with wss://"),
        ("ws.kite.trade", "must begin with wss://"),
        ("https://ws.kite.trade", "must begin with wss://"),
        ("file:///etc/passwd", "must begin with wss://"),
        ("wss://", "must begin with wss://"),
        ("wss:///feed", "must begin with wss://"),
        ("wss://broker.example:port", "is not an address"),
        ("wss://broker.example:99999", "is not an address"),
        ("wss://[::1", "is not an address"),
        ("wss://me@broker.example", "must not hold credentials"),
        ("wss://me:secret@broker.example", "must not hold credentials"),
        ("wss://broker.example/?token=1", "must not hold credentials or a query"),
        ("wss://broker.example/#token", "must not hold credentials"),
        ("wss://broker.example /feed", "must not hold spaces"),
        ("wss://broker.example\n", "must not hold spaces or control characters"),
        ("ws://broker.example", "must begin with wss:// (or set feed.allow_plaintext)"),
        ("ws://203.0.113.7", "leads to another machine"),
        ("ws://127.0.0.1.broker.example", "leads to another machine"),
        ("ws://localhost.broker.example", "leads to another machine"),
        ("ws://0.0.0.0", "leads to another machine"),
    ],
)
def test_an_address_that_is_not(url: str, problem: str) -> None:
    assert problem in check_url(url)


def test_plaintext_to_another_machine_is_the_operators_to_allow() -> None:
    assert check_url("ws://broker.example:4509", allow_plaintext=True) == ""
    assert check_url("http://broker.example", allow_plaintext=True) != ""
