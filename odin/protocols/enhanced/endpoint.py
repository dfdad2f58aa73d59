"""The `/enhanced-stream` endpoint: connections to sessions, quotes to the hub."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from odin.config import LimitSettings
from odin.errors import ClientError
from odin.hub.hub import Hub
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.protocols.admission import Admission, http_error
from odin.protocols.base import Heartbeat, Peer
from odin.protocols.enhanced import wire
from odin.protocols.enhanced.encodings import negotiate
from odin.protocols.enhanced.publisher import QuotePublisher
from odin.protocols.enhanced.session import (
    Market,
    Services,
    Session,
    SubscriptionJournal,
    SubscriptionStore,
)
from odin.protocols.enhanced.wire import MarketView
from odin.protocols.frames import text_frame

log = logging.getLogger("odin.enhanced")

PATH = "/enhanced-stream"


class EnhancedEndpoint:
    """Serves `/enhanced-stream` on one hub."""

    def __init__(
        self,
        *,
        hub: Hub,
        registry: InstrumentRegistry,
        board: QuoteBoard,
        store: SubscriptionStore,
        journal: SubscriptionJournal,
        market: Market,
        limits: LimitSettings,
        origins: Sequence[str],
        metrics: Metrics,
        now_ms: Callable[[], int],
        wall_ms: Callable[[], int],
    ) -> None:
        self._hub = hub
        self._limits = limits
        self._metrics = metrics
        self._now_ms = now_ms
        announced = msgspec.structs.asdict(limits)
        del announced["exempt_addresses"]
        self.quotes = QuotePublisher(hub, metrics, now_ms)
        """Where the node brings quotes, and the hub tells which have readers."""
        self._services = Services(
            hub,
            self.quotes,
            registry,
            board,
            store,
            journal,
            market,
            limits,
            announced,
            now_ms,
            wall_ms,
            metrics,
        )
        self._heartbeat = Heartbeat(limits.ping_interval_s)
        self._admission = Admission(limits, origins)
        self._sessions: dict[str, Session] = {}
        self._stop_code: int | None = None
        self._is_idle = asyncio.Event()
        self.seen_clients: set[str] = set()
        """Client ids that connected since somebody last cleared this, for housekeeping."""

    # ------------------------------------------------------------------ what others call

    @property
    def connection_count(self) -> int:
        """Connections that are open or being opened."""
        return self._admission.total

    def connected_clients(self) -> list[str]:
        """Return the client ids with a session in memory. May be called from any thread."""
        return list(self._sessions)

    def push_market_status(self, view: MarketView) -> None:
        """Tell every connection what the market is doing, after all data published before."""
        data = wire.market_status_fields(view)
        frame = wire.encode_message("market_status", "success", "", view.now_ms, data=data)
        self._hub.put_all(text_frame(frame))

    async def stop(self, code: int, grace_s: float) -> None:
        """Let nobody in any more, close every connection, and wait for them at most `grace_s`."""
        self._admission.is_closed = True
        self._stop_code = code
        self._hub.flush_now()
        for session in list(self._sessions.values()):
            if session.peer is not None:
                session.peer.end(code)
        if not self._sessions:
            return
        self._is_idle.clear()
        try:
            await asyncio.wait_for(self._is_idle.wait(), grace_s)
        except TimeoutError:
            log.warning("connections did not close in time", extra={"left": len(self._sessions)})

    # ------------------------------------------------------------------ connections

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection, from the HTTP request to its end.

        One coroutine and no more: every frame below is kept for as long as the connection lasts.
        """
        # request.query would keep its dicts as long.
        query = parse_qs(request.rel_url.raw_query_string, keep_blank_values=True)
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        try:
            client_id = wire.client_id_of(query.get("client_id", []))
            encoding, subprotocol = negotiate(query.get("format", []), offered)
        except ClientError as problem:
            refusal: web.Response | None = http_error(400, problem.code)
        else:
            refusal = self._admission.admit(request)
        if refusal is not None:
            self._metrics.connections_refused += 1
            return refusal
        try:
            peer = Peer(request, self._limits, self._metrics, self._heartbeat, subprotocol)
            await peer.open()
            session = self._enter(client_id or secrets.token_urlsafe(16))
            try:
                self._metrics.takeovers += session.displace(peer)
                if self._stop_code is not None:  # let in before the stop, it missed being told
                    peer.end(self._stop_code)
                await session.restore(peer, encoding)
                await peer.read(session)
            finally:
                session.leave(peer)
                self._exit(session)
        finally:
            self._admission.leave(request)
        return peer.response

    def _enter(self, client_id: str) -> Session:
        """Return the session of a connection that has been made; it must `_exit` again."""
        self._metrics.connections += 1
        self.seen_clients.add(client_id)
        session = self._sessions.get(client_id)
        if session is None:
            session = self._sessions[client_id] = Session(client_id, self._services)
        session.users += 1
        return session

    def _exit(self, session: Session) -> None:
        session.users -= 1
        if not session.users:
            del self._sessions[session.client_id]
        if not self._sessions:
            self._is_idle.set()
