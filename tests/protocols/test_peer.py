"""The Peer on a real socket: pings, heartbeat, every way to end, and clients that behave badly."""

import asyncio
import importlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import process_time
from typing import Any

import aiohttp
import pytest

from odin.metrics import Metrics
from odin.protocols.base import SEND_BUFFER_BYTES, Peer
from odin.protocols.strict import MAX_FRAGMENTS
from tests.support.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Raw,
    close_frame,
    frame,
    handshake,
)
from tests.support.server import SBIN, Client, Server, running

BOUND_BYTES = 4 * 1024 * 1024
"""Far above what one client may honestly be owed, far below what hurts."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


def peer_of(server: Server, client_id: str = "raw") -> Peer:
    peer = server.node.enhanced._sessions[client_id].peer
    assert peer is not None
    return peer


def transport_of(server: Server, client_id: str = "raw") -> asyncio.Transport:
    transport = peer_of(server, client_id)._transport
    assert transport is not None
    return transport


def owed_bytes(server: Server) -> int:
    """Return what the server holds for its clients beside the data they share."""
    owed = 0
    for subscriber in server.node.hub._subscribers:
        owed += subscriber.sink.backlog_bytes()
        if subscriber.backlog is not None:
            owed += sum(map(len, subscriber.backlog.control))
    return owed


async def eventually(condition: Callable[[], object], timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


async def nobody_is_left(server: Server) -> None:
    await eventually(lambda: not server.node.enhanced.connection_count)
    assert len(server.node.hub) == 0
    assert server.node.metrics.faults == 0


# ---------------------------------------------------------------------- pings


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff\n" * 10, b"y" * 125])
async def test_a_ping_gets_its_payload_back(server: Server, payload: bytes) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.send(frame(PING, payload))
        assert await raw.frame() == (PONG, payload)


async def test_pongs_come_in_the_order_of_their_pings_and_before_later_answers(
    server: Server,
) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.send(b"".join(frame(PING, b"%d" % number) for number in range(50)))
        raw.ask(action="ping", request_id="after")
        assert [await raw.frame() for _ in range(50)] == [(PONG, b"%d" % n) for n in range(50)]
        assert (await raw.message())["request_id"] == "after"


async def test_a_ping_between_the_fragments_of_a_message_is_answered_first(
    server: Server,
) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.send(frame(TEXT, b'{"action":', final=False) + frame(PING, b"now"))
        assert await raw.frame() == (PONG, b"now")
        raw.send(frame(CONTINUATION, b'"pi', final=False) + frame(CONTINUATION, b'ng"}'))
        assert (await raw.message())["type"] == "pong"


async def test_pongs_that_nobody_asked_for_are_passed_over(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.send(frame(PONG) + frame(PONG, b"x" * 125))
        raw.ask(action="ping")
        assert (await raw.message())["type"] == "pong"


async def test_a_flood_of_pings_harms_nobody_else(server: Server) -> None:
    async with Client(server.ws, "other") as other, Raw(server.ws) as raw:
        await other.subscribe("SBIN")
        await raw.open()
        raw.send(frame(PING, b"x" * 125) * 20_000)
        server.tick(SBIN, 800.0)
        assert (await other.quote("SBIN"))["data"]["ltp"] == 800.0
        assert await raw.frame() == (PONG, b"x" * 125)


async def test_pings_of_a_client_that_reads_nothing_fill_no_memory(server: Server) -> None:
    """What it is owed is bounded, or it is ended."""
    async with Raw(server.ws, receive_buffer=4096) as raw:
        await raw.open()
        transport = transport_of(server)
        raw.stop_reading()
        burst = frame(PING, b"x" * 125) * 1000
        owed = 0
        try:
            for _ in range(80):  # 10 MB
                raw.send(burst)
                async with asyncio.timeout(1):
                    await raw.writer.drain()
                owed = max(owed, transport.get_write_buffer_size())
        except (TimeoutError, ConnectionError):
            pass  # it does not read on, or has hung up: both are fine
        assert owed <= BOUND_BYTES


# ---------------------------------------------------------------------- heartbeat


async def test_a_silent_client_is_pinged_and_stays_while_it_answers(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"ping_interval_s": 0.1}) as server, Raw(server.ws) as raw:
        await raw.open()
        for _ in range(4):
            assert await raw.frame() == (PING, b"")
            raw.send(frame(PONG))
        raw.ask(action="ping")
        assert (await raw.message())["type"] == "pong"


async def test_a_client_that_talks_is_not_pinged(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"ping_interval_s": 0.5}) as server, Raw(server.ws) as raw:
        await raw.open()
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.7
        while loop.time() < until:
            raw.ask(action="ping")
            assert (await raw.frame())[0] == TEXT


async def test_a_client_that_answers_no_ping_is_ended_with_4408(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"ping_interval_s": 0.1}) as server, Raw(server.ws) as raw:
        await raw.open()
        assert await raw.frame() == (PING, b"")
        assert await raw.close_code() == 4408
        raw.send(close_frame(4408))
        assert await raw.rest() == b""
        await nobody_is_left(server)


# ---------------------------------------------------------------------- the client closes


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, b""), (1000, b"bye"), (1001, b"away"), (3000, b""), (4000, b"x" * 123), (None, b"")],
)
async def test_a_close_is_answered_and_forgotten(
    server: Server, code: int | None, reason: bytes
) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.ask(action="subscribe", stocks=["SBIN"])
        await raw.message()
        raw.send(close_frame(code, reason))
        kind, payload = await raw.frame()
        assert kind == CLOSE
        assert int.from_bytes(payload[:2], "big") in {code, 1000}
        server.tick(SBIN, 800.0)
        assert await raw.rest() == b"", "nothing follows a close frame"
        await nobody_is_left(server)


@pytest.mark.parametrize(
    ("payload", "codes"),
    [
        (b"\x03", {1002}),
        (b"\x03\xe7", {1002}),  # 999
        (b"\x00\x00", {1002}),
        (b"\x03\xe8\xff\xff", {1002, 1007}),
    ],
)
async def test_a_close_that_says_nonsense_is_a_protocol_error(
    server: Server, payload: bytes, codes: set[int]
) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.send(frame(CLOSE, payload))
        assert await raw.close_code() in codes
        assert await raw.rest() == b""
        await nobody_is_left(server)


async def test_what_follows_the_clients_close_is_not_carried_out(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.send(close_frame(1000) + frame(TEXT, b'{"action":"subscribe","stocks":["SBIN"]}'))
        assert await raw.close_code() == 1000
        await nobody_is_left(server)
        assert server.node.metrics.requests == 0
        assert await server.node.store.clients() == []


async def test_a_client_that_does_not_answer_a_close_is_let_go(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        peer_of(server).end(1001)
        assert await raw.close_code() == 1001
        assert await raw.rest() == b"", "the server hangs up by itself"
        await nobody_is_left(server)


async def test_what_is_said_after_the_servers_close_changes_nothing(server: Server) -> None:
    async with Raw(server.ws) as old, Client(server.ws, "raw") as new:
        await new.subscribe("TCS")
        await old.open()  # takes over
        async with Client(server.ws, "raw") as newest:
            error = await old.message()
            assert error["code"] == "session_taken_over"
            assert await old.close_code() == 4409
            old.ask(action="unsubscribe", stocks=["TCS"])
            old.ask(action="subscribe", stocks=["SBIN"])
            old.send(close_frame(4409))
            assert await old.rest() == b""
            data = (await newest.ask("get_subscriptions"))["data"]
            assert data["subscribed_symbols"] == ["TCS"]


async def test_the_first_reason_to_end_counts(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        peer = peer_of(server)
        peer.end(4408)
        peer.end(1001)
        assert peer.is_ending
        assert await raw.close_code() == 4408


# ---------------------------------------------------------------------- broken frames


BROKEN = [
    (frame(TEXT, b"\xff"), 1007),
    (frame(TEXT, b"\xed\xa0\x80"), 1007),  # a surrogate
    (frame(TEXT, b"\xc0\xaf"), 1007),  # an overlong slash
    (frame(TEXT, b"\xe2\x82", final=False) + frame(CONTINUATION, b"x"), 1007),
    (frame(3, b"x"), 1002),
    (frame(11, b"x"), 1002),
    (frame(15, b""), 1002),
    (frame(TEXT, b"{}", reserved=4), 1002),
    (frame(TEXT, b"{}", reserved=2), 1002),
    (frame(PING, b"x", reserved=1), 1002),
    (frame(PING, b"x" * 126), 1002),
    (frame(PING, b"x", final=False), 1002),
    (frame(CLOSE, b"x" * 126), 1002),
    (frame(CONTINUATION, b"x"), 1002),
    (frame(TEXT, b"x", final=False) + frame(TEXT, b"y"), 1002),
    (frame(TEXT, b"x" * 65_537), 1009),
    (frame(BINARY, b"x" * 65_537), 1009),
    (frame(TEXT, b"x" * 65_536, final=False) + frame(CONTINUATION, b"x"), 1009),
    (b"\x81\xff" + (2**62).to_bytes(8, "big") + b"mask", 1009),
]


async def test_a_broken_frame_ends_the_connection_with_its_code(server: Server) -> None:
    async with Client(server.ws, "other") as other:
        for data, code in BROKEN:
            async with Raw(server.ws) as raw:
                await raw.open()
                raw.ask(action="subscribe", stocks=["SBIN"])
                await raw.message()
                raw.send(data)
                assert await raw.close_code() == code, data[:20]
                server.tick(SBIN, 800.0)
                assert await raw.rest() == b"", "nothing follows a close frame"
                assert (await other.ask("ping"))["status"] == "alive"
                await eventually(lambda: len(server.node.hub) == 1)
    assert server.node.metrics.faults == 0


async def test_an_oversized_message_is_refused_by_its_header(server: Server) -> None:
    """Nothing of it is waited for, so nothing of it is kept."""
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.send(frame(TEXT, b"x" * 70_000)[:14])
        assert await raw.close_code() == 1009


async def test_a_message_may_come_in_pieces_up_to_the_limit(server: Server) -> None:
    text = b'{"action":"ping","x":"' + "é".encode() * 32_756 + b'"}'
    assert len(text) == 65_536
    async with Raw(server.ws) as raw:
        await raw.open()
        pieces = [text[at : at + 999] for at in range(0, len(text), 999)]
        raw.send(frame(TEXT, pieces[0], final=False))
        for piece in pieces[1:]:
            raw.send(frame(CONTINUATION, piece, final=False))
        raw.send(frame(CONTINUATION))
        assert (await raw.message())["type"] == "pong"


async def test_frames_may_come_byte_by_byte(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame(PING, b"slow") + frame(TEXT, b'{"action":"ping"}'):
            raw.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await raw.frame() == (PONG, b"slow")
        assert (await raw.message())["type"] == "pong"


@pytest.mark.parametrize(("piece", "count"), [(b"", 50_000), (b"x", 30_000)])
async def test_a_message_of_thousands_of_fragments_is_refused_and_harms_nobody(
    server: Server, piece: bytes, count: int
) -> None:
    async with Client(server.ws, "other") as other, Raw(server.ws) as raw:
        await raw.open()
        before = process_time()
        raw.send(frame(TEXT, b"{", final=False) + frame(CONTINUATION, piece, final=False) * count)
        async with asyncio.timeout(1):
            assert (await other.ask("ping"))["status"] == "alive"
        assert await raw.until(CLOSE) == b"\x03\xf0a message had too many fragments"
        assert process_time() - before < 2
        await eventually(lambda: server.node.enhanced.connection_count == 1)
    assert (server.node.metrics.protocol_errors, server.node.metrics.faults) == (1, 0)


async def test_a_message_may_have_many_fragments(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        most = frame(CONTINUATION, b"", final=False) * (MAX_FRAGMENTS - 1)
        raw.send(frame(TEXT, b'{"action":"ping"', final=False) + most + frame(CONTINUATION, b"}"))
        assert (await raw.message())["type"] == "pong"


async def test_binary_messages_count_as_requests(tmp_path: Path) -> None:
    """They are answered, so they are limited like everything that is answered."""
    limits = {"requests_per_s": 50, "request_burst": 5}
    async with running(tmp_path, limits=limits) as server, Client(server.ws, "me") as client:
        for _ in range(20):
            await client.send(b"\x00")
        codes = [(await client.receive())["code"] for _ in range(20)]
        assert codes[:5] == ["binary_message"] * 5
        assert "rate_limited" in codes


# ---------------------------------------------------------------------- the socket breaks


async def test_a_half_closed_connection_ends(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.writer.write_eof()
        await raw.rest()
        await nobody_is_left(server)


async def test_a_reset_in_the_middle_of_a_message_and_of_data_harms_nobody(
    server: Server,
) -> None:
    async with Client(server.ws, "other") as other:
        await other.subscribe("SBIN")
        for number in range(10):
            async with Raw(server.ws) as raw:
                await raw.open()
                raw.ask(action="subscribe", stocks=["SBIN"])
                await raw.message()
                raw.send(frame(TEXT, b'{"action":"ping"}' * 50)[:100])
                server.tick(SBIN, 800.0 + number)
                raw.reset()
                server.tick(SBIN, 900.0 + number)
            assert (await other.quote())["data"]["ltp"] == 800.0 + number
            assert (await other.quote())["data"]["ltp"] == 900.0 + number
        await eventually(lambda: server.node.enhanced.connection_count == 1)
        assert len(server.node.hub) == 1
        assert server.node.metrics.faults == 0


async def test_a_reset_while_the_answer_is_on_its_way_to_the_disk(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, reached, release = server.node.journal.record, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> None:
        reached.set()
        await release.wait()
        await record(*args, **kwargs)

    monkeypatch.setattr(server.node.journal, "record", slow)
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.ask(action="subscribe", stocks=["SBIN"])
        await reached.wait()
        raw.reset()
    release.set()
    await nobody_is_left(server)
    async with Client(server.ws, "raw") as client:
        data = (await client.ask("get_subscriptions"))["data"]
        assert data["total_subscribed"] == client.welcome["data"]["subscribed_stocks"]


async def test_a_stuck_client_that_says_goodbye_is_let_go(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes nothing, so the close frame stays with the server; the socket must not."""
    monkeypatch.setattr("odin.protocols.base.CLOSE_PATIENCE_S", 0.1)
    async with Raw(server.ws, receive_buffer=4096) as raw:
        await raw.open()
        transport = transport_of(server)
        sock = transport.get_extra_info("socket")
        raw.stop_reading()
        for _ in range(3):
            raw.ask(action="subscribe", stocks=[f"N{number:059}" for number in range(900)])
        await eventually(lambda: transport.get_write_buffer_size() > 100_000)
        raw.send(close_frame(1000))
        await nobody_is_left(server)
        await eventually(lambda: sock.fileno() == -1, timeout=2)


