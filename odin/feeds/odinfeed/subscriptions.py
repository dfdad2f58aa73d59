"""What an ODIN server was told to send, against what is wanted.

Invariant: sending what `next_requests` returns, until it returns nothing, makes the server send
exactly what is wanted. Requests are small enough for it; their pace is the feed's.
"""

from collections.abc import Iterable
from typing import Final

from odin.feeds.odinfeed.requests import BestFive, Request, Scrip, Touchline
from odin.model import Mode

BATCH_SCRIPS: Final = 50


class Subscriptions:
    """The subscriptions of one feed, through all its connections.

    The mode ltp is a touchline that is sent when the last price changes, quote one that is sent
    with every change, full that and the best five. The request for the last price alone (347) is
    not used: nobody has seen its answers.
    """

    def __init__(self, *, is_binary: bool) -> None:
        self._is_binary = is_binary
        self._wanted: dict[Scrip, Mode] = {}
        self._told: dict[Scrip, bool] = {}
        """Touchlines the server sends, and whether with a change of the last price only."""
        self._told_books: set[Scrip] = set()
        self._changed: dict[Scrip, None] = {}
        """Scrips of which something else may be wanted than the server was told."""
        self._changed_books: dict[Scrip, None] = {}
        """The same of order books. They come last, as each takes a request."""

    def want(self, scrip: Scrip, mode: Mode) -> None:
        """Want this in this mode from now on."""
        if self._wanted.get(scrip) != mode:
            self._wanted[scrip] = mode
            self._changed[scrip] = self._changed_books[scrip] = None

    def unwant(self, scrip: Scrip) -> None:
        """Want this no longer."""
        if self._wanted.pop(scrip, None) is not None:
            self._changed[scrip] = self._changed_books[scrip] = None

    def restart(self) -> None:
        """A new connection begins: the server knows of nothing."""
        self._told.clear()
        self._told_books.clear()
        self._changed = dict.fromkeys(self._wanted)
        self._changed_books = dict.fromkeys(self._wanted)

    def next_requests(self) -> list[Request]:
        """Return what to tell the server next, in this order; nothing where it knows all."""
        while self._changed:
            requests = self._touchlines(_take(self._changed, BATCH_SCRIPS))
            if requests:
                return requests
        while self._changed_books:
            (scrip,) = _take(self._changed_books, 1)
            is_on = self._wanted.get(scrip) == "full"
            if is_on != (scrip in self._told_books):
                (self._told_books.add if is_on else self._told_books.discard)(scrip)
                return [BestFive(scrip, is_on)]
        return []

    def _touchlines(self, batch: Iterable[Scrip]) -> list[Request]:
        off: list[Scrip] = []
        on: dict[bool, list[Scrip]] = {False: [], True: []}
        for scrip in batch:
            mode, told = self._wanted.get(scrip), self._told.get(scrip)
            wanted = None if mode is None else mode == "ltp"
            if wanted == told:
                continue
            if told is not None:
                off.append(scrip)
                del self._told[scrip]
            if wanted is not None:
                on[wanted].append(scrip)
                self._told[scrip] = wanted
        requests: list[Request] = [Touchline(tuple(off), is_on=False)] if off else []
        for is_ltp_change_only, scrips in on.items():
            if scrips:
                requests.append(Touchline(tuple(scrips), True, self._is_binary, is_ltp_change_only))
        return requests


def _take(queue: dict[Scrip, None], limit: int) -> list[Scrip]:
    """Remove and return the first scrips."""
    taken = [scrip for scrip, _ in zip(queue, range(limit), strict=False)]
    for scrip in taken:
        del queue[scrip]
    return taken
