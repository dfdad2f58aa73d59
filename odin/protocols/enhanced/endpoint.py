"""The `/enhanced-stream` endpoint: sessions, requests, and quotes to the hub.

A session is one client_id's subscriptions while somebody is connected with it; it outlives the
connection when a newer one takes over. Invariants: an answer says "success" only for what is on
disk; the answer precedes the first data of its stocks; at most one connection is live per
client_id. What a client asks is carried out one request at a time.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from odin.config import LimitSettings
from odin.errors import STOCK_ERRORS, ClientError, Disconnect, StoreUnavailable, reflect
from odin.hub.hub import Hub
from odin.hub.outbox import Subscriber
from odin.market.instruments import InstrumentRegistry, Resolution
from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.model import InstrumentKey, Quote, Subscription
from odin.protocols.admission import Admission, http_error
from odin.protocols.base import Peer, text_frame
from odin.protocols.enhanced import wire
from odin.protocols.enhanced.wire import Echo, MarketView, Request
from odin.topics import QuoteTopic

log = logging.getLogger("odin.enhanced")

PATH = "/enhanced-stream"


class SubscriptionStore(Protocol):
    """Reads a client's subscriptions."""

    async def load_subscriptions(self, client_id: str) -> list[Subscription]:
        """Return them in the order they were made; empty for an unknown client."""
        ...


class SubscriptionJournal(Protocol):
    """Makes changes durable."""

    async def record(
        self,
        client_id: str,
        add: Sequence[Subscription] = (),
        remove: Sequence[InstrumentKey] = (),
        now_ms: int = 0,
    ) -> None:
        """Return when the change is on disk; raise StoreUnavailable if it is not."""
        ...


class Market(Protocol):
    """What the endpoint asks about the market."""

    def view(self) -> MarketView:
        """Return everything clients are told, now."""
        ...

    def is_streaming(self, exchange: str) -> bool:
        """Whether market_data of this exchange flows now."""
        ...


