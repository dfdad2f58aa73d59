"""The examples of docs/authentication.md, as they stand there, against a real server."""

import re
import textwrap
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from odin.cli import main
from odin.errors import CLIENT_ERRORS, CLOSE_CODES
from tests.support.keys import REQUIRED, make_key
from tests.support.server import running

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "authentication.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))


def test_there_are_three_ways() -> None:
    assert set(EXAMPLES) == {"bearer", "ticket", "message"}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
async def test_the_example_works(tmp_path: Path, name: str) -> None:
    program = (
        f"async def example(session, url, api, key):\n{textwrap.indent(EXAMPLES[name], '    ')}"
        "    return welcome\n"
    )
    scope: dict[str, Any] = {}
    exec(compile(program, name, "exec"), scope)
    async with running(tmp_path, auth=REQUIRED) as server, aiohttp.ClientSession() as session:
        key = await make_key(server)
        welcome = await scope["example"](session, server.ws, server.http, key)
        assert (welcome["type"], welcome["client_id"]) == ("welcome", "me")


def test_errors_and_close_codes_exist() -> None:
    for code in re.findall(r"error\s+`(\w+)`", PAGE):
        assert code in CLIENT_ERRORS
    for number in re.findall(r"\b4[0-9]{3}\b", PAGE):
        assert int(number) in CLOSE_CODES


def test_commands_exist() -> None:
    for line in re.findall(r"^odin (\w+) (\w+)", PAGE, re.MULTILINE):
        if line[0] == "keys":
            assert line[1] in main.commands["keys"].commands  # type: ignore[attr-defined]
