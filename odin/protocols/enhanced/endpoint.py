"""The `/enhanced-stream` endpoint: connections to sessions, quotes to the hub."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence

import msgspec
from aiohttp import web

from odin.config import LimitSettings
from odin.errors import ClientError, Disconnect, StoreUnavailable
from odin.hub.hub import Hub
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.model import InstrumentKey, Quote
from odin.protocols.admission import Admission, http_error
from odin.protocols.base import Peer, text_frame
from odin.protocols.enhanced import wire
from odin.protocols.enhanced.session import (
    Market,
    Services,
    Session,
    SubscriptionJournal,
    SubscriptionStore,
)
from odin.protocols.enhanced.wire import MarketView
from odin.topics import QuoteTopic

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
        self._services = Services(
            hub, registry, board, store, journal, market, limits, announced, now_ms, wall_ms
        )
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

    def on_quote(self, key: InstrumentKey, quote: Quote) -> None:
        """Send a quote to whoever subscribes it. Called once per tick in market hours."""
        topic = QuoteTopic(key)
        if topic in self._hub:
            payload = wire.encode_market_data(quote, self._now_ms())
            self._hub.publish(topic, text_frame(payload))
            self._metrics.frames_published += 1

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
        """Serve one connection, from the HTTP request to its end."""
        client_ids = request.query.getall("client_id", [])
        if len(client_ids) > 1 or not all(map(wire.is_client_id, filter(None, client_ids))):
            refusal: web.Response | None = http_error(400, "invalid_client_id")
        else:
            refusal = self._admission.admit(request)
        if refusal is not None:
            self._metrics.connections_refused += 1
            return refusal
        try:
            client_id = "".join(client_ids) or secrets.token_urlsafe(16)
            return await self._serve(request, client_id)
        finally:
            self._admission.leave(request)

    async def _serve(self, request: web.Request, client_id: str) -> web.StreamResponse:
        peer = Peer(request, self._limits, self._metrics)
        await peer.open()
        self._metrics.connections += 1
        self.seen_clients.add(client_id)
        session = self._sessions.get(client_id)
        if session is None:
            session = self._sessions[client_id] = Session(client_id, self._services)
        session.users += 1
        try:
            self._metrics.takeovers += session.displace(peer)
            if self._stop_code is not None:  # let in before the stop, it missed being told
                peer.end(self._stop_code)
            await session.restore(peer)
            await peer.read(
                lambda text: self._on_text(session, peer, text),
                lambda: self._refuse(session, peer, ClientError("binary_message")),
                lambda: self._refuse(session, peer, self._rate_limited()),
            )
        finally:
            session.leave(peer)
            session.users -= 1
            if not session.users:
                del self._sessions[client_id]
            if not self._sessions:
                self._is_idle.set()
        return peer.response

    async def _on_text(self, session: Session, peer: Peer, text: str) -> None:
        self._metrics.requests += 1
        if not session.is_served(peer):
            return
        echo = wire.NO_ECHO
        try:
            request = wire.decode_request(text)
            echo = wire.echo_of(request)
            await session.carry_out(request)
            return
        except ClientError as known:
            error = known
            if known.code == "invalid_request":
                echo = wire.echo_of_refused(text)
        except StoreUnavailable:
            error = ClientError("store_unavailable")
        except Disconnect:
            raise
        except Exception:
            self._metrics.faults += 1
            log.exception("a request could not be carried out")
            error = ClientError("internal")
        self._refuse(session, peer, error, echo)

    def _refuse(
        self, session: Session, peer: Peer, error: ClientError, echo: wire.Echo = wire.NO_ECHO
    ) -> None:
        self._metrics.request_errors += 1
        if session.is_served(peer):
            session.answer_error(error, echo)

    def _rate_limited(self) -> ClientError:
        return ClientError("rate_limited", limit=f"{self._limits.requests_per_s:g}")
