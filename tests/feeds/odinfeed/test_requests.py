import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import LocalWireError, RemoteWireError
from odin.feeds.odinfeed.requests import (
    BestFive,
    KeepAlive,
    Login,
    LtpTouchline,
    Pause,
    Request,
    Scrip,
    Touchline,
    decode_request,
    encode_request,
)

ACC, RELIANCE = Scrip(1, 22), Scrip(1, 2885)
NOON = "12:00:00"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Login("ME", "key", "token"), "64=101|65=74|66=12:00:00|67=ME|68=key|401=2"),
        (Login("ME", "pass", "password"), "64=101|65=74|66=12:00:00|67=ME|68=pass|401=1"),
        (Login("ME", ""), "64=101|65=74|66=12:00:00|67=ME|68="),
        (
            Touchline((ACC, RELIANCE)),
            "64=206|65=84|66=12:00:00|200=0|1=1$7=22|1=1$7=2885|230=1",
        ),
        (
            Touchline((ACC,), is_binary=True, is_ltp_change_only=True),
            "64=206|65=84|66=12:00:00|49=1|200=1|1=1$7=22|230=1",
        ),
        (Touchline((ACC,), is_on=False), "64=206|65=84|66=12:00:00|4=|1=1$7=22|230=2"),
        (LtpTouchline((ACC, RELIANCE)), "64=347|65=84|66=12:00:00|1=1$7=22|1=1$7=2885|230=1"),
        (BestFive(RELIANCE), "64=127|65=84|66=12:00:00|1=1|7=2885|230=1"),
        (BestFive(RELIANCE, is_on=False), "64=127|65=84|66=12:00:00|1=1|7=2885|230=2"),
        (Pause(True), "64=106|65=84|66=12:00:00|230=1"),
        (Pause(False), "64=106|65=84|66=12:00:00|230=2"),
        (KeepAlive("S1"), "64=1000|65=34|66=12:00:00|4=S1"),
    ],
)
def test_the_requests_of_the_page(request_: Request, text: str) -> None:
    encoded = encode_request(request_, NOON)
    assert encoded == b"63=FT3.0|" + text.encode()
    assert decode_request(encoded) == request_


def test_the_login_of_choice() -> None:
    encoded = encode_request(Login("VENDOR", "TOKEN"), NOON, "FIX3.0")
    assert encoded == b"63=FIX3.0|64=101|66=12:00:00|67=VENDOR|68=TOKEN|400=11|"
    assert decode_request(encoded) == Login("VENDOR", "TOKEN")


def test_older_forms_are_understood() -> None:
    login = (
        b"63=FT3.0|64=101|65=74|66=14:59:22|67=ME|68=KEY|4=|400=0|401=2|396=HO|51=4|395=127.0.0.1"
    )
    assert decode_request(login) == Login("ME", "KEY", "token")
    touchline = b"63=FT3.0|64=206|65=84|66=14:59:22|4=1000|1=1$7=22|1=1$7=2885|230=1"
    assert decode_request(touchline) == Touchline((ACC, RELIANCE))


numbers = st.integers(0, 2**32 - 1)
scrips = st.builds(Scrip, numbers, numbers)
lists = st.lists(scrips, min_size=1, max_size=5).map(tuple)
values = st.text(st.characters(codec="ascii", categories=["L", "N", "P"], exclude_characters="|"))
requests = st.one_of(
    st.builds(
        Login, values.filter(bool), values.filter(bool), st.sampled_from(["password", "token"])
    ),
    st.builds(Touchline, lists, st.just(True), st.booleans(), st.booleans()),
    st.builds(Touchline, lists, st.just(False), st.just(False), st.just(False)),
    st.builds(LtpTouchline, lists, st.booleans()),
    st.builds(BestFive, scrips, st.booleans()),
    st.builds(Pause, st.booleans()),
    st.builds(KeepAlive, values),
)


@given(requests)
def test_a_request_comes_back(request_: Request) -> None:
    assert decode_request(encode_request(request_, NOON)) == request_


fragments = st.sampled_from(
    [b"63=FT3.0", b"|64=206", b"|64=101", b"|64=127", b"|1=1$7=22", b"|230=1", b"|67=", b"|", b"="]
)


@given(st.one_of(st.binary(), st.lists(st.one_of(fragments, st.binary(max_size=4))).map(b"".join)))
def test_any_bytes_are_a_request_or_none(data: bytes) -> None:
    try:
        request_ = decode_request(data)
    except RemoteWireError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(request_, tuple)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"64=206", "must begin with 63 and 64"),
        (b"63=FT3.0|64=999", "no request has the code 999"),
        (b"63=FT3.0|64=101|68=x", "must name its user"),
        (b"63=FT3.0|64=206|1=1$7=22", "230 must be 1 or 2, was None"),
        (b"63=FT3.0|64=206|1=1$7=22|230=3", "230 must be 1 or 2, was 3"),
        (b"63=FT3.0|64=206|230=1", "must name scrips"),
        (b"63=FT3.0|64=206|1=1$7=4294967296|230=1", "scrips of 32-bit numbers"),
        (b"63=FT3.0|64=127|1=1|7=22|1=1|7=23|230=1", "one scrip a request, was 2"),
    ],
)
def test_what_is_no_request_says_why(text: bytes, problem: str) -> None:
    with pytest.raises(RemoteWireError, match=problem):
        decode_request(text)


@pytest.mark.parametrize(
    "request_",
    [
        Login("", "key"),
        Login("ME", "a|401=1"),
        Login("ME", "a\nb"),
        Login("ME", "schlüssel"),
        KeepAlive("a|b"),
        Touchline(()),
        Touchline((Scrip(1, 2**32),)),
        BestFive(Scrip(-1, 1)),
    ],
)
def test_what_cannot_be_asked_is_our_mistake(request_: Request) -> None:
    with pytest.raises(LocalWireError) as caught:
        encode_request(request_, NOON)
    assert "schlüssel" not in str(caught.value)


def test_a_login_never_shows_its_secret() -> None:
    assert "hush" not in repr(Login("ME", "hush"))
    assert "hush" not in f"{[Login('ME', 'hush')]}"
