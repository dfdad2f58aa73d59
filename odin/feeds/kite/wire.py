"""The binary half of Kite's protocol, version 3: packets in both directions, and ticks.

A message is big-endian: u16 number of packets, then for each a u16 length and the packet; one of a
single byte is a heartbeat. A packet is known by its length alone. Prices here are the integers of
the wire, to be divided by `divisor`; layouts and offsets are those of Kite Connect's page
"WebSocket streaming" and of the client package kiteconnect 5.2.2. The other half is text.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from struct import Struct, error
from typing import Final, NamedTuple

from odin.errors import LocalWireError, RemoteWireError, reflect
from odin.model import Depth, Detail, InstrumentKey, Level, Tick
from odin.settings import KiteSettings

HEARTBEAT: Final = b"\x00"
"""Sent about every second while there is nothing else; its value means nothing, its length does."""
DEPTH_LEVELS: Final = 5

SEGMENTS: Final[Mapping[int, tuple[str, str]]] = {
    1: ("NSE", "CM"),
    2: ("NSE", "FO"),
    3: ("NSE", "CD"),
    4: ("BSE", "CM"),
    5: ("BSE", "FO"),
    6: ("BSE", "CD"),
    7: ("MCX", "CO"),
    12: ("NSE", "CO"),
}
"""Exchange and segment by the last byte of an instrument_token. 8 (MCX-SX, closed since) and 9
(indices, whose exchange it does not tell) are left out."""
DIVISORS: Final[Mapping[int, float]] = {3: 10_000_000.0, 6: 10_000.0, 12: 10_000.0}
"""What a price of these segments is divided by to give rupees; of all others it is PAISE."""
PAISE: Final = 100.0

MAX_TOKEN: Final = 2**32 - 1
MAX_EXCHANGE_TOKEN: Final = 2**24 - 1
MAX_PACKETS: Final = 2**16 - 1
MAX_AHEAD_MS: Final = 86_400_000
"""An exchange time further ahead of ours than this is impossible."""
MAX_KNOWN: Final = 200_000
"""Instruments a decoder remembers; more than Kite lists, so that only garbage passes it."""

# Prices are signed and quantities are not, as a day's volume may pass 2**31 (offsets 0, 4, 8, …).
_LTP: Final = Struct(">Ii")
_QUOTE: Final = Struct(">IiIiIIIiiii")
_FULL: Final = Struct(">IiIiIIIiiii5I" + 2 * DEPTH_LEVELS * "IiHxx")
_INDEX_QUOTE: Final = Struct(">I6i")
_INDEX_FULL: Final = Struct(">I6iI")
_FRAMED_QUOTE: Final = Struct(">HIi4xiIIIiiii")
"""A quote packet after its length, without the quantity of the last trade."""
_U16: Final = Struct(">H")


# ---------------------------------------------------------------------- instruments


def divisor(instrument_token: int) -> float:
    """Return what the prices of an instrument are divided by to give rupees."""
    return DIVISORS.get(instrument_token & 0xFF, PAISE)


class TokenMap:
    """Between Kite's instrument_token and our keys: `exchange token << 8 | segment`.

    indices: keys by the text of their instrument_token, as their segment names no exchange.
    Raises ValueError where such a text is none.
    """

    def __init__(self, indices: Mapping[str, InstrumentKey]) -> None:
        self._indices = {index_token(text): key for text, key in indices.items()}
        self._index_tokens = {key: token for token, key in self._indices.items()}
        self._segments = {pair: number for number, pair in SEGMENTS.items()}

    def key(self, instrument_token: int) -> InstrumentKey | None:
        """Return the key; None for a segment or an index that is not known."""
        index = self._indices.get(instrument_token)
        if index is not None:
            return index
        segment = SEGMENTS.get(instrument_token & 0xFF)
        return None if segment is None else InstrumentKey(*segment, instrument_token >> 8)

    def instrument_token(self, key: InstrumentKey) -> int | None:
        """Return Kite's number of an instrument; None where it cannot have one."""
        index = self._index_tokens.get(key)
        if index is not None:
            return index
        segment = self._segments.get((key.exchange, key.segment))
        if segment is None or not 0 <= key.token <= MAX_EXCHANGE_TOKEN:
            return None
        return key.token << 8 | segment


