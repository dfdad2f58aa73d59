"""One client_id's session: its subscriptions, and every action a client can ask for.

A session outlives the connection when a newer one takes over; it is in memory while anybody is
connected with its client_id. Invariants: an answer says "success" only for what is on disk; the
answer precedes the first data of its stocks; at most one connection is live per session; changes
are carried out one at a time.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat

from odin.errors import ClientError, Disconnect, StoreError, StoreFull, StoreUnavailable
from odin.hub.outbox import Subscriber
from odin.market.instruments import Resolution
from odin.model import InstrumentKey, Mode, Subscription
from odin.protocols.base import Peer
from odin.protocols.enhanced import wire
from odin.protocols.enhanced.encodings import DELTAS, encode_quote
from odin.protocols.enhanced.modes import full_quote
from odin.protocols.enhanced.resume import ResumeToken
from odin.protocols.enhanced.services import Services
from odin.protocols.enhanced.watchlist import Watchlist
from odin.protocols.enhanced.wire import Echo, Request
from odin.protocols.frames import text_frame
from odin.topics import Encoding, QuoteTopic

log = logging.getLogger("odin.enhanced")

_topic = lru_cache(maxsize=65_536)(QuoteTopic)
"""Who subscribes the same stock shares one topic: each of its own was a fifth of what a
subscription keeps in memory."""


class Session:
    """The subscriptions of one client_id, and the connection that owns them now.

    It is the Receiver of its connections.
    """

    __slots__ = (
        "_encoding",
        "_hub",
        "_is_known",
        "_is_loaded",
        "_lock",
        "_owner",
        "_resume",
        "_services",
        "_subscriber",
        "_watchlist",
        "client_id",
        "id",
        "key_id",
        "peer",
        "users",
    )

    def __init__(
        self, client_id: str, services: Services, key_id: str = "", owner: str = ""
    ) -> None:
        self.client_id = client_id
        """As its clients know it."""
        self.key_id = key_id
        """Of the API key it belongs to, "" without authentication."""
        self.id = session_id(client_id, key_id)
        """As the server and the database know it."""
        self.users = 0
        """Connections that hold the session in memory: the live one, and those that are ending."""
        self.peer: Peer | None = None
        """The live connection: the newest that asked for this client_id."""
        self._services = services
        self._hub = services.hub
        self._subscriber: Subscriber | None = None
        self._encoding: Encoding = "json"
        self._watchlist = Watchlist(services.registry)
        self._is_loaded = False
        self._owner = owner
        """Whose account counts: an API key's id or an address."""
        self._is_known = False
        """Whether the client_id had subscriptions, or was counted against that limit."""
        self._resume: ResumeToken | None = None
        """Only where resume tokens are required."""
        self._lock = asyncio.Lock()
        """Held while subscriptions are read from the store or changed."""

    # ------------------------------------------------------------------ connections

    async def authorize(self, token: str) -> str:
        """Let the owner of the session go on: return "" for its resume token, and a new one while
        none binds. Raises ClientError resume_token_required for others, or StoreUnavailable;
        the live connection is left alone then."""
        async with self._lock:
            if self._resume is None:
                self._resume = await ResumeToken.read(self._services.store, self.id)
            return self._resume.accept(token)

    def displace(self, peer: Peer) -> bool:
        """Give the session to a newer connection, at once; return whether another one had it.

        The old one is told and closed with 4409. One that waited for its welcome still gets the
        word instead of it.
        """
        old, self.peer = self.peer, peer
        if old is not None:
            self._dismiss(old, ClientError("session_taken_over"), 4409)
        return old is not None

    def expel(self, error: ClientError, code: int) -> None:
        """Tell the live connection why it must end, and close it."""
        if self.peer is not None:
            self._dismiss(self.peer, error, code)

    def _dismiss(self, peer: Peer, error: ClientError, code: int) -> None:
        frame = text_frame(self._error(error, wire.NO_ECHO))
        if self._subscriber is not None:
            self._detach(frame)
        else:
            peer.write(frame)
        peer.end(code)

    def leave(self, peer: Peer) -> None:
        """Take down what is the connection's own. A newer one may own the session by now."""
        if self.peer is peer:
            self.peer = None
            self._detach()

    def forget(self) -> None:
        """Let go of what is kept in memory, after the last connection."""
        self._services.accounts.of(self._owner).release(len(self._watchlist))

    def _detach(self, last_word: bytes = b"") -> None:
        if self._subscriber is not None:
            self._hub.detach(self._subscriber, last_word)
            self._subscriber = None

    async def restore(self, peer: Peer, encoding: Encoding, resume_token: str = "") -> None:
        """Welcome the connection and give it back its subscriptions, loading them if need be.

        encoding: how it wants its quotes. resume_token: told to it, "" for none.
        """
        services = self._services
        async with self._lock:
            if not self._is_loaded:
                try:
                    held = await services.store.load_subscriptions(self.id)
                    services.accounts.of(self._owner).hold(len(held))
                except StoreError:
                    self._dismiss(peer, ClientError("store_unavailable"), 1013)
                    return
                except ClientError as error:
                    self._dismiss(peer, error, 4429)
                    return
                self._watchlist.load(held)
                self._is_loaded = True
                self._is_known = bool(held)
            if self.peer is not peer:
                return  # a newer connection came while this one waited
            self._subscriber = self._hub.attach(peer)
            self._encoding = encoding
            keys = list(self._watchlist)
            view = services.market.view()
            limits = services.announced_limits
            data = wire.welcome_fields(
                self.client_id, len(keys), view, limits, encoding, resume_token
            )
            self._put(
                wire.encode_message("welcome", "connected", self.client_id, view.now_ms, data=data)
            )
            self._stream(keys, keys)

    # ------------------------------------------------------------------ requests

    def is_served(self, peer: Peer) -> bool:
        """Whether requests of this connection may be carried out: it owns the session and has
        been welcomed. What a displaced one had sent before it knew is nobody's to answer."""
        return self.peer is peer and self._subscriber is not None and not peer.is_ending

    async def on_text(self, peer: Peer, text: str) -> None:
        """Carry out a request and answer it, unless its connection has lost the session."""
        metrics = self._services.metrics
        metrics.requests += 1
        if not self.is_served(peer):
            return
        echo = wire.NO_ECHO
        try:
            self._services.accounts.ask(self._owner)
            if self._resume is not None:
                await self._resume.bind(self.id, has_row=bool(self._watchlist))
            request = wire.decode_request(text)
            echo = wire.echo_of(request)
            await self._carry_out(request)
            return
        except ClientError as known:
            error = known
            if known.code == "invalid_request":
                echo = wire.echo_of_refused(text)
            metrics.requests_rate_limited += known.code == "rate_limited"
        except StoreUnavailable:
            error = ClientError("store_unavailable")
        except StoreFull:
            error = ClientError("too_many_clients")
        except Disconnect:
            raise
        except Exception:
            metrics.faults += 1
            log.exception("a request could not be carried out")
            error = ClientError("internal")
        self._refuse(peer, error, echo)

    def on_binary(self, peer: Peer) -> None:
        self._refuse(peer, ClientError("binary_message"))

    def on_rate_limited(self, peer: Peer) -> None:
        limit = f"{self._services.limits.requests_per_s:g}"
        self._refuse(peer, ClientError("rate_limited", limit=limit))

    def _refuse(self, peer: Peer, error: ClientError, echo: Echo = wire.NO_ECHO) -> None:
        self._services.metrics.request_errors += 1
        if self.is_served(peer):
            self._put(self._error(error, echo))

    async def _carry_out(self, request: Request) -> None:
        match request.action:
            case "subscribe":
                await self._subscribe(request)
            case "unsubscribe":
                await self._unsubscribe(request)
            case "get_subscriptions":
                self._get_subscriptions(request)
            case "market_status":
                self._market_status(request)
            case "ping":
                self._answer(request, "pong", "alive")
            case "snapshot":
                self._snapshot(request)
            case "authenticate":
                raise ClientError("authentication_not_needed")
            case unknown:
                raise ClientError("unknown_action", action=unknown)

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
        mode = wire.mode_of(request)
        async with self._lock:
            found, failed = self._resolve(request, "no_stocks_subscribe")
            held = self._watchlist
            keys = held.keys()
            already = [item.label for key, item in found.items() if key in keys]
            added = {key: _symbol(item) for key, item in found.items() if key not in keys}
            changed = [
                (key, mode)
                for key in found
                if mode is not None and key in held and held.mode(key) != mode
            ]
            self._check_room(len(added))
            if added or changed:
                await self._record(added, mode or "quote", changed)
            # From here to the last known quotes nothing awaits: no tick can come between them.
            left = self._topics(key for key, _ in changed)
            held.add(added, mode or "quote")
            if mode is not None:
                held.change((key for key, _ in changed), mode)
            view = services.market.view()
            data: dict[str, object] = {
                "action": "subscribe",
                "subscribed_stocks": [item.label for item in found.values()],
                "failed_stocks": [item.stock for item in failed],
                "total_subscribed": len(held),
                "failed_details": wire.failed_details(failed),
                "already_subscribed": already,
                "market_open": view.is_streaming,
            }
            if not view.is_streaming:
                data["next_open"] = wire.instant(view.status.next_open_ms)
            status = "success" if found else "error"
            message = None if found else "None of the stocks could be subscribed"
            self._answer(request, "subscription_response", status, data, message)
            self._stream([*added, *(key for key, _ in changed)], found, left)

    async def _record(
        self,
        added: Mapping[InstrumentKey, str],
        mode: Mode,
        changed: Sequence[tuple[InstrumentKey, Mode]],
    ) -> None:
        """Make new stocks (with their symbols) and new modes of held ones durable, all or none."""
        services = self._services
        if added and not self._is_known:
            services.accounts.bring_client(self._owner)
            self._is_known = True
        now_ms = services.wall_ms()
        new = list(map(Subscription, added, added.values(), repeat(now_ms), repeat(mode)))
        sha256 = self._resume.sha256 if self._resume is not None else None
        with services.accounts.of(self._owner).holding(len(new)):
            await services.journal.record(
                self.id, add=new, now_ms=now_ms, resume_sha256=sha256, modes=changed
            )

    async def _unsubscribe(self, request: Request) -> None:
        services = self._services
        async with self._lock:
            found, failed = self._resolve(request, "no_stocks_unsubscribe", among_held=True)
            held = self._watchlist
            removed = [key for key in found if key in held]
            failed += [wire.not_subscribed(item) for key, item in found.items() if key not in held]
            if removed:
                now_ms = services.wall_ms()
                await services.journal.record(self.id, remove=removed, now_ms=now_ms)
            topics = self._topics(removed)
            held.remove(removed)
            services.accounts.of(self._owner).release(len(removed))
            if self._subscriber is not None:
                self._hub.unsubscribe(self._subscriber, topics)
            data = {
                "action": "unsubscribe",
                "unsubscribed_stocks": [found[key].label for key in removed],
                "failed_stocks": [item.stock for item in failed],
                "total_subscribed": len(held),
                "failed_details": wire.failed_details(failed),
            }
            status = "success" if removed else "error"
            message = None if removed else "None of the stocks was subscribed"
            self._answer(request, "subscription_response", status, data, message)

    def _get_subscriptions(self, request: Request) -> None:
        data = self._watchlist.fields(self._services.market.is_stale)
        self._answer(request, "subscriptions", data=data)

    def _market_status(self, request: Request) -> None:
        data = wire.market_status_fields(self._services.market.view())
        self._answer(request, "market_status", data=data)

    def _snapshot(self, request: Request) -> None:
        services = self._services
        failed: list[Resolution] = []
        keys: Iterable[InstrumentKey] = self._watchlist
        if request.stocks is not None or request.tokens is not None:
            keys, failed = self._resolve(request, None)
        quotes = {key: services.board.quote(key) for key in keys}
        data = {
            "quotes": [quote for quote in quotes.values() if quote is not None],
            "without_quote": [
                self._watchlist.name(key) for key, quote in quotes.items() if quote is None
            ],
            "failed_stocks": [item.stock for item in failed],
            "failed_details": wire.failed_details(failed),
        }
        self._answer(request, "snapshot", data=data)

    # ------------------------------------------------------------------ stocks

    def _resolve(
        self, request: Request, empty_code: str | None, *, among_held: bool = False
    ) -> tuple[dict[InstrumentKey, Resolution], list[Resolution]]:
        """Return what the request names, found by key, and what failed; see Watchlist.resolve."""
        names = request.names
        if not names and empty_code is not None:
            raise ClientError(empty_code)
        limit = self._services.limits.stocks_per_request
        if len(names) > limit:
            raise ClientError("too_many_stocks", count=len(names), limit=limit)
        return self._watchlist.resolve(names, among_held=among_held)

    def _check_room(self, added: int) -> None:
        count = len(self._watchlist) + added
        limit = self._services.limits.subscriptions_per_client
        if added and count > limit:
            raise ClientError("subscription_limit", count=count, limit=limit)

    # ------------------------------------------------------------------ quotes

    def _topic(self, key: InstrumentKey) -> QuoteTopic:
        return _topic(key, self._encoding, self._watchlist.mode(key))

    def _topics(self, keys: Iterable[InstrumentKey]) -> list[QuoteTopic]:
        keys = list(keys)
        encoding = self._encoding
        return [
            _topic(key, encoding, mode)
            for key, mode in zip(keys, self._watchlist.modes(keys), strict=True)
        ]

    def _stream(
        self,
        added: Collection[InstrumentKey],
        shown: Collection[InstrumentKey],
        left: Collection[QuoteTopic] = (),
    ) -> None:
        """Let the quotes of `added` flow, beginning with the last known ones of `shown`, and
        those of the topics `left` no longer."""
        if self._subscriber is None:
            return
        if self._encoding == "binary" and added:
            self._put(self._instruments(added))
        self._hub.subscribe(self._subscriber, self._topics(added))
        self._hub.unsubscribe(self._subscriber, left)
        if self._encoding in DELTAS:
            self._services.quotes.begin(self._topics(shown))
        self._hub.deliver(self._subscriber, self._last_known(shown))

    def _instruments(self, keys: Iterable[InstrumentKey]) -> bytes:
        """Return what a reader of binary quotes must know of these: they carry no symbols."""
        names = [(key, self._watchlist.name(key)) for key in keys]
        return wire.encode_instruments(names, self.client_id, self._services.now_ms())

    def _last_known(self, keys: Collection[InstrumentKey]) -> list[tuple[QuoteTopic, bytes]]:
        """Return the last known quotes of exchanges that stream now, as snapshot frames."""
        services = self._services
        now_ms = services.now_ms()
        flows = {
            exchange: services.market.is_streaming(exchange)
            for exchange in {key.exchange for key in keys}
        }
        items = []
        for key in keys:
            quote = services.board.quote(key)
            if quote is not None and flows[key.exchange]:
                mode = self._watchlist.mode(key)
                if mode == "full":
                    quote = full_quote(quote, services.board.detail(key))
                frame = encode_quote(self._encoding, key, quote, now_ms, mode, is_snapshot=True)
                items.append((self._topic(key), frame))
        return items


def session_id(client_id: str, key_id: str = "") -> str:
    """Return what a key's client is called in the server and the database. A client_id cannot hold
    a "/", so no two keys share one."""
    return f"{key_id}/{client_id}" if key_id else client_id


def _symbol(item: Resolution) -> str:
    assert item.instrument is not None
    return item.instrument.symbol
