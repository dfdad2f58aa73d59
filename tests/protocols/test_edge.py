"""The way from the first byte of a connection to its WebSocket, and what is refused on it."""

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from aiohttp import web

from odin import log as logs
from odin.errors import CLIENT_ERRORS, OdinError
from odin.protocols import edge
from odin.protocols.admission import SPARE_SOCKETS, SPARE_SOCKETS_PER_ADDRESS
from odin.protocols.edge import EdgeSocket
from odin.protocols.selftest import check_edge
from odin.protocols.strict import FrameChecker
from odin.server.run import HANDSHAKE_TIMEOUT_S, listen
from odin.settings import LogSettings
from tests.support.raw import CLOSE, TEXT, Raw, frame, handshake
from tests.support.server import Server, running

UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
VERSION = "Sec-WebSocket-Version: 13\r\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
HEAD = "GET /enhanced-stream?client_id=me HTTP/1.1\r\nHost: x\r\n"
SECOND = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
UNMASKED = b"\x81\x11" + b'{"action":"ping"}'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


async def status_of(server: Server, request: str) -> int:
    async with Raw(server.ws) as raw:
        raw.send(request.encode("latin-1"))
        return (await raw.answer())[0]


# ---------------------------------------------------------------------- handshakes

REFUSED = {
    "a URL over 8 KiB": (f"GET /{'a' * 8200} HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "a URL without end": (f"GET /{'a' * 300_000}", 414),
    "a header over 8 KiB": (f"{HEAD}X: {'a' * 8200}\r\n\r\n", 431),
    "a name over 8 KiB": (f"{HEAD}X{'a' * 8200}: y\r\n\r\n", 431),
    "a header without end": (f"{HEAD}X: {'a' * 300_000}", 431),
    "129 headers": (HEAD + "".join(f"X{n}: y\r\n" for n in range(128)) + "\r\n", 431),
    "headers over 8 KiB": (
        f"{HEAD}{UPGRADE}{VERSION}{KEY}X: {'a' * 5000}\r\nY: {'a' * 3500}\r\n\r\n",
        431,
    ),
    "an expectation": (f"{HEAD}{UPGRADE}{VERSION}{KEY}Expect: s3cret\r\n\r\n", 417),
    "NUL in the URL": ("GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "NUL in a header": (f"{HEAD}X: \0\r\n\r\n", 400),
    "NUL in a name": (f"{HEAD}X\0: y\r\n\r\n", 400),
    "a length and chunks": (
        f"{HEAD}{UPGRADE}{VERSION}{KEY}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        400,
    ),
    "two hosts": (f"{HEAD}Host: y\r\n{UPGRADE}{VERSION}{KEY}\r\n", 400),
    "no host": (f"{HEAD.replace('Host: x', 'X: x')}{UPGRADE}{VERSION}{KEY}\r\n", 400),
    "a folded header": (f"{HEAD}{UPGRADE}{VERSION}{KEY}X: a\r\n b\r\n\r\n", 400),
    "lines without CR": (f"{HEAD}{UPGRADE}{VERSION}{KEY}\r\n".replace("\r\n", "\n"), 400),
    "HTTP/1.0": (f"{HEAD.replace('1.1', '1.0')}{UPGRADE}{VERSION}{KEY}\r\n", 400),
    "no key": (f"{HEAD}{UPGRADE}{VERSION}\r\n", 400),
    "two keys": (f"{HEAD}{UPGRADE}{VERSION}{KEY}{KEY}\r\n", 400),
    "a short key": (f"{HEAD}{UPGRADE}{VERSION}Sec-WebSocket-Key: c2hvcnQ=\r\n\r\n", 400),
    "a key with noise": (f"{HEAD}{UPGRADE}{VERSION}{KEY.replace('dG', '!dG')}\r\n", 400),
    "a key that is not ASCII": (f"{HEAD}{UPGRADE}{VERSION}{KEY.replace('dG', 'é')}\r\n", 400),
    "no connection header": (f"{HEAD}Upgrade: websocket\r\n{VERSION}{KEY}\r\n", 400),
    "two versions": (f"{HEAD}{UPGRADE}{VERSION}Sec-WebSocket-Version: 8\r\n{KEY}\r\n", 400),
    "version 99": (f"{HEAD}{UPGRADE}{VERSION.replace('13', '99')}{KEY}\r\n", 426),
    "no version": (f"{HEAD}{UPGRADE}{KEY}\r\n", 426),
    "another upgrade": (f"{HEAD}Upgrade: h2c\r\nConnection: Upgrade\r\n{VERSION}{KEY}\r\n", 426),
    "POST": (f"{HEAD.replace('GET', 'POST')}{UPGRADE}{VERSION}{KEY}\r\n", 405),
    "an unknown path": (f"{HEAD.replace('stream', 'streams')}{UPGRADE}{VERSION}{KEY}\r\n", 404),
    "a traversal": (f"{HEAD.replace('/enh', '/x/%2e%2e/enh')}{UPGRADE}{VERSION}{KEY}\r\n", 404),
}


async def test_a_handshake_that_is_none_is_refused_with_its_status(server: Server) -> None:
    wrong = []
    for name, (request, wanted) in REFUSED.items():
        status = await status_of(server, request)
        if status != wanted:
            wrong.append(f"{name}: {status}")
    assert not wrong
    assert await status_of(server, f"{HEAD}{UPGRADE}{VERSION}{KEY}\r\n") == 101
    assert server.node.metrics.faults == 0


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a URL over 8 KiB", "uri_too_long"),
        ("a header over 8 KiB", "headers_too_large"),
        ("129 headers", "headers_too_large"),
        ("headers over 8 KiB", "headers_too_large"),
        ("an expectation", "expectation_failed"),
        ("two hosts", "bad_request"),
    ],
)
async def test_what_is_refused_is_told_in_json_and_quotes_nothing(
    server: Server, name: str, code: str
) -> None:
    async with Raw(server.ws) as raw:
        raw.send(REFUSED[name][0].encode())
        _, headers, body = await raw.answer()
    assert headers["content-type"].startswith("application/json")
    text = CLIENT_ERRORS[code].text
    assert json.loads(body) == {"type": "error", "status": "error", "code": code, "message": text}


