"""The binary encoding of a quote: 120 bytes, little-endian, prices as scaled integers.

The layout is docs/encodings.md's, byte by byte. Its prices are exact: an integer and a number of
decimals, so that no paisa is lost to rounding. Both directions are here; the server only encodes.
"""

from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from odin.clock import Rfc3339
from odin.errors import RemoteWireError
from odin.model import InstrumentKey, Quote

EXCHANGE_CODES: Final[Mapping[str, int]] = {"NSE": 1, "BSE": 2, "MCX": 3, "NCDEX": 4}
SEGMENT_CODES: Final[Mapping[str, int]] = {"CM": 1, "INDEX": 2, "FO": 3, "CD": 4, "CO": 5}
"""0 is for what has no code yet."""

LAYOUT: Final = Struct("<BBBBB3xQqqqQQ7qii")
KIND_QUOTE: Final = 1
IS_SNAPSHOT: Final = 0x01
IS_NEW_HIGH: Final = 0x02
IS_NEW_LOW: Final = 0x04
HAS_CLOSE: Final = 0x08
HAS_YEAR: Final = 0x10
HAS_AVERAGE: Final = 0x20

MAX_DECIMALS: Final = 8
"""Prices are sent with 2 decimals, more (4, 6, 8) only where one of a quote needs them: India's
exchanges quote in hundredths or ten-thousandths of a rupee, a recording may hold anything."""
_EPOCH: Final = date(1970, 1, 1).toordinal()
_rfc3339 = Rfc3339()


class BinaryQuote(NamedTuple):
    """What a binary message holds. `quote.symbol` is that of the instruments message."""

    key: InstrumentKey
    quote: Quote
    sent_ms: int
    is_snapshot: bool


def encode_binary(
    key: InstrumentKey, quote: Quote, sent_ms: int, *, is_snapshot: bool = False
) -> bytes:
    """Return the bytes of a quote; `sent_ms` is the sending time.

    Prices of up to six decimals are exact, of up to eight below ten million rupees; what has more
    is rounded to eight.
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
    decimals, factor, scaled = _scaled(others)
    if round(last * factor) / factor != last:  # the last price alone needs more decimals
        decimals, factor, scaled = _scaled((*others, last))
        scaled = scaled[:-1]
    exchange, segment, token = key
    return LAYOUT.pack(
        KIND_QUOTE,
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


def decode_binary(
    payload: bytes, symbols: Mapping[tuple[int, int, int], tuple[InstrumentKey, str]]
) -> BinaryQuote:
    """Return what the bytes hold, or raise RemoteWireError.

    symbols: from (exchange code, segment code, token) to the instrument's key and symbol.
    """
    if len(payload) != LAYOUT.size or payload[0] != KIND_QUOTE:
        raise RemoteWireError("not a binary quote")
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
    return BinaryQuote(key, quote, raw.sent_ms, bool(raw.flags & IS_SNAPSHOT))


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


@lru_cache(maxsize=8192)
def _scaled(prices: tuple[float, ...]) -> tuple[int, float, tuple[int, ...]]:
    """Return the decimals that hold all prices, their factor, and the scaled integers.

    Remembered, because most ticks of an instrument change none but the last price.
    """
    for decimals in range(2, MAX_DECIMALS, 2):
        factor = 10.0**decimals
        scaled = tuple([round(price * factor) for price in prices])
        if tuple([whole / factor for whole in scaled]) == prices:
            return decimals, factor, scaled
    factor = 10.0**MAX_DECIMALS
    return MAX_DECIMALS, factor, tuple([round(price * factor) for price in prices])


@lru_cache(maxsize=4096)
def _day(iso_date: str | None) -> int:
    """Return the days since 1970-01-01, 0 for no date."""
    return date.fromisoformat(iso_date).toordinal() - _EPOCH if iso_date else 0


def _date(day: int) -> str:
    return date.fromordinal(day + _EPOCH).isoformat()
