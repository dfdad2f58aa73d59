import json
import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgpack
import pytest

from odin_client import Format, OdinError, Quote, messages
from odin_client.encodings import Decoder

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "encodings"
FILES = sorted(VECTORS.glob("*.json"))
FORMATS = get_args(Format)
SEED = 2885
ROUNDS = 5000


def vector(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / f"{name}.json").read_text())


def frames_of(content: dict[str, Any]) -> list[str | bytes]:
    is_text = content["format"].startswith("json")
    return [frame if is_text else bytes.fromhex(frame) for frame in content["frames"]]


def instruments(stocks: list[dict[str, Any]]) -> str:
    return json.dumps({"type": "instruments", "data": {"instruments": stocks}})


def decoder_of(content: dict[str, Any]) -> Decoder:
    """A decoder that was told what the vector's server had said before its frames."""
    decoder = Decoder(content["format"])
    if "instruments" in content:
        assert decoder.decode(instruments(content["instruments"])) is None
    return decoder


def decoded(decoder: Decoder, frame: str | bytes) -> Quote:
    quote = decoder.decode(frame)
    assert isinstance(quote, Quote)
    return quote


def binary(**fields: int) -> bytes:
    """The first vector's quote with other integers at the offsets of the page."""
    places = {
        "kind": (0, 1), "flags": (1, 1), "exchange": (2, 1), "segment": (3, 1),
        "decimals": (4, 1), "token": (8, 8), "applied_ns": (32, 8), "average": (48, 8),
        "ltp": (56, 8), "close": (88, 8), "year_high": (96, 8), "high_day": (112, 4),
    }  # fmt: skip
    frame = bytearray.fromhex(vector("binary_live")["frames"][0])
    for name, value in fields.items():
        start, length = places[name]
        frame[start : start + length] = value.to_bytes(length, "little", signed=value < 0)
    return bytes(frame)


def binary_decoder() -> Decoder:
    return decoder_of(vector("binary_live"))


# ---------------------------------------------------------------- every encoding


def test_there_are_vectors_of_every_encoding() -> None:
    assert {json.loads(p.read_text())["format"] for p in FILES} == set(FORMATS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_servers_bytes_become_its_quotes(path: Path) -> None:
    content = json.loads(path.read_text())
    decoder, held = decoder_of(content), {}
    for frame, message in zip(frames_of(content), content["messages"], strict=True):
        held = {**(held if message.get("delta") else {}), **message["data"]}
        expected = messages.decode_market_data({**message, "data": held})
        # repr tells 0 from 0.0 and every bit of a float.
        assert repr(decoded(decoder, frame)) == repr(expected)
    assert messages.named_data({**content["messages"][-1], "data": held}) == content["quote"]


@pytest.mark.parametrize("name", ["binary_ltp", "binary_full", "binary_full_without_depth"])
def test_binary_quotes_of_another_length_are_passed_over(name: str) -> None:
    content = vector(name)
    whole = frames_of(content)[0]
    assert isinstance(whole, bytes)
    decoder = decoder_of(content)
    for size in range(len(whole)):
        assert decoder.decode(whole[:size]) is None
    assert decoder.decode(whole + b"\0") is None
    with pytest.raises(OdinError, match="which no instruments message named"):
        Decoder("binary").decode(whole)


@pytest.mark.parametrize("encoding", FORMATS)
def test_whole_text_is_a_quote_in_every_encoding(encoding: Format) -> None:
    message = vector("msgpack_live")["messages"][0]
    quote = Decoder(encoding).decode(json.dumps(message))
    assert quote == messages.decode_market_data(message)


@pytest.mark.parametrize("encoding", FORMATS)
def test_other_messages_are_handed_on_as_they_are(encoding: Format) -> None:
    message = {"type": "pong", "request_id": "1"}
    assert Decoder(encoding).decode(json.dumps(message)) == message


def test_an_unknown_format_is_told_with_the_choices() -> None:
    with pytest.raises(ValueError) as caught:
        Decoder("xml")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "format must be one of json, json-delta, msgpack, msgpack-delta, binary, was 'xml'"
    )


