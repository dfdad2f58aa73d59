"""Requests that wait for their answers, in the order they were made.

An answer is matched by request_id. A request lives until its answer, its error or its timeout,
whatever happens to connections meanwhile: every action may be repeated without harm.
"""

import asyncio
import itertools
import json
from collections.abc import Iterable, Iterator

from odin_client.errors import OdinError, RequestError
from odin_client.messages import Json, Mode, Subscription


class Request:
    """One request; `answer` is set exactly once."""

    __slots__ = ("answer", "frame", "is_sent", "request_id")

    def __init__(
        self, request_id: str, action: str, stocks: list[str], mode: Mode | None = None
    ) -> None:
        body: dict[str, object] = {"type": "request", "action": action, "request_id": request_id}
        if stocks:
            body["stocks"] = stocks
        if mode is not None:
            body["mode"] = mode
        self.request_id = request_id
        self.frame = json.dumps(body)
        self.answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self.is_sent = False
        """Whether it went out over the present connection."""


class RequestTable:
    """The open requests of a client."""

    def __init__(self) -> None:
        self._open: dict[str, Request] = {}
        self._ids = map(str, itertools.count(1))

    def add(self, action: str, stocks: list[str], mode: Mode | None = None) -> Request:
        """Make a request; the caller removes it when it no longer waits."""
        request = Request(next(self._ids), action, stocks, mode)
        self._open[request.request_id] = request
        return request

    def remove(self, request: Request) -> None:
        """Forget a request, answered or not."""
        self._open.pop(request.request_id, None)

    def take(self, message: Json) -> bool:
        """Settle the request that the message answers; False if it answers none."""
        request = self._match(message)
        if request is None:
            return False
        if not request.answer.done():
            if message.get("type") == "error":
                request.answer.set_exception(request_error(message))
            else:
                request.answer.set_result(message)
        return True

    def _match(self, message: Json) -> Request | None:
        """An error may come without the request_id of what the server did not read, such as one
        request too many: then the oldest is meant, as answers come in order."""
        request_id = message.get("request_id")
        if request_id is not None:
            return self._open.get(str(request_id))
        if message.get("type") != "error" or message.get("code") == "session_taken_over":
            return None
        return next((r for r in self._open.values() if r.is_sent and not r.answer.done()), None)

    def unsent(self) -> Iterator[Request]:
        """The requests that have not gone out over the present connection."""
        return iter([r for r in self._open.values() if not r.is_sent])

    def disconnected(self) -> None:
        """Have every open request sent again."""
        for request in self._open.values():
            request.is_sent = False

    def fail(self, error: OdinError) -> None:
        """End every open request with the error."""
        for request in self._open.values():
            if not request.answer.done():
                request.answer.set_exception(error)


def request_error(message: Json) -> RequestError:
    """The error in an error message."""
    return RequestError(str(message.get("code", "")), str(message.get("message", "")))


RESTORE_BATCH = 500


def missing(
    listed: Iterable[Subscription], held: Iterable[Subscription]
) -> Iterator[tuple[list[str], Mode]]:
    """Yield the names of what is listed and not held, in requests of one mode. Held stocks keep
    the mode that the server has for them."""
    known = {(stock.exchange, stock.token, stock.symbol) for stock in held}
    names: dict[Mode, list[str]] = {}
    for stock in listed:
        if (stock.exchange, stock.token, stock.symbol) not in known:
            names.setdefault(stock.mode, []).append(stock.name)
    for mode, stocks in names.items():
        for start in range(0, len(stocks), RESTORE_BATCH):
            yield stocks[start : start + RESTORE_BATCH], mode


def names_of(stocks: str | Iterable[str]) -> list[str]:
    """The stocks of a request: one or many."""
    return [stocks] if isinstance(stocks, str) else list(map(str, stocks))
