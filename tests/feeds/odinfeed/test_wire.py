import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from odin.errors import LocalWireError, RemoteWireError
from odin.feeds.base import Decoder
from odin.feeds.odinfeed.framing import encode_frame, encode_messages, encode_plain_frame
from odin.feeds.odinfeed.wire import (
    ADMIN_TEXT,
    BEST_FIVE,
    DAY_MS,
    LOGON,
    LTP,
    MAX_INSTRUMENTS,
    TOUCHLINE,
    Notice,
    OdinDecoder,
    Record,
    decode_record,
    decode_time_ms,
    encode_levels,
    encode_message,
    encode_record_message,
    encode_record_time,
    encode_time,
)
from odin.model import Depth, Detail, InstrumentKey, Level, Tick
from odin.settings import OdinFeedSettings

ACC = InstrumentKey("NSE", "CM", 22)
NIFTY = InstrumentKey("NSE", "INDEX", 26000)
INDICES = {"1_26000": NIFTY}
LUT_MS = 1_346_752_748_000  # 2012-09-04 15:29:08 in India
NOW_MS = LUT_MS + 700
EXAMPLE = (
    b"63=FT3.0|64=209|65=272|66=04092012 071138|1=1|73=2012-09-04 152908|7=22|79=121758|8=130035"
    b"|54=-0.63|9=395|80=130117|74=2012-09-04 152908|2=5|3=130035|5=59|6=130100|81=99436|82=82671"
    b"|76=130860|75=130770|77=130770|78=129615"
)
"""The example of ODIN's own specification."""
RECORD = Record(
    *(1, 22, encode_record_time(LUT_MS), encode_record_time(LUT_MS), 130035, 5, 130035, 59, 130100),
    *(130770, 130771, 129615, 130860, 100, 0, 0),
)


class Decoding:
    """A decoder with what it told."""

    def __init__(self, settings: OdinFeedSettings | None = None) -> None:
        self.notices: list[Notice] = []
        self.decoder = OdinDecoder(settings or OdinFeedSettings(), INDICES, self.notices.append)

    def read(self, *messages: bytes, received_ms: int = NOW_MS) -> list[Tick]:
        data = encode_frame(encode_messages(messages))
        return list(filter(None, self.decoder.ticks(data, received_ms)))

    def touchline(self, *fields: tuple[int, object], received_ms: int = NOW_MS) -> list[Tick]:
        message = encode_message(TOUCHLINE, ((1, 1), (7, 22), *fields))
        return self.read(message, received_ms=received_ms)

    @property
    def malformed(self) -> int:
        return self.decoder.malformed


def test_it_is_a_decoder() -> None:
    decoder: Decoder = OdinDecoder(OdinFeedSettings(), INDICES)
    assert list(filter(None, decoder.ticks(b"", 0))) == []
    assert decoder.malformed == 0


# ---------------------------------------------------------------------- text


def test_the_example_of_the_specification() -> None:
    decoding = Decoding()
    detail = Detail(1301.17, 99436, 82671)
    assert decoding.read(EXAMPLE) == [
        Tick(ACC, LUT_MS, 1300.35, 121758, 1307.70, 1307.70, 1296.15, 1308.60, detail)
    ]
    assert decoding.malformed == 0


def test_a_capture_of_text_messages_is_read_like_bytes() -> None:
    framed = encode_plain_frame(EXAMPLE).decode("ascii")
    ticks = list(filter(None, Decoding().decoder.ticks(framed, NOW_MS)))
    assert [tick.ltp for tick in ticks] == [1300.35]
    assert list(filter(None, Decoding().decoder.ticks("\ud800", NOW_MS))) == []


def test_missing_tags_are_those_of_the_last_message() -> None:
    decoding = Decoding()
    decoding.touchline((8, 725_000), (399, 10_000), (79, 5))
    assert decoding.touchline((79, 6), (75, 720_000)) == [
        Tick(ACC, NOW_MS, 72.5, 6, open=72.0),
    ]
    assert decoding.touchline((8, ""), (77, "")) == [Tick(ACC, NOW_MS, 72.5)]


def test_a_new_connection_remembers_nothing() -> None:
    decoding = Decoding()
    decoding.touchline((8, 725_000), (399, 10_000))
    decoding.decoder.reset()
    assert decoding.touchline((79, 6)) == []
    assert decoding.touchline((8, 725_000)) == [Tick(ACC, NOW_MS, 7250.0)]


