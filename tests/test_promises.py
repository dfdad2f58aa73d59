"""docs/promises.md against the tests: what is promised is proven by tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

NODE_ID = re.compile(r"`(tests/[\w/]+\.py)::((?:Test\w+::)?test_\w+)`")
SECTIONS = dict(re.findall(r"(?ms)^## (P\d+)\. (.*?)(?=^## )", PAGE))
ROWS = dict(re.findall(r"(?m)^\| (S\d+) \| (.*) \|$", PAGE))


@cache
def names_in(path: str) -> frozenset[str]:
    """The tests of a file as pytest calls them; none where there is no such file."""
    file = ROOT / path
    if not file.exists():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    places = [("", tree.body), *((f"{node.name}::", node.body) for node in classes)]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        prefix + node.name
        for prefix, body in places
        for node in body
        if isinstance(node, functions)
    )


def named(text: str) -> list[tuple[str, str]]:
    """Every test that a text names, and nothing that only looks like one."""
    assert text.count("`tests/") == len(NODE_ID.findall(text)), text
    return NODE_ID.findall(text)


def test_all_numbers_are_there() -> None:
    assert list(SECTIONS) == [f"P{number}" for number in range(1, 13)]
    assert list(ROWS) == [f"S{number}" for number in range(1, 32)]


@pytest.mark.parametrize("number", SECTIONS)
def test_a_promise_names_the_tests_that_prove_it(number: str) -> None:
    tests = named(SECTIONS[number].split("**Proof:**")[1])
    assert tests
    assert len(set(tests)) == len(tests)
    for path, name in tests:
        assert name in names_in(path), f"{path}::{name}"


@pytest.mark.parametrize("number", ROWS)
def test_a_line_of_the_checklist_names_a_test(number: str) -> None:
    tests = named(ROWS[number])
    assert tests
    for path, name in tests:
        assert name in names_in(path), f"{path}::{name}"


def test_the_readme_names_files_that_exist_and_promises_that_are_listed() -> None:
    table = README.split("## What it promises")[1].split("\n## ")[0]
    assert "docs/promises.md" in table
    for path in re.findall(r"`(tests/[\w/.]+)`", table):
        assert (ROOT / path).exists(), path
    assert set(re.findall(r"\bP\d+\b", table)) <= set(SECTIONS)


def test_threats_are_answered_by_lines_of_the_checklist() -> None:
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for number in re.findall(r"\bS\d+\b", table):
        assert number in ROWS
    for number in re.findall(r"\bP\d+\b", table):
        assert number in SECTIONS