@pytest.mark.parametrize("encoding", ["msgpack", "msgpack-delta"])
def test_without_msgpack_the_extra_is_named(
    encoding: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ImportError, match=r"pip install 'odin-streamer-client\[msgpack\]'"):
        Decoder(encoding)
    assert Decoder("binary").decode('{"type": "pong"}') == {"type": "pong"}


@pytest.mark.parametrize("frame", ["", "[1]", "nothing", "[" * 100_000, "1" * 5000])
def test_text_that_is_no_object_is_refused(frame: str) -> None:
    with pytest.raises(OdinError):
        Decoder().decode(frame)


# ---------------------------------------------------------------- deltas


def test_a_delta_keeps_what_it_does_not_name() -> None:
    content = vector("json_delta")
    decoder, frames = decoder_of(content), frames_of(content)
    first = decoded(decoder, frames[0])
    second = decoded(decoder, frames[1])
    assert (first.is_snapshot, second.is_snapshot) == (True, False)
    assert second.sent_ms == content["messages"][1]["timestamp"]
    assert (first.ltp, second.ltp) == (1365.5, 1366.0)
    assert (first.week_52_high, second.week_52_high) == (1551.0, 1551.0)


def test_deltas_add_up_and_can_say_that_something_is_no_longer_known() -> None:
    content = vector("json_delta")
    decoder, (whole, delta) = decoder_of(content), content["messages"]
    decoder.decode(json.dumps(whole))
    decoder.decode(json.dumps({**delta, "data": {"ltp": 1.0, "week_52_high": None}}))
    quote = decoded(decoder, json.dumps({**delta, "data": {"volume": 7}}))
    assert (quote.ltp, quote.volume, quote.week_52_high) == (1.0, 7, None)


def test_a_whole_quote_replaces_what_was_held() -> None:
    content = vector("json_delta")
    decoder, (whole, delta) = decoder_of(content), content["messages"]
    decoder.decode(json.dumps(whole))
    bare = {name: whole["data"][name] for name in ("symbol", "token", "exchange", "ltp")}
    decoder.decode(json.dumps({**whole, "data": bare}))
    quote = decoded(decoder, json.dumps({**delta, "data": {"ltp": 2.0}}))
    assert (quote.ltp, quote.volume) == (2.0, None)


def test_a_delta_changes_its_own_stock_alone() -> None:
    """An exchange may give one token to a share and to an index."""
    decoder = Decoder("json-delta")
    for symbol in ("ADANIENT", "BANKNIFTY"):
        data = {"symbol": symbol, "token": "25", "exchange": "NSE", "ltp": 1.0, "volume": 0}
        decoder.decode(json.dumps({"type": "market_data", **data, "data": data}))
    share = {"type": "market_data", "symbol": "ADANIENT", "token": "25", "exchange": "NSE"}
    index = {**share, "symbol": "BANKNIFTY"}
    decoder.decode(json.dumps({**share, "data": {"ltp": 9.0}, "delta": True}))
    quote = decoded(decoder, json.dumps({**index, "data": {"volume": 3}, "delta": True}))
    assert (quote.symbol, quote.ltp, quote.volume) == ("BANKNIFTY", 1.0, 3)


@pytest.mark.parametrize("name", ["json_delta", "msgpack_delta"])
def test_a_delta_without_a_whole_quote_before_it_is_refused(name: str) -> None:
    content = vector(name)
    with pytest.raises(OdinError, match="delta of NSE:RELIANCE without a whole quote"):
        decoder_of(content).decode(frames_of(content)[1])


def test_a_delta_without_data_is_refused_and_changes_nothing() -> None:
    content = vector("json_delta")
    decoder, (whole, delta) = decoder_of(content), content["messages"]
    decoder.decode(json.dumps(whole))
    with pytest.raises(OdinError, match="without data"):
        decoder.decode(json.dumps({**delta, "data": None}))
    assert decoded(decoder, frames_of(content)[1]).ltp == 1366.0


# ---------------------------------------------------------------- binary


@pytest.mark.parametrize(
    "frame", [binary(kind=2), binary(kind=0), binary()[:-1], binary() + b"\0", b""]
)
def test_other_kinds_and_lengths_are_passed_over(frame: bytes) -> None:
    assert binary_decoder().decode(frame) is None


