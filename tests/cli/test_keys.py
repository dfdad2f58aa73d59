"""Making, listing and revoking API keys."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_a_key_is_shown_once_and_kept_as_a_hash(run: Run, tmp_path: Path) -> None:
    made = run("keys", "create", "dashboard", "--scopes", "stream,admin")
    assert made.exit_code == 0
    text = made.stdout.strip()
    match = re.fullmatch(r"odin_([0-9a-f]{8})_([\w-]{43})", text)
    assert match is not None
    (row,) = map(json.loads, run("keys", "list", "--json").stdout.splitlines())
    assert (row["id"], row["name"], row["scopes"]) == (match[1], "dashboard", ["admin", "stream"])
    assert row["revoked_ms"] is None
    table = run("keys", "list").stdout
    assert "dashboard" in table
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for shown in (table, files.decode("latin-1")):
        assert match[2] not in shown


def test_a_key_streams_unless_told_otherwise(run: Run) -> None:
    run("keys", "create", "app")
    (row,) = map(json.loads, run("keys", "list", "--json").stdout.splitlines())
    assert row["scopes"] == ["stream"]


def test_revoking(run: Run) -> None:
    text = run("keys", "create", "app").stdout.strip()
    key_id = text.split("_")[1]
    assert run("keys", "revoke", key_id).exit_code == 0
    again = run("keys", "revoke", key_id)
    assert (again.exit_code, again.stderr) == (1, f"error: No valid key has the id {key_id}\n")
    (row,) = map(json.loads, run("keys", "list", "--json").stdout.splitlines())
    assert row["revoked_ms"] >= row["created_ms"]


def test_a_whole_key_can_be_revoked_and_is_not_repeated(run: Run) -> None:
    text = run("keys", "create", "app").stdout.strip()
    first, second = run("keys", "revoke", text), run("keys", "revoke", text)
    assert (first.exit_code, second.exit_code) == (0, 1)
    assert text[14:] not in first.output + second.output


@pytest.mark.parametrize("name", ["", " a", "x" * 65, "a\nb", "a\x1b[31m", "=1+1"])
def test_names_are_plain_text(run: Run, name: str) -> None:
    result = run("keys", "create", "--", name)
    assert result.exit_code == 2
    assert "NAME must be" in result.stderr


@pytest.mark.parametrize("scopes", ["", "root", "stream,", "stream;admin"])
def test_scopes_are_known_ones(run: Run, scopes: str) -> None:
    result = run("keys", "create", "a", "--scopes", scopes)
    assert result.exit_code == 2
    assert "scopes are stream and admin" in result.stderr
