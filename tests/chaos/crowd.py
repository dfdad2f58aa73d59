"""Many clients in one process, cheap enough that the server is what is measured."""

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from tests.support.process import Process
from tests.support.raw import CLOSE, PING, PONG, TEXT, frame, handshake

STOCKS = (
    "SBIN", "RELIANCE", "TCS", "INFY", "HDFCBANK", "BHARTIARTL", "ICICIBANK", "HINDUNILVR",
    "ITC", "KOTAKBANK",
)  # fmt: skip
FORCED = {"ODIN_MARKET__GATE": "always"}
"""Data at any hour of the real clock."""
UNLIMITED = {"ODIN_LIMITS__REQUESTS_PER_S": "100000"}


class Member(asyncio.Protocol):
    """One client. `welcome` is its first message; it fails when the connection ends before.

    on_message: gets every text message that is neither the welcome nor an answer.
    pongs: whether pings are answered, as by a client that is alive.
    """

    def __init__(
        self,
        client_id: str,
        on_message: Callable[[bytes], None] | None = None,
        *,
        pongs: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.client_id = client_id
        self.on_message = on_message
        self.pongs = pongs
        self.welcome: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        """The close code, 1006 where none came."""
        self.messages = 0
        self.pings = 0
        self.pause_s = 0.0
        """How long to rest after every piece that was received: a slow reader."""
        self._buffer = bytearray()
        self._is_open = False
        self._asked = 0
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._code = 1006

    # ------------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(handshake(f"/enhanced-stream?client_id={self.client_id}"))

    def data_received(self, data: bytes) -> None:
        if self.pause_s:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.pause_s, self._read_on)
        buffer = self._buffer
        buffer += data
        if not self._is_open:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not buffer.startswith(b"HTTP/1.1 101 "):
                self._fail(ConnectionError(buffer.split(b"\r\n", 1)[0].decode()))
                self.transport.abort()
                return
            self._is_open = True
            del buffer[: end + 4]
        start = 0
        while len(buffer) - start >= 2:
            size, head = buffer[start + 1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                if len(buffer) - start < head:
                    break
                size = int.from_bytes(buffer[start + 2 : start + head], "big")
            if len(buffer) - start < head + size:
                break
            kind = buffer[start] & 0x0F
            payload = bytes(buffer[start + head : start + head + size])
            start += head + size
            self._take(kind, payload)
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError(f"closed with {self._code}"))
        if not self.ended.done():
            self.ended.set_result(self._code)

    # ------------------------------------------------------------------ for tests

    def ask(self, action: str, **fields: object) -> "asyncio.Future[dict[str, Any]]":
        """Send a request; its answer, or ConnectionError where the connection ends before."""
        self._asked += 1
        request_id = f"r{self._asked}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        request = {"action": action, "request_id": request_id, **fields}
        self.transport.write(frame(TEXT, orjson.dumps(request)))
        if self.ended.done():
            self._fail(ConnectionError("closed"))
        return answer

    def leave(self) -> None:
        """Close without a word, as when a program ends; harmless when it is closed."""
        if not self.ended.done():
            self.transport.abort()

    # ------------------------------------------------------------------ inside

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == TEXT:
            self.messages += 1
            if not self.welcome.done():
                self.welcome.set_result(orjson.loads(payload))
            elif payload.startswith(b'{"type":"market_data"'):
                if self.on_message is not None:
                    self.on_message(payload)
            else:
                message = orjson.loads(payload)
                answer = self._answers.pop(message.get("request_id"), None)
                if answer is not None:
                    if not answer.done():
                        answer.set_result(message)
                elif self.on_message is not None:
                    self.on_message(payload)
        elif kind == PING:
            self.pings += 1
            if self.pongs:
                self.transport.write(frame(PONG, payload))
        elif kind == CLOSE:
            self._code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.transport.write(frame(CLOSE, payload[:2]))
            self.transport.close()

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        for waiting in (self.welcome, *self._answers.values()):
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # whoever has stopped waiting need not hear of it
        self._answers.clear()


async def join(
    url: str,
    client_id: str,
    on_message: Callable[[bytes], None] | None = None,
    *,
    receive_buffer: int = 0,
    slow: tuple[int, float] = (0, 0.0),
    pongs: bool = True,
) -> Member:
    """Connect and return when the welcome is here; raise OSError where that fails.

    receive_buffer: SO_RCVBUF in bytes. slow: how many bytes to take at once, and how long to rest
    after each time, in seconds.
    """
    parts = urlsplit(url)
    member = Member(client_id, on_message, pongs=pongs)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, (parts.hostname or "", parts.port or 0))
        transport, _ = await loop.create_connection(lambda: member, sock=sock)
        if slow[0]:
            transport.max_size = slow[0]  # type: ignore[attr-defined]
            member.pause_s = slow[1]
        await asyncio.wait_for(asyncio.shield(member.welcome), 30)
    except BaseException:
        if hasattr(member, "transport"):
            member.transport.abort()
        sock.close()
        raise
    return member


@asynccontextmanager
async def crowd(
    url: str, client_ids: Sequence[str], on_message: Callable[[bytes], None] | None = None
) -> AsyncIterator[list[Member]]:
    """Connect them all at once, and let them go at the end."""
    members = await asyncio.gather(*(join(url, name, on_message) for name in client_ids))
    try:
        yield list(members)
    finally:
        await depart(members)


async def depart(members: Sequence[Member]) -> None:
    """Break all connections off and wait until they are gone."""
    for member in members:
        member.leave()
    await asyncio.gather(*(member.ended for member in members))


class Ages:
    """How old quotes were when they arrived, by the wall clock that both sides share."""

    def __init__(self) -> None:
        self.ms: list[float] = []

    def __call__(self, payload: bytes) -> None:
        if payload.startswith(b'{"type":"market_data"'):
            start = payload.index(b',"timestamp":') + 13  # the first one is that of `data`
            born_ms = int(payload[start : payload.index(b",", start)])
            self.ms.append(time.time() * 1000 - born_ms)

    def at(self, share: float) -> float:
        """Return the age that this share of the quotes did not pass, ms."""
        ordered = sorted(self.ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# ---------------------------------------------------------------------- the server from outside


async def metrics(server: Process) -> dict[str, float]:
    """Return every value of /metrics."""
    async with aiohttp.ClientSession() as session, session.get(server.http + "/metrics") as answer:
        text = await answer.text()
    return {
        name: float(value)
        for name, value in re.findall(r"^(\w+) ([-+.\deE]+|NaN)$", text, re.MULTILINE)
    }


def rss_mib(server: Process) -> float:
    """Return the memory of the server, MiB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def descriptors(server: Process) -> int:
    """Return how many files the server has open."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))


async def until(happens: Callable[[], Any], timeout_s: float = 20) -> None:
    """Wait until something is the case; it may be a coroutine function."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = happens()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.02)
