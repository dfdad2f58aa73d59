"""The edge to the network: aiohttp's connections, with a stricter reader of WebSocket frames.

aiohttp gives every byte behind a handshake, those that came too early included, to the parser
that it sets on the connection's handler. The handler here sets one that checks them first.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from aiohttp import WSCloseCode, web
from aiohttp.http import WebSocketReader
from aiohttp.http_exceptions import LineTooLong

from odin.errors import CLOSE_CODES
from odin.protocols.admission import Sockets, http_error
from odin.protocols.deflate import InflatingChecker, agree
from odin.protocols.strict import FrameChecker

UNREAD_TIMEOUT_S = 10.0
"""How long a client may leave HTTP answers unread that no buffer takes any more."""

URL_BYTES = 8192
MAX_HEADERS = 128
HEADER_BYTES = 8190
"""Of one header; app.py looks at what all have together."""


class _Reading:
    """aiohttp's reader with a checker before it: one object, because each connection has it."""

    __slots__ = ()

    _reader: WebSocketReader
    problem: str
    feed: Callable[[bytes], bytes]

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Return whether the connection is to be read no further, and b""."""
        is_over, _ = self._reader.feed_data(self.feed(data))
        return is_over or bool(self.problem), b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class CheckedReader(_Reading, FrameChecker):
    """For a client that does not compress."""

    __slots__ = ("_reader",)

    def __init__(self, reader: WebSocketReader) -> None:
        super().__init__()
        self._reader = reader


class InflatingReader(_Reading, InflatingChecker):
    """For a client that may."""

    __slots__ = ("_reader",)

    def __init__(self, reader: WebSocketReader, limit: int) -> None:
        super().__init__(limit)
        self._reader = reader


class Edge(web.RequestHandler):
    """One connection, HTTP at first.

    inflate_limit_bytes: what a compressed message may hold; 0 while none may come.
    sockets: counts connections, None for no limit.
    """

    __slots__ = ("_address", "_sockets", "_unread", "frames", "inflate_limit_bytes")

    frames: FrameChecker
    _unread: asyncio.TimerHandle | None

    def __init__(
        self,
        server: web.Server,
        *,
        inflate_limit_bytes: int,
        sockets: Sockets | None,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self.inflate_limit_bytes = inflate_limit_bytes
        self._sockets = sockets
        self._address: str | None = None
        self._unread = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._sockets is not None:
            peer = transport.get_extra_info("peername")
            self._address = self._sockets.enter(str(peer[0]) if peer else "")
            if self._address is None:  # and aiohttp never hears of it
                cast("asyncio.Transport", transport).abort()
                return
        super().connection_made(transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        # aiohttp would wait for ever. A WebSocket's reader is judged by what the hub knows of it.
        if not hasattr(self, "frames") and self.transport is not None:
            loop = asyncio.get_running_loop()
            self._unread = loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_unread()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_unread()
        if self._sockets is not None and self._address is not None:
            self._sockets.exit(self._address)
            self._address = None
        super().connection_lost(exc)

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def set_parser(
        self, parser: WebSocketReader, data_received_cb: Callable[[], None] | None = None
    ) -> None:
        limit = self.inflate_limit_bytes
        reader: Any = InflatingReader(parser, limit) if limit else CheckedReader(parser)
        self.frames = reader
        super().set_parser(reader, data_received_cb)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        # aiohttp's own text repeats what it could not read, which may hold a key.
        super().handle_error(request, status, exc, "")
        code = "bad_request" if status < 500 else "internal"
        if isinstance(exc, LineTooLong):
            is_url = exc.args[1] == URL_BYTES
            status, code = (414, "uri_too_long") if is_url else (431, "headers_too_large")
        elif status == 400 and str(exc).endswith("Too many headers received"):
            status, code = 431, "headers_too_large"
        response = http_error(status, code)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPExpectationFailed):
            # aiohttp raises it before any middleware, with a text that repeats the header.
            resp = http_error(417, "expectation_failed")
        return await super().finish_response(request, resp, start_time)


class EdgeRunner(web.AppRunner):
    """An aiohttp runner whose connections are Edges.

    handshake_timeout_s: half a request is dropped after this.
    inflate_limit_bytes: what a compressed message may hold; 0: compression is not agreed to.
    sockets: counts connections, None for no limit.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        handshake_timeout_s: float,
        shutdown_timeout_s: float,
        inflate_limit_bytes: int = 0,
        sockets: Sockets | None = None,
    ) -> None:
        super().__init__(app, handle_signals=False, shutdown_timeout=shutdown_timeout_s)
        self._options: dict[str, Any] = {
            "inflate_limit_bytes": inflate_limit_bytes,
            "sockets": sockets,
            "max_line_size": URL_BYTES,
            "max_field_size": HEADER_BYTES,
            "max_headers": MAX_HEADERS,
            "access_log": None,
            "keepalive_timeout": handshake_timeout_s,
            "tcp_keepalive": False,  # connections that last are pinged, the others end in time
        }

    @property
    def server(self) -> Any:
        """What a site calls to make the protocol of each connection."""
        server = super().server
        loop = asyncio.get_running_loop()
        return server and partial(Edge, server, loop=loop, **self._options)


class EdgeSocket(web.WebSocketResponse):
    """A WebSocket on an Edge: it closes with the code and a reason for what the client did."""

    __slots__ = ("_edge",)

    async def prepare(self, request: web.BaseRequest) -> Any:
        if not isinstance(request.protocol, Edge):
            raise TypeError("a WebSocket must be served by an EdgeRunner")
        self._edge = request.protocol
        if self._edge.inflate_limit_bytes:
            answer = agree(",".join(request.headers.getall("Sec-WebSocket-Extensions", ())))
            if answer:
                self.headers["Sec-WebSocket-Extensions"] = answer
            else:
                self._edge.inflate_limit_bytes = 0
        writer = await super().prepare(request)
        self.headers.clear()  # they are sent, and would be kept as long as the connection
        return writer

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        if code == WSCloseCode.PROTOCOL_ERROR and self._edge.frames.problem:
            code = self._edge.frames.code
            message = self._edge.frames.problem.encode()
        elif code != WSCloseCode.OK and not message:
            message = CLOSE_CODES[code].reason.encode()
        return await super().close(code=code, message=message, drain=drain)
