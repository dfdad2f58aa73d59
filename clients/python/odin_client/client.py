"""OdinClient: one session with the server, over as many connections as it takes.

Subscriptions belong to the session. The server keeps them by client_id; the client remembers the
server's own list, compares after each reconnect and asks again only for what is missing.
Invariants: handlers are registered once and outlive connections; a request ends exactly once,
with its answer, an error, or a timeout that includes the time offline.
"""

import asyncio
import logging
import random
from collections.abc import Iterable
from types import TracebackType
from typing import Self
from weakref import WeakSet

import aiohttp

from odin_client import messages, reconnect
from odin_client.connection import Connection, Identity, address_of, broken
from odin_client.encodings import Decoder, Format
from odin_client.errors import (
    ConnectFailed,
    ConnectionClosed,
    OdinError,
    RequestError,
    RequestTimeout,
)
from odin_client.handlers import Listening, State
from odin_client.messages import (
    Json,
    MarketStatus,
    Mode,
    Quote,
    Snapshot,
    SubscribeResult,
    Subscription,
    UnsubscribeResult,
    Welcome,
)
from odin_client.quotes import QuoteStream
from odin_client.requests import Request, RequestTable, missing, names_of, request_error

log = logging.getLogger("odin_client")

_RESTORE_AGAIN_S = 5.0
_LIST_AFTER_S = 0.25
"""Changes in quick succession are followed by one look at the server's list."""


