"""How much of a quote each mode shows.

ltp: three fields. quote: the quote as it is. full: the quote, and after its fields whatever the
feed told beyond it. Both structs are the `data` of their messages, so encoding them is encoding
the object; what is not known is left out, because most feeds carry only some of it.
"""

from typing import Final

import msgspec
from msgspec.structs import astuple

from odin.market.quotes import MAX_VOLUME
from odin.model import MAX_PRICE, Depth, Detail, Level, Quote

MAX_ORDERS: Final = 2**32 - 1


class LastPrice(msgspec.Struct, frozen=True, gc=False):
    """The `data` of the ltp mode."""

    ltp: float
    percent_change: float
    timestamp: int
    """Exchange time of the tick, ms."""


class FullQuote(Quote, frozen=True, gc=False, omit_defaults=True):
    """The `data` of the full mode: a quote, and the fields of a Detail."""

    avg_price: float | None = None
    total_buy_qty: int | None = None
    total_sell_qty: int | None = None
    oi: int | None = None
    depth: Depth | None = None


def last_price(quote: Quote) -> LastPrice:
    """Return what the ltp mode shows of a quote."""
    return LastPrice(quote.ltp, quote.percent_change, quote.timestamp)


def full_quote(quote: Quote, detail: Detail | None) -> FullQuote:
    """Return what the full mode shows of a quote.

    An impossible part of the detail is left out by itself: some encodings have no form for it, and
    a tick may never raise.
    """
    if detail is None:
        return FullQuote(*astuple(quote))
    average, depth = detail.avg_price, detail.depth
    if average is not None and not 0.0 < average < MAX_PRICE:
        average = None
    if depth is not None and not all(map(_is_possible, (*depth.buy, *depth.sell))):
        depth = None
    counts = map(_possible, (detail.total_buy_qty, detail.total_sell_qty, detail.oi))
    return FullQuote(*astuple(quote), *(average, *counts, depth))


def _possible(count: int | None) -> int | None:
    return count if type(count) is int and 0 <= count <= MAX_VOLUME else None


def _is_possible(level: Level) -> bool:
    return (
        0.0 < level.price < MAX_PRICE
        and type(level.quantity) is type(level.orders) is int
        and 0 <= level.quantity <= MAX_VOLUME
        and 0 <= level.orders <= MAX_ORDERS
    )


def has_lost(base: Quote, quote: Quote) -> bool:
    """Whether something that a full quote shows is left out of the next: no delta can say that."""
    return any(
        getattr(quote, name) is None and getattr(base, name) is not None for name in _OPTIONAL
    )


_OPTIONAL = Detail.__struct_fields__
