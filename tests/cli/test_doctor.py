"""odin doctor: a line for every check, and an exit code for scripts."""

import json
import sqlite3
from pathlib import Path

from tests.cli.conftest import Run

CLOSED = {"ODIN_SERVER__PORT": "0", "ODIN_LIMITS__CONNECTIONS": "10"}


def test_a_line_for_every_check(run: Run) -> None:
    result = run("doctor", env=CLOSED)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "ok       settings: can be used" in lines
    assert all(line.startswith(("ok ", "warning ")) for line in lines)
    assert len(lines) >= 10


def test_a_problem_is_exit_code_1_and_says_what_to_do(run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    result = run("doctor", "--db", tmp_path / "other.db", env=CLOSED)
    assert result.exit_code == 1
    [line] = [line for line in result.stdout.splitlines() if line.startswith("problem")]
    assert "another program" in line
    assert "backup" in line


def test_settings_that_cannot_be_used(run: Run) -> None:
    Path("odin.toml").write_text("[server]\nprot = 1\nport = 99999\n")
    result = run("doctor")
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["problem", "problem"]
    assert "server.prot" in result.stdout


def test_json(run: Run) -> None:
    rows = [json.loads(line) for line in run("doctor", "--json", env=CLOSED).stdout.splitlines()]
    assert rows[0] == {"check": "settings", "state": "ok", "text": "can be used", "advice": ""}
    assert {"database", "disk", "open files", "clock", "calendar"} <= {row["check"] for row in rows}