@pytest.mark.parametrize(
    ("locator", "price"), [("100", 7250.0), ("10000", 72.5), ("0", 7250.0), ("", 7250.0)]
)
def test_prices_are_divided(locator: str, price: float) -> None:
    assert Decoding().touchline((8, 725_000), (399, locator)) == [Tick(ACC, NOW_MS, price)]


@given(st.integers(1, 10**9 - 1))
def test_a_price_is_the_nearest_float(paise: int) -> None:
    assert Decoding().touchline((8, paise))[0].ltp == float(f"{paise // 100}.{paise % 100:02}")


def test_fractions_of_a_paisa_are_understood() -> None:
    assert Decoding().touchline((8, "130035.00"), (80, "130117.25"))[0][2:] == (
        *(1300.35, None, None, None, None, None),
        Detail(avg_price=1301.1725),
    )


def test_before_the_first_trade_there_is_no_tick_and_no_mistake() -> None:
    decoding = Decoding()
    assert decoding.touchline((8, 0), (76, 130860)) == []
    assert decoding.touchline((79, 0)) == []
    assert decoding.malformed == 0


def test_prices_of_nothing_are_left_out() -> None:
    (tick,) = Decoding().touchline((8, 100), (75, 0), (77, 0), (78, 0), (76, 0), (80, 0))
    assert tick == Tick(ACC, NOW_MS, 1.0)


@pytest.mark.parametrize(
    "price", ["-5", "nan", "inf", "1e5", "1_0", " 5", ".5", "9" * 15, "9" * 5000, "²", "0x1"]
)
def test_an_absurd_price_is_refused_and_counted(price: str) -> None:
    decoding = Decoding()
    assert decoding.touchline((8, price)) == []
    assert decoding.malformed == 1


def test_an_absurd_field_costs_itself_only() -> None:
    decoding = Decoding()
    fields = [
        (8, 100),
        (79, "-1"),
        (75, "x"),
        (77, "9" * 14),
        (74, "2012-02-30 000000"),
        (88, "1.5"),
    ]
    assert decoding.touchline(*fields) == [Tick(ACC, NOW_MS, 1.0)]
    assert decoding.malformed == 5


@pytest.mark.parametrize(
    "message",
    [
        b"64=209|1=1|7=22|8=5",
        b"63=FT3.0|65=209|1=1|7=22|8=5",
        encode_message(TOUCHLINE, ((7, 22), (8, 5))),
        encode_message(TOUCHLINE, ((1, 1), (7, "x"), (8, 5))),
        encode_message(TOUCHLINE, ((1, 1), (7, 2**32), (8, 5))),
        encode_message(TOUCHLINE, ((1, 1), (7, 22), (8, 5), (399, 10**10))),
        encode_message(TOUCHLINE) + b"|50=" + bytes(63),
    ],
)
def test_a_broken_message_is_counted_and_the_next_is_read(message: bytes) -> None:
    decoding = Decoding()
    assert [tick.ltp for tick in decoding.read(message, EXAMPLE)] == [1300.35]
    assert decoding.malformed == 1


def test_messages_of_other_kinds_are_passed_over() -> None:
    decoding = Decoding()
    others = [encode_message(code, ((1, 1), (7, 22), (8, 5))) for code in (51, 155, 158, 160, 4242)]
    assert decoding.read(*others) == []
    assert decoding.malformed == 0


# ---------------------------------------------------------------------- time


def test_an_exchange_time_out_of_order_is_passed_on() -> None:
    decoding = Decoding()
    times = [LUT_MS, LUT_MS - 5000, LUT_MS]
    ticks = [decoding.touchline((8, 100), (74, encode_time(at)))[0] for at in times]
    assert [tick.exchange_ms for tick in ticks] == times


def test_without_an_exchange_time_it_is_when_it_came() -> None:
    assert Decoding().touchline((8, 100))[0].exchange_ms == NOW_MS
    assert Decoding().touchline((8, 100), (74, ""))[0].exchange_ms == NOW_MS
    assert Decoding().touchline((8, 100), (74, "1980-01-01 000000"))[0].exchange_ms == NOW_MS
    for lut in (0, -1):
        record = RECORD._replace(lut=lut)
        assert Decoding().read(encode_record_message(record))[0].exchange_ms == NOW_MS


