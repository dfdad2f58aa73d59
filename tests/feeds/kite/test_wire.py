"""The packets of Kite's ticker, against bytes laid out by hand and against themselves."""

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from odin.errors import LocalWireError, RemoteWireError
from odin.feeds.kite.wire import (
    DEPTH_LEVELS,
    HEARTBEAT,
    MAX_AHEAD_MS,
    MAX_EXCHANGE_TOKEN,
    MAX_TOKEN,
    SEGMENTS,
    Entry,
    FullPacket,
    IndexFullPacket,
    IndexQuotePacket,
    KiteDecoder,
    LtpPacket,
    Packet,
    QuotePacket,
    TokenMap,
    decode_message,
    divisor,
    encode_message,
    index_token,
)
from odin.model import Depth, Detail, InstrumentKey, Level, Tick
from odin.settings import KiteSettings

RELIANCE = InstrumentKey("NSE", "CM", 2885)
NIFTY = InstrumentKey("NSE", "INDEX", 26000)
INDICES = {"256265": NIFTY}
NOW_MS = 1_756_971_590_198
NOW_S = 1_756_971_588
"""What the exchange's clock says in these packets, a little before ours."""


def laid_out(size: int, fields: dict[int, int], *, wide: int = 4) -> bytes:
    """Return a packet with big-endian numbers at the offsets of the documentation."""
    packet = bytearray(size)
    for at, value in fields.items():
        packet[at : at + wide] = value.to_bytes(wide, "big", signed=value < 0)
    return bytes(packet)


def framed(*packets: bytes) -> bytes:
    """Return one message, as the documentation frames it."""
    parts = [len(packet).to_bytes(2, "big") + packet for packet in packets]
    return len(packets).to_bytes(2, "big") + b"".join(parts)


LTP_BYTES = laid_out(8, {0: 738561, 4: 136_555})
QUOTE_FIELDS = {
    0: 738561,  # RELIANCE: 2885 << 8 | 1
    4: 136_555,
    8: 17,
    12: 136_012,
    16: 3_000_000_000,  # more than fits a signed number
    20: 412_345,
    24: 512_345,
    28: 135_000,
    32: 137_000,
    36: 134_995,
    40: 134_500,
}
QUOTE_BYTES = laid_out(44, QUOTE_FIELDS)
FULL_FIELDS = QUOTE_FIELDS | {44: NOW_S - 1, 48: 99, 52: 100, 56: 98, 60: NOW_S}
BOOK = [(100 * level, 136_550 - 5 * level, level) for level in range(1, 6)] + [
    (200 * level, 136_555 + 5 * level, 10 * level) for level in range(1, 5)
]
"""Five bids, four offers: the last level is empty."""


def _full_bytes() -> bytes:
    fields = dict(FULL_FIELDS)
    orders = {}
    for number, (quantity, price, count) in enumerate(BOOK):
        fields[64 + 12 * number] = quantity
        fields[64 + 12 * number + 4] = price
        orders[64 + 12 * number + 8] = count
    small = laid_out(184, orders, wide=2)
    return bytes(a | b for a, b in zip(laid_out(184, fields), small, strict=True))


FULL_BYTES = _full_bytes()
INDEX_FIELDS = {
    0: 256265,
    4: 2_473_410,
    8: 2_480_000,
    12: 2_460_005,
    16: 2_465_000,
    20: 2_471_530,
    24: -36,
}
INDEX_QUOTE_BYTES = laid_out(28, INDEX_FIELDS)
INDEX_FULL_BYTES = laid_out(32, INDEX_FIELDS | {28: NOW_S})
REAL_INDEX_MESSAGE = bytes.fromhex(
    "0001001c0003e909000ded2d000dfd18000de90e000dfcd7000ded2dffffffdc"
)
"""NIFTY 50 as a user received it in March 2017 (kite.trade/forum/discussion/comment/5126)."""

QUOTE = QuotePacket(*QUOTE_FIELDS.values())
INDEX = IndexQuotePacket(*INDEX_FIELDS.values())
FULL = FullPacket(
    QUOTE,
    NOW_S - 1,
    99,
    100,
    98,
    NOW_S,
    tuple(Entry(*level) for level in BOOK[:5]),
    (*(Entry(*level) for level in BOOK[5:]), Entry()),
)
FULL_KINDS = (FullPacket, IndexFullPacket)
GOLDEN: list[tuple[bytes, Packet]] = [
    (LTP_BYTES, LtpPacket(738561, 136_555)),
    (QUOTE_BYTES, QUOTE),
    (FULL_BYTES, FULL),
    (INDEX_QUOTE_BYTES, INDEX),
    (INDEX_FULL_BYTES, IndexFullPacket(INDEX, NOW_S)),
]


def decoder() -> KiteDecoder:
    return KiteDecoder(KiteSettings(), INDICES)


def ticks(data: bytes | str, received_ms: int = NOW_MS) -> list[Tick]:
    """Decode one message that has nothing malformed in it."""
    fresh = decoder()
    found = list(filter(None, fresh.ticks(data, received_ms)))
    assert fresh.malformed == 0
    return found


# ---------------------------------------------------------------------- packets

tokens = st.integers(0, MAX_TOKEN)
prices = st.integers(-(2**31), 2**31 - 1)
counts = st.integers(0, 2**32 - 1)
entries = st.builds(Entry, counts, prices, st.integers(0, 2**16 - 1))
sides = st.lists(entries, min_size=DEPTH_LEVELS, max_size=DEPTH_LEVELS).map(tuple)
quotes = st.builds(
    QuotePacket, tokens, prices, counts, prices, *[counts] * 3, prices, prices, prices, prices
)
indices = st.builds(IndexQuotePacket, tokens, *[prices] * 6)
packets: st.SearchStrategy[Packet] = st.one_of(
    st.builds(LtpPacket, tokens, prices),
    quotes,
    st.builds(FullPacket, quotes, *[counts] * 5, sides, sides),
    indices,
    st.builds(IndexFullPacket, indices, counts),
)


@pytest.mark.parametrize(("data", "packet"), GOLDEN, ids=lambda x: type(x).__name__)
def test_each_layout_is_the_documented_one(data: bytes, packet: Packet) -> None:
    assert decode_message(framed(data)) == [packet]
    assert encode_message([packet]) == framed(data)


def test_a_message_a_user_of_kite_received() -> None:
    [packet] = decode_message(REAL_INDEX_MESSAGE)
    assert packet == IndexQuotePacket(256265, 912685, 916760, 911630, 916695, 912685, -36)
    assert encode_message([packet]) == REAL_INDEX_MESSAGE
    assert ticks(REAL_INDEX_MESSAGE) == [
        Tick(NIFTY, NOW_MS, 9126.85, None, 9166.95, 9167.6, 9116.3, 9126.85)
    ]


@given(st.lists(packets, max_size=5))
def test_packets_come_back_as_they_were(them: list[Packet]) -> None:
    assert decode_message(encode_message(them)) == them


def test_a_message_of_many_packets_keeps_their_order() -> None:
    message = framed(*(data for data, _ in GOLDEN))
    assert decode_message(message) == [packet for _, packet in GOLDEN]


@pytest.mark.parametrize("heartbeat", [HEARTBEAT, b"\x01", b"\xff"])
def test_one_byte_is_a_heartbeat_whatever_it_is(heartbeat: bytes) -> None:
    assert decode_message(heartbeat) == []
    assert ticks(heartbeat) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        framed(QUOTE_BYTES)[:-1],
        framed(QUOTE_BYTES) + b"\x00",
        b"\x00\x01",
        b"\x00\x01\x00",
        b"\x00\x02" + framed(LTP_BYTES)[2:],
        framed(b""),
        framed(QUOTE_BYTES[:43]),
        framed(bytes(164)),  # the full packet of version 2
        framed(INDEX_QUOTE_BYTES) + bytes(16),  # as long as a message of one quote
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteWireError):
        decode_message(data)
    lenient = decoder()
    list(filter(None, lenient.ticks(data, NOW_MS)))
    assert lenient.malformed == 1


@given(st.binary(max_size=400))
@example(framed(*(data for data, _ in GOLDEN)))
def test_any_bytes_are_packets_or_an_error_of_theirs(data: bytes) -> None:
    try:
        them = decode_message(data)
    except RemoteWireError:
        return
    assert decode_message(encode_message(them)) == them


