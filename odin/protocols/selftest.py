"""Proves at every start that the aiohttp at hand reads WebSocket frames behind our checker.

The checker stands where aiohttp's inside and outside meet; another version could pass it by, and
nothing else would show.
"""

import asyncio

import aiohttp
from aiohttp import WSMsgType, web

from odin.errors import OdinError
from odin.protocols.edge import EdgeRunner, EdgeSocket

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: odin\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASKED = b"\x81\x82\x01\x01\x01\x01ni"
UNMASKED = b"\x81\x02no"
ECHO = b"\x81\x02oh"
CLOSED = b"\x88\x18\x03\xeaa frame was not masked"
PATIENCE_S = 2.0
PROBLEM = f"aiohttp {aiohttp.__version__} does not let WebSocket frames be checked, use another"


async def check_edge() -> None:
    """Raise OdinError unless a masked frame is taken and one that is not is refused.

    Both are tried behind the server's answer and, what no client may do, before it.
    """
    for pieces in ([HANDSHAKE, MASKED, UNMASKED, MASKED], [HANDSHAKE + MASKED + UNMASKED + MASKED]):
        try:
            answer = await _converse(pieces)
        except Exception as error:
            raise OdinError(PROBLEM) from error
        if not answer.startswith(b"HTTP/1.1 101 ") or not answer.endswith(ECHO + CLOSED):
            raise OdinError(PROBLEM)


async def _converse(pieces: list[bytes]) -> bytes:
    """Return all that an echo server sends to a client that sends these bytes."""
    app = web.Application()
    app.router.add_get("/", _echo)
    runner = EdgeRunner(app, handshake_timeout_s=PATIENCE_S, shutdown_timeout_s=PATIENCE_S)
    await runner.setup()
    connection = runner.server()
    transport = _Memory()
    connection.connection_made(transport)
    try:
        for piece in pieces:
            connection.data_received(piece)
            for _ in range(10):  # as a network would, give it time to answer
                await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await transport.ended.wait()
        return bytes(transport.sent)
    finally:
        connection.connection_lost(None)
        await runner.cleanup()


async def _echo(request: web.Request) -> web.WebSocketResponse:
    ws = EdgeSocket(autoping=False, compress=False)
    await ws.prepare(request)
    while (message := await ws.receive()).type is WSMsgType.TEXT:
        await ws.send_str(message.data)
    return ws


class _Memory(asyncio.Transport):
    """A connection to nobody, which keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.ended = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.ended.is_set()

    def close(self) -> None:
        self.ended.set()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass
