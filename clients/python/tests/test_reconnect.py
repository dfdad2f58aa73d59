import json
from pathlib import Path
from typing import Any

import pytest

from odin_client.reconnect import is_refusal, is_terminal, reconnect_delay_s

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
CODES = json.loads((VECTORS / "close_codes.json").read_text())["codes"]


@pytest.mark.parametrize("row", CODES, ids=lambda row: str(row["code"]))
def test_each_close_code_is_followed(row: dict[str, Any]) -> None:
    code = row["code"]
    assert is_terminal(code) is not row["comes_back"]
    if row["comes_back"]:
        soonest = reconnect_delay_s(code, 0, 0.5, 20.0, lambda: 0.0)
        latest = reconnect_delay_s(code, 0, 0.5, 20.0, lambda: 1.0)
        assert (soonest, latest) == (row["least_s"], row["most_s"])


def test_the_delay_doubles_up_to_its_bound() -> None:
    delays = [reconnect_delay_s(1006, n, 0.5, 20.0, lambda: 1.0) for n in range(8)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 20, 20]


def test_thousands_of_failures_do_not_overflow() -> None:
    assert reconnect_delay_s(1006, 100_000, 0.5, 20.0, lambda: 1.0) == 20.0


def test_jitter_takes_any_share_of_the_delay() -> None:
    assert reconnect_delay_s(1006, 3, 0.5, 20.0, lambda: 0.25) == 1.0


def test_a_restart_that_fails_again_backs_off_further() -> None:
    assert reconnect_delay_s(1012, 5, 0.5, 20.0, lambda: 1.0) == 16.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 426, 431])
def test_a_wrong_request_is_not_repeated(status: int) -> None:
    assert is_refusal(status)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_tried_again(status: int) -> None:
    assert not is_refusal(status)
