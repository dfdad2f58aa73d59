"""The `/enhanced-stream` endpoint: connections to sessions, quotes to the hub."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from odin.errors import ClientError, StoreUnavailable
from odin.hub.hub import Hub
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.model import ApiKey, FeedGap
from odin.protocols.access import Access, check_scope, close_code
from odin.protocols.admission import Admission, Origins, access_error
from odin.protocols.base import Heartbeat, Peer
from odin.protocols.enhanced import wire
from odin.protocols.enhanced.door import Door
from odin.protocols.enhanced.encodings import negotiate
from odin.protocols.enhanced.publisher import QuotePublisher
from odin.protocols.enhanced.services import (
    Market,
    Services,
    SubscriptionJournal,
    SubscriptionStore,
)
from odin.protocols.enhanced.session import Session, session_id
from odin.protocols.enhanced.wire import MarketView
from odin.protocols.frames import text_frame
from odin.settings import LimitSettings
from odin.topics import Encoding

log = logging.getLogger("odin.enhanced")

PATH = "/enhanced-stream"
SCOPE = "stream"
"""What a key must be allowed to connect here."""


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
        origins: Origins,
        access: Access,
        require_resume_token: bool,
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
        self.quotes = QuotePublisher(hub, metrics, board.detail)
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
            access.accounts,
        )
        self._heartbeat = Heartbeat(limits.ping_interval_s)
        self._admission = Admission(limits, origins)
        self._access = access
        self._require_resume_token = require_resume_token
        self._sessions: dict[str, Session] = {}
        """By their id, which with authentication begins with that of the key."""
        self._strangers: set[Peer] = set()
        """Connections that have yet to send credentials."""
        self._stop_code: int | None = None
        self._is_idle = asyncio.Event()
        self.seen_clients: set[str] = set()
        """Ids of sessions that began since somebody last cleared this, for housekeeping."""

    # ------------------------------------------------------------------ what others call

    @property
    def connection_count(self) -> int:
        """Connections that are open or being opened."""
        return self._admission.total

    def connected_clients(self) -> list[str]:
        """Return the ids of the sessions in memory. May be called from any thread."""
        return list(self._sessions)

    def push_market_status(self, view: MarketView) -> None:
        """Tell every connection what the market is doing, after all data published before."""
        data = wire.market_status_fields(view)
        frame = wire.encode_message("market_status", "success", "", view.now_ms, data=data)
        self._hub.put_all(text_frame(frame))

    def push_gap(self, gap: FeedGap) -> None:
        """Tell every connection of which stretch of time a feed delivered nothing."""
        self._hub.put_all(text_frame(wire.encode_gap(gap, self._now_ms())))

    def expel(self, key_ids: Collection[str]) -> None:
        """Close every connection of keys that are valid no more."""
        for session in list(self._sessions.values()):
            if session.key_id in key_ids:
                try:
                    session.expel(ClientError("authentication_failed"), 4401)
                except Exception:  # a fault with one must not leave the others open
                    self._metrics.faults += 1
                    log.exception("a connection of a revoked key could not be told")
                    if session.peer is not None:
                        session.peer.end(4401)

    async def stop(self, code: int, grace_s: float) -> None:
        """Let nobody in any more, close every connection, and wait for them at most `grace_s`."""
        self._admission.is_closed = True
        self._stop_code = code
        self._hub.flush_now()
        for session in list(self._sessions.values()):
            if session.peer is not None:
                session.peer.end(code)
        for peer in self._strangers:
            peer.end(code)
        if self._is_empty:
            return
        self._is_idle.clear()
        try:
            await asyncio.wait_for(self._is_idle.wait(), grace_s)
        except TimeoutError:
            log.warning("connections did not close in time", extra={"left": self.connection_count})

    # ------------------------------------------------------------------ connections

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection, from the HTTP request to its end.

        One coroutine and no more: every frame below is kept for as long as the connection lasts.
        """
        # request.query would keep its dicts as long.
        query = parse_qs(request.rel_url.raw_query_string, keep_blank_values=True)
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        address = self._access.address_of(request)
        key: ApiKey | None = None
        try:
            client_id = wire.client_id_of(query.get("client_id", []))
            encoding, subprotocol = negotiate(query.get("format", []), offered)
            refusal = self._admission.check(request)
            if refusal is None:
                key = await self._access.key_of(request, address, query.get("ticket", []))
                if key is not None:
                    check_scope(key, SCOPE)
                refusal = self._admission.admit(address, key.id if key else "")
            if refusal is None:
                self._access.spend(query.get("ticket", []))
        except ClientError as problem:
            refusal = access_error(problem)
        if refusal is not None:
            self._metrics.connections_refused += 1
            return refusal
        client_id = client_id or secrets.token_urlsafe(16)
        token = request.headers.get("X-Resume-Token", "")
        key_id = key.id if key else ""
        del query, offered  # as every local, they would live as long as the connection
        try:
            peer = Peer(request, self._limits, self._metrics, self._heartbeat, subprotocol)
            await peer.open()
            if key is None and self._access.auth is not None:
                door = Door(self, address, client_id, encoding, token)
                try:
                    await door.serve(peer)
                finally:
                    key_id = door.key_id
                    door.leave(peer)
                return peer.response
            session = self.enter(client_id, key_id, address)
            try:
                await self.join(session, peer, encoding, token, key)
                await peer.read(session)
            finally:
                self.exit(session, peer)
        finally:
            self._admission.leave(address, key_id)
        return peer.response

    async def join(
        self, session: Session, peer: Peer, encoding: Encoding, token: str, key: ApiKey | None
    ) -> None:
        """Make a connection the session's own and welcome it, or end it."""
        new_token = ""
        try:
            if self._require_resume_token:
                new_token = await session.authorize(token)
            auth = self._access.auth
            if key is not None and auth is not None and auth.keys.get(key.id) != key:
                raise ClientError("authentication_failed")  # revoked while it connected
        except ClientError as error:
            self.turn_away(peer, error, close_code(error), session.client_id)
            return
        except StoreUnavailable:
            self.turn_away(peer, ClientError("store_unavailable"), 1013, session.client_id)
            return
        self._metrics.takeovers += session.displace(peer)
        if self._stop_code is not None:  # let in before the stop, it missed being told
            peer.end(self._stop_code)
        await session.restore(peer, encoding, new_token)

    def turn_away(self, peer: Peer, error: ClientError, code: int, client_id: str) -> None:
        """Tell a connection that owns no session why it must end, and close it."""
        peer.write(text_frame(wire.encode_error(error, client_id, self._now_ms())))
        peer.end(code)

    def enter(self, client_id: str, key_id: str = "", address: str = "") -> Session:
        """Return the session of a connection that has been made; it must `exit` again."""
        self._metrics.connections += 1
        name = session_id(client_id, key_id)
        self.seen_clients.add(name)
        session = self._sessions.get(name)
        if session is None:
            owner = key_id or address
            session = Session(client_id, self._services, key_id, owner)
            self._sessions[name] = session
        session.users += 1
        return session

    def exit(self, session: Session, peer: Peer) -> None:
        """Let go of a session that a connection entered."""
        try:
            session.leave(peer)
        finally:  # a fault with one must not keep it in memory, or a stop waiting, for ever
            session.users -= 1
            if not session.users:
                del self._sessions[session.id]
                session.forget()
            self._note_empty()

    def meet(self, peer: Peer) -> None:
        """Note a connection that has yet to send credentials."""
        self._strangers.add(peer)
        if self._stop_code is not None:
            peer.end(self._stop_code)

    def part(self, peer: Peer) -> None:
        """Note that a connection has sent its credentials, or left."""
        self._strangers.discard(peer)
        self._note_empty()

    async def authenticate(self, credentials: wire.Credentials, address: str) -> ApiKey:
        """Return the key of credentials that were sent as a message, its connection counted.
        Raises ClientError."""
        auth = self._access.auth
        assert auth is not None
        key = await self._access.by_key(auth, credentials.api_key, address)
        check_scope(key, SCOPE)
        self._admission.enter_key(key.id)
        return key

    @property
    def _is_empty(self) -> bool:
        return not self._sessions and not self._strangers

    def _note_empty(self) -> None:
        if self._is_empty:
            self._is_idle.set()
