"""A WebSocket client made of bytes: it can say anything, and nothing is done for it."""

import asyncio
import base64
import os
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTINUATION = 0


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0) -> bytes:
    """Return one masked frame (RFC 6455 §5.2)."""
    size = len(payload)
    head = bytes(((0x80 if final else 0) | reserved << 4 | opcode,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    mask = os.urandom(4)
    key = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + mask + masked.to_bytes(size, "big")


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    """Return a close frame, with nothing in it if there is no code."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def handshake(
    target: str = "/enhanced-stream?client_id=raw", host: str = "localhost", extensions: str = ""
) -> bytes:
    """Return a request to upgrade."""
    offer = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offer}\r\n"
    ).encode("utf-8", "surrogateescape")


class Raw:
    """One TCP connection to a server; `async with` closes it at the end.

    url: "ws://HOST:PORT/PATH" or "http://…"; only host and port count.
    receive_buffer: SO_RCVBUF in bytes, for a client that shall be full soon.
    """

    def __init__(self, url: str, *, receive_buffer: int = 0) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._receive_buffer = receive_buffer

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        sock.setblocking(False)
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, self._address)
        self.reader, self.writer = await asyncio.open_connection(sock=sock)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, **request: Any) -> None:
        """Send a request in a text frame."""
        self.send(frame(TEXT, orjson.dumps(request)))

    async def open(self, client_id: str = "raw") -> None:
        """Upgrade, and read the welcome."""
        self.send(handshake(f"/enhanced-stream?client_id={client_id}"))
        status, _, _ = await self.answer()
        assert status == 101
        assert (await self.message())["type"] == "welcome"

    async def answer(self, timeout: float = 5.0) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (names in lower case) and body of an HTTP answer."""
        async with asyncio.timeout(timeout):
            first, *lines = (
                (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            )
            pairs = (line.split(": ", 1) for line in lines if line)
            headers = {name.lower(): value for name, value in pairs}
            status = int(first.split()[1])
            body = b""
            if status != 101:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return status, headers, body

    async def frame(self, timeout: float = 5.0) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame; raise EOFError or OSError at the end."""
        async with asyncio.timeout(timeout):
            first, size = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, "the server sends whole frames without reserved bits"
            assert size < 128, "the server's frames are not masked"
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return first & 0x0F, await self.reader.readexactly(size)

    async def message(self, timeout: float = 5.0) -> dict[str, Any]:
        """Return the next frame, which must be a message."""
        opcode, payload = await self.frame(timeout)
        assert opcode == TEXT, (opcode, payload)
        value: dict[str, Any] = orjson.loads(payload)
        return value

    async def until(self, opcode: int, timeout: float = 5.0) -> bytes:
        """Pass over other frames and return the payload of the next one of this kind."""
        async with asyncio.timeout(timeout):
            while True:
                kind, payload = await self.frame(timeout)
                if kind == opcode:
                    return payload

    async def close_code(self, timeout: float = 5.0) -> int:
        """Pass over other frames and return the code of the server's close frame."""
        payload = await self.until(CLOSE, timeout)
        return int.from_bytes(payload[:2], "big") if payload else 1005

    async def rest(self, timeout: float = 5.0) -> bytes:
        """Return everything up to the end of the connection; a reset is an end as well."""
        data = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(timeout):
                while piece := await self.reader.read(65536):
                    data += piece
        return data

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def reset(self) -> None:
        """Break the connection off as a crash does, with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
