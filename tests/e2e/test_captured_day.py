"""A whole day from a venue: live and captured, then replayed through the same decoder."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from odin.clock import WallClock
from odin.feeds.demand import Want
from odin.feeds.recordings import Recording
from odin.model import Instrument, InstrumentKey
from odin.node import Node, ReplayOptions
from tests.support.kite_server import KiteServer
from tests.support.odin_server import OdinServer
from tests.support.server import running
from tests.support.shared import shared

BARS = "data/bars/nse_1min_2016-09-30_179sym.tar.gz"
FIRST_TOKEN = 90_000


def quotes_of(node: Node, keys: list[InstrumentKey]) -> list[object]:
    """Return every newest quote in full, but for when it was applied."""
    board = node.board
    return [
        (msgspec.structs.replace(quote, last_updated=""), board.detail(key))
        for key in keys
        if (quote := board.quote(key)) is not None
    ]


@pytest.mark.shared
@pytest.mark.parametrize("count", [20, pytest.param(179, marks=pytest.mark.chaos_long)])
@pytest.mark.parametrize("name", ["kite", "odin"])
@pytest.mark.timeout(600)
async def test_a_captured_day_ends_in_the_same_quotes_as_live(
    name: str, count: int, tmp_path: Path
) -> None:
    recording = Recording.load([shared(BARS)], resolve=lambda _: None)
    keys = {
        item.key: InstrumentKey("NSE", "CM", FIRST_TOKEN + n)
        for n, item in enumerate(recording.instruments[:count])
    }
    listed = [Instrument(key, f"DAY{key.token}") for key in keys.values()]
    ticks = [tick for tick in recording if tick.key in keys]
    venue: KiteServer | OdinServer = KiteServer() if name == "kite" else OdinServer()
    await venue.start()
    secrets = tmp_path / "credentials"
    secrets.write_text("api_key=k\nuser=u\naccess_token=t\n")
    sections = {
        "feed": {"kind": name, "stale_after_s": 600},
        name: {"url": venue.url, "credentials": f"file:{secrets}"},
        "market": {"gate": "always"},
    }
    captures = tmp_path / "captures"
    live = {**sections, "feed": {**sections["feed"], "capture_dir": str(captures)}}
    try:
        async with running(tmp_path, clock=WallClock(), **live) as server:
            node = server.node
            node.registry.replace(listed)
            node.demand.add([Want(key, "full") for key in keys.values()])
            await venue.wait_wanted(set(keys.values()))
            sent = 0
            for number, tick in enumerate(ticks):
                sent += venue.tick(keys[tick.key], tick.ltp, tick.exchange_ms)
                if number % 64 == 0:
                    await asyncio.sleep(0)
            async with asyncio.timeout(120):
                while node.metrics.ticks < sent:
                    await asyncio.sleep(0.01)
            told = quotes_of(node, list(keys.values()))
            last_ms = {key: node.board.last_tick_ms(key) for key in keys.values()}
        assert sent >= len(ticks)
        newest_ms = {keys[tick.key]: tick.exchange_ms // 1000 * 1000 for tick in ticks}
        assert len(told) == len(newest_ms) >= count - 1, "one of the files has no bars"
        assert {key: at_ms for key, at_ms in last_ms.items() if at_ms} == newest_ms

        replay = ReplayOptions(paths=(str(captures),), speed=None)
        async with running(tmp_path, replay=replay, **sections) as again:
            again.node.registry.replace(listed)
            again.node.demand.add([Want(key) for key in keys.values()])
            async with asyncio.timeout(120):
                while again.node.feed_status.state != "stopped":
                    await asyncio.sleep(0.05)
            assert quotes_of(again.node, list(keys.values())) == told
    finally:
        await venue.stop()