def test_a_message_cut_off_anywhere_is_an_error_of_theirs() -> None:
    message = framed(*(data for data, _ in GOLDEN))
    whole = ticks(message)
    for at in {*range(len(message))} - {len(HEARTBEAT)}:
        with pytest.raises(RemoteWireError):
            decode_message(message[:at])
        lenient = decoder()
        found = list(filter(None, lenient.ticks(message[:at], NOW_MS)))
        assert found == whole[: len(found)]
        assert lenient.malformed == 1


@pytest.mark.parametrize(
    "packet",
    [
        LtpPacket(-1, 0),
        LtpPacket(1, 2**31),
        QUOTE._replace(volume=-1),
        FULL._replace(buy=FULL.buy[:4]),
        FULL._replace(sell=(*FULL.sell[:4], Entry(1, 1, 65_536))),
        IndexFullPacket(INDEX, 2**32),
    ],
)
def test_what_does_not_fit_is_our_error(packet: Packet) -> None:
    with pytest.raises(LocalWireError):
        encode_message([packet])


def test_more_packets_than_can_be_counted_are_our_error() -> None:
    with pytest.raises(LocalWireError):
        encode_message([LtpPacket(1, 1)] * 65_536)


# ---------------------------------------------------------------------- instruments


@pytest.mark.parametrize(
    ("token", "key"),
    [
        (738561, ("NSE", "CM", 2885)),
        (779521, ("NSE", "CM", 3045)),
        (128028676, ("BSE", "CM", 500112)),
        (12378626, ("NSE", "FO", 48354)),
        (53253383, ("MCX", "CO", 208021)),
        (0x503, ("NSE", "CD", 5)),
        (0x505, ("BSE", "FO", 5)),
        (0x506, ("BSE", "CD", 5)),
        (0x50C, ("NSE", "CO", 5)),
        (256265, NIFTY),
    ],
)
def test_tokens_and_keys(token: int, key: tuple[Any, ...]) -> None:
    mapped = TokenMap(INDICES)
    assert mapped.key(token) == InstrumentKey(*key)
    assert mapped.instrument_token(InstrumentKey(*key)) == token


@pytest.mark.parametrize("token", [0x508, 0x509, 0x500, 260105, 0xFF])
def test_a_segment_or_index_nobody_named_is_no_key(token: int) -> None:
    assert TokenMap(INDICES).key(token) is None


@pytest.mark.parametrize(
    "key",
    [
        ("NSE", "INDEX", 26009),
        ("NCDEX", "CO", 1),
        ("MCX", "FO", 1),
        ("NSE", "CM", 2**24),
        ("NSE", "CM", -1),
    ],
)
def test_what_kite_cannot_carry_has_no_token(key: tuple[str, str, int]) -> None:
    assert TokenMap(INDICES).instrument_token(InstrumentKey(*key)) is None


@given(st.sampled_from(sorted(SEGMENTS.values())), st.integers(0, MAX_EXCHANGE_TOKEN))
def test_every_key_has_its_token(segment: tuple[str, str], number: int) -> None:
    mapped, key = TokenMap({}), InstrumentKey(*segment, number)
    token = mapped.instrument_token(key)
    assert token is not None
    assert mapped.key(token) == key


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", str(2**32), "9" * 5000, "٣"])
def test_an_index_whose_token_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="instrument_token"):
        TokenMap({text: NIFTY})
    with pytest.raises(ValueError, match="instrument_token"):
        KiteDecoder(KiteSettings(indices=(f"{text}=NSE:NIFTY 50",)), {})
    with pytest.raises(ValueError):
        index_token(text)


@pytest.mark.parametrize(
    ("segment", "rupees"),
    [
        *((segment, 8512.25) for segment in (1, 2, 4, 5, 7)),
        (3, 0.0851225),
        (6, 85.1225),
        (12, 85.1225),
    ],
)
def test_prices_are_divided_by_what_their_segment_asks_for(segment: int, rupees: float) -> None:
    token = 5 << 8 | segment
    assert 851_225 / divisor(token) == rupees
    [tick] = ticks(framed(laid_out(8, {0: token, 4: 851_225})))
    assert tick.ltp == rupees