@pytest.mark.parametrize("encoding", ["json", "json-delta"])
def test_binary_messages_mean_nothing_where_none_were_asked_for(encoding: Format) -> None:
    assert Decoder(encoding).decode(binary()) is None


@pytest.mark.parametrize(
    "fields", [{"token": 1}, {"exchange": 2}, {"segment": 2}, {"exchange": 9}, {"segment": 0}]
)
def test_a_quote_of_a_stock_that_was_not_named_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(OdinError, match="no instruments message named"):
        binary_decoder().decode(binary(**fields))


def test_a_place_without_a_code_is_0() -> None:
    decoder = Decoder("binary")
    stock = {"symbol": "AU", "token": "2885", "exchange": "NEWX", "segment": "NEW"}
    decoder.decode(instruments([stock]))
    quote = decoded(decoder, binary(exchange=0, segment=0))
    assert (quote.symbol, quote.exchange, quote.token) == ("AU", "NEWX", "2885")


def test_the_segment_tells_a_share_from_an_index() -> None:
    decoder = Decoder("binary")
    share = {"symbol": "ADANIENT", "token": "25", "exchange": "NSE", "segment": "CM"}
    decoder.decode(instruments([share, {**share, "symbol": "BANKNIFTY", "segment": "INDEX"}]))
    assert decoded(decoder, binary(token=25, segment=1)).symbol == "ADANIENT"
    assert decoded(decoder, binary(token=25, segment=2)).symbol == "BANKNIFTY"


@pytest.mark.parametrize(
    ("decimals", "ltp", "price"),
    [
        (2, 136550, 1365.5),
        (4, 13655025, 1365.5025),
        (6, 1, 0.000001),
        (8, 999_999_999_999_999_999, 9999999999.99999999),
        (2, -(2**63), -92233720368547758.08),
        (2, 9007199254740993, 90071992547409.94),
    ],
)
def test_a_price_is_the_float_nearest_to_its_decimals(
    decimals: int, ltp: int, price: float
) -> None:
    assert decoded(binary_decoder(), binary(decimals=decimals, ltp=ltp)).ltp == price


@pytest.mark.parametrize(
    ("close", "flags", "percent"),
    [
        (137260, 0x08, (1365.5 - 1372.6) / 1372.6 * 100),
        (136550, 0x08, 0.0),
        (137260, 0, 0.0),
        (0, 0x08, 0.0),
    ],
)
def test_the_change_is_computed_from_last_price_and_close(
    close: int, flags: int, percent: float
) -> None:
    assert decoded(binary_decoder(), binary(close=close, flags=flags)).percent_change == percent


def test_flags_say_what_is_known() -> None:
    decoder = binary_decoder()
    nothing = decoded(decoder, binary(flags=0))
    unknown = [name for name, value in nothing._asdict().items() if value is None]
    assert unknown[: unknown.index("avg_price")] == [
        "close",
        "prev_close",
        "week_52_high",
        "week_52_low",
        "week_52_high_date",
        "week_52_low_date",
        "avg_volume_5d",
    ]
    high, low = decoded(decoder, binary(flags=0x02)), decoded(decoder, binary(flags=0x04))
    assert (high.is_new_week_52_high, high.is_new_week_52_low) == (True, False)
    assert (low.is_new_week_52_high, low.is_new_week_52_low) == (False, True)
    assert not nothing.is_snapshot
    assert decoded(decoder, binary(flags=0x01)).is_snapshot
    assert decoded(decoder, binary(flags=0x20, average=2**64 - 1)).avg_volume_5d == 2**64 - 1


@pytest.mark.parametrize(
    ("applied_ns", "text"),
    [
        (0, "1970-01-01T05:30:00.000000000+05:30"),
        (-1, "1970-01-01T05:29:59.999999999+05:30"),
        (1756971599999999999, "2025-09-04T13:09:59.999999999+05:30"),
        (2**63 - 1, "2262-04-12T05:17:16.854775807+05:30"),
    ],
)
def test_no_nanosecond_is_lost(applied_ns: int, text: str) -> None:
    assert decoded(binary_decoder(), binary(applied_ns=applied_ns)).last_updated == text


