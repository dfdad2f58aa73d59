"""The requests and texts of Kite's ticker, against those of its documentation and themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import LocalWireError, RemoteWireError
from odin.feeds.kite.text import (
    MAX_TEXT_CHARS,
    SetMode,
    Subscribe,
    Text,
    Unsubscribe,
    decode_request,
    decode_text,
    encode_request,
    encode_text,
    is_refusal,
)
from odin.feeds.kite.wire import MAX_TOKEN
from odin.model import MODES


def test_requests_are_the_documented_ones() -> None:
    assert encode_request(Subscribe((408065, 884737))) == '{"a":"subscribe","v":[408065,884737]}'
    assert encode_request(Unsubscribe((408065,))) == '{"a":"unsubscribe","v":[408065]}'
    assert encode_request(SetMode(("full", (408065,)))) == '{"a":"mode","v":["full",[408065]]}'


some_tokens = st.lists(st.integers(0, MAX_TOKEN), max_size=5).map(tuple)


@given(
    st.builds(Subscribe, some_tokens)
    | st.builds(Unsubscribe, some_tokens)
    | st.builds(SetMode, st.tuples(st.sampled_from(MODES), some_tokens))
)
def test_requests_come_back_as_they_were(request: Subscribe | Unsubscribe | SetMode) -> None:
    assert decode_request(encode_request(request)) == request


@pytest.mark.parametrize(
    "request_",
    [Subscribe((-1,)), Unsubscribe((2**32,)), SetMode(("most", (1,)))],  # type: ignore[arg-type]
)
def test_a_request_with_what_is_no_token_is_our_error(
    request_: Subscribe | Unsubscribe | SetMode,
) -> None:
    with pytest.raises(LocalWireError):
        encode_request(request_)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"a":"subscribe"}',
        '{"a":"subscribe","v":["408065"]}',
        '{"a":"subscribe","v":[-1]}',
        '{"a":"mode","v":["most",[1]]}',
        '{"a":"mode","v":[1]}',
        '{"a":"sing","v":[1]}',
        "[" * 100_000,
        b"\xff",
    ],
    ids=lambda text: str(text[:20]),
)
def test_what_is_no_request_is_refused(text: str | bytes) -> None:
    with pytest.raises(RemoteWireError):
        decode_request(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"type":"error","data":"Too many"}', "Too many"),
        ('{"type":"error","data":{"a":1}}', "{'a': 1}"),
        ('{"type":"error"}', "None"),
        ('{"type":"order","data":{"order_id":"1"}}', None),
        ('{"type":"message","data":"hello","more":1}', None),
        ('{"type":"instruments_meta","data":{"count":1}}', None),
    ],
)
def test_texts_of_the_server(text: str, problem: str | None) -> None:
    assert decode_text(text).problem == problem
    assert decode_text(encode_text(decode_text(text))) == decode_text(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"data":"x"}', '{"type":1}', '"\ud800"'),
        '{"type":"x","data":' + "[" * 9_999,
        '{"type":"x","data":"' + "x" * MAX_TEXT_CHARS + '"}',  # too long to be one
    ],
)
def test_what_is_no_text_is_refused(text: str) -> None:
    with pytest.raises(RemoteWireError):
        decode_text(text)


@given(st.text(max_size=60))
def test_any_text_is_a_message_or_an_error_of_theirs(text: str) -> None:
    for decode in (decode_text, decode_request):
        try:
            decode(text)
        except RemoteWireError:
            continue


def test_a_text_with_what_is_no_json_is_our_error() -> None:
    with pytest.raises(LocalWireError):
        encode_text(Text("error", object()))


@pytest.mark.parametrize(
    ("problem", "is_one"),
    [
        ("Token is invalid or has expired.", True),
        ("Incorrect `api_key` or `access_token`.", True),
        ("Invalid access token", True),
        ("Your session has expired", True),
        ("invalid api_key", True),
        ("Invalid instrument token 408065", False),
        ("Invalid tokens", False),
        ("3001 instruments, 3000 are allowed", False),
        ("The session of the market is over", False),
        ("x" * 100_000 + "invalid access token", False),
        ("", False),
    ],
)
def test_errors_that_speak_of_the_credentials(problem: str, is_one: bool) -> None:
    assert is_refusal(problem) is is_one
