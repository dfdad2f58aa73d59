"""market_data in every encoding, chosen once per connection.

json: the message of the integration guide. json-delta: the same, with only the fields of `data`
that changed. msgpack, msgpack-delta: the same objects as MessagePack. binary: 120 bytes of fixed
layout, prices as scaled integers, see binary.py. Pure: values in, frames out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from odin.errors import ClientError
from odin.model import InstrumentKey, Quote
from odin.protocols.enhanced.binary import encode_binary
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


def encode_quote(
    encoding: Encoding,
    key: InstrumentKey,
    quote: Quote,
    sent_ms: int,
    *,
    is_snapshot: bool = False,
) -> bytes:
    """Return the frame of a whole quote. `sent_ms` is the sending time."""
    if encoding == "binary":
        return binary_frame(encode_binary(key, quote, sent_ms, is_snapshot=is_snapshot))
    kind = SnapshotData if is_snapshot else MarketData
    message = kind(quote.symbol, quote.token, quote.exchange, quote, sent_ms)
    if encoding == "json" or encoding == "json-delta":
        return text_frame(_to_json(message))
    return binary_frame(_to_msgpack(message))


def encode_delta(encoding: Encoding, base: Quote, quote: Quote, sent_ms: int) -> bytes:
    """Return the frame of what differs between two quotes of one instrument."""
    changed = {
        name: value
        for name, old, value in zip(_FIELDS, _values(base), _values(quote), strict=True)
        if old is not value and old != value
    }
    message = DeltaData(quote.symbol, quote.token, quote.exchange, changed, sent_ms)
    if encoding == "json-delta":
        return text_frame(_to_json(message))
    return binary_frame(_to_msgpack(message))


_FIELDS = Quote.__struct_fields__
_values = msgspec.structs.astuple
