"""market_data in every encoding and mode: encodings are chosen per connection, modes per stock.

json: the message of the integration guide. json-delta: the same, with only the fields of `data`
that changed. msgpack, msgpack-delta: the same objects as MessagePack. binary: a fixed layout,
prices as scaled integers, see binary.py. Messages in another mode than quote name it at their end.
Pure: values in, frames out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from odin.errors import ClientError
from odin.model import InstrumentKey, Mode, Quote
from odin.protocols.enhanced.binary import (
    encode_binary,
    encode_binary_full,
    encode_binary_last_price,
)
from odin.protocols.enhanced.modes import FullQuote, LastPrice, last_price
from odin.protocols.frames import binary_frame, text_frame
from odin.topics import Encoding

ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)
SUBPROTOCOLS: Final[Mapping[str, Encoding]] = {f"odin.{name}": name for name in ENCODINGS}
DELTAS: Final[frozenset[Encoding]] = frozenset({"json-delta", "msgpack-delta"})
"""Encodings of changes; a whole quote in one is as in the encoding before the hyphen."""


class MarketData(msgspec.Struct, tag_field="type", tag="market_data", gc=False):
    """A live quote on the wire."""

    symbol: str
    token: str
    exchange: str
    data: Quote
    timestamp: int
    """Sending time, ms."""


class SnapshotData(MarketData, tag="market_data", gc=False):
    """A last known quote on the wire."""

    snapshot: bool = True


class DeltaData(msgspec.Struct, tag_field="type", tag="market_data", gc=False):
    """The fields of a quote that changed since the message before it."""

    symbol: str
    token: str
    exchange: str
    data: dict[str, Any]
    timestamp: int
    delta: bool = True


class ModeData(msgspec.Struct, tag_field="type", tag="market_data", gc=False, omit_defaults=True):
    """A quote on the wire in another mode than quote."""

    symbol: str
    token: str
    exchange: str
    data: LastPrice | Quote | dict[str, Any]
    """In the full mode a FullQuote; what changed of one or the other in a delta."""
    timestamp: int
    snapshot: bool = False
    delta: bool = False
    mode: Mode = "quote"


def negotiate(formats: Sequence[str], offered: Sequence[str]) -> tuple[Encoding, str]:
    """Return the encoding of a connection and the subprotocol to agree to, "" for none.

    formats: every `format` of the query string; it goes before the subprotocols.
    offered: the subprotocols of the handshake, in the client's order; foreign ones are ignored.

    Raises ClientError invalid_format.
    """
    known = [name for name in map(str.strip, offered) if name in SUBPROTOCOLS]
    if not formats:
        return (SUBPROTOCOLS[known[0]], known[0]) if known else ("json", "")
    subprotocol = f"odin.{formats[0]}"
    if len(formats) > 1 or subprotocol not in SUBPROTOCOLS:
        raise ClientError("invalid_format")
    return SUBPROTOCOLS[subprotocol], subprotocol if subprotocol in known else ""


# Structs are encoded as they are: building a dict first would cost more than encoding it.
_to_json: Callable[[object], bytes] = msgspec.json.Encoder().encode
_to_msgpack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode


def encode_plain(quote: Quote, sent_ms: int) -> bytes:
    """Return the frame of a live quote in json and the quote mode: nearly all frames are such, and
    are spared the choices of `encode_quote`."""
    return text_frame(
        _to_json(MarketData(quote.symbol, quote.token, quote.exchange, quote, sent_ms))
    )


def encode_quote(
    encoding: Encoding,
    key: InstrumentKey,
    quote: Quote,
    sent_ms: int,
    mode: Mode = "quote",
    is_snapshot: bool = False,
) -> bytes:
    """Return the frame of a whole quote.

    quote: for the full mode a FullQuote. sent_ms: the sending time.
    """
    if encoding == "binary":
        if mode == "quote":
            return binary_frame(encode_binary(key, quote, sent_ms, is_snapshot))
        return binary_frame(_TO_BINARY[mode](key, quote, sent_ms, is_snapshot=is_snapshot))
    message: MarketData | ModeData
    if mode == "quote":
        kind = SnapshotData if is_snapshot else MarketData
        message = kind(quote.symbol, quote.token, quote.exchange, quote, sent_ms)
    else:
        data = last_price(quote) if mode == "ltp" else quote
        message = ModeData(
            quote.symbol, quote.token, quote.exchange, data, sent_ms, is_snapshot, mode=mode
        )
    if encoding == "json" or encoding == "json-delta":
        return text_frame(_to_json(message))
    return binary_frame(_to_msgpack(message))


def encode_delta(
    encoding: Encoding, base: Quote, quote: Quote, sent_ms: int, mode: Mode = "quote"
) -> bytes:
    """Return the frame of what differs between two quotes of one instrument.

    base, quote: for the full mode FullQuotes, of which the newer has lost nothing.
    """
    if mode == "ltp":
        old_values, values = _values(last_price(base)), _values(last_price(quote))
    else:
        old_values, values = _values(base), _values(quote)
    names = _QUOTE if mode == "quote" else _OTHERS[mode]
    changed = {
        name: value
        for name, old, value in zip(names, old_values, values, strict=True)
        if old is not value and old != value
    }
    message: DeltaData | ModeData
    if mode == "quote":
        message = DeltaData(quote.symbol, quote.token, quote.exchange, changed, sent_ms)
    else:
        message = ModeData(
            quote.symbol, quote.token, quote.exchange, changed, sent_ms, delta=True, mode=mode
        )
    if encoding == "json-delta":
        return text_frame(_to_json(message))
    return binary_frame(_to_msgpack(message))


# Apart from the default mode, whose frames are nearly all: it is spared these look-ups.
_TO_BINARY: Final[Mapping[Mode, Callable[..., bytes]]] = {
    "ltp": encode_binary_last_price,
    "full": encode_binary_full,
}
_QUOTE: Final = Quote.__struct_fields__
_OTHERS: Final = {"ltp": LastPrice.__struct_fields__, "full": FullQuote.__struct_fields__}
_values = msgspec.structs.astuple
