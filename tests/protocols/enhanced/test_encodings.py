"""market_data in every encoding, and how a connection chooses one."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from odin.errors import ClientError
from odin.model import MODES, Depth, Detail, InstrumentKey, Level, Mode, Quote
from odin.protocols.enhanced.encodings import (
    ENCODINGS,
    SUBPROTOCOLS,
    encode_delta,
    encode_plain,
    encode_quote,
    negotiate,
)
from odin.protocols.enhanced.modes import FullQuote, full_quote, has_lost
from odin.topics import Encoding
from tests.protocols.test_frames import read_frame

KEY = InstrumentKey("NSE", "CM", 2885)
RELIANCE = Quote(
    "RELIANCE", "2885", "NSE", 1365.5, 1371.8, 1374.0, 1360.3, 1372.6, 1372.6, 8053013,
    -0.5172665015299366, 1551.0, 1115.55, "2025-09-02", "2025-09-02", 1374.0, 1360.3, 8053013,
    1756971590198, "2025-09-04T13:09:51.651469068+05:30", False, False,
)  # fmt: skip
"""The quote of the integration guide."""
DETAIL = Detail(
    1366.12,
    412_345,
    398_001,
    None,
    Depth(
        (Level(1365.5, 120, 3), Level(1365.45, 800, 11)),
        (Level(1365.55, 75, 2),),
    ),
)
SENT_MS = 1756971591651
VECTORS = Path(__file__).resolve().parents[3] / "clients" / "vectors" / "encodings"


def payload(frame: bytes) -> bytes:
    _, data, rest = read_frame(frame)
    assert not rest
    return data


def opened(encoding: Encoding, frame: bytes) -> dict[str, Any]:
    """Return the message in a frame, which must be of the kind the encoding says."""
    opcode, data, _ = read_frame(frame)
    assert opcode == (1 if encoding.startswith("json") else 2)
    message: dict[str, Any] = (
        orjson.loads(data) if opcode == 1 else msgspec.msgpack.decode(data, type=dict[str, Any])
    )
    return message


# ---------------------------------------------------------------------- whole quotes


def test_json_is_the_guides_example_to_the_byte() -> None:
    expected = (
        '{"type":"market_data","symbol":"RELIANCE","token":"2885","exchange":"NSE","data":'
        '{"symbol":"RELIANCE","token":"2885","exchange":"NSE","ltp":1365.5,"open":1371.8,'
        '"high":1374.0,"low":1360.3,"close":1372.6,"prev_close":1372.6,"volume":8053013,'
        '"percent_change":-0.5172665015299366,"week_52_high":1551.0,"week_52_low":1115.55,'
        '"week_52_high_date":"2025-09-02","week_52_low_date":"2025-09-02","day_high":1374.0,'
        '"day_low":1360.3,"avg_volume_5d":8053013,"timestamp":1756971590198,'
        '"last_updated":"2025-09-04T13:09:51.651469068+05:30","is_new_week_52_high":false,'
        '"is_new_week_52_low":false},"timestamp":1756971591651}'
    )
    assert payload(encode_quote("json", KEY, RELIANCE, SENT_MS)).decode() == expected
    assert encode_plain(RELIANCE, SENT_MS) == encode_quote("json", KEY, RELIANCE, SENT_MS)


@pytest.mark.parametrize("encoding", ["json-delta", "msgpack", "msgpack-delta"])
def test_a_whole_quote_says_the_same_in_each_self_describing_encoding(encoding: Encoding) -> None:
    for is_snapshot in (False, True):
        expected = encode_quote("json", KEY, RELIANCE, SENT_MS, is_snapshot=is_snapshot)
        frame = encode_quote(encoding, KEY, RELIANCE, SENT_MS, is_snapshot=is_snapshot)
        assert opened(encoding, frame) == orjson.loads(payload(expected))


def test_a_snapshot_says_so_and_a_live_quote_does_not() -> None:
    live = opened("json", encode_quote("json", KEY, RELIANCE, 1))
    snapshot = opened("json", encode_quote("json", KEY, RELIANCE, 1, is_snapshot=True))
    assert "snapshot" not in live
    assert snapshot.pop("snapshot") is True
    assert snapshot == live


def test_unknown_values_are_null_not_absent_and_not_invented() -> None:
    quote = replace(RELIANCE, prev_close=None, close=None, week_52_high=None)
    data = opened("json", encode_quote("json", KEY, quote, 1))["data"]
    assert list(data) == [name for name in Quote.__struct_fields__ if name != "source"]
    assert data["prev_close"] is None
    assert data["week_52_high"] is None


def test_the_source_is_told_where_there_is_one() -> None:
    message = opened("json", encode_quote("json", KEY, replace(RELIANCE, source="kite"), 1))
    assert list(message["data"])[-1] == "source"
    assert message["data"].pop("source") == "kite"
    assert message == opened("json", encode_quote("json", KEY, RELIANCE, 1))


# ---------------------------------------------------------------------- modes


def test_ltp_is_compact() -> None:
    expected = (
        '{"type":"market_data","symbol":"RELIANCE","token":"2885","exchange":"NSE","data":'
        '{"ltp":1365.5,"percent_change":-0.5172665015299366,"timestamp":1756971590198},'
        '"timestamp":1756971591651,"mode":"ltp"}'
    )
    assert payload(encode_quote("json", KEY, RELIANCE, SENT_MS, "ltp")).decode() == expected


def test_full_is_the_quote_and_after_it_what_the_feed_told() -> None:
    frame = encode_quote("json", KEY, full_quote(RELIANCE, DETAIL), SENT_MS, "full")
    text = payload(frame).decode()
    quote = payload(encode_quote("json", KEY, RELIANCE, SENT_MS)).decode()
    assert text.startswith(quote[: quote.index('},"timestamp":')])
    assert text.endswith(
        '"is_new_week_52_low":false,"avg_price":1366.12,"total_buy_qty":412345,'
        '"total_sell_qty":398001,"depth":{"buy":[{"price":1365.5,"quantity":120,"orders":3},'
        '{"price":1365.45,"quantity":800,"orders":11}],"sell":[{"price":1365.55,"quantity":75,'
        '"orders":2}]}},"timestamp":1756971591651,"mode":"full"}'
    )


@pytest.mark.parametrize("detail", [None, Detail()])
def test_full_without_details_is_the_quote(detail: Detail | None) -> None:
    frame = encode_quote("json", KEY, full_quote(RELIANCE, detail), SENT_MS, "full")
    message = opened("json", frame)
    assert message.pop("mode") == "full"
    assert message == opened("json", encode_quote("json", KEY, RELIANCE, SENT_MS))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("encoding", ["json-delta", "msgpack", "msgpack-delta"])
def test_a_mode_says_the_same_in_each_self_describing_encoding(
    encoding: Encoding, mode: Mode
) -> None:
    quote = full_quote(RELIANCE, DETAIL) if mode == "full" else RELIANCE
    for is_snapshot in (False, True):
        text = encode_quote("json", KEY, quote, SENT_MS, mode, is_snapshot=is_snapshot)
        frame = encode_quote(encoding, KEY, quote, SENT_MS, mode, is_snapshot=is_snapshot)
        message = opened(encoding, frame)
        assert message == orjson.loads(payload(text))
        assert message.get("mode", "quote") == mode
        assert message.get("snapshot", False) == is_snapshot


def test_no_message_can_hold_nan() -> None:
    assert b"NaN" not in encode_quote("json", KEY, replace(RELIANCE, ltp=math.nan), 1)


# ---------------------------------------------------------------------- deltas

prices = st.sampled_from([1.0, 99.95, 100.0, 100.05])
quotes = st.builds(
    replace,
    st.just(RELIANCE),
    ltp=prices,
    open=prices,
    prev_close=st.none() | prices,
    volume=st.integers(0, 3),
    week_52_high_date=st.none() | st.just("2025-09-04"),
    is_new_week_52_high=st.booleans(),
)


@given(quotes, quotes, st.sampled_from(["json-delta", "msgpack-delta"]))
def test_a_delta_put_over_its_base_is_the_new_quote_and_holds_nothing_else(
    base: Quote, quote: Quote, encoding: Encoding
) -> None:
    message = opened(encoding, encode_delta(encoding, base, quote, SENT_MS))
    changed = message.pop("data")
    assert asdict(base) | changed == asdict(quote)
    assert all(value != getattr(base, name) for name, value in changed.items())
    assert message == {
        "type": "market_data",
        "symbol": "RELIANCE",
        "token": "2885",
        "exchange": "NSE",
        "timestamp": SENT_MS,
        "delta": True,
    }


numbers = st.none() | st.integers(0, 2)
sides = st.lists(st.builds(Level, prices, st.just(5), st.just(1)), max_size=2).map(tuple)
full_quotes = st.builds(
    full_quote,
    quotes,
    st.none()
    | st.builds(
        Detail,
        st.none() | prices,
        numbers,
        numbers,
        numbers,
        st.none() | st.builds(Depth, sides, sides),
    ),
)


def plain(value: object) -> dict[str, Any]:
    shown: dict[str, Any] = orjson.loads(msgspec.json.encode(value))
    return shown


@given(full_quotes, full_quotes, st.sampled_from(["json-delta", "msgpack-delta"]))
def test_a_full_delta_put_over_its_base_is_the_new_quote_unless_something_is_lost(
    base: FullQuote, quote: FullQuote, encoding: Encoding
) -> None:
    message = opened(encoding, encode_delta(encoding, base, quote, SENT_MS, "full"))
    merged = plain(base) | message["data"]
    assert has_lost(base, quote) == (merged != plain(quote))
    assert list(message)[-2:] == ["delta", "mode"]
    if base.depth == quote.depth:
        assert "depth" not in message["data"]


@given(quotes, quotes)
def test_an_ltp_delta_tells_only_what_the_mode_shows(base: Quote, quote: Quote) -> None:
    message = opened("json-delta", encode_delta("json-delta", base, quote, SENT_MS, "ltp"))
    assert message["data"] == ({} if base.ltp == quote.ltp else {"ltp": quote.ltp})
    assert (message["symbol"], message["delta"], message["mode"]) == ("RELIANCE", True, "ltp")


def test_an_ordinary_tick_makes_a_delta_of_less_than_half_the_size() -> None:
    after = replace(
        RELIANCE,
        ltp=1366.0,
        volume=8053113,
        percent_change=-0.480839283112335,
        timestamp=RELIANCE.timestamp + 1000,
        last_updated="2025-09-04T13:09:52.651469068+05:30",
    )
    whole = encode_quote("json", KEY, after, SENT_MS)
    assert len(encode_delta("json-delta", RELIANCE, after, SENT_MS)) < len(whole) / 2
    assert len(encode_delta("msgpack-delta", RELIANCE, after, SENT_MS)) < len(whole) * 0.4


# ---------------------------------------------------------------------- the shared vectors


def vectors() -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(VECTORS.glob("*.json"))]


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_the_clients_vectors_are_what_the_server_sends(vector: dict[str, Any]) -> None:
    encoding = vector["format"]
    held: dict[str, Any] = {}
    base: Quote | None = None
    for message, shown in zip(vector["messages"], vector["frames"], strict=True):
        listed = (vector.get("instruments") or [{}])[0]
        key = InstrumentKey(message["exchange"], listed.get("segment", "CM"), int(message["token"]))
        sent_ms, mode = message["timestamp"], message.get("mode", "quote")
        held = (held if message.get("delta") else {}) | message["data"]
        quote = (
            replace(RELIANCE, **held)
            if mode == "ltp"
            else msgspec.convert(held, FullQuote if mode == "full" else Quote)
        )
        if message.get("delta"):
            assert base is not None
            frame = encode_delta(encoding, base, quote, sent_ms, mode)
        else:
            is_snapshot = message.get("snapshot", False)
            frame = encode_quote(encoding, key, quote, sent_ms, mode, is_snapshot=is_snapshot)
        expected = shown.encode() if encoding.startswith("json") else bytes.fromhex(shown)
        assert payload(frame) == expected
        base = quote
    names = {name: vector["messages"][-1][name] for name in ("symbol", "token", "exchange")}
    assert names | held == vector["quote"]


def test_there_is_a_vector_for_every_encoding_and_for_every_mode() -> None:
    assert {vector["format"] for vector in vectors()} == {*ENCODINGS}
    modes = {message.get("mode", "quote") for v in vectors() for message in v["messages"]}
    assert modes == {*MODES}


# ---------------------------------------------------------------------- choosing


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoding_is_chosen_by_format_or_by_subprotocol(encoding: Encoding) -> None:
    assert negotiate([encoding], []) == (encoding, "")
    assert negotiate([], ["foreign", f" odin.{encoding}"]) == (encoding, f"odin.{encoding}")
    assert negotiate([encoding], [f"odin.{encoding}"]) == (encoding, f"odin.{encoding}")


def test_without_a_choice_it_is_json() -> None:
    assert negotiate([], []) == ("json", "")
    assert negotiate([], [""]) == ("json", "")
    assert negotiate([], ["graphql-ws"]) == ("json", "")


def test_the_clients_first_known_subprotocol_counts() -> None:
    assert negotiate([], ["odin.msgpack", "odin.binary"]) == ("msgpack", "odin.msgpack")


def test_format_goes_before_the_subprotocols() -> None:
    assert negotiate(["binary"], ["odin.json"]) == ("binary", "")


@pytest.mark.parametrize("formats", [["xml"], [""], ["JSON"], ["json", "json"]])
def test_an_unknown_or_repeated_format_is_refused(formats: list[str]) -> None:
    with pytest.raises(ClientError) as caught:
        negotiate(formats, [*SUBPROTOCOLS])
    assert caught.value.code == "invalid_format"
    assert all(encoding in caught.value.message for encoding in ENCODINGS)
