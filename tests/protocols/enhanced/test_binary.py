"""The 120 bytes of a quote."""

import re
from decimal import Decimal
from pathlib import Path
from struct import calcsize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from odin.clock import Rfc3339
from odin.errors import RemoteWireError
from odin.market.quotes import MAX_VOLUME
from odin.model import MAX_PRICE, InstrumentKey, Quote
from odin.protocols.enhanced.binary import (
    EXCHANGE_CODES,
    HAS_AVERAGE,
    HAS_CLOSE,
    HAS_YEAR,
    IS_NEW_HIGH,
    IS_NEW_LOW,
    IS_SNAPSHOT,
    LAYOUT,
    SEGMENT_CODES,
    decode_binary,
    encode_binary,
)
from tests.protocols.enhanced.test_encodings import KEY, RELIANCE, SENT_MS

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
    assert decode_binary(data, symbols(key)) == (key, quote, SENT_MS, is_snapshot)


@given(st.floats(1e-6, MAX_PRICE, exclude_max=True))
def test_no_price_that_the_board_lets_in_breaks_it(ltp: float) -> None:
    data = encode_binary(KEY, replace(RELIANCE, ltp=ltp), SENT_MS)
    read = decode_binary(data, symbols(KEY)).quote
    assert read.ltp == pytest.approx(ltp, rel=1e-15, abs=1e-8)
    assert read.high == RELIANCE.high


def test_an_exchange_without_a_code_is_sent_as_zero() -> None:
    data = encode_binary(InstrumentKey("NYSE", "XX", 1), RELIANCE, SENT_MS)
    assert tuple(data[2:4]) == (0, 0)


@given(st.binary(max_size=130) | st.binary(min_size=120, max_size=120).map(lambda b: b"\1" + b[1:]))
def test_any_bytes_are_a_quote_or_a_wire_error(data: bytes) -> None:
    try:
        read = decode_binary(data, symbols(KEY))
    except RemoteWireError:
        return
    assert read.key == KEY


def test_every_truncation_is_a_wire_error() -> None:
    whole = encode_binary(KEY, RELIANCE, SENT_MS)
    for size in range(len(whole)):
        with pytest.raises(RemoteWireError):
            decode_binary(whole[:size], symbols(KEY))


def test_an_instrument_that_was_not_announced_is_a_wire_error() -> None:
    with pytest.raises(RemoteWireError):
        decode_binary(encode_binary(KEY, RELIANCE, SENT_MS), {})


# ---------------------------------------------------------------------- the page


def test_the_page_lays_the_bytes_out_as_the_code_does() -> None:
    rows = re.findall(r"^\| (\d+) \| ([ui]\d+|3 bytes) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    codes = {"u8": "B", "u64": "Q", "i64": "q", "i32": "i", "3 bytes": "3x"}
    offset, layout = 0, "<"
    for at, kind in rows:
        assert int(at) == offset
        layout += codes[kind]
        offset += calcsize("<" + codes[kind])
    spelled = re.sub(r"(\d+)([Bq])", lambda match: match[2] * int(match[1]), LAYOUT.format)
    assert layout == spelled
    assert offset == LAYOUT.size == 120


def test_the_page_names_every_code_and_flag() -> None:
    text = PAGE.read_text("utf-8")
    for codes in (EXCHANGE_CODES, SEGMENT_CODES):
        assert ", ".join(f"{code} {name}" for name, code in codes.items()) in text
    flags = (IS_SNAPSHOT, IS_NEW_HIGH, IS_NEW_LOW, HAS_CLOSE, HAS_YEAR, HAS_AVERAGE)
    assert [int(flag, 16) for flag in re.findall(r"^\| (0x\d\d) \|", text, re.MULTILINE)] == [
        *flags
    ]
