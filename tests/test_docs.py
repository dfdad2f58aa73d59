"""The reference pages against the code: nothing is missing, nothing is made up."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

from odin.cli import main
from odin.config import NOT_SETTINGS, PLAIN_VARIABLES, settings_table
from odin.errors import CLIENT_ERRORS, CLOSE_CODES, STOCK_ERRORS
from odin.metrics import Metrics
from odin.server import docs

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = docs.pages(main)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_page_is_what_the_code_says(name: str) -> None:
    path = DOCS / name
    assert path.exists(), "run: python -m odin docs"
    assert path.read_text(encoding="utf-8") == PAGES[name], "run: python -m odin docs"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_tables_are_whole(name: str) -> None:
    for block in re.findall(r"(?:^\|.*\|\n)+", PAGES[name], re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(columns) == 1, block


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_are_tidy(name: str) -> None:
    text = PAGES[name]
    assert text.startswith("# ")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "\n\n\n" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_every_setting_is_documented() -> None:
    page = PAGES["configuration.md"]
    for row in settings_table():
        section, _, name = row.path.partition(".")
        assert f"## [{section}]\n" in page
        cells = (f"`{name}`", row.type_text, f"`{row.default}`", f"`{row.env}`", row.description)
        assert "| " + " | ".join(cells) + " |" in page
    for variable in (*PLAIN_VARIABLES, *NOT_SETTINGS):
        assert f"`{variable}`" in page


@pytest.mark.parametrize(("code", "spec"), [*CLIENT_ERRORS.items(), *STOCK_ERRORS.items()])
def test_every_error_is_documented(code: str, spec: tuple[str, str]) -> None:
    assert f"| `{code}` | {spec[0]} | {spec[1]} |" in PAGES["errors.md"]


def test_the_example_of_an_error_is_one() -> None:
    [block] = re.findall(r"```json\n(.*?)```", PAGES["errors.md"], re.DOTALL)
    message = json.loads(block)
    assert message["message"] == CLIENT_ERRORS[message["code"]].text


@pytest.mark.parametrize("code", sorted(CLOSE_CODES))
def test_every_close_code_is_documented(code: int) -> None:
    reason, come_back = CLOSE_CODES[code]
    assert f"| {code} | {reason} | {come_back} |" in PAGES["errors.md"]


@pytest.mark.parametrize("status", sorted(docs.HTTP_STATUSES))
def test_every_status_is_documented(status: int) -> None:
    assert f"| {status} | {docs.HTTP_STATUSES[status]} |" in PAGES["errors.md"]


def test_statuses_that_errors_speak_of_are_in_the_table() -> None:
    texts = [spec.when for spec in CLIENT_ERRORS.values()]
    texts += [row.description for row in settings_table()]
    spoken_of = {int(n) for text in texts for n in re.findall(r"HTTP (\d{3})", text)}
    assert spoken_of <= set(docs.HTTP_STATUSES)


@pytest.mark.parametrize("item", fields(Metrics), ids=lambda item: item.name)
def test_every_counter_is_documented(item: object) -> None:
    name, text = item.name, item.metadata["help"]  # type: ignore[attr-defined]
    assert f"| `odin_{name}_total` | {text} |" in PAGES["metrics.md"]


def commands(group: click.Group, path: str = "odin") -> Iterator[tuple[str, click.Command]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize(("path", "command"), list(commands(main)))
def test_every_command_and_option_is_documented(path: str, command: click.Command) -> None:
    page = PAGES["cli.md"]
    if command.hidden:
        assert f"## `{path}`" not in page
        return
    section = page.partition(f"## `{path}`\n")[2].partition("\n## ")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(option in section for option in parameter.opts), parameter.name
        else:
            assert parameter.make_metavar(click.Context(command)) in section


def test_writing_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "errors.md").write_text("old")
    written = docs.write(tmp_path, main)
    assert {path.name: path.read_text(encoding="utf-8") for path in written} == PAGES


def test_the_page_of_commands_does_not_depend_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert docs.command_line(main) == PAGES["cli.md"]
