"""What an ODIN broadcast server says, in both directions, and as ticks.

Messages are `tag=value` joined by "|", or such a head and a binary record. Broken parts are counted
and passed over. Times are India's, prices integers to be divided by the divisor of their
instrument. Kept from message to message is only what the protocol leaves out when it has not
changed: the divisor and the last price. Frames are framing.py's, requests requests.py's.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from odin.errors import LocalWireError, RemoteWireError, reflect
from odin.feeds.odinfeed.framing import FrameReader
from odin.feeds.odinfeed.numbering import Numbering, parse_index
from odin.feeds.odinfeed.requests import MAX_UINT32, Scrip, Version
from odin.model import MAX_PRICE, Depth, Detail, InstrumentKey, Level, Tick
from odin.settings import OdinFeedSettings

LOGON, LOGOFF, MARKET_STATUS, TOKEN_NOT_FOUND = 102, 109, 110, 112
BEST_FIVE, TOUCHLINE, INDICES, LTP = 128, 209, frozenset({222, 225}), 348
HEARTBEAT, ADMIN_TEXT, DISCONNECT = 350, 907, 1111
LOGON_OK, LOGON_EXPIRES = "10000", "10004"

NOTICES: Final = frozenset(
    {LOGON, LOGOFF, MARKET_STATUS, TOKEN_NOT_FOUND, HEARTBEAT, ADMIN_TEXT, DISCONNECT}
)
_PRICES: Final = frozenset({BEST_FIVE, TOUCHLINE, LTP}) | INDICES

IST_OFFSET_MS: Final = 19_800_000
DAY_MS: Final = 86_400_000
RECORD_EPOCH_MS: Final = 315_532_800_000 - IST_OFFSET_MS
"""1980-01-01 00:00 in India, from which binary records count seconds."""
DEFAULT_DIVISOR: Final = 100
MAX_DIVISOR: Final = 10**9
MAX_INSTRUMENTS: Final = 262_144
"""How many the decoder remembers; beyond, it forgets all and learns anew."""
MAX_LEVELS: Final = 5

_RECORD: Final = struct.Struct("<IIii12I")
_RECORD_TAG: Final = b"|50="
_HEAD: Final = re.compile(rb"63=[^|]{0,16}\|64=([0-9]{1,5})(?:\||\Z)")
_PAIR: Final = re.compile(rb"\|([0-9]{1,5})=([^|]*)")
_TIME: Final = re.compile(rb"([0-9]{4})-([0-9]{2})-([0-9]{2}) ([0-9]{2})([0-9]{2})([0-9]{2})")
_NUMBER: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{0,9})?")
_LEVEL: Final = re.compile(rb"([0-9]{1,12})\$14=([0-9]{0,15})(?:\$37=([0-9]{0,9}))?\$?")


class Record(NamedTuple):
    """The binary form of a touchline: 64 bytes, little-endian, all 32 bits wide. Prices are
    integers, times seconds since RECORD_EPOCH_MS."""

    segment: int
    token: int
    lut: int
    """When the touchline last changed."""
    ltt: int
    """When the last trade was."""
    ltp: int
    bid_quantity: int
    bid_price: int
    ask_quantity: int
    ask_price: int
    open: int
    high: int
    low: int
    close: int
    """The previous day's: official clients show it as tag 76."""
    divisor: int
    prev_close: int
    """Shown as tag 250, of which it is not certain what it means."""
    indicative_close: int


class Notice(NamedTuple):
    """A message that is about the connection or the market, not about an instrument."""

    code: int
    fields: Mapping[str, str]
    """By tag. Text of the broker: hostile."""

    @property
    def text(self) -> str:
        """All that it says, safe to show, without what every message has."""
        said = [f"{tag}={text}" for tag, text in self.fields.items() if tag not in {"65", "66"}]
        return reflect(", ".join(said), 160) or "no reason given"


