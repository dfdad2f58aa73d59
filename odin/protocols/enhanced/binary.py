"""The binary encoding of a quote: fixed layouts, little-endian, prices as scaled integers.

A last price has 48 bytes, a quote 120, a full quote those and its details. The layouts are
docs/encodings.md's, byte by byte. Prices are exact: an integer and a number of decimals, so that
no paisa is lost to rounding. Both directions are here; the server only encodes.
"""

from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from odin.clock import Rfc3339
from odin.errors import RemoteWireError
from odin.model import Depth, Detail, InstrumentKey, Level, Mode, Quote
from odin.protocols.enhanced.modes import FullQuote, LastPrice, full_quote

EXCHANGE_CODES: Final[Mapping[str, int]] = {"NSE": 1, "BSE": 2, "MCX": 3, "NCDEX": 4}
SEGMENT_CODES: Final[Mapping[str, int]] = {"CM": 1, "INDEX": 2, "FO": 3, "CD": 4, "CO": 5}
"""0 is for what has no code yet."""

LAYOUT: Final = Struct("<BBBBB3xQqqqQQ7qii")
LAST_PRICE_LAYOUT: Final = Struct("<BBBBB3xQqqqq")
DETAIL_LAYOUT: Final = Struct("<BBB5xqQQQ")
"""What follows a quote in a full one; as many levels of the order book come after it."""
LEVEL_LAYOUT: Final = Struct("<qQI4x")
KIND_QUOTE: Final = 1
KIND_LAST_PRICE: Final = 2
KIND_FULL: Final = 3
IS_SNAPSHOT: Final = 0x01
IS_NEW_HIGH: Final = 0x02
IS_NEW_LOW: Final = 0x04
HAS_CLOSE: Final = 0x08
HAS_YEAR: Final = 0x10
HAS_AVERAGE: Final = 0x20
HAS_AVG_PRICE: Final = 0x01
HAS_TOTAL_BUY: Final = 0x02
HAS_TOTAL_SELL: Final = 0x04
HAS_OI: Final = 0x08
HAS_DEPTH: Final = 0x10
MAX_LEVELS: Final = 255
"""Levels sent of each side; no exchange shows as many."""

MAX_DECIMALS: Final = 8
"""Prices are sent with 2 decimals, more (4, 6, 8) only where one of a quote needs them: India's
exchanges quote in hundredths or ten-thousandths of a rupee, a recording may hold anything."""
_EPOCH: Final = date(1970, 1, 1).toordinal()
_rfc3339 = Rfc3339()


class BinaryQuote(NamedTuple):
    """What a binary message holds. Its symbol is that of the instruments message."""

    key: InstrumentKey
    symbol: str
    quote: Quote | LastPrice
    """A FullQuote in the full mode, a LastPrice in the ltp mode."""
    sent_ms: int
    is_snapshot: bool
    mode: Mode = "quote"


def encode_binary(
    key: InstrumentKey,
    quote: Quote,
    sent_ms: int,
    is_snapshot: bool = False,
    *,
    kind: int = KIND_QUOTE,
    other_prices: tuple[float, ...] = (),
) -> bytes:
    """Return the bytes of a quote; `sent_ms` is the sending time.

    Prices of up to six decimals are exact, of up to eight below ten million rupees; what has more
    is rounded to eight. `other_prices` must fit into the decimals as well.
    """
    flags = (
        is_snapshot * IS_SNAPSHOT
        | quote.is_new_week_52_high * IS_NEW_HIGH
        | quote.is_new_week_52_low * IS_NEW_LOW
    )
    close = quote.prev_close
    if close is None:
        close = 0.0
    else:
        flags |= HAS_CLOSE
    year_high, year_low = quote.week_52_high, quote.week_52_low
    high_day = low_day = 0
    if year_high is None or year_low is None:
        year_high = year_low = 0.0
    else:
        flags |= HAS_YEAR
        high_day, low_day = _day(quote.week_52_high_date), _day(quote.week_52_low_date)
    average = quote.avg_volume_5d
    if average is None:
        average = 0
    else:
        flags |= HAS_AVERAGE
    last = quote.ltp
    others = (quote.open, quote.high, quote.low, close, year_high, year_low)
    if other_prices:
        decimals, factor, scaled = _scale((*others, last, *other_prices))
        scaled = scaled[: len(others)]
    else:
        decimals, factor, scaled = _scaled(others)
        if round(last * factor) / factor != last:  # the last price alone needs more decimals
            decimals, factor, scaled = _scaled((*others, last))
            scaled = scaled[:-1]
    exchange, segment, token = key
    return LAYOUT.pack(
        kind,
        flags,
        EXCHANGE_CODES.get(exchange, 0),
        SEGMENT_CODES.get(segment, 0),
        decimals,
        token,
        sent_ms,
        quote.timestamp,
        _rfc3339.epoch_ns(quote.last_updated),
        quote.volume,
        average,
        round(last * factor),
        *scaled,
        high_day,
        low_day,
    )