# ---------------------------------------------------------------------- ticks

QUOTE_TICK = Tick(
    RELIANCE,
    NOW_MS,
    1365.55,
    3_000_000_000,
    1350.0,
    1370.0,
    1349.95,
    1345.0,
    Detail(1360.12, 412_345, 512_345),
)


def test_a_quote_packet() -> None:
    assert ticks(framed(QUOTE_BYTES)) == [QUOTE_TICK]


def test_an_ltp_packet_brings_the_price_alone() -> None:
    assert ticks(framed(LTP_BYTES)) == [Tick(RELIANCE, NOW_MS, 1365.55)]


def test_a_full_packet_brings_the_book_and_the_exchanges_time() -> None:
    [tick] = ticks(framed(FULL_BYTES))
    assert tick[:8] == (RELIANCE, NOW_S * 1000, *QUOTE_TICK[2:8])
    assert (
        tick.detail
        == Detail(
            1360.12,
            412_345,
            512_345,
            None,  # a share has no open interest, whatever the packet says
            Depth(
                tuple(Level(price / 100, quantity, orders) for quantity, price, orders in BOOK[:5]),
                tuple(Level(price / 100, quantity, orders) for quantity, price, orders in BOOK[5:]),
            ),
        )
    )


def test_levels_without_a_price_or_a_quantity_are_left_out() -> None:
    side = (Entry(0, 100, 1), Entry(10, 0, 1), Entry(10, -5, 1), Entry(10, 105, 2), Entry())
    [tick] = ticks(encode_message([FULL._replace(buy=side, sell=(Entry(),) * 5)]))
    assert tick.detail is not None
    assert tick.detail.depth == Depth((Level(1.05, 10, 2),), ())


def test_a_derivative_has_its_open_interest() -> None:
    [tick] = ticks(framed((0x502).to_bytes(4, "big") + FULL_BYTES[4:]))
    assert tick.detail is not None
    assert tick.detail.oi == 99


def test_index_packets_have_their_own_order_of_prices() -> None:
    prices = (24_734.1, None, 24_650.0, 24_800.0, 24_600.05, 24_715.3)
    assert ticks(framed(INDEX_QUOTE_BYTES)) == [Tick(NIFTY, NOW_MS, *prices)]
    assert ticks(framed(INDEX_FULL_BYTES)) == [Tick(NIFTY, NOW_S * 1000, *prices)]


@pytest.mark.parametrize("data", [data for data, _ in GOLDEN], ids=len)
@pytest.mark.parametrize("price", [0, -5])
def test_without_a_price_there_is_no_tick(data: bytes, price: int) -> None:
    assert ticks(framed(data[:4] + struct.pack(">i", price) + data[8:])) == []


def test_a_price_that_is_missing_is_not_known() -> None:
    quote = QUOTE._replace(open=0, high=0, low=0, close=0, average=0, volume=0)
    [tick] = ticks(encode_message([quote]))
    assert tick[3:8] == (0, None, None, None, None)
    assert tick.detail == Detail(None, 412_345, 512_345)


def test_what_cannot_be_read_is_passed_over_and_the_rest_is_not() -> None:
    strange = laid_out(8, {0: 0x5FF, 4: 100})
    lenient = decoder()
    message = framed(bytes(7), LTP_BYTES, strange, QUOTE_BYTES, bytes(200))
    found = [tick.key for tick in filter(None, lenient.ticks(message, NOW_MS))]
    assert found == [RELIANCE, RELIANCE]
    assert lenient.malformed == 3


def test_time_never_goes_back_when_the_mode_changes() -> None:
    one = decoder()
    times = [
        tick.exchange_ms
        for data, received_ms in [
            (QUOTE_BYTES, NOW_MS),
            (FULL_BYTES, NOW_MS + 100),  # the exchange's time is before ours
            (QUOTE_BYTES, NOW_MS - 5000),  # our clock was set back
            (LTP_BYTES, NOW_MS + 1),
        ]
        for tick in filter(None, one.ticks(framed(data), received_ms))
    ]
    assert times == [NOW_MS, NOW_MS, NOW_MS, NOW_MS + 1]
    one.reset()
    assert [tick.exchange_ms for tick in filter(None, one.ticks(framed(FULL_BYTES), NOW_MS))] == [
        NOW_MS + 1
    ]
    # Another instrument has a time of its own.
    other = framed((0x502).to_bytes(4, "big") + FULL_BYTES[4:])
    assert [tick.exchange_ms for tick in filter(None, one.ticks(other, NOW_MS))] == [NOW_S * 1000]