@pytest.mark.parametrize(
    ("day", "text"), [(0, "1970-01-01"), (-1, "1969-12-31"), (20278, "2025-07-09")]
)
def test_dates_count_from_1970(day: int, text: str) -> None:
    assert decoded(binary_decoder(), binary(high_day=day)).week_52_high_date == text


@pytest.mark.parametrize("day", [2**31 - 1, -(2**31)])
def test_a_date_that_no_calendar_has_is_refused(day: int) -> None:
    with pytest.raises(OdinError, match="impossible date"):
        binary_decoder().decode(binary(high_day=day))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "instruments"},
        {"type": "instruments", "data": {"instruments": 1}},
        {"type": "instruments", "data": {"instruments": ["RELIANCE"]}},
        {"type": "instruments", "data": {"instruments": [{"symbol": "RELIANCE"}]}},
        *(
            {"type": "instruments", "data": {"instruments": [{**stock, name: value}]}}
            for stock in vector("binary_live")["instruments"]
            for name, value in (
                ("token", "x"),
                ("token", float("inf")),
                ("exchange", []),
                ("segment", {}),
            )
        ),
    ],
)
def test_instruments_without_their_identity_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(OdinError, match="an instruments message without"):
        Decoder("binary").decode(json.dumps(message))


# ---------------------------------------------------------------- what no server sends


def survives(decoder: Decoder, frame: str | bytes) -> None:
    """A value or an OdinError, and nothing else."""
    try:
        value = decoder.decode(frame)
    except OdinError:
        return
    assert value is None or isinstance(value, Quote | dict)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_truncated_and_damaged_messages_never_crash(path: Path) -> None:
    content = json.loads(path.read_text())
    decoder, chance = decoder_of(content), random.Random(SEED)
    for frame in frames_of(content):
        for length in range(len(frame)):
            survives(decoder, frame[:length])
        raw = frame.encode() if isinstance(frame, str) else frame
        for _ in range(ROUNDS):
            damaged = bytearray(raw)
            for _ in range(chance.randint(1, 8)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            is_text = isinstance(frame, str)
            survives(decoder, damaged.decode(errors="replace") if is_text else bytes(damaged))


@pytest.mark.parametrize("encoding", FORMATS)
def test_random_bytes_never_crash(encoding: Format) -> None:
    decoder, chance = Decoder(encoding), random.Random(SEED)
    decoder.decode(instruments(vector("binary_live")["instruments"]))
    for _ in range(ROUNDS):
        noise = chance.randbytes(chance.choice((1, 5, 119, 120, 121, 400)))
        survives(decoder, noise)
        survives(decoder, b"\x01" + noise[1:])
        survives(decoder, noise.decode(errors="replace"))


@pytest.mark.parametrize("encoding", FORMATS)
def test_values_of_any_type_never_crash(encoding: Format) -> None:
    """Objects whose parts are what they should not be: as text, and as MessagePack."""
    values = [None, True, -1, 2.5, float("inf"), "", "2885", [], [[]], {}, {"symbol": {}}]
    names = ["type", "symbol", "token", "exchange", "ltp", "timestamp", "snapshot", "delta"]
    decoder, chance = Decoder(encoding), random.Random(SEED)
    for _ in range(ROUNDS):
        message: dict[str, Any] = {name: chance.choice(values) for name in names}
        message["type"] = chance.choice(["market_data", "market_data", "instruments", []])
        message["data"] = chance.choice([{**message}, {"instruments": [message.copy()]}, *values])
        survives(decoder, json.dumps(message))
        survives(decoder, msgpack.packb(message))


def test_a_decoder_that_refused_much_still_decodes() -> None:
    content = vector("msgpack_delta")
    decoder = decoder_of(content)
    whole, delta = frames_of(content)
    decoder.decode(whole)
    for start, end in pairwise(range(0, len(delta), 7)):
        survives(decoder, delta[start:end])
    assert decoded(decoder, delta).ltp == content["quote"]["ltp"]
