"""What the server sends, in every encoding of market_data, as whole quotes.

A connection chooses its encoding once. Only quotes depend on it: everything else is JSON text in
all of them, and quotes are too where an older server ignores the choice. Pure: frames in, values
out. The layout of `binary` is docs/encodings.md's, byte by byte.
"""

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from struct import Struct
from typing import Any, Final, Literal, get_args

from odin_client import messages
from odin_client.errors import OdinError
from odin_client.messages import Depth, Json, Level, Quote

Format = Literal["json", "json-delta", "msgpack", "msgpack-delta", "binary"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)

_EXCHANGE_CODES: Final = {"NSE": 1, "BSE": 2, "MCX": 3, "NCDEX": 4}
_SEGMENT_CODES: Final = {"CM": 1, "INDEX": 2, "FO": 3, "CD": 4, "CO": 5}
"""0 is for what has no code yet."""

_LAYOUT: Final = Struct("<BBBBB3xQqqqQQ7qii")
_LAST_PRICE_LAYOUT: Final = Struct("<BBBBB3xQqqqq")
_DETAIL_LAYOUT: Final = Struct("<BBB5xqQQQ")
_LEVEL_LAYOUT: Final = Struct("<qQI4x")
_KIND_QUOTE: Final = 1
_KIND_LAST_PRICE: Final = 2
_KIND_FULL: Final = 3
_IS_SNAPSHOT: Final = 0x01
_IS_NEW_HIGH: Final = 0x02
_IS_NEW_LOW: Final = 0x04
_HAS_CLOSE: Final = 0x08
_HAS_YEAR: Final = 0x10
_HAS_AVERAGE: Final = 0x20
_HAS_AVG_PRICE: Final = 0x01
_HAS_TOTAL_BUY: Final = 0x02
_HAS_TOTAL_SELL: Final = 0x04
_HAS_OI: Final = 0x08
_HAS_DEPTH: Final = 0x10

_NS_PER_S: Final = 1_000_000_000
_EPOCH: Final = date(1970, 1, 1)
_INDIA: Final = timezone(timedelta(hours=5, minutes=30))
_EPOCH_IN_INDIA: Final = datetime(1970, 1, 1, 5, 30, tzinfo=_INDIA)