@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(-100, 100), st.booleans())))
def test_time_never_goes_back_between_two_clocks(steps: list[tuple[int, int, bool]]) -> None:
    """Only a time that the server itself told may lie before another such."""
    decoding = Decoding()
    stood_in = told = 0
    for received_s, lut_s, has_lut in steps:
        fields = [(74, encode_time(LUT_MS + lut_s * 1000))] if has_lut else []
        at_ms = NOW_MS + received_s * 1000
        (tick,) = decoding.touchline((8, 100), *fields, received_ms=at_ms)
        assert tick.exchange_ms >= (stood_in if has_lut else max(stood_in, told))
        if has_lut:
            assert tick.exchange_ms == max(LUT_MS + lut_s * 1000, stood_in)
            told = max(told, tick.exchange_ms)
        else:
            assert tick.exchange_ms == max(at_ms, stood_in, told)
            stood_in = tick.exchange_ms


def test_a_time_far_ahead_is_passed_on_and_holds_nothing_back() -> None:
    """The quote board drops it: it knows the market's clock."""
    decoding = Decoding()
    ahead_ms = LUT_MS + 366 * DAY_MS
    assert decoding.touchline((8, 100), (74, encode_time(ahead_ms)))[0].exchange_ms == ahead_ms
    assert decoding.touchline((8, 100))[0].exchange_ms == NOW_MS
    later = encode_time(LUT_MS + 5000)
    assert decoding.touchline((8, 100), (74, later))[0].exchange_ms == LUT_MS + 5000


def test_a_time_is_indias() -> None:
    assert decode_time_ms(b"2012-09-04 152908") == LUT_MS
    assert encode_time(LUT_MS + 999) == "2012-09-04 152908"
    assert encode_record_time(315_513_000_000) == 0  # 1980-01-01 00:00 +05:30


@given(st.integers(315_513_001, 4_000_000_000))
def test_a_time_comes_back(at_s: int) -> None:
    assert decode_time_ms(encode_time(at_s * 1000).encode()) == at_s * 1000


@pytest.mark.parametrize(
    "text",
    [
        "2012-09-04",
        "2012-13-01 000000",
        "2012-09-04 240000",
        "2012-09-04 006000",
        "0000-01-01 000000",
    ],
)
def test_what_is_no_time_says_so(text: str) -> None:
    with pytest.raises(RemoteWireError, match=text):
        decode_time_ms(text.encode())


# ---------------------------------------------------------------------- binary


def test_a_record_by_hand() -> None:
    """The layout, offset by offset."""
    packed = bytearray(64)
    for offset, value in (
        *((0, 1), (4, 22), (8, 1_031_239_748), (12, 1_031_239_740), (16, 130035)),
        *((20, 5), (24, 130030), (28, 59), (32, 130100), (36, 130770), (40, 130771)),
        *((44, 129615), (48, 130860), (52, 100), (56, 130850), (60, 7)),
    ):
        struct.pack_into("<I", packed, offset, value)
    head = b"63=FT3.0|64=209|65=84|66=04092012 071138|50="
    assert Decoding().read(head + packed) == [
        Tick(ACC, LUT_MS, 1300.35, None, 1307.70, 1307.71, 1296.15, 1308.60)
    ]
    assert decode_record(bytes(packed)) == Record(
        *(1, 22, 1_031_239_748, 1_031_239_740, 130035, 5, 130030, 59, 130100, 130770, 130771),
        *(129615, 130860, 100, 130850, 7),
    )


def test_a_record_is_found_behind_bytes_that_are_no_text() -> None:
    """Official clients search the decoded text, and miss it then."""
    message = encode_record_message(RECORD).replace(b"66=000000", b"66=\x80\xff\xe2\x82")
    assert [tick.ltp for tick in Decoding().read(message)] == [1300.35]


def test_a_record_follows_its_code_at_once() -> None:
    message = b"63=FT3.0|64=209" + encode_record_message(RECORD)[-68:]
    assert [tick.ltp for tick in Decoding().read(message)] == [1300.35]


def test_a_divisor_of_nothing_is_a_hundred_whatever_was_before() -> None:
    decoding = Decoding()
    records = [RECORD._replace(divisor=divisor) for divisor in (10_000, 0)]
    ticks = decoding.read(*map(encode_record_message, records))
    assert [tick.ltp for tick in ticks] == [13.0035, 1300.35]
    for locator, price in ((10_000, 0.01), (0, 1.0), (10_000, 0.01), ("", 1.0)):
        assert decoding.touchline((8, 100), (399, locator))[0].ltp == price


def test_bytes_in_a_record_that_look_like_text_are_none() -> None:
    fifty = int.from_bytes(b"|50=", "little")
    record = RECORD._replace(bid_quantity=fifty, ask_quantity=fifty)
    assert [tick.ltp for tick in Decoding().read(encode_record_message(record))] == [1300.35]


