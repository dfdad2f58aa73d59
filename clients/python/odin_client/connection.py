"""One WebSocket from the handshake to the close: messages in, text out, and why it ended."""

import asyncio
import re
from collections.abc import Callable

import aiohttp
from yarl import URL

from odin_client import reconnect
from odin_client.errors import ConnectFailed, ConnectionClosed, TakenOver
from odin_client.messages import Welcome

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}\Z", re.ASCII)
_PATH = "/enhanced-stream"
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_CLOSE_PATIENCE_S = 1.0


class Identity:
    """Who connects: the name of the session, and what proves it to the server."""

    def __init__(
        self, client_id: str | None, api_key: str | None, resume_token: str | None
    ) -> None:
        if client_id is not None and _CLIENT_ID.match(client_id) is None:
            raise ValueError("client_id must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -")
        self.client_id = client_id
        self._api_key = api_key
        self.resume_token = resume_token

    def address(self, url: URL, quote_format: str) -> URL:
        """Return where to connect; secrets are no part of it."""
        query = {"format": quote_format}
        if self.client_id is not None:
            query["client_id"] = self.client_id
        return url.update_query(query)

    def headers(self) -> dict[str, str]:
        """Return the secrets as headers of the handshake."""
        headers = {}
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        if self.resume_token is not None:
            headers["X-Resume-Token"] = self.resume_token
        return headers

    def learn(self, welcome: Welcome) -> None:
        """Keep what the server made up for this session."""
        self.client_id = self.client_id or welcome.client_id or None
        self.resume_token = welcome.resume_token or self.resume_token


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
        cls,
        http: aiohttp.ClientSession,
        url: URL,
        identity: Identity,
        *,
        heartbeat_s: float,
        timeout_s: float,
    ) -> "Connection":
        """Complete the handshake. Raises ConnectFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                ws = await http.ws_connect(
                    url,
                    headers=identity.headers(),
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