def encode_binary_last_price(
    key: InstrumentKey, quote: Quote, sent_ms: int, *, is_snapshot: bool = False
) -> bytes:
    """Return the bytes of a quote's last price and of the close it is compared with."""
    close = quote.prev_close
    flags = is_snapshot * IS_SNAPSHOT | (close is not None) * HAS_CLOSE
    decimals, _, scaled = _scale((quote.ltp, close or 0.0))
    return LAST_PRICE_LAYOUT.pack(
        KIND_LAST_PRICE,
        flags,
        EXCHANGE_CODES.get(key.exchange, 0),
        SEGMENT_CODES.get(key.segment, 0),
        decimals,
        key.token,
        sent_ms,
        quote.timestamp,
        *scaled,
    )


def encode_binary_full(
    key: InstrumentKey, quote: FullQuote, sent_ms: int, *, is_snapshot: bool = False
) -> bytes:
    """Return the bytes of a full quote: those of its quote, its details, the levels of its order
    book, those to buy first."""
    depth = quote.depth or Depth((), ())
    buy, sell = depth.buy[:MAX_LEVELS], depth.sell[:MAX_LEVELS]
    average = quote.avg_price or 0.0
    prices = (average, *[level.price for level in buy], *[level.price for level in sell])
    head = encode_binary(
        key, quote, sent_ms, is_snapshot=is_snapshot, kind=KIND_FULL, other_prices=prices
    )
    factor = 10.0 ** head[4]
    flags = (
        (quote.avg_price is not None) * HAS_AVG_PRICE
        | (quote.total_buy_qty is not None) * HAS_TOTAL_BUY
        | (quote.total_sell_qty is not None) * HAS_TOTAL_SELL
        | (quote.oi is not None) * HAS_OI
        | (quote.depth is not None) * HAS_DEPTH
    )
    detail = DETAIL_LAYOUT.pack(
        flags,
        len(buy),
        len(sell),
        round(average * factor),
        quote.total_buy_qty or 0,
        quote.total_sell_qty or 0,
        quote.oi or 0,
    )
    pack = LEVEL_LAYOUT.pack
    levels = [
        pack(round(level.price * factor), level.quantity, level.orders) for level in (*buy, *sell)
    ]
    return b"".join((head, detail, *levels))


def decode_binary(
    payload: bytes, symbols: Mapping[tuple[int, int, int], tuple[InstrumentKey, str]]
) -> BinaryQuote:
    """Return what the bytes hold, or raise RemoteWireError.

    symbols: from (exchange code, segment code, token) to the instrument's key and symbol.
    """
    kind, size = payload[0] if payload else 0, len(payload)
    if kind == KIND_QUOTE and size == LAYOUT.size:
        return _decode_quote(payload, symbols)
    if kind == KIND_FULL and size >= LAYOUT.size + DETAIL_LAYOUT.size:
        return _decode_full(payload, symbols)
    if kind == KIND_LAST_PRICE and size == LAST_PRICE_LAYOUT.size:
        return _decode_last_price(payload, symbols)
    raise RemoteWireError("not a binary quote")


def _decode_last_price(
    payload: bytes, symbols: Mapping[tuple[int, int, int], tuple[InstrumentKey, str]]
) -> BinaryQuote:
    raw = LAST_PRICE_LAYOUT.unpack(payload)
    _, flags, exchange, segment, decimals, token, sent_ms, exchange_ms, last, close = raw
    if decimals > MAX_DECIMALS or last <= 0:
        raise RemoteWireError("a binary quote with an impossible price")
    if (exchange, segment, token) not in symbols:
        raise RemoteWireError("a binary quote of an unknown instrument or time")
    key, symbol = symbols[exchange, segment, token]
    ltp, prev_close = last / 10.0**decimals, close / 10.0**decimals
    has_close = flags & HAS_CLOSE and close
    change = (ltp - prev_close) / prev_close * 100 if has_close else 0.0
    quote = LastPrice(ltp, change, exchange_ms)
    return BinaryQuote(key, symbol, quote, sent_ms, bool(flags & IS_SNAPSHOT), "ltp")


