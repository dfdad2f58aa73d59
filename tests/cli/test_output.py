"""Tables that people read and terminals survive."""

import io
import json

import pytest

from odin.cli.output import print_fields, print_json, print_table, progress_bar, when


def test_a_table_is_aligned_with_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "count"), [("SBIN", 5), ("M&M", 12345), ("", None)])
    assert capsys.readouterr().out == (
        "NAME  COUNT\n"
        "SBIN      5\n"
        "M&M   12345\n"
        "          -\n"
    )  # fmt: skip


def test_a_table_without_rows_has_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "bb"), [])
    assert capsys.readouterr().out == "A  BB\n"


def test_fields_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"a": 1, "long name": ("x", "y"), "none": None, "empty": ()})
    assert capsys.readouterr().out == (
        "a          1\n"
        "long name  x, y\n"
        "none       -\n"
        "empty      -\n"
    )  # fmt: skip


def test_what_could_act_on_a_terminal_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a",), [("\x1b[2J\n",)])
    print_fields({"a": "\x9b"})
    assert capsys.readouterr().out == "A\n\\x1b[2J\\n\na  \\x9b\n"


def test_json_is_one_value_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"a": "\n"}, {"a": (1, None)}])
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"a": "\n"}, {"a": [1, None]}]


def test_instants_are_told_in_indian_time() -> None:
    assert when(1756971590198) == "2025-09-04 13:09:50"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal() -> None:
    stream = Terminal()
    with progress_bar("Reading", stream) as report:
        assert report is not None
        for done in (1, 50, 50, 100):
            report(done, 100)
    assert "Reading" in stream.getvalue()
    assert "100%" in stream.getvalue()


def test_progress_is_not_drawn_elsewhere() -> None:
    stream = io.StringIO()
    with progress_bar("Reading", stream) as report:
        assert report is None
    assert stream.getvalue() == ""