uint32 = st.integers(0, 2**32 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)
records = st.builds(Record, uint32, uint32, int32, int32, *[uint32] * 12)


@given(records)
def test_a_record_comes_back(record: Record) -> None:
    assert decode_record(encode_record_message(record)[-64:]) == record


@given(records.map(lambda record: record._replace(segment=1)))
@example(RECORD._replace(ltp=0))
@example(RECORD._replace(divisor=0))
@example(RECORD._replace(divisor=1, high=2**32 - 1))
@example(RECORD._replace(divisor=2**32 - 1))
def test_any_record_is_a_tick_or_nothing(record: Record) -> None:
    decoding = Decoding()
    ticks = decoding.read(encode_record_message(record))
    divisor = record.divisor or 100
    prices = (record.ltp, record.open, record.high, record.low, record.close)
    if divisor > 10**9 or (record.ltp and max(prices) / divisor >= 1e9):
        assert (ticks, decoding.malformed) == ([], 1)
    elif record.ltp == 0:
        assert (ticks, decoding.malformed) == ([], 0)
    else:
        (tick,) = ticks
        assert tick.ltp == record.ltp / divisor
        assert (tick.open or 0) == record.open / divisor


def test_what_is_no_record_says_so() -> None:
    with pytest.raises(RemoteWireError, match="has 64 bytes, was 63"):
        decode_record(bytes(63))
    with pytest.raises(LocalWireError, match="cannot hold"):
        encode_record_message(RECORD._replace(ltp=-1))


# ---------------------------------------------------------------------- depth, LTP, index


DEPTH = Depth((Level(1300.35, 5, 1), Level(1300.30, 7, 2)), (Level(1301.00, 59, 3),))


def test_best_five_by_hand() -> None:
    """Layout: 11 begins a side (1 buy, 2 sell), then five times quantity, price and orders."""
    empty = b"|12=0$14=0$37=0"
    message = (
        b"63=FT3.0|64=128|65=400|66=x|1=1|7=22|8=130035"
        b"|11=1|12=5$14=130035$37=1|12=7$14=130030$37=2" + empty * 3 +
        b"|11=2|12=59$14=130100$37=3" + empty * 4 + b"|9=395"
    )  # fmt: skip
    assert Decoding().read(message) == [Tick(ACC, NOW_MS, 1300.35, detail=Detail(depth=DEPTH))]


def test_best_five_comes_back_and_takes_its_price_from_the_touchline() -> None:
    decoding = Decoding()
    book = encode_message(BEST_FIVE, ((1, 1), (7, 22), *encode_levels(DEPTH)))
    assert decoding.read(book) == []
    assert decoding.read(EXAMPLE, book)[1].detail == Detail(depth=DEPTH)


def test_broken_levels_are_left_out() -> None:
    decoding = Decoding()
    levels = [
        (12, "9$14=1$37=1"),
        (11, 1),
        (12, "x"),
        (12, "5$14=100"),
        (12, "5$14=$37=1"),
        (12, "0$14=5$37=1"),
        (11, 2),
    ]
    book = encode_message(
        BEST_FIVE, ((1, 1), (7, 22), (8, 100), *levels, *[(12, "1$14=1$37=1")] * 9)
    )
    (tick,) = decoding.read(book)
    assert tick.detail == Detail(depth=Depth((Level(1.0, 5, 0),), (Level(0.01, 1, 1),) * 5))
    assert decoding.malformed == 1


def test_an_ltp_message_is_a_tick() -> None:
    """Its layout is an expectation: nobody has published one."""
    fields = [(1, 1), (7, 22), (8, 130035), (399, 100), (74, "2012-09-04 152908"), (418, 5)]
    assert Decoding().read(encode_message(LTP, fields)) == [Tick(ACC, LUT_MS, 1300.35)]


@pytest.mark.parametrize("code", [TOUCHLINE, 222, 225])
def test_an_index_is_the_registrys(code: int) -> None:
    message = encode_message(code, ((1, 1), (7, 26000), (8, 2_500_005)))
    assert Decoding().read(message) == [Tick(NIFTY, NOW_MS, 25000.05)]


def test_an_index_message_of_another_layout_is_passed_over() -> None:
    decoding = Decoding()
    assert decoding.read(encode_message(222, ((26, "NIFTY"), (27, 25000)))) == []
    assert decoding.malformed == 0


# ---------------------------------------------------------------------- notices, hostile input


