"""The product itself: the node and the sockets of `odin serve`, fed with ticks on schedule.

Only the feed is another: everything a tick goes through from Node.on_tick on is the product's.
"""

import asyncio
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import uvloop
from source import (
    EXCHANGE,
    FIRST_TOKEN,
    HIGH,
    LOW,
    OPEN,
    PREV_CLOSE,
    PRICES,
    TOPICS,
    Schedule,
    announce,
    follow,
    raise_file_limit,
)

from odin import log as logs
from odin.model import DailyBar, Instrument, InstrumentKey, Tick
from odin.node import Node
from odin.server.run import address_of, listen
from odin.settings import Settings
from odin.store.sqlite import SqliteStore

KEYS = [InstrumentKey(EXCHANGE, "CM", FIRST_TOKEN + topic) for topic in range(TOPICS)]
MANY = 1_000_000


def settings(path: Path) -> Settings:
    """Return the defaults, but for the limits that a load from one address would meet."""
    return msgspec.convert(
        {
            "server": {"port": 0},
            "store": {"path": str(path / "odin.db")},
            "market": {"gate": "always"},
            "feed": {"kind": "none"},
            "log": {"level": "warning"},
            "limits": {
                "connections": MANY,
                "connections_per_address": MANY,
                "connects_per_s": MANY,
                "connect_burst": MANY,
                "requests_per_s": MANY,
                "request_burst": MANY,
                "stocks_per_request": 3_000,
            },
        },
        Settings,
    )


async def fill(path: str) -> None:
    """Save the instruments, and daily bars so that messages carry all 52-week fields."""
    async with await SqliteStore.open(path) as store:
        instruments = [Instrument(key, f"BENCH{topic:04}", "EQ") for topic, key in enumerate(KEYS)]
        await store.save_instruments(instruments, [], "bench", 0)
        await store.save_daily_bars(
            DailyBar(key, day, 1370.0, 1551.0, 1115.55, PREV_CLOSE, 8_053_013)
            for key in KEYS
            for day in recent_days()
        )


def recent_days() -> list[str]:
    """Return the ISO dates of a few past weekdays, enough for an average volume."""
    today = datetime.now(UTC).date()
    back = (today - timedelta(days=n) for n in range(2, 20))
    return [day.isoformat() for day in back if day.weekday() < 5][:6]


async def serve(path: Path) -> None:
    chosen = settings(path)
    await fill(chosen.store.path)
    node = await Node.start(chosen)
    runner = await listen(node)
    now_ms = node.clock.now_ms
    on_tick = node.on_tick

    def publish(first: int, end: int) -> None:
        at_ms = now_ms()
        for n in range(first, end):
            ltp = PRICES[n * 7919 % 400]
            on_tick(Tick(KEYS[n % TOPICS], at_ms, ltp, n, OPEN, HIGH, LOW, PREV_CLOSE))

    announce(address_of(runner)[1])
    await follow(Schedule(publish))
    await node.stop()
    await runner.cleanup()


def main() -> None:
    raise_file_limit()
    factory = None if os.environ.get("ODIN_LOOP") == "asyncio" else uvloop.new_event_loop
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=factory) as runner:
        path = Path(folder)
        logs.setup(settings(path).log)
        runner.run(serve(path))


if __name__ == "__main__":
    main()
