"""docs/protocol.md, docs/encodings.md: every example is put to a real server, and comes back."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from odin.model import Depth, Detail, FeedGap, Level
from tests.support.server import OPEN_MS, RELIANCE, Client, Server, running

DOCS = Path(__file__).resolve().parents[1] / "docs"
DETAIL = Detail(
    1366.12,
    412345,
    398001,
    0,
    Depth((Level(1365.5, 120, 3), Level(1365.45, 800, 11)), (Level(1365.55, 75, 2),)),
)


def tick(server: Server, detail: Detail | None = None) -> None:
    """The tick of the page's quote."""
    server.tick(
        RELIANCE, 1365.5, volume=8053013, open=1371.8, high=1374.0, low=1360.3,
        prev_close=1372.6, detail=detail,
    )  # fmt: skip


def blocks(page: str) -> Iterator[tuple[str, Any]]:
    text = (DOCS / page).read_text("utf-8")
    for kind, block in re.findall(r"```json (\w+)\n(.*?)```", text, re.DOTALL):
        yield kind, orjson.loads(block)


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
    examples = list(blocks("protocol.md"))
    kinds = [kind for kind, _ in examples]
    assert kinds.count("request") == kinds.count("answer") >= 8
    checked = 0
    async with running(tmp_path) as server:
        tick(server)
        async with Client(server.ws, "me") as client:
            answer: dict[str, Any] = client.welcome
            for kind, shown in examples:
                if kind == "request":
                    await client.send(shown)
                    answer = await client.until(lambda m: m["type"] != "market_data")
                    continue
                if kind == "full":
                    await client.ask("subscribe", stocks=["RELIANCE"], mode="full")
                if kind in {"quote", "ltp", "full"}:
                    tick(server, DETAIL if kind == "full" else None)
                    answer = await client.until(
                        lambda m: m["type"] == "market_data" and "snapshot" not in m
                    )
                    assert kind == "full" or answer == shown, "these are shown whole"
                if kind == "gap":
                    server.node.enhanced.push_gap(FeedGap("kite", OPEN_MS, 1756971602500))
                    answer = await client.until(lambda m: m["type"] == "feed_gap")
                    assert answer == shown
                assert_shown(shown, answer)
                checked += 1
    assert checked == len(examples) - kinds.count("request")


async def test_the_examples_of_the_encodings_page_are_what_the_server_says(tmp_path: Path) -> None:
    shown = dict(blocks("encodings.md"))
    assert shown.keys() == {"delta", "instruments"}
    day = {"open": 1371.8, "high": 1374.0, "low": 1360.3, "prev_close": 1372.6}
    async with running(tmp_path) as server:
        server.tick(RELIANCE, 1365.5, volume=8053013, **day)
        async with Client(f"{server.ws}?format=json-delta") as client:
            await client.subscribe("RELIANCE")
            server.tick(RELIANCE, 1365.5, volume=8053013, **day)
            server.clock.advance_ms(1000)
            server.tick(RELIANCE, 1366.0, volume=8053113, **day)
            quotes = [await client.quote() for _ in range(3)]
            assert [quote.get("delta", False) for quote in quotes] == [False, False, True]
            assert_shown(shown["delta"], quotes[-1])
            assert quotes[-1]["data"].keys() == shown["delta"]["data"].keys()
        async with Client(f"{server.ws}?format=binary&client_id=me") as client:
            await client.send({"action": "subscribe", "stocks": ["RELIANCE"]})
            named = await client.until(lambda message: message["type"] == "instruments")
            assert_shown(shown["instruments"], named)