async def test_headers_of_just_8_kib_are_taken(server: Server) -> None:
    request = f"{HEAD}{UPGRADE}{VERSION}{KEY}X: {'a' * 4000}\r\nY: {'a' * 3900}\r\n\r\n"
    assert 8000 < len(request) < 8192
    assert await status_of(server, request) == 101


async def test_100_continue_may_be_expected(server: Server) -> None:
    assert await status_of(server, "GET /ready HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n") == 417
    request = "GET /ready HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n"
    assert await status_of(server, request) == 100


# ---------------------------------------------------------------------- TCP connections


async def test_connections_that_say_nothing_are_limited_too(tmp_path: Path) -> None:
    """Per address; those that are over are closed at once, and the others are served."""
    limits = {"connections_per_address": 1, "exempt_addresses": []}
    async with running(tmp_path, limits=limits) as server, AsyncExitStack() as stack:
        silent = [
            await stack.enter_async_context(Raw(server.ws))
            for _ in range(1 + SPARE_SOCKETS_PER_ADDRESS)
        ]
        async with Raw(server.ws) as extra:
            extra.send(SECOND.encode())
            assert await extra.rest() == b""
        for raw in silent[:2]:  # kept alive: it goes on counting
            raw.send(SECOND.encode())
            assert (await raw.answer())[0] == 200
        async with Raw(server.ws) as extra:
            assert await extra.rest() == b""
        assert server.node.metrics.connections_refused == 2
        silent[0].reset()
        assert await first_that_is_served(server) == 200


async def test_all_connections_together_are_limited(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"connections": 1}) as server, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(Raw(server.ws)) for _ in range(1 + SPARE_SOCKETS)]
        async with Raw(server.ws) as extra:
            extra.send(SECOND.encode())
            assert await extra.rest() == b""
        await silent[0].open("me")
        silent[1].send(handshake("/enhanced-stream"))
        assert (await silent[1].answer())[0] == 503, "there is room to say so"
        silent[0].reset()
        assert await first_that_is_served(server) == 200


async def first_that_is_served(server: Server) -> int:
    """Ask until the server has noted that a connection is gone; return the status."""
    async with asyncio.timeout(5):
        while True:
            async with Raw(server.ws) as raw:
                raw.send(SECOND.encode())
                with suppress(EOFError, ConnectionError):
                    return (await raw.answer())[0]


async def test_the_version_that_is_spoken_is_told(server: Server) -> None:
    async with Raw(server.ws) as raw:
        raw.send(REFUSED["version 99"][0].encode())
        _, headers, _ = await raw.answer()
    assert headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    "body",
    [
        f"Content-Length: {len(SECOND)}\r\n\r\n{SECOND}",
        f"Transfer-Encoding: chunked\r\n\r\n{len(SECOND):x}\r\n{SECOND}\r\n0\r\n\r\n",
    ],
)
async def test_the_body_of_a_handshake_is_no_second_request(server: Server, body: str) -> None:
    async with Raw(server.ws) as raw:
        raw.send(f"{HEAD}{UPGRADE}{VERSION}{KEY}{body}".encode())
        raw.send(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = await raw.rest()
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 2
    assert b"instruments" not in answers, "this is what /health says"


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ("json", None),
        ("x, y", None),
        ("odin.msgpack", "odin.msgpack"),
        ("x, odin.binary", "odin.binary"),
        ("ODIN.BINARY", None),
        ("", None),
    ],
)
async def test_only_a_subprotocol_that_was_offered_is_agreed_to(
    server: Server, offered: str, agreed: str | None
) -> None:
    async with Raw(server.ws) as raw:
        header = f"Sec-WebSocket-Protocol: {offered}\r\n"
        raw.send(f"{HEAD}{UPGRADE}{VERSION}{KEY}{header}\r\n".encode())
        status, headers, _ = await raw.answer()
    assert (status, headers.get("sec-websocket-protocol")) == (101, agreed)