def _decode_full(
    payload: bytes, symbols: Mapping[tuple[int, int, int], tuple[InstrumentKey, str]]
) -> BinaryQuote:
    read = _decode_quote(payload[: LAYOUT.size], symbols)
    factor = 10.0 ** payload[4]
    detail = DETAIL_LAYOUT.unpack_from(payload, LAYOUT.size)
    flags, buy_count, sell_count, average, total_buy, total_sell, oi = detail
    rows = payload[LAYOUT.size + DETAIL_LAYOUT.size :]
    if len(rows) != (buy_count + sell_count) * LEVEL_LAYOUT.size:
        raise RemoteWireError("a binary quote with another number of levels than it says")
    levels = tuple(
        Level(price / factor, quantity, orders)
        for price, quantity, orders in LEVEL_LAYOUT.iter_unpack(rows)
    )
    assert isinstance(read.quote, Quote)
    known = Detail(
        average / factor if flags & HAS_AVG_PRICE else None,
        total_buy if flags & HAS_TOTAL_BUY else None,
        total_sell if flags & HAS_TOTAL_SELL else None,
        oi if flags & HAS_OI else None,
        Depth(levels[:buy_count], levels[buy_count:]) if flags & HAS_DEPTH else None,
    )
    return read._replace(quote=full_quote(read.quote, known), mode="full")


def _decode_quote(
    payload: bytes, symbols: Mapping[tuple[int, int, int], tuple[InstrumentKey, str]]
) -> BinaryQuote:
    raw = _Fields._make(LAYOUT.unpack(payload))
    if raw.decimals > MAX_DECIMALS or min(raw.ltp, raw.open, raw.high, raw.low) <= 0:
        raise RemoteWireError("a binary quote with an impossible price")
    try:
        key, symbol = symbols[raw.exchange, raw.segment, raw.token]
        last_updated = _rfc3339(raw.applied_ns)
        high_date, low_date = _date(raw.high_day), _date(raw.low_day)
    except (KeyError, ValueError, OverflowError, OSError):
        raise RemoteWireError("a binary quote of an unknown instrument or time") from None
    factor = 10.0**raw.decimals
    ltp = raw.ltp / factor
    close = raw.close / factor if raw.flags & HAS_CLOSE else None
    has_year = bool(raw.flags & HAS_YEAR)
    quote = Quote(
        symbol,
        str(raw.token),
        key.exchange,
        ltp,
        raw.open / factor,
        raw.high / factor,
        raw.low / factor,
        close,
        close,
        raw.volume,
        (ltp - close) / close * 100 if close else 0.0,
        raw.year_high / factor if has_year else None,
        raw.year_low / factor if has_year else None,
        high_date if has_year else None,
        low_date if has_year else None,
        raw.high / factor,
        raw.low / factor,
        raw.average if raw.flags & HAS_AVERAGE else None,
        raw.exchange_ms,
        last_updated,
        bool(raw.flags & IS_NEW_HIGH),
        bool(raw.flags & IS_NEW_LOW),
    )
    return BinaryQuote(key, symbol, quote, raw.sent_ms, bool(raw.flags & IS_SNAPSHOT))


class _Fields(NamedTuple):
    """What the bytes say, in their order."""

    kind: int
    flags: int
    exchange: int
    segment: int
    decimals: int
    token: int
    sent_ms: int
    exchange_ms: int
    applied_ns: int
    volume: int
    average: int
    ltp: int
    open: int
    high: int
    low: int
    close: int
    year_high: int
    year_low: int
    high_day: int
    low_day: int


def _scale(prices: tuple[float, ...]) -> tuple[int, float, tuple[int, ...]]:
    """Return the decimals that hold all prices, their factor, and the scaled integers."""
    for decimals in range(2, MAX_DECIMALS, 2):
        factor = 10.0**decimals
        scaled = tuple([round(price * factor) for price in prices])
        if tuple([whole / factor for whole in scaled]) == prices:
            return decimals, factor, scaled
    factor = 10.0**MAX_DECIMALS
    return MAX_DECIMALS, factor, tuple([round(price * factor) for price in prices])


_scaled = lru_cache(maxsize=8192)(_scale)
"""Remembered for quotes, because most ticks of an instrument change none but the last price."""


@lru_cache(maxsize=4096)
def _day(iso_date: str | None) -> int:
    """Return the days since 1970-01-01, 0 for no date."""
    return date.fromisoformat(iso_date).toordinal() - _EPOCH if iso_date else 0


def _date(day: int) -> str:
    return date.fromordinal(day + _EPOCH).isoformat()
