"""docs/protocol.md: every example is sent to a real server, and what it shows comes back."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tests.support.server import RELIANCE, Client, running

PAGE = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"


def blocks() -> Iterator[tuple[str, Any]]:
    for kind, text in re.findall(r"```json (\w+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        yield kind, orjson.loads(text)


def assert_shown(shown: Any, real: Any, where: str = "$") -> None:
    """What the page shows must be there, equal; objects may hold more."""
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert name in real, f"{where}.{name} is not in the answer"
            assert_shown(value, real[name], f"{where}.{name}")
    elif isinstance(shown, list):
        assert len(shown) == len(real), f"{where}: {real}"
        for index, value in enumerate(shown):
            assert_shown(value, real[index], f"{where}[{index}]")
    else:
        assert shown == real, where


async def test_every_example_of_the_page_is_what_the_server_says(tmp_path: Path) -> None:
    examples = list(blocks())
    kinds = [kind for kind, _ in examples]
    assert kinds.count("request") == kinds.count("answer") >= 8
    checked = 0
    async with running(tmp_path) as server:
        server.tick(
            RELIANCE, 1365.5, volume=8053013, open=1371.8, high=1374.0, low=1360.3,
            prev_close=1372.6,
        )  # fmt: skip
        async with Client(server.ws, "me") as client:
            answer: dict[str, Any] = client.welcome
            for kind, shown in examples:
                if kind == "request":
                    await client.send(shown)
                    answer = await client.until(lambda m: m["type"] != "market_data")
                    continue
                if kind == "quote":
                    server.tick(
                        RELIANCE, 1365.5, volume=8053013, open=1371.8, high=1374.0, low=1360.3,
                        prev_close=1372.6,
                    )  # fmt: skip
                    answer = await client.until(
                        lambda m: m["type"] == "market_data" and "snapshot" not in m
                    )
                    assert answer == shown, "a quote is shown whole"
                assert_shown(shown, answer)
                checked += 1
    assert checked == len(examples) - kinds.count("request")