async def test_answers_for_a_client_that_reads_nothing_are_bounded(server: Server) -> None:
    async with Raw(server.ws, receive_buffer=4096) as raw:
        await raw.open()
        transport = transport_of(server)
        raw.stop_reading()
        for _ in range(60):  # its burst
            raw.ask(action="subscribe", stocks=[f"N{number:059}" for number in range(900)])
        await eventually(lambda: server.node.metrics.requests == 60 or transport.is_closing())
        assert owed_bytes(server) <= BOUND_BYTES


async def test_the_kernel_holds_little_for_a_slow_reader(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        sock = transport_of(server).get_extra_info("socket")
        size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        # Linux doubles what it is told, for its own bookkeeping.
        assert SEND_BUFFER_BYTES <= size <= 2 * SEND_BUFFER_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what it could not send")
async def test_what_the_kernel_could_not_send_counts_as_backlog(server: Server) -> None:
    async with Raw(server.ws, receive_buffer=4096) as raw:
        await raw.open()
        peer, transport = peer_of(server), transport_of(server)
        assert peer.backlog_bytes() == 0
        raw.stop_reading()
        peer.write(b"\x89\x00" * 25_000)
        assert transport.get_write_buffer_size() == 0, "the kernel has taken it"
        assert 10_000 < peer.backlog_bytes() < 50_000
        raw.writer.transport.resume_reading()
        await eventually(lambda: peer.backlog_bytes() == 0)
        raw.reset()
        await eventually(lambda: transport.is_closing())
        assert peer.backlog_bytes() == 0


async def test_a_fault_in_the_server_ends_the_connection_with_1011(server: Server) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        peer_of(server).on_fault()
        assert await raw.close_code() == 1011
        assert await raw.rest() == b""
        await nobody_is_left(server)


# ---------------------------------------------------------------------- handshakes


async def test_frames_right_behind_the_handshake_are_read(server: Server) -> None:
    async with Raw(server.ws) as raw:
        raw.send(handshake() + frame(TEXT, b'{"action":"ping"}') + frame(PING, b"x"))
        assert (await raw.answer())[0] == 101
        assert (await raw.message())["type"] == "welcome"
        assert (await raw.message())["type"] == "pong"
        assert await raw.frame() == (PONG, b"x")


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"G",
        b"GET /enhanced-stream?client_id=me HTTP/1.1\r\n",
        handshake()[:-2],
    ],
)
async def test_half_a_handshake_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr("odin.server.run.HANDSHAKE_TIMEOUT_S", 0.3)
    async with running(tmp_path) as server, Raw(server.ws) as raw:
        raw.send(start)
        await raw.rest(timeout=4)  # fails with TimeoutError while the server waits


