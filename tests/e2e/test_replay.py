"""A recorded day, from its files to the last quote of every symbol at a client."""

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from odin.node import ReplayOptions
from tests.support.server import Client, running
from tests.support.shared import shared

BARS = "data/bars/nse_1min_2016-09-30_179sym.tar.gz"


def day_of(rows: list[dict[str, str]]) -> dict[str, float] | None:
    """What a file of bars says of its day; None where it holds no bar."""
    if not rows:
        return None
    bars = [{name.strip(): value.strip() for name, value in row.items()} for row in rows]
    bars.sort(key=lambda bar: bar["Date"])  # some files are not in order
    return {
        "open": float(bars[0]["Open"]),
        "high": max(float(bar["High"]) for bar in bars),
        "low": min(float(bar["Low"]) for bar in bars),
        "ltp": float(bars[-1]["Close"]),
        "volume": sum(int(float(bar["Volume"])) for bar in bars),
    }


@pytest.mark.shared
async def test_a_whole_day_at_full_speed_ends_in_the_files_own_values(tmp_path: Path) -> None:
    path = shared(BARS)
    expected = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                text = io.TextIOWrapper(file, "utf-8")
                expected[Path(member.name).stem] = day_of(list(csv.DictReader(text)))
    assert len(expected) == 179
    replay = ReplayOptions((str(path),), speed=None)
    async with (
        running(tmp_path, replay=replay) as server,
        Client(server.ws, "me", max_msg_size=0) as client,
    ):
        await client.send({"action": "subscribe", "stocks": sorted(expected)})
        last: dict[str, dict[str, Any]] = {}
        counted = dict.fromkeys(expected, 0)
        answer = await client.receive()
        assert answer["data"]["failed_stocks"] == []
        assert answer["data"]["total_subscribed"] == 179
        while True:
            message = await client.receive(timeout=30)
            client.seen.clear()
            if message["type"] == "market_data":
                last[message["symbol"]] = message["data"]
                counted[message["symbol"]] += 1
            elif (
                message["data"]["current_date"] == "2016-09-30"
                and not (message["data"]["market_open"])
            ):
                break
        assert message["data"]["current_time"] == "15:30:00"
        assert server.node.metrics.frames_conflated == 0, "a client that reads misses nothing"
    assert sum(counted.values()) == server.node.metrics.frames_published
    assert sum(day is None for day in expected.values()) == 1, "one of the files has no bars"
    for symbol, day in expected.items():
        if day is None:
            assert symbol not in last
            continue
        seen = {name: last[symbol][name] for name in day}
        assert seen == day, symbol


@pytest.mark.shared
async def test_recorded_futures_ticks_keep_their_own_time(tmp_path: Path) -> None:
    path = shared("data/ticks/icici_breeze_fut_ticks_2025-11-17.csv")
    replay = ReplayOptions((str(path),), speed=None)
    async with (
        running(tmp_path, replay=replay) as server,
        Client(server.ws, "me") as client,
    ):
        assert client.welcome["data"]["simulated"] is True
        await client.subscribe("TCS", "MCX", "TRENT", "RELIND")
        first = await client.quote()
        assert first["data"]["last_updated"].startswith("2025-11-17T12:0")
        assert abs(first["data"]["timestamp"] - first["timestamp"]) < 60_000