def test_notices_are_told_in_order_with_the_ticks() -> None:
    seen: list[object] = []
    decoder = OdinDecoder(OdinFeedSettings(), INDICES, seen.append)
    logon = encode_message(LOGON, ((70, 10004), (97, 3)))
    said = encode_message(ADMIN_TEXT, ((1, "Good morning"),))
    data = encode_frame(encode_messages([logon, EXAMPLE, said]))
    for tick in filter(None, decoder.ticks(data, NOW_MS)):
        seen.append(tick.ltp)
    fields = {"65": "272", "66": "000000", "70": "10004", "97": "3"}
    assert seen[:2] == [Notice(LOGON, fields), 1300.35]
    assert isinstance(seen[2], Notice)
    assert seen[2].text == "1=Good morning"


def test_the_text_of_a_notice_is_safe_to_show() -> None:
    decoding = Decoding()
    decoding.read(b"63=FT3.0|64=907|1=\x1b[2J\nforged \xff" + b"x" * 5000)
    assert decoding.notices[0].text.startswith(r"1=\x1b[2J\nforged ")
    assert decoding.notices[0].text.isprintable()
    assert len(decoding.notices[0].text) <= 160
    assert Notice(LOGON, {"65": "1"}).text == "no reason given"


def test_what_hears_a_notice_may_end_it() -> None:
    def refuse(notice: Notice) -> None:
        raise ZeroDivisionError(notice.code)

    decoder = OdinDecoder(OdinFeedSettings(), INDICES, refuse)
    with pytest.raises(ZeroDivisionError):
        list(
            filter(
                None, decoder.ticks(encode_frame(encode_messages([encode_message(LOGON)])), NOW_MS)
            )
        )


streams = st.lists(
    st.one_of(
        st.sampled_from(
            [EXAMPLE, encode_record_message(RECORD), encode_message(LOGON, ((70, 1),))]
        ),
        st.binary(max_size=80).map(lambda tail: b"63=FT3.0|64=209|" + tail),
        st.lists(
            st.tuples(
                st.sampled_from([1, 7, 8, 11, 12, 50, 74, 79, 80, 88, 399]),
                st.one_of(st.integers(-1, 200), st.just("5$14=7$37=1"), st.text(max_size=3)),
            )
        ).map(lambda f: b"63=FT3.0|64=128|65=1|" + "|".join(f"{t}={v}" for t, v in f).encode()),
    ).map(lambda text: encode_frame(encode_messages([text])))
    | st.binary(max_size=40),
    max_size=6,
).map(b"".join)


@given(streams, st.integers(1, 30))
def test_any_bytes_in_any_pieces_give_the_same_ticks(stream: bytes, size: int) -> None:
    whole, chopped = Decoding(), Decoding()
    ticks = list(filter(None, whole.decoder.ticks(stream, NOW_MS)))
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [
        t for piece in pieces for t in filter(None, chopped.decoder.ticks(piece, NOW_MS))
    ] == ticks
    assert (chopped.malformed, chopped.notices) == (whole.malformed, whole.notices)
    for tick in ticks:
        prices = [p for p in (*tick[2:3], *tick[4:8]) if p is not None]
        assert all(0 < price < 1e9 for price in prices)


def test_what_is_remembered_of_instruments_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_INSTRUMENTS > 200_000  # more than any broker lists
    monkeypatch.setattr("odin.feeds.odinfeed.wire.MAX_INSTRUMENTS", 3)
    decoding = Decoding()
    for token in range(20):
        decoding.read(encode_message(TOUCHLINE, ((1, 1), (7, token), (8, 100))))
        assert len(decoding.decoder._states) <= 3


# ---------------------------------------------------------------------- numbers of the venue


def test_an_unknown_segment_is_counted_once() -> None:
    decoding = Decoding()
    message = encode_message(TOUCHLINE, ((1, 99), (7, 22), (8, 100)))
    record = encode_record_message(RECORD._replace(segment=99))
    assert decoding.read(message, message, record) == []
    assert decoding.malformed == 1


@pytest.mark.parametrize("value", ["a|b", "a\nb"])
def test_what_a_message_cannot_hold_is_our_mistake(value: str) -> None:
    with pytest.raises(LocalWireError, match="cannot hold"):
        encode_message(ADMIN_TEXT, ((1, value),))


def test_what_is_no_tick_is_none_so_that_others_may_run_in_between() -> None:
    parts = [
        encode_message(350),
        b"no message",
        encode_message(209, ((1, "x"), (7, 22))),
        encode_message(209, ((1, 1), (7, 22), (8, 100))),
    ]
    found = list(Decoding().decoder.ticks(encode_frame(encode_messages(parts)), NOW_MS))
    assert found[:3] == [None, None, None]
    assert found[3] is not None
