"""The client side of a WebSocket, as every feed needs it.

Bounded (message size, and what waits to be read is held back by TCP), budgeted (a burst never
keeps the event loop for more than a few milliseconds), captured where wanted, and with errors in
the words of the feeds. It knows no venue, and only connects where the configuration says.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from aiohttp import (
    ClientConnectionError,
    ClientError,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    ClientWSTimeout,
    TraceConfig,
    WSMsgType,
    WSServerHandshakeError,
)

from odin.clock import WallClock
from odin.errors import FeedRejected, FeedUnavailable, reflect
from odin.feeds.base import Emit
from odin.feeds.capture import Capture
from odin.metrics import Metrics
from odin.model import Tick

_wall = WallClock()

CONNECT_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
"""How long a venue may go on sending when it was told goodbye."""
PING_S: Final = 10.0
"""A connection without an answer to a ping for half of it more is broken off."""
MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
TURN_S: Final = 0.002
"""What one feed may take of the event loop before it lets others run."""
SLICE_TICKS: Final = 64
"""Ticks between two looks at the clock."""
REFUSED: Final = frozenset({401, 403})
"""HTTP answers to the handshake that trying again will not change."""


class FeedSocket:
    """One open connection of a feed. Made by `Connector.open`."""

    def __init__(
        self,
        ws: ClientWebSocketResponse,
        metrics: Metrics,
        capture: Callable[[bytes | str, int], None] | None,
        now_ns: Callable[[], int],
    ) -> None:
        self._ws = ws
        self._metrics = metrics
        self._capture = capture
        self._now_ns = now_ns
        self._is_in_turn = False
        self._turn_began_s = 0.0

    async def send(self, message: str | bytes) -> None:
        """Send one text or binary message. Raises FeedUnavailable."""
        try:
            if isinstance(message, str):
                await self._ws.send_str(message)
            else:
                await self._ws.send_bytes(message)
        except (ClientError, ConnectionError, RuntimeError):
            raise FeedUnavailable("the connection broke") from None

    async def receive(self, timeout_s: float | None = None) -> tuple[bytes | str, int]:
        """Return the next message and when it arrived, ms.

        timeout_s: the longest silence. Raises FeedUnavailable where it is passed, or the
        connection ends.
        """
        await self._rest()
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._ws.receive()
        except TimeoutError:
            raise FeedUnavailable(f"nothing was received for {timeout_s:g} s") from None
        received_ns = self._now_ns()
        if message.type is not WSMsgType.TEXT and message.type is not WSMsgType.BINARY:
            raise FeedUnavailable(_end_text(self._ws.close_code))
        data: bytes | str = message.data
        self._metrics.feed_messages += 1
        self._metrics.feed_bytes += len(data)
        if self._capture is not None:
            self._capture(data, received_ns)
        return data, received_ns // 1_000_000

    async def deliver(self, ticks: Iterable[Tick | None], emit: Emit) -> None:
        """Emit what a decoder finds, letting the rest of the server run in between where it is much
        or hard to find."""
        left = SLICE_TICKS
        for tick in ticks:
            if tick is None:
                await self._rest()
                continue
            emit(tick)
            left -= 1
            if not left:
                left = SLICE_TICKS
                await self._rest()

    async def _rest(self) -> None:
        """Let others run where this feed has had its time. What it has not read yet waits in a
        bounded buffer, and beyond that in TCP's."""
        if not self._is_in_turn:
            self._is_in_turn = True
            self._turn_began_s = perf_counter()
            asyncio.get_running_loop().call_soon(self._end_turn)
        elif perf_counter() - self._turn_began_s > TURN_S:
            self._metrics.feed_rests += 1
            await asyncio.sleep(0)

    def _end_turn(self) -> None:
        """The event loop has gone round: whoever was waiting has had a turn."""
        self._is_in_turn = False


class Connector:
    """Opens the connections of one feed.

    capture: where what arrives is kept, None for nowhere.
    now_ns: the time messages are stamped with.
    """

    def __init__(
        self,
        metrics: Metrics,
        capture: Capture | None = None,
        now_ns: Callable[[], int] = _wall.now_ns,
    ) -> None:
        self._metrics = metrics
        self._capture = capture
        self._now_ns = now_ns

    @asynccontextmanager
    async def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        stream: int = 0,
        ping_s: float | None = PING_S,
    ) -> AsyncIterator[FeedSocket]:
        """Connect, and close at the end of the block.

        params: what is added to the query; secrets go here, as the URL is shown in errors.
        stream: number of the connection, where a feed has several.
        Raises FeedRejected for HTTP 401 and 403, FeedUnavailable for everything else.
        """
        host = urlsplit(url).netloc
        timeout = ClientTimeout(
            total=None, connect=CONNECT_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S
        )
        trace = TraceConfig()
        trace.on_request_redirect.append(_refuse_redirect)
        async with ClientSession(timeout=timeout, trace_configs=[trace]) as session:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    ws = await session.ws_connect(
                        url,
                        headers=headers,
                        params=params,
                        heartbeat=ping_s,
                        max_msg_size=MAX_MESSAGE_BYTES,
                        timeout=ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                    )
            except WSServerHandshakeError as error:
                problem = f"{reflect(host)} answered HTTP {error.status}"
                if error.status in REFUSED:
                    raise FeedRejected(problem) from None
                raise FeedUnavailable(problem) from None
            except _RedirectRefused:
                raise FeedUnavailable(
                    f"{reflect(host)} wanted to redirect, which was refused"
                ) from None
            except TimeoutError:
                raise FeedUnavailable(
                    f"{reflect(host)} did not answer in {CONNECT_TIMEOUT_S:g} s"
                ) from None
            except (ClientError, OSError, ValueError) as error:  # ValueError: not for a header
                reason = getattr(error, "strerror", None) or type(error).__name__
                raise FeedUnavailable(
                    f"{reflect(host)} could not be reached: {reflect(reason, 100)}"
                ) from None
            record = None
            if self._capture is not None:
                record = self._capture.begin(stream, self._now_ns())
            try:
                yield FeedSocket(ws, self._metrics, record, self._now_ns)
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await ws.close()


class _RedirectRefused(ClientConnectionError):
    """The answer to the handshake led elsewhere."""


async def _refuse_redirect(*_: object) -> None:
    """Credentials go where the configuration says, and nowhere else."""
    raise _RedirectRefused


def check_url(url: str, *, allow_plaintext: bool = False) -> str:
    """Return what is wrong with a feed's address, "" for nothing: data and credentials go
    encrypted, or stay on this machine, unless the operator knows better."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not an address"
    if not url.isprintable() or " " in url:
        return "must not hold spaces or control characters"
    if parts.scheme not in {"ws", "wss"} or not host:
        return "must begin with wss:// (or ws:// on this machine)"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "must not hold credentials or a query"
    if parts.scheme == "ws" and not allow_plaintext and not _is_here(host):
        return "must begin with wss:// (or set feed.allow_plaintext): it leads to another machine"
    return ""


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _end_text(code: int | None) -> str:
    return "the connection ended" if code is None else f"the connection was closed with {code}"
