"""The 120 bytes of a quote."""

import re
from decimal import Decimal
from pathlib import Path
from struct import Struct, calcsize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from odin.clock import Rfc3339
from odin.errors import RemoteWireError
from odin.market.quotes import MAX_VOLUME
from odin.model import MAX_PRICE, Depth, Detail, InstrumentKey, Level, Quote
from odin.protocols.enhanced.binary import (
    DETAIL_LAYOUT,
    EXCHANGE_CODES,
    HAS_AVERAGE,
    HAS_AVG_PRICE,
    HAS_CLOSE,
    HAS_DEPTH,
    HAS_OI,
    HAS_TOTAL_BUY,
    HAS_TOTAL_SELL,
    HAS_YEAR,
    IS_NEW_HIGH,
    IS_NEW_LOW,
    IS_SNAPSHOT,
    LAST_PRICE_LAYOUT,
    LAYOUT,
    LEVEL_LAYOUT,
    MAX_LEVELS,
    SEGMENT_CODES,
    BinaryQuote,
    decode_binary,
    encode_binary,
    encode_binary_full,
    encode_binary_last_price,
)
from odin.protocols.enhanced.modes import full_quote, last_price
from tests.protocols.enhanced.test_encodings import DETAIL, KEY, RELIANCE, SENT_MS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "encodings.md"


def symbols(key: InstrumentKey) -> dict[tuple[int, int, int], tuple[InstrumentKey, str]]:
    code = (EXCHANGE_CODES.get(key.exchange, 0), SEGMENT_CODES.get(key.segment, 0), key.token)
    return {code: (key, "RELIANCE")}


def rupees(decimals: int) -> st.SearchStrategy[float]:
    """Prices as a feed makes them: the float nearest to a decimal number."""
    whole = st.integers(1, int(Decimal("999999.99") * 10**decimals))
    return whole.map(lambda number: float(Decimal(number).scaleb(-decimals)))


@st.composite
def quotes(draw: st.DrawFn) -> tuple[InstrumentKey, Quote]:
    price = rupees(draw(st.sampled_from([2, 2, 4, 8])))
    exchange = draw(st.sampled_from(sorted(EXCHANGE_CODES)))
    token = draw(st.integers(1, 10**18 - 1))
    ltp, high, low = draw(price), draw(price), draw(price)
    close, year_high = draw(st.none() | price), draw(st.none() | price)
    day = st.dates().map(lambda date: date.isoformat())
    quote = Quote(
        "RELIANCE",
        str(token),
        exchange,
        ltp,
        draw(price),
        high,
        low,
        close,
        close,
        draw(st.integers(0, MAX_VOLUME)),
        0.0 if close is None else (ltp - close) / close * 100,
        year_high,
        None if year_high is None else draw(price),
        None if year_high is None else draw(day),
        None if year_high is None else draw(day),
        high,
        low,
        draw(st.none() | st.integers(0, MAX_VOLUME)),
        draw(st.integers(0, 2**42)),
        Rfc3339()(draw(st.integers(0, 2**61))),
        draw(st.booleans()),
        draw(st.booleans()),
    )
    return InstrumentKey(exchange, draw(st.sampled_from(sorted(SEGMENT_CODES))), token), quote


@given(quotes(), st.booleans())
def test_what_is_encoded_is_read_again_without_any_rounding(
    keyed: tuple[InstrumentKey, Quote], is_snapshot: bool
) -> None:
    key, quote = keyed
    data = encode_binary(key, quote, SENT_MS, is_snapshot=is_snapshot)
    assert len(data) == 120
    expected = BinaryQuote(key, "RELIANCE", quote, SENT_MS, is_snapshot)
    assert decode_binary(data, symbols(key)) == expected


@given(quotes(), st.booleans())
def test_a_last_price_is_read_again_without_any_rounding(
    keyed: tuple[InstrumentKey, Quote], is_snapshot: bool
) -> None:
    key, quote = keyed
    data = encode_binary_last_price(key, quote, SENT_MS, is_snapshot=is_snapshot)
    assert len(data) == 48
    expected = BinaryQuote(key, "RELIANCE", last_price(quote), SENT_MS, is_snapshot, "ltp")
    assert decode_binary(data, symbols(key)) == expected


counts = st.integers(0, MAX_VOLUME)


@st.composite
def details(draw: st.DrawFn) -> Detail:
    price = rupees(draw(st.sampled_from([2, 4])))
    levels = st.lists(st.builds(Level, price, counts, st.integers(0, 2**32 - 1)), max_size=5)
    depth = st.builds(Depth, levels.map(tuple), levels.map(tuple))
    return draw(
        st.builds(
            Detail,
            st.none() | price,
            st.none() | counts,
            st.none() | counts,
            st.none() | counts,
            st.none() | depth,
        )
    )


@given(quotes(), st.none() | details(), st.booleans())
def test_a_full_quote_is_read_again_without_any_rounding(
    keyed: tuple[InstrumentKey, Quote], detail: Detail | None, is_snapshot: bool
) -> None:
    key, plain = keyed
    quote = full_quote(plain, detail)
    data = encode_binary_full(key, quote, SENT_MS, is_snapshot=is_snapshot)
    depth = quote.depth or Depth((), ())
    assert len(data) == 160 + 24 * (len(depth.buy) + len(depth.sell))
    expected = BinaryQuote(key, "RELIANCE", quote, SENT_MS, is_snapshot, "full")
    assert decode_binary(data, symbols(key)) == expected


def test_the_kind_tells_the_layouts_apart_whatever_their_length() -> None:
    level = Level(1.0, 1, 1)
    for count in range(MAX_LEVELS + 1):
        detail = Detail(depth=Depth((level,) * count, ()))
        data = encode_binary_full(KEY, full_quote(RELIANCE, detail), SENT_MS)
        assert decode_binary(data, symbols(KEY)).mode == "full"
        for kind in (1, 2):
            with pytest.raises(RemoteWireError):
                decode_binary(bytes([kind]) + data[1:], symbols(KEY))