def index_token(text: str) -> int:
    """Return the instrument_token that a setting names, or raise ValueError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_TOKEN):
        raise ValueError(f"an instrument_token is a number of up to 32 bits, was {reflect(text)!r}")
    return int(text)


# ---------------------------------------------------------------------- packets


class LtpPacket(NamedTuple):
    """Mode ltp: 8 bytes."""

    instrument_token: int
    last: int


class QuotePacket(NamedTuple):
    """Mode quote: 44 bytes, each field one of four, in this order."""

    instrument_token: int
    last: int
    last_quantity: int
    average: int
    volume: int
    total_buy: int
    total_sell: int
    open: int
    high: int
    low: int
    close: int
    """Of the previous trading day, while today's market is open."""


class Entry(NamedTuple):
    """One level of the order book: 12 bytes, of which the last two are unused."""

    quantity: int = 0
    price: int = 0
    orders: int = 0


class FullPacket(NamedTuple):
    """Mode full: 184 bytes; those of mode quote, then these."""

    quote: QuotePacket
    last_trade_s: int
    oi: int
    oi_high: int
    oi_low: int
    exchange_s: int
    buy: tuple[Entry, ...]
    """DEPTH_LEVELS of them, best first, the empty ones at the end all zeros; likewise `sell`."""
    sell: tuple[Entry, ...]


class IndexQuotePacket(NamedTuple):
    """Mode quote of an index: 28 bytes. The order of the prices is not that of QuotePacket."""

    instrument_token: int
    last: int
    high: int
    low: int
    open: int
    close: int
    change: int
    """Of the last price, since the close."""


class IndexFullPacket(NamedTuple):
    """Mode full of an index: 32 bytes."""

    quote: IndexQuotePacket
    exchange_s: int


Packet = LtpPacket | QuotePacket | FullPacket | IndexQuotePacket | IndexFullPacket


def encode_message(packets: Sequence[Packet]) -> bytes:
    """Return one binary message. Raises LocalWireError for what does not fit."""
    if len(packets) > MAX_PACKETS:
        raise LocalWireError(f"{len(packets)} packets in one message")
    bodies = (_encode_packet(packet) for packet in packets)
    framed = (part for body in bodies for part in (_U16.pack(len(body)), body))
    return b"".join((_U16.pack(len(packets)), *framed))


def decode_message(data: bytes) -> list[Packet]:
    """Return the packets of one binary message, none for a heartbeat. Raises RemoteWireError."""
    if len(data) == 1:
        return []
    if len(data) < _U16.size:
        raise RemoteWireError("an empty message")
    packets: list[Packet] = []
    at = _U16.size
    for _ in range(_U16.unpack_from(data)[0]):
        begin = at + _U16.size
        if begin > len(data):
            raise RemoteWireError(f"a message ended before packet {len(packets) + 1}")
        at = begin + _U16.unpack_from(data, at)[0]
        if at > len(data):
            raise RemoteWireError(f"a message ended in packet {len(packets) + 1}")
        packets.append(_decode_packet(data[begin:at]))
    if at != len(data):
        raise RemoteWireError(f"{len(data) - at} bytes after the last packet")
    return packets


def _encode_packet(packet: Packet) -> bytes:
    try:
        match packet:
            case LtpPacket():
                return _LTP.pack(*packet)
            case QuotePacket():
                return _QUOTE.pack(*packet)
            case IndexQuotePacket():
                return _INDEX_QUOTE.pack(*packet)
            case IndexFullPacket():
                return _INDEX_FULL.pack(*packet.quote, packet.exchange_s)
            case FullPacket():
                if len(packet.buy) != DEPTH_LEVELS or len(packet.sell) != DEPTH_LEVELS:
                    raise LocalWireError(f"a side of the order book has {DEPTH_LEVELS} levels")
                book = [number for entry in packet.buy + packet.sell for number in entry]
                return _FULL.pack(*packet.quote, *packet[1:6], *book)
    except error as problem:
        raise LocalWireError(f"{packet!r} does not fit: {problem}") from None