async def test_a_handshake_that_drips_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odin.server.run.HANDSHAKE_TIMEOUT_S", 0.3)
    async with running(tmp_path) as server, Raw(server.ws) as raw:
        ended = asyncio.ensure_future(raw.rest(timeout=4))
        raw.send(b"GET /enhanced-stream HTTP/1.1\r\n")
        while not ended.done():
            raw.send(b"X: y\r\n")
            await asyncio.wait([ended], timeout=0.05)
        await ended


async def test_an_open_connection_outlives_the_handshake_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odin.server.run.HANDSHAKE_TIMEOUT_S", 0.1)
    async with running(tmp_path) as server, Raw(server.ws) as raw:
        await raw.open()
        with pytest.raises(TimeoutError):
            await raw.frame(timeout=0.3)  # nothing comes, not even an end


async def test_a_client_that_leaves_during_the_handshake_leaves_nothing(server: Server) -> None:
    for _ in range(20):
        async with Raw(server.ws) as raw:
            raw.send(handshake())
            raw.reset()
    async with Client(server.ws, "other") as other:
        assert (await other.ask("ping"))["status"] == "alive"
    await nobody_is_left(server)


# ---------------------------------------------------------------------- event loops


LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    factory: LoopFactory = importlib.import_module(request.param).new_event_loop
    factory().close()  # libuv's first loop opens a pipe that the process keeps
    return factory