def test_without_a_time_of_the_exchange_ours_stands_in() -> None:
    message = encode_message([FULL._replace(exchange_s=0), IndexFullPacket(INDEX, 0)])
    assert [tick.exchange_ms for tick in ticks(message)] == [NOW_MS, NOW_MS]


@pytest.mark.parametrize("exchange_s", [2**32 - 1, (NOW_MS + MAX_AHEAD_MS) // 1000 + 1])
def test_an_impossible_time_of_the_exchange_holds_nothing_up(exchange_s: int) -> None:
    lenient = decoder()
    message = encode_message(
        [FULL._replace(exchange_s=exchange_s), IndexFullPacket(INDEX, exchange_s), FULL]
    )
    assert [tick.exchange_ms for tick in filter(None, lenient.ticks(message, NOW_MS))] == [
        NOW_S * 1000
    ]
    assert lenient.malformed == 2


def test_a_clock_of_the_exchange_that_goes_ahead_is_believed() -> None:
    [tick] = ticks(encode_message([FULL._replace(exchange_s=NOW_S + 3600)]))
    assert tick.exchange_ms == (NOW_S + 3600) * 1000


@given(st.lists(packets, max_size=4), st.integers(0, 2**42))
def test_the_decoder_agrees_with_the_strict_one(them: list[Packet], received_ms: int) -> None:
    mapped, lenient = TokenMap(INDICES), decoder()
    expected, strange = [], 0
    for packet in them:
        token, last = packet.quote[:2] if isinstance(packet, FULL_KINDS) else packet[:2]
        key = mapped.key(token)
        time_ms = packet.exchange_s * 1000 if isinstance(packet, FULL_KINDS) else 0
        if key is None or time_ms >= received_ms + MAX_AHEAD_MS:
            strange += 1
        elif last > 0:
            expected.append((key, last / divisor(token)))
    found = list(filter(None, lenient.ticks(encode_message(them), received_ms)))
    assert [(tick.key, tick.ltp) for tick in found] == expected
    assert lenient.malformed == strange


@given(st.binary(max_size=300) | st.text(max_size=50), st.integers(0, 2**42))
@example(b"", 0)
def test_the_decoder_takes_anything(data: bytes | str, received_ms: int) -> None:
    lenient = decoder()
    for tick in filter(None, lenient.ticks(data, received_ms)):
        assert tick.ltp > 0
        assert tick.exchange_ms < received_ms + MAX_AHEAD_MS


def test_text_holds_no_ticks() -> None:
    assert ticks('{"type":"order","data":{}}') == []


@pytest.mark.parametrize(
    "packet",
    [
        LtpPacket(738_561, 0),
        LtpPacket(0x1FF, 100),
        IndexFullPacket(IndexQuotePacket(0x1FF, 1, 1, 1, 1, 1, 1), 0),
        IndexFullPacket(IndexQuotePacket(0x1FF, 1, 1, 1, 1, 1, 1), 2**32 - 1),
    ],
)
def test_what_is_no_tick_is_none_so_that_others_may_run_in_between(packet: Packet) -> None:
    decoder = KiteDecoder(KiteSettings(indices=()), {})
    assert list(decoder.ticks(encode_message([packet] * 3), NOW_MS)) == [None] * 3


def test_packets_of_no_known_length_are_none_too() -> None:
    decoder = KiteDecoder(KiteSettings(indices=()), {})
    assert list(decoder.ticks(b"\0\3" + b"\0\0" * 3, NOW_MS)) == [None] * 3
    quote = struct.pack(">HI10I", 44, 0x1FF, *range(10))
    full = struct.pack(">HI45I", 184, 0x1FF, *range(45))
    for packets in (quote * 3, full * 3):
        assert list(decoder.ticks(b"\0\3" + packets, NOW_MS)) == [None] * 3