def _decode_packet(body: bytes) -> Packet:
    size = len(body)
    if size == _QUOTE.size:
        return QuotePacket._make(_QUOTE.unpack(body))
    if size == _FULL.size:
        values = _FULL.unpack(body)
        book = tuple(Entry(*values[at : at + 3]) for at in range(16, len(values), 3))
        quote = QuotePacket._make(values[:11])
        last_trade_s, oi, oi_high, oi_low, exchange_s = values[11:16]
        buy, sell = book[:DEPTH_LEVELS], book[DEPTH_LEVELS:]
        return FullPacket(quote, last_trade_s, oi, oi_high, oi_low, exchange_s, buy, sell)
    if size == _LTP.size:
        return LtpPacket._make(_LTP.unpack(body))
    if size == _INDEX_QUOTE.size:
        return IndexQuotePacket._make(_INDEX_QUOTE.unpack(body))
    if size == _INDEX_FULL.size:
        *prices, exchange_s = _INDEX_FULL.unpack(body)
        return IndexFullPacket(IndexQuotePacket._make(prices), exchange_s)
    raise RemoteWireError(f"a packet of {size} bytes")


# ---------------------------------------------------------------------- ticks


class _Known:
    """What the decoder keeps of one instrument."""

    __slots__ = ("divisor", "has_oi", "key", "last_ms")

    def __init__(self, instrument_token: int, key: InstrumentKey) -> None:
        self.key = key
        self.divisor = divisor(instrument_token)
        self.has_oi = key.segment != "CM"
        self.last_ms = 0

    def at(self, time_ms: int) -> int:
        """Return the time of a tick, never before that of the last one: full packets bring the
        exchange's clock in seconds, all others have ours."""
        if time_ms > self.last_ms:
            self.last_ms = time_ms
        return self.last_ms


