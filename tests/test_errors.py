"""The catalogue of errors: texts, bounds, and what may be reflected."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin import errors
from odin.errors import (
    CLIENT_ERRORS,
    CLOSE_CODES,
    MAX_ERROR_CHARS,
    MAX_REFLECTED_CHARS,
    STOCK_ERRORS,
    ClientError,
    ConfigError,
    Disconnect,
    ErrorSpec,
    OdinError,
    mask_secrets,
    reflect,
)

CATALOGUE = [*CLIENT_ERRORS.items(), *STOCK_ERRORS.items()]


def fields(spec: ErrorSpec) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(spec.text) if name}


@pytest.mark.parametrize(("code", "spec"), CATALOGUE)
def test_texts_follow_the_house_rules(code: str, spec: ErrorSpec) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert not spec.text.endswith(".")
    assert " got " not in spec.text
    assert spec.when.endswith(".")
    assert spec.text.isprintable()


def test_the_bounds_are_the_promised_ones() -> None:
    assert (MAX_ERROR_CHARS, MAX_REFLECTED_CHARS) == (200, 64)


@pytest.mark.parametrize("code", sorted(CLIENT_ERRORS))
def test_a_message_stays_within_its_bound_whatever_is_filled_in(code: str) -> None:
    values = dict.fromkeys(fields(CLIENT_ERRORS[code]), "\x00" * 10_000)
    error = ClientError(code, **values)
    assert error.code == code
    assert 0 < len(error.message) <= MAX_ERROR_CHARS
    assert error.message.isprintable()
    assert str(error) == error.message


def test_texts_of_the_integration_guide() -> None:
    assert ClientError("no_stocks_subscribe").message == "No stocks provided for subscription"
    assert ClientError("no_stocks_unsubscribe").message == "No stocks provided for unsubscription"
    assert ClientError("unknown_action", action="buy").message == "Unknown action: buy"
    assert ClientError("unknown_action", action="").message == "Unknown action: "


@given(st.text(), st.integers(2, 100))
def test_reflected_text_is_short_and_printable(text: str, limit: int) -> None:
    shown = reflect(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()


@given(st.text(st.characters(categories=["L", "N"]), max_size=MAX_REFLECTED_CHARS))
def test_short_printable_text_is_reflected_as_it_is(text: str) -> None:
    assert reflect(text) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\ud800", r"\ud800"),
        (12, "12"),
        (None, "None"),
        ("x" * 65, "x" * 63 + "…"),
        ("x" * 64, "x" * 64),
    ],
)
def test_reflecting(value: object, shown: str) -> None:
    assert reflect(value) == shown


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    defined = {
        name
        for name, item in vars(errors).items()
        if isinstance(item, type) and issubclass(item, OdinError)
    }
    drawn = set(re.findall(r"[A-Z]\w+", errors.__doc__ or "")) & defined
    assert drawn == defined


def test_a_config_error_tells_all_problems_one_a_line() -> None:
    error = ConfigError([("odin.toml: a", "was wrong"), ("PORT", "was wrong too")])
    assert str(error) == "odin.toml: a: was wrong\nPORT: was wrong too"
    assert error.problems == (("odin.toml: a", "was wrong"), ("PORT", "was wrong too"))
    assert error.exit_code == 78


@pytest.mark.parametrize(("code", "spec"), CLOSE_CODES.items())
def test_close_codes_may_be_sent_and_fit_a_close_frame(code: int, spec: errors.CloseSpec) -> None:
    assert code in {*range(1000, 1004), *range(1007, 1015)} or 4000 <= code <= 4999
    assert 0 < len(spec.reason.encode()) <= 123
    assert spec.come_back


def test_a_disconnect_has_the_reason_of_its_code_or_a_better_one() -> None:
    assert str(Disconnect(4409)) == "4409 session taken over"
    assert Disconnect(1008, "unmasked frame").reason == "unmasked frame"


@pytest.mark.parametrize("kind", ["1f2e3d4c", "ticket", "resume"])
def test_secrets_in_the_wrong_place_are_masked(kind: str) -> None:
    secret = "aB3_-" * 8 + "xyz"
    text = f'key="odin_{kind}_{secret}", again odin_{kind}_{secret[:7]}'
    assert mask_secrets(text) == f'key="odin_{kind}_********", again odin_{kind}_********'
    assert secret[:7] not in reflect(f"{'x' * 40}odin_{kind}_{secret}")
    assert secret[:7] not in ClientError("unknown_action", action=f"odin_{kind}_{secret}").message


def test_other_names_are_left_as_they_are() -> None:
    text = "odin_frames_published_total odin_streamer odin.db odin_1f2e3d4_x"
    assert mask_secrets(text) == text
