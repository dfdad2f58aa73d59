"""Requests in, messages out."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.auth.keys import create
from odin.errors import CLIENT_ERRORS, MAX_ERROR_CHARS, ClientError
from odin.model import FeedGap, FeedStatus, MarketStatus, Quote
from odin.protocols.enhanced import wire

RELIANCE = Quote(
    "RELIANCE", "2885", "NSE", 1365.5, 1371.8, 1374.0, 1360.3, 1372.6, 1372.6, 8053013,
    -0.5172665015299366, 1551.0, 1115.55, "2025-09-02", "2025-09-02", 1374.0, 1360.3, 8053013,
    1756971590198, "2025-09-04T13:09:51.651469068+05:30", False, False,
)  # fmt: skip
"""The quote of the integration guide."""

VIEW = wire.MarketView(
    now_ms=1756971591651,
    status=MarketStatus(
        exchange="NSE",
        is_open=True,
        phase="open",
        holiday=None,
        session=None,
        market_hours="09:15 - 15:30 IST",
        next_open_ms=1757043900000,
        next_close_ms=1756980000000,
        next_change_ms=1756980000000,
        is_calendar_known=True,
    ),
    is_streaming=True,
    gate="calendar",
    is_simulated=False,
    feed=FeedStatus("test", "streaming", is_stale=False, last_tick_ms=1),
)


# ---------------------------------------------------------------------- requests


def test_a_request_of_the_guide_is_read_whole() -> None:
    request = wire.decode_request(
        '{"type":"request","action":"subscribe","stocks":["SBIN","2885"],"timestamp":1756971590827}'
    )
    assert request.action == "subscribe"
    assert request.names == ["SBIN", "2885"]
    assert request.timestamp == 1756971590827


def test_type_may_be_missing_and_unknown_fields_are_passed_over() -> None:
    request = wire.decode_request('{"action":"ping","client_id":"x","more":{"a":[1,2]}}')
    assert request.action == "ping"


def test_tokens_count_beside_stocks_and_may_be_numbers() -> None:
    request = wire.decode_request(
        '{"action":"subscribe","stocks":["SBIN"],"tokens":[2885,"11536"]}'
    )
    assert request.names == ["SBIN", 2885, "11536"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("nonsense", "invalid_json"),
        ('{"action":"ping"} x', "invalid_json"),
        ('{"action":"ping","x":NaN}', "invalid_json"),
        ('{"action":"ping","timestamp":Infinity}', "invalid_json"),
        ('{"action":"\ud800"}', "invalid_json"),
        ('{"action":"ping","x":' + "[" * 100_000, "invalid_json"),
        ("[" * 100_000, "invalid_request"),
        ("[]", "invalid_request"),
        ("1", "invalid_request"),
        ("null", "invalid_request"),
        ('"subscribe"', "invalid_request"),
        ('{"action":1}', "invalid_request"),
        ('{"action":"subscribe","stocks":"SBIN"}', "invalid_request"),
        ('{"action":"subscribe","stocks":[true]}', "invalid_request"),
        ('{"action":"subscribe","stocks":[null]}', "invalid_request"),
        ('{"action":"subscribe","stocks":[["SBIN"]]}', "invalid_request"),
        ('{"action":"subscribe","stocks":[1.5]}', "invalid_request"),
        ('{"action":"subscribe","stocks":{"0":"SBIN"}}', "invalid_request"),
        ('{"action":"ping","request_id":{}}', "invalid_request"),
        ('{"action":"ping","request_id":"' + "x" * 129 + '"}', "invalid_request"),
        ('{"action":"ping","request_id":' + "9" * 30 + "}", "invalid_request"),
        ('{"action":"ping","timestamp":' + "9" * 5000 + "}", "invalid_request"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_catalogue(text: str, code: str) -> None:
    with pytest.raises(ClientError) as caught:
        wire.decode_request(text)
    assert caught.value.code == code
    assert len(caught.value.message) <= MAX_ERROR_CHARS
    assert "\n" not in caught.value.message
    assert "Traceback" not in caught.value.message


def test_an_error_text_says_was_and_where() -> None:
    with pytest.raises(ClientError, match=r"was `str` - at `\$\.stocks`"):
        wire.decode_request('{"action":"subscribe","stocks":"SBIN"}')


@given(st.text(max_size=200))
def test_any_text_is_a_request_or_a_client_error(text: str) -> None:
    try:
        wire.decode_request(text)
    except ClientError as error:
        assert error.code in CLIENT_ERRORS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "action": st.sampled_from(wire.ACTIONS) | JSON,
            "stocks": JSON,
            "tokens": JSON,
            "request_id": JSON,
            "timestamp": JSON,
        },
    )
)
def test_any_json_is_a_request_or_a_client_error(value: dict[str, object]) -> None:
    try:
        request = wire.decode_request(json.dumps(value))
    except ClientError as error:
        assert error.code in {"invalid_json", "invalid_request"}
    else:
        assert request.action == value.get("action", "")
        assert all(isinstance(name, str | int) for name in request.names)


def test_an_error_is_told_apart_by_the_id_of_its_request_where_that_can_be_read() -> None:
    text = '{"action":"subscribe","stocks":5,"request_id":"q","timestamp":7}'
    assert wire.echo_of_refused(text) == wire.Echo("q", 7)
    for unreadable in ("[]", "{", '{"request_id":{}}', '{"request_id":"' + "x" * 129 + '"}'):
        assert wire.echo_of_refused(unreadable) == wire.NO_ECHO
    assert wire.echo_of_refused('{"request_id":' + "9" * 30 + "}") == wire.NO_ECHO


# ---------------------------------------------------------------------- client ids


@pytest.mark.parametrize("text", ["a", "user_123", "app_v2_client_456", "A.b:c@d-e", "x" * 128])
def test_client_ids_that_are_taken(text: str) -> None:
    assert wire.is_client_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "x" * 129, "a b", " a", "a\n", "a/b", "../etc", "é", "а", "a;drop table", "a\x00", "%41"],
)
def test_client_ids_that_are_not(text: str) -> None:
    assert not wire.is_client_id(text)


# ---------------------------------------------------------------------- messages


def test_absent_parts_of_a_message_are_left_out() -> None:
    assert orjson.loads(wire.encode_message("pong", "alive", "me", 5)) == {
        "type": "pong",
        "status": "alive",
        "client_id": "me",
        "timestamp": 5,
    }


def test_an_answer_echoes_its_request() -> None:
    echo = wire.Echo("r1", 1756971590827)
    message = orjson.loads(wire.encode_message("pong", "alive", "me", 5, echo=echo))
    assert message["request_id"] == "r1"
    assert message["request_timestamp"] == 1756971590827
    assert message["timestamp"] == 5


def test_an_error_has_the_guides_shape_and_a_code() -> None:
    error = ClientError("no_stocks_subscribe")
    assert orjson.loads(wire.encode_error(error, "your_client_id", 1756971590827)) == {
        "type": "error",
        "status": "error",
        "code": "no_stocks_subscribe",
        "message": "No stocks provided for subscription",
        "client_id": "your_client_id",
        "timestamp": 1756971590827,
    }


def test_the_fields_of_a_market_status() -> None:
    data = wire.market_status_fields(VIEW)
    assert data == {
        "market_open": True,
        "market_hours": "09:15 - 15:30 IST",
        "phase": "open",
        "current_time": "13:09:51",
        "current_date": "2025-09-04",
        "next_open": "2025-09-05 09:15:00",
        "next_close": "2025-09-04 15:30:00",
        "timezone": "Asia/Kolkata",
        "holiday": None,
        "session": None,
        "streaming_data": True,
        "calendar_known": True,
        "gate": "calendar",
        "simulated": False,
        "feed": {"name": "test", "state": "streaming", "stale": False},
        "feeds": [{"name": "test", "state": "streaming", "stale": False}],
    }


def test_a_market_status_names_every_feed() -> None:
    feeds = (VIEW.feed, FeedStatus("other", "backoff", is_stale=False, last_tick_ms=None))
    data = wire.market_status_fields(VIEW._replace(feeds=feeds))
    assert data["feeds"] == [
        {"name": "test", "state": "streaming", "stale": False},
        {"name": "other", "state": "backoff", "stale": False},
    ]


def test_a_gap_has_its_times_for_programs_and_for_people() -> None:
    gap = FeedGap("kite", 1756971591651, 1756971602500)
    assert orjson.loads(wire.encode_gap(gap, 1756971602600)) == {
        "type": "feed_gap",
        "status": "success",
        "data": {
            "feed": "kite",
            "from": 1756971591651,
            "to": 1756971602500,
            "from_time": "2025-09-04 13:09:51",
            "to_time": "2025-09-04 13:10:02",
        },
        "timestamp": 1756971602600,
    }


@pytest.mark.parametrize("text", ["ltp", "quote", "full", None])
def test_a_request_may_say_its_mode(text: str | None) -> None:
    request = wire.decode_request(json.dumps({"action": "subscribe", "mode": text}))
    assert wire.mode_of(request) == text


@given(
    st.recursive(
        st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ).filter(lambda value: value not in ("ltp", "quote", "full"))
)
def test_any_other_mode_is_an_error_of_subscribe_alone(value: object) -> None:
    request = wire.decode_request(json.dumps({"action": "ping", "mode": value}))
    with pytest.raises(ClientError) as error:
        wire.mode_of(request)
    assert error.value.code == "invalid_mode"


def test_streaming_data_needs_an_open_market_and_a_live_feed() -> None:
    stale = FeedStatus("test", "stale", is_stale=True, last_tick_ms=1)
    assert wire.market_status_fields(VIEW._replace(feed=stale))["streaming_data"] is False
    assert wire.market_status_fields(VIEW._replace(is_streaming=False))["streaming_data"] is False


def test_the_fields_of_a_welcome() -> None:
    data = wire.welcome_fields("me", 3, VIEW, {"message_bytes": 65536}, "json")
    assert data["message"] == "Connected to Odin Streamer Enhanced WebSocket"
    assert data["client_id"] == "me"
    assert data["subscribed_stocks"] == 3
    assert data["market_hours"] == "09:15 - 15:30 IST"
    assert data["market_open"] is True
    assert data["current_time"] == "13:09:51"
    assert data["limits"] == {"message_bytes": 65536}
    assert data["simulated"] is False
    instructions = data["instructions"]
    assert isinstance(instructions, dict)
    for text in instructions.values():
        assert wire.decode_request(text).action in wire.ACTIONS


# Credentials


def test_credentials_are_read_and_never_shown() -> None:
    text = '{"action":"authenticate","api_key":"odin_k","resume_token":"odin_r","more":[1]}'
    found = wire.decode_credentials(text)
    assert (found.api_key, found.resume_token) == ("odin_k", "odin_r")
    assert "odin_k" not in repr(found)
    assert "odin_r" not in str(found)


@given(
    st.text() | st.builds(lambda o: orjson.dumps(o).decode(), st.dictionaries(st.text(), st.text()))
)
def test_anything_else_is_one_error(text: str) -> None:
    with pytest.raises(ClientError) as error:
        wire.decode_credentials(text)
    assert error.value.code == "authentication_required"
    assert error.value.message == CLIENT_ERRORS["authentication_required"].text


def test_a_secret_sent_as_a_client_id_is_refused() -> None:
    _, key = create("me", ["stream"], 0)
    for secret in (key, f"odin_ticket_{'x' * 43}", f"odin_resume_{'x' * 43}"):
        assert not wire.is_client_id(secret)
    assert wire.is_client_id("odin_app_1")
