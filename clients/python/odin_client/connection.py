"""One WebSocket from the handshake to the close: text in, text out, and why it ended."""

import asyncio
from collections.abc import Callable

import aiohttp
from yarl import URL

from odin_client import reconnect
from odin_client.errors import ConnectFailed, ConnectionClosed, TakenOver

_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_CLOSE_PATIENCE_S = 1.0


class Connection:
    """An open WebSocket. Not used again once `read` has returned."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws
        self.heard_at = asyncio.get_running_loop().time()
        """Loop time of the last message."""

    @classmethod
    async def open(
        cls, http: aiohttp.ClientSession, url: URL, *, heartbeat_s: float, timeout_s: float
    ) -> "Connection":
        """Complete the handshake. Raises ConnectFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                ws = await http.ws_connect(
                    url,
                    heartbeat=heartbeat_s,
                    max_msg_size=_MAX_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_PATIENCE_S),
                )
        except aiohttp.WSServerHandshakeError as error:
            message = f"{url.with_query(None)} answered HTTP {error.status}"
            raise ConnectFailed(message, error.status, _retry_after_s(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            message = f"{url.with_query(None)} could not be reached: {reason}"
            raise ConnectFailed(message) from error
        return cls(ws)

    async def read(self, on_text: Callable[[str], None]) -> ConnectionClosed:
        """Hand on every message; return why there are no more."""
        loop = asyncio.get_running_loop()
        while True:
            frame = await self._ws.receive()
            self.heard_at = loop.time()
            if frame.type is aiohttp.WSMsgType.TEXT:
                on_text(frame.data)
            elif frame.type is aiohttp.WSMsgType.CLOSE:
                # Only the message has the code: ws.close_code can say 1006 all the same.
                kind = TakenOver if frame.data == reconnect.TAKEN_OVER else ConnectionClosed
                return kind(frame.data or reconnect.ABNORMAL, frame.extra or "")
            elif frame.type is aiohttp.WSMsgType.ERROR:
                return broken(str(frame.data))
            elif frame.type is not aiohttp.WSMsgType.BINARY:
                return broken("the connection was lost")

    async def send(self, text: str) -> bool:
        """Send a message; False when the connection is ending, which `read` will tell."""
        try:
            await self._ws.send_str(text)
        except (ConnectionError, aiohttp.ClientError):
            return False
        return True

    async def close(self) -> None:
        """Close in order, or drop a connection that does not answer."""
        await self._ws.close()


def broken(reason: str) -> ConnectionClosed:
    """A connection that ended without a close frame."""
    return ConnectionClosed(reconnect.ABNORMAL, reason)


def _retry_after_s(error: aiohttp.WSServerHandshakeError) -> float:
    text = error.headers.get("Retry-After", "") if error.headers is not None else ""
    return float(text) if text.isdecimal() else 0.0
