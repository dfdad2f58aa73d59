"""What a hostile or odd client may send, over real sockets: the close code, or an echo.

Every case is sent behind a good message, in one segment with it, and followed by another. So a
refusal must come after the echo of the first and before any of the second, and what is allowed
must leave the connection as it was.
"""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from odin.protocols.strict import MAX_FRAGMENTS
from tests.conformance.echo_server import echo_server
from tests.protocols.test_strict import BAD, MASK, close, frame
from tests.support.raw import BINARY, CLOSE, PING, PONG, TEXT, Raw, handshake

LIMIT = 65_536
BEFORE, AFTER = frame(1, b"before"), frame(1, b"after")
ECHO_BEFORE, ECHO_AFTER = (TEXT, b"before"), (TEXT, b"after")
HAS_A_MEANING = ("RSV 4 on opcode 1", "RSV 4 on opcode 2")
"""Cases that are forbidden only while no compression was agreed."""
AT_LEAST = 264
"""As many as in the study that found aiohttp alone to fail in 17."""


class Case(NamedTuple):
    """What is sent, and what comes back: frames and, where the connection must end, its code."""

    name: str
    sent: bytes
    frames: tuple[tuple[int, bytes], ...] = ()
    code: int = 0


ECHOED_FIRST = {
    "unmasked after masked": ((TEXT, b""),),
    "continuation after the end": ((TEXT, b"x"),),
}
"""What those of BAD say that begin with something good."""


def pieces(opcode: int, *parts: bytes) -> bytes:
    """Return a message of several frames."""
    last = len(parts) - 1
    return b"".join(
        frame(0 if at else opcode, part, fin=at == last) for at, part in enumerate(parts)
    )


NOT_UTF8 = {
    "lone continuation byte": b"\x80",
    "ff": b"\xff",
    "fe": b"\xfe",
    "overlong slash in 2": b"\xc0\xaf",
    "overlong slash in 3": b"\xe0\x80\xaf",
    "overlong slash in 4": b"\xf0\x80\x80\xaf",
    "overlong nul": b"\xc0\x80",
    "high surrogate": b"\xed\xa0\x80",
    "low surrogate": b"\xed\xbf\xbf",
    "pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "5 bytes": b"\xf8\x88\x80\x80\x80",
    "6 bytes": b"\xfc\x84\x80\x80\x80\x80",
    "cut off in 2": b"\xc3",
    "cut off in 3": b"\xe2\x82",
    "cut off in 4": b"\xf0\x9f\x98",
    "latin-1": "é".encode("latin-1"),
    "utf-16": "é".encode("utf-16"),
}
UTF8 = ["", "\0", "\x7f", "é", "€", "\ud7ff\ue000", "\ufffd\uffff", "😀", "\U0010ffff", "﻿x"]
SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 1023, 1024, 4096, 65_535, LIMIT]
CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]


def framing() -> Iterator[Case]:
    """§5.2, §5.1, §5.4, §5.5: every frame of test_strict.py that is forbidden."""
    for name, (data, _) in BAD.items():
        first = ECHOED_FIRST.get(name, ())
        yield Case(name, data, first, 1002)
        yield Case(f"{name}, behind a ping", frame(9, b"p") + data, ((PONG, b"p"), *first), 1002)
        if data[0] & 0x0F:  # a continuation is at home in a message
            yield Case(f"{name}, in a message", frame(1, b"x", fin=False) + data, code=1002)


def sizes() -> Iterator[Case]:
    """§5.2: lengths at the edges of their three forms, and the limit."""
    for size in SIZES:
        data = bytes(size)
        yield Case(f"text of {size}", frame(1, data), ((TEXT, data),))
        yield Case(f"binary of {size}", frame(2, data), ((BINARY, data),))
        yield Case(f"two parts of {size}", pieces(2, data[: size // 2], data[size // 2 :]),
                   ((BINARY, data),))  # fmt: skip
    for opcode in (1, 2):
        huge = bytes((0x80 | opcode, 0xFF)) + (2**63 - 1).to_bytes(8, "big") + MASK
        yield Case(f"header of {opcode} for 8 EiB", huge, code=1009)
        over = frame(opcode, bytes(LIMIT + 1))
        yield Case(f"{opcode} over the limit", over, code=1009)
        yield Case(f"header of {opcode} over the limit", over[:14], code=1009)
        parts = pieces(opcode, bytes(LIMIT), b"x", b"")
        yield Case(f"fragments of {opcode} over the limit", parts, code=1009)


def fragments() -> Iterator[Case]:
    """§5.4: fragments, empty ones too, with control frames in between."""
    for opcode, kind in ((1, TEXT), (2, BINARY)):
        whole = ((kind, b"abc"),)
        yield Case(f"three parts of {opcode}", pieces(opcode, b"a", b"b", b"c"), whole)
        yield Case(f"empty parts of {opcode}", pieces(opcode, b"", b"abc", b"", b""), whole)
        yield Case(f"nothing in parts of {opcode}", pieces(opcode, b"", b"", b""), ((kind, b""),))
        most = pieces(opcode, *[b""] * MAX_FRAGMENTS, b"abc")
        yield Case(f"as many parts of {opcode} as may be", most, whole)
        for piece in (b"", b"x"):
            endless = pieces(opcode, *[piece] * 5000)
            yield Case(f"too many parts of {opcode}: {piece!r}", endless, code=1008)
        first, last = frame(opcode, b"ab", fin=False), frame(0, b"c")
        yield Case(f"ping in {opcode}", first + frame(9, b"p") + last, ((PONG, b"p"), *whole))
        yield Case(f"pong in {opcode}", first + frame(10, b"p") + last, whole)
        yield Case(f"close in {opcode}", first + close(1000), code=1000)


def control() -> Iterator[Case]:
    """§5.5: pings, pongs and closes."""
    for size in (0, 1, 125):
        yield Case(f"ping of {size}", frame(9, bytes(size)), ((PONG, bytes(size)),))
        yield Case(f"pong of {size}", frame(10, bytes(size)))
    many = tuple((PONG, b"%d" % number) for number in range(20))
    yield Case("20 pings", b"".join(frame(9, payload) for _, payload in many), many)
    yield Case("close without a code", frame(8), code=1000)
    for code in CODES:
        yield Case(f"close with {code}", close(code), code=1000)
        yield Case(f"close with {code} and a reason", close(code, "é".encode() * 61), code=1000)
        yield Case(f"close with {code} and no text", close(code, b"\xff"), code=1007)
    for number in range(0, 3000, 100):
        if number not in CODES:
            yield Case(f"close with {number} in a message",
                       frame(2, fin=False) + close(number), code=1002)  # fmt: skip


def texts() -> Iterator[Case]:
    """§8.1: text is UTF-8, wherever its frames are cut."""
    for text in UTF8:
        data = text.encode("utf-8", "surrogatepass")
        yield Case(f"{text!a}", frame(1, data), ((TEXT, data),))
        parts = [data[at : at + 1] for at in range(len(data))] or [b""]
        yield Case(f"{text!a} in bytes", pieces(1, *parts, b""), ((TEXT, data),))
    for name, data in NOT_UTF8.items():
        yield Case(name, frame(1, data), code=1007)
        yield Case(f"{name}, in parts", pieces(1, b"ok", data, b""), code=1007)
        yield Case(f"{name}, in bytes", pieces(1, *(bytes((b,)) for b in data)), code=1007)
        yield Case(f"{name}, as a reason", close(1000, data), code=1007)
        yield Case(f"{name}, in binary", frame(2, data), ((BINARY, data),))


GROUPS = {group.__name__: list(group()) for group in (framing, sizes, fragments, control, texts)}


async def fault_of(case: Case, port: int, mode: str) -> str:
    """Say what is wrong with the answer, "" if nothing."""
    wanted = [ECHO_BEFORE, *case.frames] + ([] if case.code else [ECHO_AFTER])
    said = BEFORE + case.sent + (b"" if case.name.startswith("header") else AFTER)
    got: list[tuple[int, bytes]] = []
    hello = handshake("/", extensions="permessage-deflate" if mode == "inflating" else "")
    async with Raw(f"ws://127.0.0.1:{port}") as raw:
        try:
            raw.send(hello + said if mode == "early" else hello)
            status, headers, _ = await raw.answer()
            assert status == 101
            assert ("sec-websocket-extensions" in headers) == (mode == "inflating")
            if mode != "early":
                raw.send(said)
            while len(got) < len(wanted):
                got.append(await raw.frame())
            if case.code:
                kind, payload = await raw.frame()
                code = int.from_bytes(payload[:2], "big")
                rest = await raw.rest()
                if (kind, code, rest) != (CLOSE, case.code, b""):
                    return f"{case.name}: {kind} {payload!r} {rest[:20]!r}"
        except (TimeoutError, EOFError, OSError) as error:
            return f"{case.name}: {error!r} after {[(k, p[:20]) for k, p in got]}"
    return "" if got == wanted else f"{case.name}: {[(k, p[:20]) for k, p in got]}"


@pytest.mark.parametrize("mode", ["answered", "early", "inflating"])
@pytest.mark.parametrize("group", GROUPS)
async def test_every_frame_is_echoed_or_refused_with_its_code(group: str, mode: str) -> None:
    """Behind the server's answer, before it, and where compression was agreed but is not used."""
    cases = GROUPS[group]
    if mode == "inflating":
        cases = [case for case in cases if case.name.split(",")[0] not in HAS_A_MEANING]
    async with echo_server(inflates=mode == "inflating") as (port, metrics):
        faults = []
        for at in range(0, len(cases), 20):
            some = [fault_of(case, port, mode) for case in cases[at : at + 20]]
            faults += [fault for fault in await asyncio.gather(*some) if fault]
    assert not faults, "\n".join(faults)
    assert metrics.faults == 0
    assert metrics.protocol_errors == sum(case.code in {1002, 1007, 1008, 1009} for case in cases)


def test_the_cases_are_many_and_have_names() -> None:
    cases = [case for group in GROUPS.values() for case in group]
    assert len({case.name for case in cases}) == len(cases) >= AT_LEAST
    assert len({case.sent for case in cases}) >= AT_LEAST


async def test_pings_of_a_flood_are_answered_and_others_served() -> None:
    async with echo_server() as (port, metrics), Raw(f"ws://127.0.0.1:{port}") as other:
        other.send(handshake("/"))
        await other.answer()
        async with Raw(f"ws://127.0.0.1:{port}") as raw:
            raw.send(handshake("/") + frame(PING, b"p" * 125) * 20_000)
            await raw.answer()
            other.send(frame(PING, b"other"))
            assert await other.frame(timeout=1) == (PONG, b"other")
            assert await raw.frame() == (PONG, b"p" * 125)
    assert metrics.faults == 0