def test_an_order_book_without_end_is_cut() -> None:
    deep = (Level(1.0, 1, 1),) * (MAX_LEVELS + 1)
    data = encode_binary_full(KEY, full_quote(RELIANCE, Detail(depth=Depth(deep, deep))), SENT_MS)
    read = decode_binary(data, symbols(KEY)).quote
    assert read == full_quote(RELIANCE, Detail(depth=Depth(deep[1:], deep[1:])))


@given(st.floats(1e-6, MAX_PRICE, exclude_max=True))
def test_no_price_that_the_board_lets_in_breaks_it(ltp: float) -> None:
    data = encode_binary(KEY, replace(RELIANCE, ltp=ltp), SENT_MS)
    read = decode_binary(data, symbols(KEY)).quote
    assert isinstance(read, Quote)
    assert read.ltp == pytest.approx(ltp, rel=1e-15, abs=1e-8)
    assert read.high == RELIANCE.high


def test_an_exchange_without_a_code_is_sent_as_zero() -> None:
    data = encode_binary(InstrumentKey("NYSE", "XX", 1), RELIANCE, SENT_MS)
    assert tuple(data[2:4]) == (0, 0)


@given(
    st.binary(max_size=130)
    | st.builds(
        lambda kind, data: bytes([kind]) + data[1:],
        st.integers(1, 3),
        st.one_of(*(st.binary(min_size=n, max_size=n) for n in (48, 120, 160, 208))),
    )
    | st.builds(
        lambda at, byte, data: data[:at] + bytes([byte]) + data[at + 1 :],
        st.integers(0, 207),
        st.integers(0, 255),
        st.just(encode_binary_full(KEY, full_quote(RELIANCE, DETAIL), SENT_MS)),
    )
)
def test_any_bytes_are_a_quote_or_a_wire_error(data: bytes) -> None:
    try:
        read = decode_binary(data, symbols(KEY))
    except RemoteWireError:
        return
    assert read.key == KEY


def test_every_truncation_is_a_wire_error() -> None:
    for whole in (
        encode_binary(KEY, RELIANCE, SENT_MS),
        encode_binary_last_price(KEY, RELIANCE, SENT_MS),
        encode_binary_full(KEY, full_quote(RELIANCE, DETAIL), SENT_MS),
    ):
        for size in range(len(whole)):
            with pytest.raises(RemoteWireError):
                decode_binary(whole[:size], symbols(KEY))


def test_an_instrument_that_was_not_announced_is_a_wire_error() -> None:
    for encode in (encode_binary, encode_binary_last_price):
        with pytest.raises(RemoteWireError):
            decode_binary(encode(KEY, RELIANCE, SENT_MS), {})


# ---------------------------------------------------------------------- the page


def rows_of(heading: str) -> list[tuple[int, str]]:
    """Return offset and type of each row of the table under a heading of the page."""
    section = PAGE.read_text("utf-8").split(heading, 1)[1].split("####", 1)[0]
    rows = re.findall(r"^\| (\d+) \| ([ui]\d+|\d bytes) \|", section, re.MULTILINE)
    return [(int(at), kind) for at, kind in rows]


def assert_laid_out(rows: list[tuple[int, str]], layout: Struct) -> None:
    codes = {"u8": "B", "u32": "I", "u64": "Q", "i64": "q", "i32": "i"}
    start = offset = rows[0][0]
    spelled = "<"
    for at, kind in rows:
        assert at == offset
        code = codes.get(kind) or kind.replace(" bytes", "x")
        spelled += code
        offset += calcsize("<" + code)
    expected = re.sub(r"(\d+)([BQq])", lambda match: match[2] * int(match[1]), layout.format)
    assert spelled == expected
    assert offset - start == layout.size


def test_the_page_lays_the_bytes_out_as_the_code_does() -> None:
    assert_laid_out(rows_of("#### A quote"), LAYOUT)
    assert_laid_out(rows_of("#### A last price"), LAST_PRICE_LAYOUT)
    full = rows_of("#### A full quote")
    start = LAYOUT.size + DETAIL_LAYOUT.size
    assert f"From offset {start} on come the levels" in PAGE.read_text("utf-8")
    levels = [at for at, _ in full].index(0)
    assert full[0][0] == LAYOUT.size
    assert_laid_out(full[:levels], DETAIL_LAYOUT)
    assert_laid_out(full[levels:], LEVEL_LAYOUT)
    kinds = re.findall(r"^\| (\d) \| (\w+) \| (\d+)", PAGE.read_text("utf-8"), re.MULTILINE)
    sizes = {kind: int(size) for kind, _, size in kinds}
    assert sizes == {"1": LAYOUT.size, "2": LAST_PRICE_LAYOUT.size, "3": start}


def test_the_page_names_every_code_and_flag() -> None:
    text = PAGE.read_text("utf-8")
    for codes in (EXCHANGE_CODES, SEGMENT_CODES):
        assert ", ".join(f"{code} {name}" for name, code in codes.items()) in text
    flags = (IS_SNAPSHOT, IS_NEW_HIGH, IS_NEW_LOW, HAS_CLOSE, HAS_YEAR, HAS_AVERAGE)
    known = (HAS_AVG_PRICE, HAS_TOTAL_BUY, HAS_TOTAL_SELL, HAS_OI, HAS_DEPTH)
    shown = re.findall(r"^\| (0x\d\d) \|", text, re.MULTILINE)
    assert [int(flag, 16) for flag in shown] == [*flags, *known]
