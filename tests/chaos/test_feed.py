"""A feed that dies, falls silent or talks nonsense: clients are told, it is tried again with
jittered backoff, all is counted, and nobody is disconnected."""

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from odin.errors import FeedUnavailable
from odin.feeds.base import Emit, Report, ignore
from odin.feeds.supervisor import MISSED_TICKS, FeedSupervisor
from odin.model import Instrument, InstrumentKey, Mode, Tick
from odin.node import Node
from tests.chaos.conftest import Figures
from tests.chaos.crowd import until
from tests.support.server import SBIN, Client, running


class Scripted:
    """A feed that does what `script` says, one entry for each time it is run."""

    name = "simulator"  # as the settings call it that it stands in for
    is_simulated = True

    def __init__(self, script: list[str]) -> None:
        self.script = script
        self.runs = 0
        self.price = 800.0
        self.now_ms: Callable[[], int] = int

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        what = self.script[min(self.runs, len(self.script) - 1)]
        self.runs += 1
        match what:
            case "dies":
                raise FeedUnavailable("the line went dead")
            case "fails":
                raise ZeroDivisionError("a bug in the feed")
            case "garbage":
                unknown = InstrumentKey("NSE", "CM", 999_999)
                emit(Tick(unknown, self.now_ms(), 1.0))
                for price in (math.nan, math.inf, -math.inf, 0.0, -5.0, 1e300):
                    emit(Tick(SBIN, self.now_ms(), price))
                emit(Tick(SBIN, 0, 800.0))
                emit(Tick(SBIN, 2**62, 800.0, volume=-1))
                raise FeedUnavailable("broke off after nonsense")
            case "silent":
                await asyncio.sleep(3600)
            case _:
                while True:
                    self.price += 0.05
                    emit(Tick(SBIN, self.now_ms(), self.price))
                    await asyncio.sleep(0.01)

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        """All of it is always sent."""

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """All of it is always sent."""


async def scenario(
    path: Path, monkeypatch: pytest.MonkeyPatch, script: list[str], *, stale_after_s: float = 5.0
) -> tuple[Node, Client, list[float]]:
    """Run until data flows; return what is left of it."""
    feed = Scripted(script)
    delays: list[float] = []

    async def short_sleep(seconds: float) -> None:
        delays.append(seconds)
        await asyncio.sleep(min(seconds, 0.05))

    def build(node: Node) -> Scripted:
        feed.now_ms = lambda: node.clock.now_ms()
        return feed

    monkeypatch.setattr(Node, "_simulator", build)
    monkeypatch.setitem(FeedSupervisor.__init__.__kwdefaults__, "sleep", short_sleep)
    options = {"kind": "simulator", "stale_after_s": stale_after_s}
    async with running(path, feed=options) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        await client.quote("SBIN")
        if script[-1] == "silent":
            feed.script = ["silent"]
        await until(lambda: feed.runs >= len(script))
        async with asyncio.timeout(10):
            await client.quote("SBIN")
        await client.ask("ping")
        return server.node, client, delays


def feed_words(client: Client) -> list[tuple[str, bool]]:
    """Return what the client was told of the feed, without being asked."""
    return [
        (m["data"]["feed"]["state"], m["data"]["feed"]["stale"])
        for m in client.seen
        if m["type"] == "market_status"
    ]


async def test_a_feed_that_dies_again_and_again_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    script = ["dies"] * 8 + ["ticks"]
    node, client, delays = await scenario(tmp_path, monkeypatch, script)
    # The waits of the watchdog are constant; those of the backoff are not.
    backoff = [delay for delay in delays if delay != min(1.0, 5.0 / 4)][:8]
    figures(deaths=8, restarts=node.metrics.feed_restarts, longest_wait_s=max(backoff))
    assert node.metrics.feed_restarts == 8
    assert all(0 <= delay <= 2.0**n for n, delay in enumerate(backoff))
    assert len(set(backoff)) == 8, "with jitter no two waits are alike"
    words = feed_words(client)
    assert ("backoff", False) in words
    assert words[-1][0] in {"connecting", "streaming"}
    assert node.metrics.faults == 0


async def test_a_feed_that_talks_nonsense_or_fails_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    script = ["garbage", "fails", "garbage", "ticks"]
    node, client, _ = await scenario(tmp_path, monkeypatch, script)
    metrics = node.metrics
    figures(
        invalid=metrics.ticks_invalid, unknown=metrics.ticks_unknown, restarts=metrics.feed_restarts
    )
    assert metrics.feed_restarts == 3
    assert metrics.ticks_unknown >= 2
    assert metrics.ticks_invalid >= 10
    assert metrics.faults == 1, "the bug in the feed, and nothing else"
    for message in client.seen:
        if message["type"] == "market_data":
            assert 799 < message["data"]["ltp"] < 10_000


async def test_a_feed_that_falls_silent_is_told_once_and_its_return_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    feed = Scripted(["ticks"])

    def build(node: Node) -> Scripted:
        feed.now_ms = lambda: node.clock.now_ms()
        return feed

    talks = asyncio.Event()
    talks.set()

    async def run(emit: Emit, report: Report = ignore) -> None:
        while True:
            await talks.wait()
            feed.price += 0.05
            emit(Tick(SBIN, feed.now_ms(), feed.price))
            await asyncio.sleep(0.01)

    feed.run = run  # type: ignore[method-assign]
    monkeypatch.setattr(Node, "_simulator", build)
    options = {"kind": "simulator", "stale_after_s": 0.3}
    async with running(tmp_path, feed=options) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        await client.quote("SBIN")
        await until(lambda: server.node.metrics.ticks > 10 * MISSED_TICKS)
        for _ in range(2):
            talks.clear()
            told = await client.until(lambda m: m["type"] == "market_status")
            assert told["data"]["feed"]["stale"] is True
            talks.set()
            told = await client.until(lambda m: m["type"] == "market_status")
            assert told["data"]["feed"]["stale"] is False
            await client.quote("SBIN")
        stale, faults = server.node.metrics.feed_stale_periods, server.node.metrics.faults
        figures(silences=2, stale_periods=stale)
        assert (stale, faults) == (2, 0)
