"""One WebSocket from the handshake to the close: messages in, text out, and why it ended."""

import asyncio
from collections.abc import Callable

import aiohttp
from yarl import URL

from odin_client import reconnect
from odin_client.errors import ConnectFailed, ConnectionClosed, TakenOver

_PATH = "/enhanced-stream"
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_CLOSE_PATIENCE_S = 1.0


def address_of(url: str) -> URL:
    """Return the address of the stream; the path may be left out. Raises ValueError."""
    address = URL(url)
    if address.scheme not in ("ws", "wss") or not address.host:
        raise ValueError(f"url must be ws://HOST or wss://HOST, was {url!r}")
    return address.with_path(_PATH) if address.path in ("", "/") else address


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

    async def read(self, on_message: Callable[[str | bytes], None]) -> ConnectionClosed:
        """Hand on every message, text or binary; return why there are no more."""
        loop = asyncio.get_running_loop()
        while True:
            frame = await self._ws.receive()
            self.heard_at = loop.time()
            if frame.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                on_message(frame.data)
            elif frame.type is aiohttp.WSMsgType.CLOSE:
                # Only the message has the code: ws.close_code can say 1006 all the same.
                kind = TakenOver if frame.data == reconnect.TAKEN_OVER else ConnectionClosed
                return kind(frame.data or reconnect.ABNORMAL, frame.extra or "")
            elif frame.type is aiohttp.WSMsgType.ERROR:
                return broken(str(frame.data))
            else:
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