class OdinDecoder:
    """Ticks of what the server sends; see `odin.feeds.base.Decoder`.

    indices: the key of each index by the server's token, "1_26000".
    on_notice: told what is not about an instrument, in order with the ticks; what it raises comes
        out of `ticks`.
    Raises ValueError for settings that have no meaning.
    """

    def __init__(
        self,
        settings: OdinFeedSettings,
        indices: Mapping[str, InstrumentKey],
        on_notice: Callable[[Notice], None] = lambda _: None,
    ) -> None:
        self.malformed = 0
        self.numbering = Numbering(settings.segments, indices)
        for text in settings.indices:
            parse_index(text.partition("=")[0].strip())
        self._on_notice = on_notice
        self._frames = FrameReader(self._count)
        self._states: dict[int, _State] = {}

    def reset(self) -> None:
        """Forget the last connection."""
        self._frames.reset()
        self._states.clear()

    def ticks(self, data: bytes | str, received_ms: int) -> Iterator[Tick | None]:
        """Yield the ticks of one WebSocket message, which may hold half a frame or many."""
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogatepass")
        for message in self._frames.messages(data):
            head = _HEAD.search(message)
            tick = None
            code = 0 if head is None else int(head[1])
            if head is None:
                self.malformed += 1
            elif code in _PRICES:
                at = message.find(_RECORD_TAG, head.end() - 1) if code == TOUCHLINE else -1
                if at >= 0:
                    tick = self._of_record(message, at + len(_RECORD_TAG), received_ms)
                else:
                    tick = self._of_text(code, _PAIR.findall(message, head.end() - 1), received_ms)
            elif code in NOTICES:
                pairs = _PAIR.findall(message, head.end() - 1)
                fields = {tag.decode(): text.decode("utf-8", "replace") for tag, text in pairs}
                self._on_notice(Notice(code, fields))
            yield tick

    def _count(self) -> None:
        self.malformed += 1

    def _of_record(self, message: bytes, at: int, received_ms: int) -> Tick | None:
        try:
            # fmt: off
            (segment, token, lut, _ltt, ltp, _, _, _, _, open_, high, low, close, locator, _, _) = (
                _RECORD.unpack_from(message, at)
            )
            # fmt: on
        except struct.error:
            self.malformed += 1
            return None
        state = self._states.get(segment << 32 | token) or self._admit(segment, token)
        key = state.key
        if key is None:
            return None
        if locator > MAX_DIVISOR:
            self.malformed += 1
            return None
        state.divisor = divisor = locator or DEFAULT_DIVISOR
        if ltp == 0:
            return None
        if max(ltp, open_, high, low, close) >= MAX_PRICE * divisor:
            self.malformed += 1
            return None
        state.ltp = ltp / divisor
        return Tick(
            key,
            self._stamp(state, RECORD_EPOCH_MS + lut * 1000 if lut > 0 else None, received_ms),
            state.ltp,
            None,
            open_ / divisor if open_ else None,
            high / divisor if high else None,
            low / divisor if low else None,
            close / divisor if close else None,
        )

    def _of_text(
        self, code: int, pairs: Sequence[tuple[bytes, bytes]], received_ms: int
    ) -> Tick | None:
        fields = dict(pairs)
        segment, token = _uint32(fields.get(b"1")), _uint32(fields.get(b"7"))
        if segment is None or token is None:
            if code not in INDICES:  # whose layout nobody has seen
                self.malformed += 1
            return None
        state = self._states.get(segment << 32 | token) or self._admit(segment, token)
        if state.key is None:
            return None
        locator = fields.get(b"399")
        if locator is not None:
            divisor = self._integer(locator) or DEFAULT_DIVISOR
            if divisor > MAX_DIVISOR:
                self.malformed += 1
                return None
            state.divisor = divisor
        divisor = state.divisor
        price = fields.get(b"8")
        if price:
            state.ltp = self._price(price, divisor)
        if state.ltp is None:
            return None
        lut_ms = None
        time = fields.get(b"74")
        if time:
            try:
                lut_ms = decode_time_ms(time)
            except RemoteWireError:
                self.malformed += 1
        detail = Detail(
            self._price(fields.get(b"80"), divisor),
            self._integer(fields.get(b"81")),
            self._integer(fields.get(b"82")),
            self._integer(fields.get(b"88")),
            self._depth(pairs, divisor) if code == BEST_FIVE else None,
        )
        return Tick(
            state.key,
            self._stamp(state, lut_ms, received_ms),
            state.ltp,
            self._integer(fields.get(b"79")),
            self._price(fields.get(b"75"), divisor),
            self._price(fields.get(b"77"), divisor),
            self._price(fields.get(b"78"), divisor),
            self._price(fields.get(b"76"), divisor),
            None if detail == _NO_DETAIL else detail,
        )

    def _admit(self, segment: int, token: int) -> "_State":
        if len(self._states) >= MAX_INSTRUMENTS:
            self._states.clear()
        state = self._states[segment << 32 | token] = _State(
            self.numbering.key(Scrip(segment, token))
        )
        if state.key is None:
            self.malformed += 1
        return state

    def _stamp(self, state: "_State", lut_ms: int | None, received_ms: int) -> int:
        """Return the exchange time of a tick: the server's where it tells one, else when it came.

        Where an instrument has both kinds, their clocks differ, and time must not go back between
        them; what the server alone says is passed on as it is.
        """
        if lut_ms is None:
            state.floor_ms = state.latest_ms = max(received_ms, state.latest_ms)
            return state.floor_ms
        if lut_ms < state.floor_ms:
            return state.floor_ms
        # One from another year, which the quote board drops, must not hold back what follows.
        if state.latest_ms < lut_ms <= received_ms + DAY_MS:
            state.latest_ms = lut_ms
        return lut_ms

    def _integer(self, text: bytes | None) -> int | None:
        if not text:
            return None
        if len(text) > 15 or not text.isdigit():
            self.malformed += 1
            return None
        return int(text)

    def _price(self, text: bytes | None, divisor: int) -> float | None:
        """Return a price in rupees; None for none, or one of nothing."""
        if not text:
            return None
        if len(text) <= 15 and text.isdigit():
            price = int(text) / divisor
        elif _NUMBER.fullmatch(text):
            price = float(text) / divisor
        else:
            price = MAX_PRICE
        if price >= MAX_PRICE:
            self.malformed += 1
            return None
        return price or None

    def _depth(self, pairs: Sequence[tuple[bytes, bytes]], divisor: int) -> Depth | None:
        """Return the levels of both sides: 11 begins one (1 buy, 2 sell), each 12 is a level."""
        sides: dict[bytes, list[Level]] = {}
        side: list[Level] | None = None
        for tag, text in pairs:
            if tag == b"11":
                side = sides.setdefault(text, [])
            elif tag == b"12" and side is not None and len(side) < MAX_LEVELS:
                found = _LEVEL.fullmatch(text)
                if found is None:
                    self.malformed += 1
                    continue
                price, quantity = self._price(found[2], divisor), int(found[1])
                if price and quantity:
                    side.append(Level(price, quantity, int(found[3] or 0)))
        if not sides:
            return None
        return Depth(tuple(sides.get(b"1", ())), tuple(sides.get(b"2", ())))


