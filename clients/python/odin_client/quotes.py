"""A stream of quotes that never falls behind.

What waits for the reader is at most one quote per stock, the newest. A stock keeps its place in
the queue when a newer quote replaces the waiting one, so that a busy stock cannot starve others.
"""

import asyncio
from collections.abc import Iterable

from odin_client.messages import Quote


class QuoteStream:
    """Asynchronous iterator of quotes, made by `OdinClient.quotes`.

    It goes on over reconnects, ends when the client is closed, and raises the client's error when
    that ended for another reason. One reader at a time.
    """

    def __init__(self, stocks: Iterable[str] = ()) -> None:
        """stocks: symbols or tokens, bare or as EXCHANGE:NAME; none means all."""
        self._stocks = frozenset(stock.upper() for stock in stocks)
        self._waiting: dict[tuple[str, str, str], Quote] = {}
        self._wake = asyncio.Event()
        self._is_ended = False
        self._error: Exception | None = None
        self.skipped = 0
        """Quotes replaced by a newer one of the same stock before they were read."""

    def put(self, quote: Quote) -> None:
        """Offer a quote; it replaces a waiting one of the same stock."""
        if self._stocks and not self._wants(quote):
            return
        key = (quote.exchange, quote.token, quote.symbol)
        if key in self._waiting:
            self.skipped += 1
        self._waiting[key] = quote
        self._wake.set()

    def _wants(self, quote: Quote) -> bool:
        for name in (quote.symbol.upper(), quote.token):
            if name in self._stocks or f"{quote.exchange}:{name}" in self._stocks:
                return True
        return False

    def end(self, error: Exception | None = None) -> None:
        """Let the reader have what waits, then stop it or raise the error."""
        self._is_ended = True
        self._error = error
        self._wake.set()

    def __aiter__(self) -> "QuoteStream":
        return self

    async def __anext__(self) -> Quote:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.pop(next(iter(self._waiting)))