def test_both_event_loops_serve_alike(tmp_path: Path, loop_factory: LoopFactory) -> None:
    async def scenario() -> Metrics:
        async with running(tmp_path) as server:
            async with Raw(server.ws) as raw, Client(server.ws, "other") as other:
                await raw.open()
                raw.send(frame(PING, b"p"))
                assert await raw.frame() == (PONG, b"p")
                raw.ask(action="subscribe", stocks=["SBIN"])
                assert (await raw.message())["status"] == "success"
                await other.subscribe("SBIN")
                for number in range(100):
                    server.tick(SBIN, 800.0 + number)
                prices = [(await raw.message())["data"]["ltp"] for _ in range(100)]
                assert prices == [800.0 + number for number in range(100)]
                assert transport_of(server).get_write_buffer_size() == 0
                sock = transport_of(server).get_extra_info("socket")
                size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                assert SEND_BUFFER_BYTES <= size <= 2 * SEND_BUFFER_BYTES
                async with Client(server.ws, "raw"):
                    assert (await raw.until(TEXT))[:16] == b'{"type":"error",'
                    assert await raw.close_code() == 4409
                raw.reset()
                stopping = asyncio.ensure_future(server.node.stop(1012))
                assert await other.closed() == 1012
                await stopping
            return server.node.metrics

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        metrics = runner.run(scenario())
    assert (metrics.faults, metrics.takeovers) == (0, 1)


def test_a_stuck_client_is_ended_on_both_event_loops(
    tmp_path: Path, loop_factory: LoopFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odin.protocols.base.CLOSE_PATIENCE_S", 0.1)

    async def scenario() -> None:
        limits = {"progress_timeout_s": 0.2}
        async with (
            running(tmp_path, limits=limits) as server,
            Raw(server.ws, receive_buffer=4096) as raw,
        ):
            await raw.open()
            sock = transport_of(server).get_extra_info("socket")
            raw.ask(action="subscribe", stocks=["SBIN"])
            await raw.message()
            raw.stop_reading()

            def ended() -> bool:
                for number in range(100):
                    server.tick(SBIN, 800.0 + number)
                return server.node.metrics.disconnects_slow > 0

            await eventually(ended)
            await nobody_is_left(server)
            await eventually(lambda: sock.fileno() == -1)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


async def test_a_real_client_library_agrees(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(f"{server.ws}?client_id=me")
        assert (await ws.receive_json())["type"] == "welcome"
        await ws.ping(b"hello")
        await ws.send_json({"action": "ping"})
        assert (await ws.receive_json())["type"] == "pong"
        await ws.close(code=4000, message=b"done")
    await nobody_is_left(server)