class _State:
    """What has to be known of an instrument to understand its next message."""

    __slots__ = ("divisor", "floor_ms", "key", "latest_ms", "ltp")

    def __init__(self, key: InstrumentKey | None) -> None:
        self.key = key
        """None where the numbering has none."""
        self.divisor = DEFAULT_DIVISOR
        self.ltp: float | None = None
        self.latest_ms = 0
        """The newest exchange time that a tick was given."""
        self.floor_ms = 0
        """The newest of them that was no exchange time, but when a message came."""


_NO_DETAIL: Final = Detail()


def _uint32(text: bytes | None) -> int | None:
    if text is None or len(text) > 10 or not text.isdigit():
        return None
    number = int(text)
    return number if number <= MAX_UINT32 else None


@lru_cache(maxsize=256)  # most touchlines of a second have the same
def decode_time_ms(text: bytes) -> int | None:
    """Return the ms since the epoch of "2012-09-04 152908", India's time; None for the beginning of
    the server's time, which means none. Raises RemoteWireError for no time."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise RemoteWireError(f"a time must be like 2012-09-04 152908, was {reflect(text)}")
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        raise RemoteWireError(f"no day is {reflect(text)}") from None
    if hour > 23 or minute > 59 or second > 59:
        raise RemoteWireError(f"no time of the day is {reflect(text)}")
    of_day_s = hour * 3600 + minute * 60 + second
    at_ms = days * DAY_MS + of_day_s * 1000 - IST_OFFSET_MS
    return at_ms if at_ms > RECORD_EPOCH_MS else None


def encode_time(at_ms: int) -> str:
    """Return the text of an instant, whole seconds."""
    return datetime.fromtimestamp((at_ms + IST_OFFSET_MS) // 1000, UTC).strftime("%Y-%m-%d %H%M%S")


def encode_record_time(at_ms: int) -> int:
    """Return the seconds of an instant, as a binary record has them."""
    return (at_ms - RECORD_EPOCH_MS) // 1000


def encode_message(
    code: int, fields: Iterable[tuple[int, object]] = (), version: Version = "FT3.0"
) -> bytes:
    """Return a message of the server.

    fields: tag and value, in order; a tag may come again.
    Raises LocalWireError for a value with "|" or a control character in it.
    """
    texts = [f"{tag}={value}" for tag, value in fields]
    for text in texts:
        if "|" in text or not text.isprintable():
            raise LocalWireError(f"a message cannot hold {reflect(text)}")
    return "|".join((f"63={version}", f"64={code}", "65=272", "66=000000", *texts)).encode()


def encode_levels(depth: Depth, divisor: int = DEFAULT_DIVISOR) -> list[tuple[int, object]]:
    """Return the fields that a BEST_FIVE has after those of a touchline; both sides are filled up
    with empty levels."""
    fields: list[tuple[int, object]] = []
    for side, levels in ((1, depth.buy), (2, depth.sell)):
        fields.append((11, side))
        for level in (*levels, *(Level(0.0, 0, 0) for _ in range(MAX_LEVELS - len(levels)))):
            price = round(level.price * divisor)
            fields.append((12, f"{level.quantity}$14={price}$37={level.orders}"))
    return fields


def encode_record_message(record: Record, version: Version = "FT3.0") -> bytes:
    """Return a touchline in its binary form. Raises LocalWireError for what does not fit."""
    try:
        packed = _RECORD.pack(*record)
    except struct.error:
        raise LocalWireError(f"a record cannot hold {reflect(record)}") from None
    return encode_message(TOUCHLINE, (), version) + _RECORD_TAG + packed


def decode_record(packed: bytes) -> Record:
    """Return the fields of 64 bytes. Raises RemoteWireError for fewer."""
    try:
        return Record(*_RECORD.unpack_from(packed))
    except struct.error:
        raise RemoteWireError(f"a record has 64 bytes, was {len(packed)}") from None