class Session:
    """One client_id while at least one connection holds or waits for it."""

    __slots__ = ("client_id", "is_loaded", "lock", "peer", "subscriber", "subscriptions", "users")

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.subscriptions: dict[InstrumentKey, Subscription] = {}
        self.is_loaded = False
        self.lock = asyncio.Lock()
        """Held while subscriptions are read or changed."""
        self.peer: Peer | None = None
        """The live connection: the newest that asked for this client_id."""
        self.subscriber: Subscriber | None = None
        self.users = 0


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
        self._registry = registry
        self._board = board
        self._store = store
        self._journal = journal
        self._market = market
        self._limits = limits
        self._metrics = metrics
        self._now_ms = now_ms
        self._wall_ms = wall_ms
        self._admission = Admission(limits, origins)
        self._sessions: dict[str, Session] = {}
        self._is_idle = asyncio.Event()
        self._announced = {
            name: value
            for name, value in msgspec.structs.asdict(limits).items()
            if name != "exempt_addresses"
        }
        self._actions: Mapping[str, Callable[[Session, Peer, Request], Awaitable[None]]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "get_subscriptions": self._get_subscriptions,
            "market_status": self._market_status,
            "ping": self._pong,
            "snapshot": self._snapshot,
        }

    # ------------------------------------------------------------------ what others call

    @property
    def connection_count(self) -> int:
        """Connections that are open or being opened."""
        return self._admission.total

    @property
    def connected_clients(self) -> list[str]:
        """Client ids with a session in memory. For the store's housekeeping, never for clients."""
        return list(self._sessions)

    def on_quote(self, key: InstrumentKey, quote: Quote) -> None:
        """Send a quote to whoever subscribes it. Called once per tick in market hours."""
        topic = QuoteTopic(key)
        if topic in self._hub:
            payload = wire.encode_market_data(quote, self._now_ms())
            self._hub.publish(topic, text_frame(payload))
            self._metrics.frames_published += 1

    def push_market_status(self, view: MarketView) -> None:
        """Tell every connection what the market is doing."""
        data = wire.market_status_fields(view)
        frame = text_frame(
            wire.encode_message("market_status", "success", "", view.now_ms, data=data)
        )
        self._hub.flush_now()  # data of the session that ends goes before the word that it ended
        self._hub.put_all(frame)

    async def stop(self, code: int, grace_s: float) -> None:
        """Let nobody in any more, close every connection, and wait for them at most `grace_s`."""
        self._admission.is_closed = True
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
        session = self._sessions.get(client_id)
        if session is None:
            session = self._sessions[client_id] = Session(client_id)
        session.users += 1
        try:
            self._displace(session)
            session.peer = peer
            if self._admission.is_closed:  # let in before the stop, it missed being told
                peer.end(1001)
            await self._restore(session, peer)
            await peer.read(
                lambda text: self._on_text(session, peer, text),
                lambda: self._answer_error(session, peer, ClientError("binary_message")),
                lambda: self._answer_error(session, peer, self._rate_limited()),
            )
        finally:
            # The newer connection may own the session by now: only what is ours is taken down.
            if session.peer is peer:
                self._detach(session)
            session.users -= 1
            if not session.users:
                del self._sessions[client_id]
            if not self._sessions:
                self._is_idle.set()
        return peer.response

    def _displace(self, session: Session) -> None:
        """End the connection that held the session before: the newest one wins, at once."""
        old, subscriber = session.peer, session.subscriber
        if old is None:
            return
        self._metrics.takeovers += 1
        error = ClientError("session_taken_over")
        frame = text_frame(wire.encode_error(error, session.client_id, self._now_ms()))
        if subscriber is not None:
            self._hub.put(subscriber, frame)
        else:
            old.write(frame)
        self._detach(session)
        old.end(4409)

    def _detach(self, session: Session) -> None:
        if session.subscriber is not None:
            self._hub.detach(session.subscriber)
        session.subscriber = None
        session.peer = None

    async def _restore(self, session: Session, peer: Peer) -> None:
        """Load the session if need be, then welcome the peer and give it its data."""
        async with session.lock:
            if not session.is_loaded:
                try:
                    held = await self._store.load_subscriptions(session.client_id)
                except StoreUnavailable:
                    error = ClientError("store_unavailable")
                    frame = wire.encode_error(error, session.client_id, self._now_ms())
                    peer.write(text_frame(frame))
                    peer.end(1013)
                    return
                session.subscriptions = {item.key: item for item in held}
                session.is_loaded = True
            if session.peer is not peer:
                return  # a newer connection came while this one waited
            subscriber = session.subscriber = self._hub.attach(peer)
            keys = list(session.subscriptions)
            view = self._market.view()
            data = wire.welcome_fields(session.client_id, len(keys), view, self._announced)
            welcome = wire.encode_message(
                "welcome", "connected", session.client_id, view.now_ms, data=data
            )
            self._hub.put(subscriber, text_frame(welcome))
            self._hub.subscribe(subscriber, map(QuoteTopic, keys))
            self._hub.deliver(subscriber, self._last_known(keys))

    # ------------------------------------------------------------------ requests

    async def _on_text(self, session: Session, peer: Peer, text: str) -> None:
        self._metrics.requests += 1
        echo = wire.NO_ECHO
        try:
            request = wire.decode_request(text)
            echo = _echo(request)
            action = self._actions.get(request.action)
            if action is None:
                raise ClientError("unknown_action", action=request.action)
            await action(session, peer, request)
        except ClientError as error:
            self._answer_error(session, peer, error, echo)
        except StoreUnavailable:
            self._answer_error(session, peer, ClientError("store_unavailable"), echo)
        except Disconnect:
            raise
        except Exception:
            self._metrics.faults += 1
            log.exception("a request could not be carried out")
            self._answer_error(session, peer, ClientError("internal"), echo)

    def _answer_error(
        self, session: Session, peer: Peer, error: ClientError, echo: Echo = wire.NO_ECHO
    ) -> None:
        self._metrics.request_errors += 1
        self._put(session, peer, wire.encode_error(error, session.client_id, self._now_ms(), echo))

    def _rate_limited(self) -> ClientError:
        return ClientError("rate_limited", limit=f"{self._limits.requests_per_s:g}")

    def _answer(
        self,
        session: Session,
        peer: Peer,
        request: Request,
        kind: str,
        status: str = "success",
        data: Mapping[str, object] | None = None,
        message: str | None = None,
    ) -> None:
        payload = wire.encode_message(
            kind,
            status,
            session.client_id,
            self._now_ms(),
            data=data,
            message=message,
            echo=_echo(request),
        )
        self._put(session, peer, payload)

    def _put(self, session: Session, peer: Peer, payload: bytes) -> None:
        """Answer on the connection that asked, if it is still the session's."""
        if session.peer is peer and session.subscriber is not None:
            self._hub.put(session.subscriber, text_frame(payload))

    async def _subscribe(self, session: Session, peer: Peer, request: Request) -> None:
        async with session.lock:
            found, failed = self._resolve(request, "no_stocks_subscribe")
            added = [key for key in found if key not in session.subscriptions]
            self._check_room(session, len(added))
            now_ms = self._wall_ms()
            subscriptions = [Subscription(key, _symbol(found[key]), now_ms) for key in added]
            already = [found[key].label for key in found if key in session.subscriptions]
            if subscriptions:
                await self._journal.record(session.client_id, add=subscriptions, now_ms=now_ms)
            # From here to the snapshots nothing awaits: no tick can come between them.
            session.subscriptions.update((item.key, item) for item in subscriptions)
            view = self._market.view()
            data: dict[str, object] = {
                "action": "subscribe",
                "subscribed_stocks": [item.label for item in found.values()],
                "failed_stocks": [item.stock for item in failed],
                "total_subscribed": len(session.subscriptions),
                "failed_details": wire.failed_details(failed),
                "already_subscribed": already,
                "market_open": view.is_streaming,
            }
            if not view.is_streaming:
                data["next_open"] = wire.market_status_fields(view)["next_open"]
            status = "success" if found else "error"
            message = None if found else "None of the stocks could be subscribed"
            self._answer(session, peer, request, "subscription_response", status, data, message)
            if session.subscriber is not None:
                self._hub.subscribe(session.subscriber, map(QuoteTopic, added))
                self._hub.deliver(session.subscriber, self._last_known(found))

    async def _unsubscribe(self, session: Session, peer: Peer, request: Request) -> None:
        async with session.lock:
            found, failed = self._resolve(request, "no_stocks_unsubscribe", session)
            removed = [key for key in found if key in session.subscriptions]
            failed += [
                _failure(item, "not_subscribed")
                for key, item in found.items()
                if key not in session.subscriptions
            ]
            if removed:
                await self._journal.record(
                    session.client_id, remove=removed, now_ms=self._wall_ms()
                )
            for key in removed:
                del session.subscriptions[key]
            if session.subscriber is not None:
                self._hub.unsubscribe(session.subscriber, map(QuoteTopic, removed))
            data = {
                "action": "unsubscribe",
                "unsubscribed_stocks": [found[key].label for key in removed],
                "failed_stocks": [item.stock for item in failed],
                "total_subscribed": len(session.subscriptions),
                "failed_details": wire.failed_details(failed),
            }
            status = "success" if removed else "error"
            message = None if removed else "None of the stocks was subscribed"
            self._answer(session, peer, request, "subscription_response", status, data, message)

    async def _get_subscriptions(self, session: Session, peer: Peer, request: Request) -> None:
        held = session.subscriptions.values()
        instruments = [self._registry.get(item.key) for item in held]
        symbols = [
            item.symbol if instrument is None else instrument.symbol
            for item, instrument in zip(held, instruments, strict=True)
        ]
        data = {
            "subscribed_tokens": [str(item.key.token) for item in held],
            "subscribed_symbols": symbols,
            "subscribed_exchanges": [item.key.exchange for item in held],
            "subscribed_segments": [item.key.segment for item in held],
            "total_subscribed": len(symbols),
            "unavailable_stocks": [
                symbol
                for symbol, instrument in zip(symbols, instruments, strict=True)
                if instrument is None
            ],
        }
        self._answer(session, peer, request, "subscriptions", data=data)

    async def _market_status(self, session: Session, peer: Peer, request: Request) -> None:
        data = wire.market_status_fields(self._market.view())
        self._answer(session, peer, request, "market_status", data=data)

    async def _pong(self, session: Session, peer: Peer, request: Request) -> None:
        self._answer(session, peer, request, "pong", "alive")

    async def _snapshot(self, session: Session, peer: Peer, request: Request) -> None:
        failed: list[Resolution] = []
        keys: Iterable[InstrumentKey] = session.subscriptions
        if request.stocks is not None or request.tokens is not None:
            keys, failed = self._resolve(request, None)
        quotes = [quote for key in keys if (quote := self._board.quote(key)) is not None]
        data = {
            "quotes": wire.quote_data(quotes),
            "without_quote": [
                _name(self._registry, key) for key in keys if self._board.quote(key) is None
            ],
            "failed_stocks": [item.stock for item in failed],
            "failed_details": wire.failed_details(failed),
        }
        self._answer(session, peer, request, "snapshot", data=data)

    # ------------------------------------------------------------------ stocks

    def _resolve(
        self, request: Request, empty_code: str | None, session: Session | None = None
    ) -> tuple[dict[InstrumentKey, Resolution], list[Resolution]]:
        """Return what the request names: found by key, and what failed; each once, in order.

        With a session, names that the registry no longer knows are looked for among what the
        session holds, so that a vanished instrument can still be unsubscribed.
        """
        names = request.names
        if not names and empty_code is not None:
            raise ClientError(empty_code)
        limit = self._limits.stocks_per_request
        if len(names) > limit:
            raise ClientError("too_many_stocks", count=len(names), limit=limit)
        found: dict[InstrumentKey, Resolution] = {}
        failed: dict[str, Resolution] = {}
        for item in self._registry.resolve_many(names):
            if item.instrument is not None:
                found.setdefault(item.instrument.key, item)
            elif session is not None and (key := _held_key(session, item.stock)) is not None:
                found.setdefault(key, item._replace(label=session.subscriptions[key].symbol))
            else:
                failed.setdefault(item.stock, item)
        return found, list(failed.values())

    def _check_room(self, session: Session, added: int) -> None:
        count = len(session.subscriptions) + added
        limit = self._limits.subscriptions_per_client
        if added and count > limit:
            raise ClientError("subscription_limit", count=count, limit=limit)

    def _last_known(self, keys: Iterable[InstrumentKey]) -> list[tuple[QuoteTopic, bytes]]:
        """Return the last known quotes of exchanges that stream now, as snapshot frames."""
        now_ms = self._now_ms()
        items = []
        for key in keys:
            quote = self._board.quote(key) if self._market.is_streaming(key.exchange) else None
            if quote is not None:
                payload = wire.encode_market_data(quote, now_ms, is_snapshot=True)
                items.append((QuoteTopic(key), text_frame(payload)))
        return items


def _echo(request: Request) -> Echo:
    return Echo(request.request_id, request.timestamp)


def _symbol(item: Resolution) -> str:
    assert item.instrument is not None
    return item.instrument.symbol


def _name(registry: InstrumentRegistry, key: InstrumentKey) -> str:
    instrument = registry.get(key)
    return str(key.token) if instrument is None else instrument.symbol


def _held_key(session: Session, stock: str) -> InstrumentKey | None:
    wanted = stock.strip().upper()
    for key, item in session.subscriptions.items():
        if wanted in {item.symbol, str(key.token)}:
            return key
    return None


def _failure(item: Resolution, code: str) -> Resolution:
    message = STOCK_ERRORS[code].text.format(stock=reflect(item.stock))
    return item._replace(code=code, message=message, suggestions=())