class KiteDecoder:
    """Binary messages as ticks; see `odin.feeds.base.Decoder`.

    A packet that cannot be read, of an instrument that cannot be told or with an impossible time is
    passed over and counted; one without a price (before the first trade) is passed over. Text holds
    no ticks.
    """

    def __init__(self, settings: KiteSettings, indices: Mapping[str, InstrumentKey]) -> None:
        for pair in settings.indices:
            index_token(pair.partition("=")[0].strip())
        self.malformed = 0
        self._tokens = TokenMap(indices)
        self._known: dict[int, _Known] = {}

    def reset(self) -> None:
        """Change nothing: every message stands for itself, and time goes on across connections."""

    def ticks(self, data: bytes | str, received_ms: int) -> Iterable[Tick | None]:
        """Return the ticks of one message, each decoded when it is its turn."""
        if isinstance(data, str) or len(data) == len(HEARTBEAT):
            return ()
        count = _U16.unpack_from(data)[0] if len(data) >= _U16.size else 0
        stride = _FRAMED_QUOTE.size
        if len(data) == _U16.size + count * stride and (
            data[2::stride].count(0) == data[3::stride].count(_QUOTE.size) == count
        ):
            return self._quotes(data[2:], received_ms)  # what most messages consist of, in a sweep
        return self._packets(data, count, received_ms)

    def _packets(self, data: bytes, count: int, received_ms: int) -> Iterator[Tick | None]:
        size = len(data)
        at = _U16.size
        for _ in range(count):
            at += _U16.size
            if at > size:
                break
            length = data[at - 2] << 8 | data[at - 1]
            begin, at = at, at + length
            if at > size:
                break
            read = self._READERS.get(length)
            if read is None:
                self.malformed += 1
                yield None
            else:
                yield from read(self, data, begin, received_ms)
        if at != size:  # it was cut off, or goes on after its last packet
            self.malformed += 1

    def _quotes(self, data: bytes, time_ms: int) -> Iterator[Tick | None]:
        """Yield the ticks of nothing but quote packets, each with its length before it."""
        find = self._known.get
        for fields in _FRAMED_QUOTE.iter_unpack(data):
            _, token, last, average, volume, buy, sell, first, high, low, close = fields
            known = find(token) or self._meet(token)
            if known is None or last <= 0:
                yield None
                continue
            if time_ms > known.last_ms:
                known.last_ms = time_ms
            unit = known.divisor
            tick = (
                known.key,
                known.last_ms,
                last / unit,
                volume,
                first / unit or None,
                high / unit or None,
                low / unit or None,
                close / unit or None,
                Detail(average / unit if average > 0 else None, buy, sell),
            )
            yield tuple.__new__(Tick, tick)  # as Tick(*tick) does, in half the time

    def _quote(self, data: bytes, at: int, received_ms: int) -> Iterator[Tick | None]:
        return self._quotes(data[at - _U16.size : at + _QUOTE.size], received_ms)

    def _full(self, data: bytes, at: int, received_ms: int) -> Iterator[Tick | None]:
        values = _FULL.unpack_from(data, at)
        time_ms = self._time_ms(values[15], received_ms)
        if time_ms is None:
            yield None
            return
        for tick in self._quote(data, at, time_ms):  # it begins like one
            if tick is None:
                yield None
                return
            known, quote = self._known[values[0]], tick.detail or Detail()
            unit = known.divisor
            detail = Detail(
                quote.avg_price,
                quote.total_buy_qty,
                quote.total_sell_qty,
                values[12] if known.has_oi else None,
                Depth(_levels(values, 16, unit), _levels(values, 31, unit)),
            )
            yield Tick(*tick[:8], detail)

    def _ltp(self, data: bytes, at: int, received_ms: int) -> Iterator[Tick | None]:
        token, last = _LTP.unpack_from(data, at)
        known = self._known.get(token) or self._meet(token)
        if known is not None and last > 0:
            yield Tick(known.key, known.at(received_ms), last / known.divisor)
        else:
            yield None

    def _index(self, data: bytes, at: int, received_ms: int) -> Iterator[Tick | None]:
        token, last, high, low, first, close, _ = _INDEX_QUOTE.unpack_from(data, at)
        known = self._known.get(token) or self._meet(token)
        if known is not None and last > 0:
            unit = known.divisor
            prices = (price / unit or None for price in (first, high, low, close))
            yield Tick(known.key, known.at(received_ms), last / unit, None, *prices)
        else:
            yield None

    def _full_index(self, data: bytes, at: int, received_ms: int) -> Iterator[Tick | None]:
        time_ms = self._time_ms(_INDEX_FULL.unpack_from(data, at)[-1], received_ms)
        return iter((None,)) if time_ms is None else self._index(data, at, time_ms)

    _READERS: Final = {
        _LTP.size: _ltp,
        _QUOTE.size: _quote,
        _FULL.size: _full,
        _INDEX_QUOTE.size: _index,
        _INDEX_FULL.size: _full_index,
    }

    def _time_ms(self, exchange_s: int, received_ms: int) -> int | None:
        """Return the exchange's time, ours where it sends none; None where its time is impossible:
        it would hold up all later ones."""
        exchange_ms = exchange_s * 1000
        if exchange_ms < received_ms + MAX_AHEAD_MS:
            return exchange_ms or received_ms
        self.malformed += 1
        return None

    def _meet(self, token: int) -> _Known | None:
        key = self._tokens.key(token)
        if key is None:
            self.malformed += 1
            return None
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        known = self._known[token] = _Known(token, key)
        return known


def _levels(values: tuple[int, ...], at: int, unit: float) -> tuple[Level, ...]:
    """Return one side of the order book, which begins at values[at], without empty levels."""
    places = range(at, at + 3 * DEPTH_LEVELS, 3)
    levels = [(values[i], values[i + 1], values[i + 2]) for i in places if values[i]]
    return tuple([Level(price / unit, size, orders) for size, price, orders in levels if price > 0])