class Decoder:
    """Decodes the messages of one connection, and holds what later ones build upon: the quotes
    that deltas change, and the stocks that binary quotes mean."""

    def __init__(self, format: Format = "json") -> None:  # noqa: A002 - as the address calls it
        """Raises ValueError for an unknown format, ImportError where it needs a package that is
        not installed."""
        if format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, was {format!r}")
        self._unpack = _msgpack_decoder(format) if format.startswith("msgpack") else None
        self._is_binary = format == "binary"
        self._is_delta = format.endswith("-delta")
        self._held: dict[tuple[str, str, str], dict[str, Any]] = {}
        """The `data` of each stock after all deltas, by exchange, token and symbol."""
        self._instruments: dict[tuple[int, int, int], tuple[str, str, str]] = {}
        """Symbol, token and exchange by the codes of exchange and segment and the token."""

    def decode(self, frame: str | bytes) -> Quote | Json | None:
        """Return the whole quote of a text or binary message, or any other message as it is; None
        for what has no meaning for the program. Raises OdinError for what was not understood."""
        if isinstance(frame, str):
            message = _parse(json.loads, frame)
        elif self._is_binary:
            return self._decode_binary(frame)
        elif self._unpack is not None:
            message = _parse(self._unpack, frame)
        else:
            return None
        kind = message.get("type")
        if kind == "market_data":
            return self._decode_market_data(message)
        if kind == "instruments":
            self._remember(message)
            return None
        return message

    def _decode_market_data(self, message: Json) -> Quote:
        if message.get("delta"):
            return self._decode_delta(message)
        quote = messages.decode_market_data(message)
        if self._is_delta:
            stock = (str(quote.exchange), str(quote.token), str(quote.symbol))
            self._held[stock] = dict(messages.named_data(message))
        return quote

    def _decode_delta(self, message: Json) -> Quote:
        exchange, token, symbol = (str(message.get(n)) for n in ("exchange", "token", "symbol"))
        held, changes = self._held.get((exchange, token, symbol)), message.get("data")
        if held is None or not isinstance(changes, Mapping):
            missing = "data" if held else "a whole quote before it"
            raise OdinError(f"a delta of {exchange}:{symbol} without {missing}")
        held.update(changes)
        return messages.decode_quote(
            held,
            sent_ms=message.get("timestamp"),
            is_snapshot=bool(message.get("snapshot", False)),
            mode=message.get("mode", "quote"),
        )

    def _remember(self, message: Json) -> None:
        try:
            for stock in message["data"]["instruments"]:
                symbol, token, exchange = stock["symbol"], stock["token"], stock["exchange"]
                codes = _EXCHANGE_CODES.get(exchange, 0), _SEGMENT_CODES.get(stock["segment"], 0)
                self._instruments[(*codes, int(str(token)))] = (symbol, token, exchange)
        except (LookupError, TypeError, ValueError):
            text = "an instruments message without symbol, token, exchange or segment"
            raise OdinError(text) from None

    def _decode_binary(self, payload: bytes) -> Quote | None:
        kind, size = payload[0] if payload else 0, len(payload)
        if kind == _KIND_QUOTE and size == _LAYOUT.size:
            return self._decode_quote(payload)
        if kind == _KIND_LAST_PRICE and size == _LAST_PRICE_LAYOUT.size:
            return self._decode_last_price(payload)
        if kind == _KIND_FULL and size >= _LAYOUT.size + _DETAIL_LAYOUT.size:
            return self._decode_full(payload)
        return None  # later versions may add kinds, and other lengths of these

    def _named(self, *codes: int) -> tuple[str, str, str]:
        stock = self._instruments.get((codes[0], codes[1], codes[2]))
        if stock is None:
            text = f"a binary quote of token {codes[2]}, which no instruments message named"
            raise OdinError(text)
        return stock

    def _decode_last_price(self, payload: bytes) -> Quote:
        raw = _LAST_PRICE_LAYOUT.unpack(payload)
        _, flags, exchange_code, segment_code, decimals, number, sent_ms, exchange_ms, *scaled = raw
        symbol, token, exchange = self._named(exchange_code, segment_code, number)
        ltp, close = (whole / 10**decimals for whole in scaled)
        has_close = flags & _HAS_CLOSE and close
        data = {
            "symbol": symbol,
            "token": token,
            "exchange": exchange,
            "ltp": ltp,
            "percent_change": (ltp - close) / close * 100 if has_close else 0.0,
            "timestamp": exchange_ms,
        }
        is_snapshot = bool(flags & _IS_SNAPSHOT)
        return messages.decode_quote(data, sent_ms=sent_ms, is_snapshot=is_snapshot, mode="ltp")

    def _decode_full(self, payload: bytes) -> Quote | None:
        unit = 10 ** payload[4]
        detail = _DETAIL_LAYOUT.unpack_from(payload, _LAYOUT.size)
        flags, buy_count, sell_count, average, total_buy, total_sell, oi = detail
        rows = payload[_LAYOUT.size + _DETAIL_LAYOUT.size :]
        if len(rows) != (buy_count + sell_count) * _LEVEL_LAYOUT.size:
            return None
        levels = tuple(
            Level(price / unit, quantity, orders)
            for price, quantity, orders in _LEVEL_LAYOUT.iter_unpack(rows)
        )
        return self._decode_quote(payload[: _LAYOUT.size])._replace(
            mode="full",
            avg_price=average / unit if flags & _HAS_AVG_PRICE else None,
            total_buy_qty=total_buy if flags & _HAS_TOTAL_BUY else None,
            total_sell_qty=total_sell if flags & _HAS_TOTAL_SELL else None,
            oi=oi if flags & _HAS_OI else None,
            depth=Depth(levels[:buy_count], levels[buy_count:]) if flags & _HAS_DEPTH else None,
        )

    def _decode_quote(self, payload: bytes) -> Quote:
        (
            _,
            flags,
            exchange_code,
            segment_code,
            decimals,
            number,
            sent_ms,
            exchange_ms,
            applied_ns,
            volume,
            average,
            *scaled,
            high_day,
            low_day,
        ) = _LAYOUT.unpack(payload)
        symbol, token, exchange = self._named(exchange_code, segment_code, number)
        # A quotient of integers is the float nearest to the price, whatever their size.
        unit = 10**decimals
        ltp, open_, high, low, price, year_high, year_low = [whole / unit for whole in scaled]
        close = price if flags & _HAS_CLOSE else None
        has_year = flags & _HAS_YEAR
        return Quote(
            symbol=symbol,
            token=token,
            exchange=exchange,
            ltp=ltp,
            open=open_,
            high=high,
            low=low,
            close=close,
            prev_close=close,
            volume=volume,
            percent_change=(ltp - close) / close * 100 if close else 0.0,
            week_52_high=year_high if has_year else None,
            week_52_low=year_low if has_year else None,
            week_52_high_date=_date(high_day) if has_year else None,
            week_52_low_date=_date(low_day) if has_year else None,
            day_high=high,
            day_low=low,
            avg_volume_5d=average if flags & _HAS_AVERAGE else None,
            timestamp=exchange_ms,
            last_updated=_rfc3339(applied_ns),
            is_new_week_52_high=bool(flags & _IS_NEW_HIGH),
            is_new_week_52_low=bool(flags & _IS_NEW_LOW),
            sent_ms=sent_ms,
            is_snapshot=bool(flags & _IS_SNAPSHOT),
        )


def _parse(parse: Callable[[Any], Any], frame: str | bytes) -> Json:
    try:
        message = parse(frame)
    except (ValueError, RecursionError) as error:
        raise OdinError(str(error)) from None
    if not isinstance(message, Mapping):
        raise OdinError(f"a message that is no object but {type(message).__name__}")
    return message


def _msgpack_decoder(name: str) -> Callable[[bytes], Any]:
    try:
        import msgpack
    except ImportError:
        text = f"format {name!r} needs msgpack: pip install 'odin-streamer-client[msgpack]'"
        raise ImportError(text, name="msgpack") from None
    decode: Callable[[bytes], Any] = msgpack.unpackb
    return decode


# Remembered, because quotes repeat them: writing dates and times was half the cost of a quote.
@lru_cache(maxsize=4096)
def _date(day: int) -> str:
    try:
        return (_EPOCH + timedelta(days=day)).isoformat()
    except OverflowError:
        raise OdinError(f"a binary quote with an impossible date: day {day}") from None


def _rfc3339(epoch_ns: int) -> str:
    """Indian time with nanoseconds, of which a float would lose some."""
    second, nanos = divmod(epoch_ns, _NS_PER_S)
    return f"{_second(second)}.{nanos:09d}+05:30"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return (_EPOCH_IN_INDIA + timedelta(seconds=second)).isoformat()[:19]
