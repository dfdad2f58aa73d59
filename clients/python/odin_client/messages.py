"""The server's messages as typed values.

Decoding is lenient about what a newer server adds (ignored) and an older one leaves out (None),
strict about what identifies a quote: symbol, token, exchange and last price.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from odin_client.errors import OdinError

Json = Mapping[str, Any]
Mode = Literal["ltp", "quote", "full"]
"""How much of a stock's quotes is sent: the last price, the quote, or the order book as well."""


class Level(NamedTuple):
    """One price of the order book."""

    price: float
    quantity: int
    orders: int


class Depth(NamedTuple):
    """The best levels of the order book, best first."""

    buy: tuple[Level, ...]
    sell: tuple[Level, ...]


class Quote(NamedTuple):
    """The state of one stock. Prices are in rupees, None means that the server does not know.

    In the ltp mode only the last price, `percent_change` and `timestamp` are known.
    """

    symbol: str
    token: str
    """The exchange's number of the instrument, unique within an exchange's segment."""
    exchange: str
    ltp: float
    """Last traded price."""
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    """Previous day's close, as `prev_close`."""
    prev_close: float | None
    volume: int | None
    """Shares traded today."""
    percent_change: float | None
    week_52_high: float | None
    week_52_low: float | None
    week_52_high_date: str | None
    week_52_low_date: str | None
    day_high: float | None
    day_low: float | None
    avg_volume_5d: int | None
    timestamp: int | None
    """Exchange time of the last trade, milliseconds since 1970."""
    last_updated: str | None
    """When the server applied it, RFC 3339."""
    is_new_week_52_high: bool | None
    is_new_week_52_low: bool | None
    sent_ms: int | None = None
    """When the server sent it, milliseconds since 1970."""
    is_snapshot: bool = False
    """The last known state rather than a new trade: sent when a subscription begins."""
    mode: Mode = "quote"
    """What it was sent as; what follows but the source is known in the full mode alone."""
    avg_price: float | None = None
    """Average traded price of the day."""
    total_buy_qty: int | None = None
    """Quantity of all buy orders in the book."""
    total_sell_qty: int | None = None
    oi: int | None = None
    """Open interest of a derivative."""
    source: str | None = None
    """The server's feed that it came from, where it has several."""
    depth: Depth | None = None


_REST = Quote._fields[4 : Quote._fields.index("sent_ms")]
_MORE = Quote._fields[Quote._fields.index("avg_price") : -1]


def decode_quote(
    data: Json, *, sent_ms: int | None = None, is_snapshot: bool = False, mode: Mode = "quote"
) -> Quote:
    """Return the quote of a `data` object; in the ltp mode what identifies it was put in."""
    try:
        values = [data["symbol"], data["token"], data["exchange"], data["ltp"]]
    except (KeyError, TypeError):
        raise OdinError("a quote without symbol, token, exchange or ltp") from None
    depth = None if data.get("depth") is None else decode_depth(data["depth"])
    known = map(data.get, _REST), map(data.get, _MORE)
    return Quote._make((*values, *known[0], sent_ms, is_snapshot, mode, *known[1], depth))


def decode_depth(depth: Json) -> Depth:
    """Return the order book of a `depth` object."""
    try:
        buy, sell = (
            tuple(
                Level(level["price"], level["quantity"], level["orders"]) for level in depth[side]
            )
            for side in ("buy", "sell")
        )
    except (LookupError, TypeError):
        raise OdinError("a depth without sides, or a level without its numbers") from None
    return Depth(buy, sell)


class FailedStock(NamedTuple):
    """Why one stock of a request was not carried out."""

    stock: str
    code: str
    message: str
    suggestions: tuple[str, ...]


class SubscribeResult(NamedTuple):
    """The outcome of a subscribe. Partial success is a result, not an exception."""

    subscribed: tuple[str, ...]
    """Labels as the server writes them: "SBIN" asked by symbol, "SBIN (NSE)" asked by token."""
    already_subscribed: tuple[str, ...]
    failed: tuple[FailedStock, ...]
    total_subscribed: int


class UnsubscribeResult(NamedTuple):
    """The outcome of an unsubscribe."""

    unsubscribed: tuple[str, ...]
    failed: tuple[FailedStock, ...]
    total_subscribed: int


class Subscription(NamedTuple):
    """One stock on the client's list at the server."""

    symbol: str
    token: str
    exchange: str | None
    """None where the server does not say."""
    mode: Mode = "quote"

    @property
    def name(self) -> str:
        """What the server understands again as this very stock: "NSE:SBIN". By symbol, because an
        exchange may give one token to a share and to an index; by token where the exchange is not
        known, because symbols are shared by exchanges."""
        return f"{self.exchange}:{self.symbol}" if self.exchange else self.token


class Snapshot(NamedTuple):
    """The last known quotes, at any hour."""

    quotes: tuple[Quote, ...]
    failed: tuple[FailedStock, ...]


class Feed(NamedTuple):
    """Where the server's data comes from."""

    name: str
    state: str
    """ "idle", "connecting", "authenticating", "streaming", "stale", "backoff", "rejected" or
    "stopped"."""
    is_stale: bool


class Gap(NamedTuple):
    """A stretch of an open market of which a feed of the server delivered nothing. Quotes after it
    are whole and right again; the ticks within it are lost."""

    feed: str
    from_ms: int
    """Market time of the last tick before it, milliseconds since 1970."""
    to_ms: int