class OdinClient(Listening):
    """A client of `/enhanced-stream`. Use it as an async context manager, or connect and close.

    url: ws:// or wss://; the path may be left out.
    client_id: names the session over restarts of this program; without one the server makes one
        up, which lasts as long as this object.
    format: how quotes are encoded on the way, "json", "json-delta", "msgpack", "msgpack-delta" or
        "binary"; programs get the same whole quotes. Those of msgpack need
        odin-streamer-client[msgpack], and raise ImportError without it.
    api_key: what the server wants where authentication is on.
    resume_token: what an earlier client of this client_id had as `resume_token`, where the server
        asks for it.
    request_timeout_s: how long a request may take, reconnects included.
    connect_timeout_s: how long connect() tries; None is for ever. Later reconnects never give up.
    least_delay_s, most_delay_s: bounds of the reconnect backoff.
    silence_s: after so long without any message in an open market the server is asked whether it
        is there, and the connection replaced if it is not.
    heartbeat_s: WebSocket pings; a connection without a pong within half of it is replaced.
    """

    def __init__(
        self,
        url: str,
        client_id: str | None = None,
        *,
        format: Format = "json",  # noqa: A002 - as the address calls it
        api_key: str | None = None,
        resume_token: str | None = None,
        request_timeout_s: float = 10.0,
        connect_timeout_s: float | None = 10.0,
        least_delay_s: float = 0.5,
        most_delay_s: float = 20.0,
        silence_s: float = 30.0,
        heartbeat_s: float = 20.0,
    ) -> None:
        super().__init__()
        self._url = address_of(url)
        self._identity = Identity(client_id, api_key, resume_token)
        self._format: Format = format
        self._decoder = Decoder(format)
        self._request_timeout_s = request_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._delays_s = (least_delay_s, most_delay_s)
        self._silence_s = silence_s
        self._heartbeat_s = heartbeat_s

        self._state: State = "closed"
        self._error: OdinError | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._welcome: Welcome | None = None
        self._is_market_open = False
        self._greeted = asyncio.Event()
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._requests = RequestTable()
        # The server's list as it last stated it, and the changes it acknowledged since.
        self._listed: tuple[Subscription, ...] = ()
        self._changes: list[tuple[str, list[str], Mode | None]] = []
        self._changed = asyncio.Event()
        self._seen: dict[tuple[str, str, str], object] = {}
        self._streams: WeakSet[QuoteStream] = WeakSet()

    # ------------------------------------------------------------------ life

    @property
    def state(self) -> State:
        """ "connected" means that subscriptions are in place, not only that a socket is open."""
        return self._state

    @property
    def client_id(self) -> str | None:
        """The name of the session; None before a first connection gave one."""
        return self._identity.client_id

    @property
    def resume_token(self) -> str | None:
        """What continues this session, for a server that asks for it: keep it like a password."""
        return self._identity.resume_token

    @property
    def welcome(self) -> Welcome | None:
        """What the server said at the last connect."""
        return self._welcome

    async def connect(self) -> None:
        """Connect and return once subscriptions are in place.

        Raises ConnectFailed when the server refuses or cannot be reached in connect_timeout_s,
        ConnectionClosed when it closes for good. A client that has ended may connect again.
        """
        if self._task is not None and not self._task.done():
            raise OdinError("this client is already connected or connecting")
        self._error = None
        self._ended.clear()
        self._task = asyncio.create_task(self._run(), name="odin_client")
        ready = asyncio.ensure_future(self._ready.wait())
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait(
                (ready, ended),
                timeout=self._connect_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ended.done():
                raise self._error or ConnectionClosed(reconnect.CLIENT_CLOSED, "closed by close()")
            if not ready.done():
                reason = self._error or f"no answer from {self._url}"
                raise ConnectFailed(f"no connection in {self._connect_timeout_s:g} s: {reason}")
        except BaseException:
            await self.close()
            raise
        finally:
            ready.cancel()
            ended.cancel()

    async def close(self) -> None:
        """Close the connection, and end every request and stream. The subscriptions stay stored
        at the server for this client_id."""
        if self._task is not None:
            self._finish(None)
            self._task.cancel()
            await self._join()

    async def wait_closed(self) -> None:
        """Return when the client was closed; raise what ended it otherwise."""
        if self._task is not None:
            await self._ended.wait()
            await self._join()
        if self._error is not None:
            raise self._error

    async def _join(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------ requests

    async def subscribe(
        self, stocks: str | Iterable[str], mode: Mode | None = None
    ) -> SubscribeResult:
        """Subscribe symbols or tokens: "SBIN", "2885", "BSE:500112". What could not be found is
        in `failed` of the result; raises RequestError when the whole request was refused.

        mode: how much of their quotes is wanted, also for stocks that are held; None is "quote"
            for new ones. The server keeps it.
        """
        return messages.decode_subscribe(await self._change("subscribe", stocks, mode))

    async def unsubscribe(self, stocks: str | Iterable[str]) -> UnsubscribeResult:
        """Remove symbols or tokens from the subscriptions."""
        return messages.decode_unsubscribe(await self._change("unsubscribe", stocks))

    async def subscriptions(self) -> tuple[Subscription, ...]:
        """Return the server's list for this client_id, in subscription order."""
        return messages.decode_subscriptions(await self._request("get_subscriptions"))

    async def market_status(self) -> MarketStatus:
        """Return the market's state; on_status handlers see the answer too."""
        return messages.decode_market_status(await self._request("market_status"))

    async def snapshot(self, stocks: str | Iterable[str] = ()) -> Snapshot:
        """Return the last known quotes of the stocks, or of all subscribed ones, at any hour."""
        return messages.decode_snapshot(await self._request("snapshot", names_of(stocks)))

    async def ping(self) -> float:
        """Return how long the server took to answer, in seconds."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        await self._request("ping")
        return loop.time() - asked_at

    # ------------------------------------------------------------------ data

    def quotes(self, *stocks: str) -> QuoteStream:
        """Return a stream of the quotes of the given stocks, of all without any. It keeps only
        the newest quote of each stock while its reader is busy."""
        stream = QuoteStream(stocks)
        if self._ended.is_set():
            stream.end(self._error)
        self._streams.add(stream)
        return stream

    # ------------------------------------------------------------------ connections

    async def _run(self) -> None:
        """Connect, and again whenever a connection ends, until that is of no use."""
        loop = asyncio.get_running_loop()
        failures = 0
        self._set_state("connecting")
        try:
            async with aiohttp.ClientSession() as http:
                while True:
                    started_at = loop.time()
                    lost: OdinError
                    try:
                        lost = closed = await self._live(http)
                        code, least_s = closed.code, 0.0
                        is_final = reconnect.is_terminal(code)
                        if loop.time() - started_at >= reconnect.STEADY_AFTER_S:
                            failures = 0
                    except ConnectFailed as failed:
                        lost = failed
                        code, least_s = reconnect.ABNORMAL, failed.retry_after_s
                        is_final = failed.status is not None and reconnect.is_refusal(failed.status)
                    if is_final:
                        self._finish(lost)
                        return
                    self._error = lost
                    self._report(lost)
                    if self._state == "connected":
                        self._set_state("reconnecting")
                    delay_s = reconnect.reconnect_delay_s(
                        code, failures, *self._delays_s, random.random
                    )
                    failures += 1
                    await asyncio.sleep(max(delay_s, least_s))
        except Exception as fault:
            log.exception("the client ended by a fault of its own")
            self._finish(OdinError(f"the client ended by a fault of its own: {fault!r}"))

    async def _live(self, http: aiohttp.ClientSession) -> ConnectionClosed:
        """Live through one connection; return why it ended. Raises ConnectFailed."""
        connection = await Connection.open(
            http,
            self._identity.address(self._url, self._format),
            self._identity,
            heartbeat_s=self._heartbeat_s,
            timeout_s=self._request_timeout_s,
        )
        self._connection = connection
        self._decoder = Decoder(self._format)
        self._greeted.clear()
        parts = (connection.read(self._take), self._attend(), self._watch(connection))
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # The reader first: what it says has the close code.
            return next(task.result() for task in tasks if task.done())
        finally:
            self._connection = None
            self._ready.clear()
            self._requests.disconnected()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await connection.close()

    async def _attend(self) -> ConnectionClosed:
        """Restore the session, let requests through, then keep the list current."""
        try:
            async with asyncio.timeout(self._request_timeout_s):
                await self._greeted.wait()
            is_restored = await self._restore()
            self._ready.set()
            self._error = None
            self._set_state("connected")
            for request in self._requests.unsent():
                await self._send(request)
            while True:
                if is_restored:
                    await self._changed.wait()
                    await asyncio.sleep(_LIST_AFTER_S)
                    is_restored = await self._list()
                else:
                    await asyncio.sleep(_RESTORE_AGAIN_S)
                    is_restored = await self._restore()
        except TimeoutError as silence:
            return broken(str(silence) or "no welcome arrived")

    async def _restore(self) -> bool:
        """Ask again for what the server no longer has; return whether that was possible."""
        try:
            held = messages.decode_subscriptions(await self._ask("get_subscriptions"))
            for batch, mode in missing(self._listed, held):
                result = messages.decode_subscribe(await self._ask("subscribe", batch, mode))
                for lost in result.failed:
                    self._report(
                        RequestError(lost.code, f"{lost.stock} was not restored: {lost.message}")
                    )
            for change in tuple(self._changes):
                await self._ask(*change)
            return await self._list()
        except RequestTimeout:
            raise
        except OdinError as error:
            self._report(error)
            return False

    async def _list(self) -> bool:
        """Remember the server's list; changes it contains need no replay any more."""
        self._changed.clear()
        contained = len(self._changes)
        try:
            self._listed = messages.decode_subscriptions(await self._ask("get_subscriptions"))
        except RequestTimeout:
            raise
        except OdinError as error:
            self._report(error)
            return False
        del self._changes[:contained]
        return True

    async def _watch(self, connection: Connection) -> ConnectionClosed:
        """Ask the server whether it is there when an open market is silent; return when not."""
        loop = asyncio.get_running_loop()
        while True:
            rest_s = self._silence_s - (loop.time() - connection.heard_at)
            if rest_s > 0 or not self._is_market_open or not self._ready.is_set():
                await asyncio.sleep(max(rest_s, self._silence_s / 10))
                continue
            asked_at = loop.time()
            try:
                await self._ask("market_status")
            except RequestError as error:
                self._report(error)
            except RequestTimeout:
                if connection.heard_at < asked_at:
                    return broken("the server was silent in an open market")

    # ------------------------------------------------------------------ messages

    def _take(self, frame: str | bytes) -> None:
        try:
            message = self._decoder.decode(frame)
            if isinstance(message, Quote):
                self._deliver(message)
            elif message is not None:
                self._dispatch(message)
        except (OdinError, ValueError, TypeError, AttributeError) as error:
            self._report(OdinError(f"a message was not understood: {error}"))

    def _deliver(self, quote: Quote) -> None:
        stock = (quote.exchange, quote.token, quote.symbol)
        # Each connection begins with the last known quotes; what was seen is no news.
        is_restored = quote.is_snapshot and not self._ready.is_set()
        state = quote.mode, quote.last_updated, quote.timestamp, quote.ltp
        if is_restored and self._seen.get(stock) == state:
            return
        self._seen[stock] = state
        for stream in self._streams:
            stream.put(quote)
        self._quote_handlers.call(quote)

    def _dispatch(self, message: Json) -> None:
        kind = message.get("type")
        if kind == "welcome":
            self._welcome = messages.decode_welcome(message)
            self._identity.learn(self._welcome)
            self._is_market_open = self._welcome.market_open
            self._greeted.set()
            return
        if kind == "market_status":
            status = messages.decode_market_status(message)
            self._is_market_open = status.market_open
            self._status_handlers.call(status)
        elif kind == "feed_gap":
            self._gap_handlers.call(messages.decode_gap(message))
        if not self._requests.take(message) and kind == "error":
            self._report(request_error(message))

    async def _change(
        self, action: str, stocks: str | Iterable[str], mode: Mode | None = None
    ) -> Json:
        names = names_of(stocks)
        try:
            answer = await self._request(action, names, mode)
            self._changes.append((action, names, mode))
            return answer
        finally:
            self._changed.set()

    async def _ask(
        self, action: str, stocks: list[str] | None = None, mode: Mode | None = None
    ) -> Json:
        """A request of the client itself: at once, and over the present connection alone."""
        return await self._request(action, stocks, mode, is_urgent=True)

    async def _request(
        self,
        action: str,
        stocks: list[str] | None = None,
        mode: Mode | None = None,
        *,
        is_urgent: bool = False,
    ) -> Json:
        if self._task is None or self._ended.is_set():
            raise self._error or ConnectionClosed(reconnect.CLIENT_CLOSED, "not connected")
        request = self._requests.add(action, stocks or [], mode)
        try:
            async with asyncio.timeout(self._request_timeout_s):
                if is_urgent or self._ready.is_set():
                    await self._send(request)
                return await request.answer
        except TimeoutError:
            raise RequestTimeout(action, self._request_timeout_s, self._state) from None
        finally:
            self._requests.remove(request)

    async def _send(self, request: Request) -> None:
        if self._connection is not None:
            request.is_sent = True
            await self._connection.send(request.frame)

    # ------------------------------------------------------------------ telling

    def _set_state(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._state_handlers.call(state)

    def _report(self, error: OdinError) -> None:
        if not self._ended.is_set():
            self._error_handlers.call(error)

    def _finish(self, error: OdinError | None) -> None:
        """End for good; without an error when the program wished it."""
        if self._ended.is_set():
            return
        self._error = error
        self._ended.set()
        self._requests.fail(error or ConnectionClosed(reconnect.CLIENT_CLOSED, "closed by close()"))
        for stream in self._streams:
            stream.end(error)
        if error is not None:
            self._error_handlers.call(error)
        self._set_state("closed")