async def test_a_subprotocol_that_is_not_ours_is_not_quoted_in_the_log(server: Server) -> None:
    stream = io.StringIO()
    logs.setup(LogSettings(level="debug", format="json"), stream)
    async with Raw(server.ws) as raw:
        header = "Sec-WebSocket-Protocol: s3cret\r\n"
        raw.send(f"{HEAD}{UPGRADE}{VERSION}{KEY}{header}\r\n".encode())
        assert (await raw.answer())[0] == 101
    assert "s3cret" not in stream.getvalue()


async def test_a_client_that_leaves_its_answers_unread_is_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "UNREAD_TIMEOUT_S", 0.3)
    host, port = server.http.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.setblocking(False)
        with pytest.raises(ConnectionError):  # full at first, reset by the server in the end
            async with asyncio.timeout(20):
                while True:
                    try:
                        client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
                    except BlockingIOError:
                        await asyncio.sleep(0.02)
                    await asyncio.sleep(0)


async def test_half_a_handshake_has_ten_seconds(server: Server) -> None:
    """That it is dropped then is in test_peer.py, with less patience."""
    assert HANDSHAKE_TIMEOUT_S == 10
    assert server.runner.server().keepalive_timeout == HANDSHAKE_TIMEOUT_S


# ---------------------------------------------------------------------- from HTTP to WebSocket


@pytest.mark.parametrize("before", ["", SECOND, SECOND * 3], ids=["0", "1", "3"])
@pytest.mark.parametrize("cut", [0, 1, 2, 5, -1])
async def test_frames_are_checked_wherever_they_begin(
    server: Server, before: str, cut: int
) -> None:
    """Behind requests on the same connection, and cut anywhere between two segments."""
    async with Raw(server.ws) as raw:
        request = handshake("/enhanced-stream?client_id=me")
        end = len(request) + cut if cut >= 0 else len(request) - 1
        said = request + UNMASKED
        raw.send(before.encode() + said[:end])
        for _ in range(before.count("GET")):
            assert (await raw.answer())[0] == 200
        raw.send(said[end:])
        assert (await raw.answer())[0] == 101
        assert (await raw.message())["type"] == "welcome"
        assert await raw.until(CLOSE) == b"\x03\xeaa frame was not masked"
        assert await raw.rest() == b""


async def test_what_was_said_before_a_bad_frame_is_carried_out_and_nothing_after(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Raw(server.ws) as raw:
        await raw.open("me")
        good = frame(TEXT, b'{"action":"subscribe","stocks":["SBIN"]}')
        bad = frame(TEXT, b'{"action":"subscribe","stocks":["TCS"]}')
        raw.send(good + UNMASKED + bad)
        assert (await raw.message())["data"]["subscribed_stocks"] == ["SBIN"]
        assert await raw.close_code() == 1002
    assert await server.node.store.clients() != []
    metrics = server.node.metrics
    assert (metrics.requests, metrics.protocol_errors, metrics.faults) == (1, 1, 0)
    assert not [record for record in caplog.records if record.name != "asyncio"]


async def test_a_message_of_many_segments_is_not_looked_into(server: Server) -> None:
    text = json.dumps({"action": "ping", "x": "\x01\x02" * 5000})
    whole = frame(TEXT, text.encode())
    async with Raw(server.ws) as raw:
        await raw.open()
        for at in range(0, len(whole), 777):
            raw.send(whole[at : at + 777])
            await raw.writer.drain()
        assert (await raw.message())["type"] == "pong"


# ---------------------------------------------------------------------- the test at the start


async def test_the_aiohttp_at_hand_lets_frames_be_checked() -> None:
    await check_edge()


async def test_a_server_whose_frames_are_not_checked_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as server:
        monkeypatch.setattr(FrameChecker, "feed", lambda _, data: data)
        monkeypatch.setattr("odin.protocols.selftest.PATIENCE_S", 0.1)
        with pytest.raises(OdinError, match=r"aiohttp [\d.]+ does not let WebSocket frames be"):
            await listen(server.node)


async def test_an_aiohttp_that_has_another_interface_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("odin.protocols.edge._Reading.feed_data")
    with pytest.raises(OdinError, match=r"aiohttp [\d.]+ does not let WebSocket frames be"):
        await check_edge()


async def test_a_websocket_is_served_on_an_edge_or_not_at_all(unused_tcp_port: int) -> None:
    faults = []

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            await EdgeSocket().prepare(request)
        except TypeError as fault:
            faults.append(str(fault))
        return web.Response()

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    async with Raw(f"ws://127.0.0.1:{unused_tcp_port}") as raw:
        raw.send(handshake("/"))
        assert (await raw.answer())[0] == 200
    await runner.cleanup()
    assert faults == ["a WebSocket must be served by an EdgeRunner"]