class MarketStatus(NamedTuple):
    """Whether the market is open and data flows. Times are Indian, as text."""

    market_open: bool
    market_hours: str | None
    phase: str | None
    current_time: str | None
    next_open: str | None
    next_close: str | None
    timezone: str | None
    holiday: str | None
    streaming_data: bool | None
    calendar_known: bool | None
    simulated: bool
    """The data is not the real market's."""
    feed: Feed | None
    feeds: tuple[Feed, ...] = ()
    """Each source by itself; empty from an older server."""


class Welcome(NamedTuple):
    """What the server says first."""

    client_id: str
    restored: int
    """How many stocks this client_id was subscribed to already."""
    market_open: bool
    simulated: bool
    feed: Feed | None
    limits: Json
    features: tuple[str, ...]
    format: str = "json"
    """How the server encodes quotes: "json" from an older one, which ignores what was asked."""
    resume_token: str | None = None
    """What later connections of this client_id need, told once by a server that asks for it."""


def decode_subscribe(message: Json) -> SubscribeResult:
    """Return the outcome in a subscription_response to `subscribe`."""
    data = _data(message)
    return SubscribeResult(
        _texts(data.get("subscribed_stocks")),
        _texts(data.get("already_subscribed")),
        _failed(data),
        int(data.get("total_subscribed", 0)),
    )


def decode_unsubscribe(message: Json) -> UnsubscribeResult:
    """Return the outcome in a subscription_response to `unsubscribe`."""
    data = _data(message)
    return UnsubscribeResult(
        _texts(data.get("unsubscribed_stocks")),
        _failed(data),
        int(data.get("total_subscribed", 0)),
    )


def decode_subscriptions(message: Json) -> tuple[Subscription, ...]:
    """Return the list in a `subscriptions` message, in subscription order."""
    data = _data(message)
    tokens = _texts(data.get("subscribed_tokens"))
    symbols = _texts(data.get("subscribed_symbols"))
    exchanges: tuple[str | None, ...] = _texts(data.get("subscribed_exchanges"))
    if len(exchanges) != len(tokens):
        exchanges = (None,) * len(tokens)
    modes = tuple(data.get("subscribed_modes") or ())
    if len(modes) != len(tokens):
        modes = ("quote",) * len(tokens)
    if len(symbols) != len(tokens):
        raise OdinError("a subscriptions message whose tokens and symbols are not aligned")
    return tuple(map(Subscription, symbols, tokens, exchanges, modes))


def decode_snapshot(message: Json) -> Snapshot:
    """Return the quotes in a `snapshot` message."""
    data = _data(message)
    sent_ms = message.get("timestamp")
    quotes = (decode_quote(q, sent_ms=sent_ms, is_snapshot=True) for q in data.get("quotes", ()))
    return Snapshot(tuple(quotes), _failed(data))


def decode_market_data(message: Json) -> Quote:
    """Return the quote of a market_data message."""
    return decode_quote(
        named_data(message),
        sent_ms=message.get("timestamp"),
        is_snapshot=bool(message.get("snapshot", False)),
        mode=message.get("mode", "quote"),
    )


def named_data(message: Json) -> Json:
    """Return the `data` of a market_data message with what identifies its stock in it: that of the
    ltp mode leaves it to the message."""
    data = _data(message)
    if message.get("mode") != "ltp":
        return data
    names = ("symbol", "token", "exchange")
    return {**{name: message[name] for name in names if name in message}, **data}


def decode_gap(message: Json) -> Gap:
    """Return the gap of a feed_gap message."""
    data = _data(message)
    return Gap(str(data.get("feed", "")), int(data.get("from", 0)), int(data.get("to", 0)))


def decode_market_status(message: Json) -> MarketStatus:
    """Return the status in a market_status message."""
    data = _data(message)
    return MarketStatus(
        market_open=bool(data.get("market_open")),
        market_hours=data.get("market_hours"),
        phase=data.get("phase"),
        current_time=data.get("current_time"),
        next_open=data.get("next_open"),
        next_close=data.get("next_close"),
        timezone=data.get("timezone"),
        holiday=data.get("holiday"),
        streaming_data=data.get("streaming_data"),
        calendar_known=data.get("calendar_known"),
        simulated=bool(data.get("simulated", False)),
        feed=_feed(data.get("feed")),
        feeds=tuple(feed for item in data.get("feeds") or () if (feed := _feed(item))),
    )


def decode_welcome(message: Json) -> Welcome:
    """Return what the welcome message says."""
    data = _data(message)
    return Welcome(
        client_id=str(message.get("client_id") or data.get("client_id", "")),
        restored=int(data.get("subscribed_stocks", 0)),
        market_open=bool(data.get("market_open")),
        simulated=bool(data.get("simulated", False)),
        feed=_feed(data.get("feed")),
        limits=data.get("limits") or {},
        features=_texts(data.get("features")),
        format=str(data.get("format", "json")),
        resume_token=data.get("resume_token"),
    )


def _data(message: Json) -> Json:
    data = message.get("data")
    if not isinstance(data, Mapping):
        raise OdinError(f"a {message.get('type')} message without data")
    return data


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(map(str, values or ()))


def _failed(data: Json) -> tuple[FailedStock, ...]:
    """The failed stocks; with their bare names where the server gives no details."""
    details = data.get("failed_details")
    if details:
        return tuple(
            FailedStock(
                str(d.get("stock", "")),
                str(d.get("code", "")),
                str(d.get("message", "")),
                _texts(d.get("suggestions")),
            )
            for d in details
        )
    return tuple(FailedStock(s, "", "", ()) for s in _texts(data.get("failed_stocks")))


def _feed(feed: object) -> Feed | None:
    if not isinstance(feed, Mapping):
        return None
    return Feed(str(feed.get("name", "")), str(feed.get("state", "")), bool(feed.get("stale")))
