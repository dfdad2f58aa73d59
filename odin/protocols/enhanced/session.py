"""One client_id's session: its subscriptions, and every action a client can ask for.

A session outlives the connection when a newer one takes over; it is in memory while anybody is
connected with its client_id. Invariants: an answer says "success" only for what is on disk; the
answer precedes the first data of its stocks; at most one connection is live per session; changes
are carried out one at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from odin.config import LimitSettings
from odin.errors import ClientError, StoreUnavailable
from odin.hub.hub import Hub
from odin.hub.outbox import Subscriber
from odin.market.instruments import InstrumentRegistry, Resolution, ascii_upper
from odin.market.quotes import QuoteBoard
from odin.model import InstrumentKey, Subscription
from odin.protocols.base import Peer, text_frame
from odin.protocols.enhanced import wire
from odin.protocols.enhanced.wire import Echo, MarketView, Request
from odin.topics import QuoteTopic


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
    """What sessions ask about the market."""

    def view(self) -> MarketView:
        """Return everything clients are told, now."""
        ...

    def is_streaming(self, exchange: str) -> bool:
        """Whether market_data of this exchange flows now."""
        ...


class Services(NamedTuple):
    """What every session works with."""

    hub: Hub
    registry: InstrumentRegistry
    board: QuoteBoard
    store: SubscriptionStore
    journal: SubscriptionJournal
    market: Market
    limits: LimitSettings
    announced_limits: Mapping[str, object]
    now_ms: Callable[[], int]
    """Market time, for messages."""
    wall_ms: Callable[[], int]
    """Real time, for the database."""


class Session:
    """The subscriptions of one client_id, and the connection that owns them now."""

    def __init__(self, client_id: str, services: Services) -> None:
        self.client_id = client_id
        self.users = 0
        """Connections that hold the session in memory: the live one, and those that are ending."""
        self.peer: Peer | None = None
        """The live connection: the newest that asked for this client_id."""
        self._services = services
        self._hub = services.hub
        self._subscriber: Subscriber | None = None
        self._subscriptions: dict[InstrumentKey, Subscription] = {}
        self._is_loaded = False
        self._lock = asyncio.Lock()
        """Held while subscriptions are read from the store or changed."""
        self._actions: Mapping[str, Callable[[Request], Awaitable[None]]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "get_subscriptions": self._get_subscriptions,
            "market_status": self._market_status,
            "ping": self._pong,
            "snapshot": self._snapshot,
        }

    # ------------------------------------------------------------------ connections

    def displace(self, peer: Peer) -> bool:
        """Give the session to a newer connection, at once; return whether another one had it.

        The old one is told and closed with 4409. One that waited for its welcome still gets the
        word instead of it.
        """
        old, self.peer = self.peer, peer
        if old is None:
            return False
        frame = text_frame(self._error(ClientError("session_taken_over"), wire.NO_ECHO))
        if self._subscriber is not None:
            self._detach(frame)
        else:
            old.write(frame)
        old.end(4409)
        return True

    def leave(self, peer: Peer) -> None:
        """Take down what is the connection's own. A newer one may own the session by now."""
        if self.peer is peer:
            self.peer = None
            self._detach()

    def _detach(self, last_word: bytes = b"") -> None:
        if self._subscriber is not None:
            self._hub.detach(self._subscriber, last_word)
            self._subscriber = None

    async def restore(self, peer: Peer) -> None:
        """Welcome the connection and give it back its subscriptions, loading them if need be."""
        services = self._services
        async with self._lock:
            if not self._is_loaded:
                try:
                    held = await services.store.load_subscriptions(self.client_id)
                except StoreUnavailable:
                    error = ClientError("store_unavailable")
                    peer.write(text_frame(self._error(error, wire.NO_ECHO)))
                    peer.end(1013)
                    return
                self._subscriptions = {item.key: item for item in held}
                self._is_loaded = True
            if self.peer is not peer:
                return  # a newer connection came while this one waited
            self._subscriber = self._hub.attach(peer)
            keys = list(self._subscriptions)
            view = services.market.view()
            limits = services.announced_limits
            data = wire.welcome_fields(self.client_id, len(keys), view, limits)
            self._put(
                wire.encode_message("welcome", "connected", self.client_id, view.now_ms, data=data)
            )
            self._hub.subscribe(self._subscriber, map(QuoteTopic, keys))
            self._hub.deliver(self._subscriber, self._last_known(keys))

    # ------------------------------------------------------------------ requests

    def is_served(self, peer: Peer) -> bool:
        """Whether requests of this connection may be carried out: it owns the session and has
        been welcomed. What a displaced one had sent before it knew is nobody's to answer."""
        return self.peer is peer and self._subscriber is not None and not peer.is_ending

    async def carry_out(self, request: Request) -> None:
        """Do what the request asks and answer it; raise ClientError or StoreUnavailable."""
        action = self._actions.get(request.action)
        if action is None:
            raise ClientError("unknown_action", action=request.action)
        await action(request)

    def answer_error(self, error: ClientError, echo: Echo = wire.NO_ECHO) -> None:
        """Answer with an error."""
        self._put(self._error(error, echo))

    def _error(self, error: ClientError, echo: Echo) -> bytes:
        return wire.encode_error(error, self.client_id, self._services.now_ms(), echo)

    def _answer(
        self,
        request: Request,
        kind: str,
        status: str = "success",
        data: Mapping[str, object] | None = None,
        message: str | None = None,
    ) -> None:
        now_ms = self._services.now_ms()
        echo = wire.echo_of(request)
        self._put(
            wire.encode_message(
                kind, status, self.client_id, now_ms, data=data, message=message, echo=echo
            )
        )

    def _put(self, payload: bytes) -> None:
        """Send to the connection that owns the session.

        There is none where a newer one took over while a change was on its way to the disk: it
        waits for that change, and its welcome tells of it.
        """
        if self._subscriber is not None:
            self._hub.put(self._subscriber, text_frame(payload))

    async def _subscribe(self, request: Request) -> None:
        services = self._services
        async with self._lock:
            found, failed = self._resolve(request, "no_stocks_subscribe")
            added = [key for key in found if key not in self._subscriptions]
            already = [found[key].label for key in found if key in self._subscriptions]
            self._check_room(len(added))
            now_ms = services.wall_ms()
            new = [Subscription(key, _symbol(found[key]), now_ms) for key in added]
            if new:
                await services.journal.record(self.client_id, add=new, now_ms=now_ms)
            # From here to the last known quotes nothing awaits: no tick can come between them.
            self._subscriptions.update((item.key, item) for item in new)
            view = services.market.view()
            data: dict[str, object] = {
                "action": "subscribe",
                "subscribed_stocks": [item.label for item in found.values()],
                "failed_stocks": [item.stock for item in failed],
                "total_subscribed": len(self._subscriptions),
                "failed_details": wire.failed_details(failed),
                "already_subscribed": already,
                "market_open": view.is_streaming,
            }
            if not view.is_streaming:
                data["next_open"] = wire.instant(view.status.next_open_ms)
            status = "success" if found else "error"
            message = None if found else "None of the stocks could be subscribed"
            self._answer(request, "subscription_response", status, data, message)
            if self._subscriber is not None:
                self._hub.subscribe(self._subscriber, map(QuoteTopic, added))
                self._hub.deliver(self._subscriber, self._last_known(found))

    async def _unsubscribe(self, request: Request) -> None:
        services = self._services
        async with self._lock:
            found, failed = self._resolve(request, "no_stocks_unsubscribe", among_held=True)
            removed = [key for key in found if key in self._subscriptions]
            failed += [
                wire.not_subscribed(item)
                for key, item in found.items()
                if key not in self._subscriptions
            ]
            if removed:
                now_ms = services.wall_ms()
                await services.journal.record(self.client_id, remove=removed, now_ms=now_ms)
            for key in removed:
                del self._subscriptions[key]
            if self._subscriber is not None:
                self._hub.unsubscribe(self._subscriber, map(QuoteTopic, removed))
            data = {
                "action": "unsubscribe",
                "unsubscribed_stocks": [found[key].label for key in removed],
                "failed_stocks": [item.stock for item in failed],
                "total_subscribed": len(self._subscriptions),
                "failed_details": wire.failed_details(failed),
            }
            status = "success" if removed else "error"
            message = None if removed else "None of the stocks was subscribed"
            self._answer(request, "subscription_response", status, data, message)

    async def _get_subscriptions(self, request: Request) -> None:
        held = self._subscriptions.values()
        listed = [self._services.registry.get(item.key) for item in held]
        symbols = [
            item.symbol if instrument is None else instrument.symbol
            for item, instrument in zip(held, listed, strict=True)
        ]
        data = {
            "subscribed_tokens": [str(item.key.token) for item in held],
            "subscribed_symbols": symbols,
            "subscribed_exchanges": [item.key.exchange for item in held],
            "subscribed_segments": [item.key.segment for item in held],
            "total_subscribed": len(symbols),
            "unavailable_stocks": [
                symbol
                for symbol, instrument in zip(symbols, listed, strict=True)
                if instrument is None
            ],
        }
        self._answer(request, "subscriptions", data=data)

    async def _market_status(self, request: Request) -> None:
        data = wire.market_status_fields(self._services.market.view())
        self._answer(request, "market_status", data=data)

    async def _pong(self, request: Request) -> None:
        self._answer(request, "pong", "alive")

    async def _snapshot(self, request: Request) -> None:
        services = self._services
        failed: list[Resolution] = []
        keys: Iterable[InstrumentKey] = self._subscriptions
        if request.stocks is not None or request.tokens is not None:
            keys, failed = self._resolve(request, None)
        quotes = {key: services.board.quote(key) for key in keys}
        data = {
            "quotes": [quote for quote in quotes.values() if quote is not None],
            "without_quote": [self._name(key) for key, quote in quotes.items() if quote is None],
            "failed_stocks": [item.stock for item in failed],
            "failed_details": wire.failed_details(failed),
        }
        self._answer(request, "snapshot", data=data)

    # ------------------------------------------------------------------ stocks

    def _resolve(
        self, request: Request, empty_code: str | None, *, among_held: bool = False
    ) -> tuple[dict[InstrumentKey, Resolution], list[Resolution]]:
        """Return what the request names: found by key, and what failed; each once, in order.

        among_held: names that the registry does not know are looked for among the subscriptions,
        so that an instrument that vanished from the master can still be unsubscribed.
        """
        names = request.names
        if not names and empty_code is not None:
            raise ClientError(empty_code)
        limit = self._services.limits.stocks_per_request
        if len(names) > limit:
            raise ClientError("too_many_stocks", count=len(names), limit=limit)
        held = self._held_names() if among_held else {}
        found: dict[InstrumentKey, Resolution] = {}
        failed: dict[str, Resolution] = {}
        for item in self._services.registry.resolve_many(names):
            if item.instrument is not None:
                found.setdefault(item.instrument.key, item)
            elif (key := held.get(ascii_upper(item.stock.strip()))) is not None:
                found.setdefault(key, item._replace(label=self._subscriptions[key].symbol))
            else:
                failed.setdefault(item.stock, item)
        return found, list(failed.values())

    def _held_names(self) -> dict[str, InstrumentKey]:
        """Return what is held but no longer listed, by symbol and by token."""
        find = self._services.registry.get
        names: dict[str, InstrumentKey] = {}
        for key, item in self._subscriptions.items():
            if find(key) is None:
                names[item.symbol] = names[str(key.token)] = key
        return names

    def _name(self, key: InstrumentKey) -> str:
        instrument = self._services.registry.get(key)
        return self._subscriptions[key].symbol if instrument is None else instrument.symbol

    def _check_room(self, added: int) -> None:
        count = len(self._subscriptions) + added
        limit = self._services.limits.subscriptions_per_client
        if added and count > limit:
            raise ClientError("subscription_limit", count=count, limit=limit)

    def _last_known(self, keys: Iterable[InstrumentKey]) -> list[tuple[QuoteTopic, bytes]]:
        """Return the last known quotes of exchanges that stream now, as snapshot frames."""
        services = self._services
        now_ms = services.now_ms()
        items = []
        for key in keys:
            if not services.market.is_streaming(key.exchange):
                continue
            quote = services.board.quote(key)
            if quote is not None:
                payload = wire.encode_market_data(quote, now_ms, is_snapshot=True)
                items.append((QuoteTopic(key), text_frame(payload)))
        return items


def _symbol(item: Resolution) -> str:
    assert item.instrument is not None
    return item.instrument.symbol
