"""permessage-deflate: which offers are agreed to, and what becomes of compressed messages."""

import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st

from odin.protocols.deflate import NO_TAKEOVER, TOO_LARGE, InflatingChecker, agree
from odin.protocols.strict import REFUSED
from tests.protocols.test_strict import frame
from tests.support.raw import CLOSE, Raw, handshake
from tests.support.raw import frame as masked
from tests.support.server import Client, Server, running

LIMIT = 65_536
TAIL = b"\x00\x00\xff\xff"


def deflated(text: bytes, *, bits: int = 15, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """Return a message's payload as RFC 7692 §7.2.1 makes it."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -bits)
    data = deflate.compress(text) + deflate.flush(flush)
    return data.removesuffix(TAIL) if flush == zlib.Z_SYNC_FLUSH else data + b"\x00"


def plain(opcode: int, payload: bytes) -> bytes:
    """Return a frame with a mask that changes nothing, as a checker passes it on."""
    if len(payload) < 126:
        return bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload
    size = (
        b"\xfe" + len(payload).to_bytes(2, "big")
        if len(payload) < 65536
        else b"\xff" + len(payload).to_bytes(8, "big")
    )
    return bytes((0x80 | opcode,)) + size + bytes(4) + payload


# ---------------------------------------------------------------------- offers


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ("permessage-deflate", NO_TAKEOVER),
        ("permessage-deflate; client_max_window_bits", NO_TAKEOVER),
        ("permessage-deflate ; client_max_window_bits = 8", NO_TAKEOVER),
        ('permessage-deflate; client_max_window_bits="15"', NO_TAKEOVER),
        ("permessage-deflate; server_no_context_takeover", NO_TAKEOVER),
        ("permessage-deflate;server_no_context_takeover;client_no_context_takeover", NO_TAKEOVER),
        (
            "permessage-deflate; server_max_window_bits=10",
            f"{NO_TAKEOVER}; server_max_window_bits=10",
        ),
        ("x-webkit-deflate-frame, permessage-deflate", NO_TAKEOVER),
        ("permessage-deflate; nonsense, permessage-deflate", NO_TAKEOVER),
        (
            "permessage-deflate; server_max_window_bits=7, permessage-deflate",
            NO_TAKEOVER,
        ),
    ],
)
def test_the_first_valid_offer_is_agreed_to(offers: str, answer: str) -> None:
    assert agree(offers) == answer


@pytest.mark.parametrize(
    "offers",
    [
        "",
        ",",
        ";",
        "deflate",
        "permessage-deflate-x",
        "PERMESSAGE-DEFLATE",
        "x-permessage-deflate",
        "permessage-deflate;",
        "permessage-deflate; ;",
        "permessage-deflate; nonsense",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=١٠",
        'permessage-deflate; server_max_window_bits="10',
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=0",
        "permessage-deflate; client_max_window_bits=1000000",
        "permessage-deflate; server_no_context_takeover=",
        "permessage-deflate; server_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=10",
    ],
)
def test_an_offer_with_anything_wrong_in_it_is_declined(offers: str) -> None:
    assert agree(offers) == ""


# ---------------------------------------------------------------------- messages

parts = st.tuples(
    st.sampled_from([1, 2]),
    st.one_of(st.binary(max_size=400), st.integers(0, 60_000).map(bytes)),
    st.integers(9, 15),
    st.integers(0, 3),
    st.booleans(),
)


@given(st.lists(parts, max_size=6), st.integers(1, 5000))
def test_any_message_comes_out_as_it_went_in_wherever_it_is_cut(
    said: list[tuple[int, bytes, int, int, bool]], piece: int
) -> None:
    stream, wanted = b"", b""
    for opcode, text, bits, fragments, is_compressed in said:
        payload = deflated(text, bits=bits) if is_compressed else text
        rsv = 4 if is_compressed else 0
        if not fragments:
            stream += frame(opcode, payload, rsv=rsv)
            wanted += plain(opcode, text) if is_compressed else frame(opcode, payload)
            continue
        frames = [frame(opcode, payload[:2], rsv=rsv, fin=False), frame(9, b"ping")]
        frames += [frame(0, b"", fin=False)] * fragments + [frame(0, payload[2:])]
        stream += b"".join(frames)
        wanted += frame(9, b"ping") + plain(opcode, text) if is_compressed else b"".join(frames)
    checker = InflatingChecker(LIMIT)
    passed = [checker.feed(stream[at : at + piece]) for at in range(0, len(stream), piece)]
    assert b"".join(passed) == wanted
    assert checker.problem == ""


@given(st.binary(max_size=300), st.booleans(), st.integers(1, 400))
def test_noise_is_inflated_refused_or_waited_for(noise: bytes, is_frame: bool, piece: int) -> None:
    data = frame(1, noise, rsv=4) if is_frame else noise
    whole, cut = InflatingChecker(LIMIT), InflatingChecker(LIMIT)
    passed = [cut.feed(data[at : at + piece]) for at in range(0, len(data), piece)]
    assert whole.feed(data) == b"".join(passed)
    assert cut.problem == whole.problem
    assert (b"".join(passed).endswith(REFUSED)) == bool(cut.problem)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"\xff\xff", "a message could not be inflated"),
        (b"\x06", "a message could not be inflated"),
        (deflated(b"x", flush=zlib.Z_FINISH) + b"more", "a message did not end where it said"),
    ],
)
def test_what_cannot_be_inflated_ends_it(payload: bytes, problem: str) -> None:
    checker = InflatingChecker(LIMIT)
    good, bad = frame(1, deflated(b"good"), rsv=4), frame(1, payload, rsv=4)
    assert checker.feed(good + bad + good) == plain(1, b"good") + REFUSED
    assert checker.problem == problem
    assert checker.feed(good) == b""


def test_a_block_that_says_it_is_the_last_is_fine() -> None:
    data = frame(1, deflated(b"Hello", flush=zlib.Z_FINISH), rsv=4)
    assert InflatingChecker(LIMIT).feed(data) == plain(1, b"Hello")


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_message_of_the_limit_passes(size: int) -> None:
    data = frame(2, deflated(bytes(size)), rsv=4)
    assert InflatingChecker(LIMIT).feed(data) == plain(2, bytes(size))


def test_a_message_that_is_larger_than_it_looks_is_refused() -> None:
    data = frame(2, deflated(bytes(LIMIT + 1)), rsv=4)
    assert InflatingChecker(LIMIT).feed(data) == TOO_LARGE


def test_a_message_whose_frames_together_are_too_large_is_refused_by_the_last_header() -> None:
    first = frame(2, bytes(LIMIT), rsv=4, fin=False)
    checker = InflatingChecker(LIMIT)
    assert checker.feed(first + frame(9)) == frame(9)
    assert checker.feed(frame(0, b"xyz")[:6]) == TOO_LARGE


def bomb(size: int) -> bytes:
    """Return what inflates to so many zeros, made in little memory."""
    deflate, zeros = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(1 << 20)
    data = b"".join(deflate.compress(zeros) for _ in range(size >> 20))
    return data + deflate.flush(zlib.Z_SYNC_FLUSH)


def fragmented(data: bytes) -> bytes:
    frames = [frame(0, data[at : at + 1000], fin=False) for at in range(1000, len(data), 1000)]
    return frame(2, data[:1000], rsv=4, fin=False) + b"".join(frames) + frame(0)


BOMBS = {
    "60 MiB in one frame": frame(2, bomb(60 << 20), rsv=4),
    "60 MiB in many": fragmented(bomb(60 << 20)),
    "256 MiB in one frame": frame(2, bomb(256 << 20), rsv=4),
    "256 MiB in many": fragmented(bomb(256 << 20)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_little_memory(name: str) -> None:
    pieces = [BOMBS[name][at : at + 16_384] for at in range(0, len(BOMBS[name]), 16_384)]
    checker, passed = InflatingChecker(LIMIT), b""
    tracemalloc.start()
    for piece in pieces:
        passed = passed or checker.feed(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert passed == TOO_LARGE
    assert peak < 16 * LIMIT


# ---------------------------------------------------------------------- on a server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path, server={"compression": True}) as started:
        yield started


async def test_compression_is_off_unless_it_is_switched_on(tmp_path: Path) -> None:
    async with running(tmp_path) as plain_server, Raw(plain_server.ws) as raw:
        raw.send(handshake(extensions="permessage-deflate"))
        status, headers, _ = await raw.answer()
        assert (status, headers.get("sec-websocket-extensions")) == (101, None)
        raw.send(masked(1, deflated(b'{"action":"ping"}'), reserved=4))
        assert await raw.close_code() == 1002


@pytest.mark.parametrize("library", ["aiohttp", "websockets"])
async def test_clients_that_compress_are_understood(server: Server, library: str) -> None:
    request = '{"action":"ping","request_id":"1","x":"' + "y" * 5000 + '"}'
    if library == "aiohttp":
        async with aiohttp.ClientSession() as session:
            ws = await session.ws_connect(server.ws, compress=15)
            assert ws.compress == 15
            await ws.receive()
            for _ in range(3):
                await ws.send_str(request)
                assert (await ws.receive_json())["type"] == "pong"
            await ws.close()
        return
    async with websockets.connect(server.ws, compression="deflate") as client:
        assert client.protocol.extensions
        await client.recv()
        for _ in range(3):
            await client.send(request)
            assert '"pong"' in str(await client.recv())


async def test_an_invalid_offer_leaves_the_connection_without_compression(server: Server) -> None:
    async with Raw(server.ws) as raw:
        raw.send(handshake(extensions="permessage-deflate; server_max_window_bits=7"))
        status, headers, _ = await raw.answer()
        assert (status, headers.get("sec-websocket-extensions")) == (101, None)
        raw.send(masked(1, deflated(b"{}"), reserved=4))
        assert await raw.until(CLOSE) == b"\x03\xeareserved bits were set"


async def test_a_bomb_is_refused_and_others_are_served(server: Server) -> None:
    async with Client(server.ws, "other") as other:
        for data in BOMBS.values():
            async with Raw(server.ws) as raw:
                raw.send(handshake(extensions="permessage-deflate"))
                assert (await raw.answer())[0] == 101
                await raw.message()
                raw.send(data)
                assert await raw.close_code() == 1009
            assert (await other.ask("ping"))["status"] == "alive"
    assert server.node.metrics.faults == 0
