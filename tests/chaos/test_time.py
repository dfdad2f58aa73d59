"""The market's boundaries whatever the host's time zone, and clocks that step.

The boundary is crossed by the real server: it plays a recording that runs over the bells, with a
tick of each second and of the last and first millisecond.
"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

from odin.clock import IST
from odin.feeds.recording_formats import encode_tick_line
from odin.model import Tick
from tests.chaos.conftest import Figures
from tests.support.process import odin
from tests.support.server import SBIN, Client, running

ZONES = ["Asia/Kolkata", "UTC", "America/Los_Angeles", "Pacific/Kiritimati"]


def ist_ms(text: str) -> int:
    return round(IST.localize(datetime.fromisoformat(text)).timestamp() * 1000)


OPENS_MS = ist_ms("2025-09-04 09:15:00")
CLOSES_MS = ist_ms("2025-09-04 15:30:00")


def recording(path: Path) -> Path:
    """Write ticks around both bells of a trading day, and one in its midst."""
    times = []
    for bell_ms in (OPENS_MS, CLOSES_MS):
        times += [bell_ms + step for step in (-2000, -1000, -1, 0, 1, 1000)]
    times = sorted([*times, OPENS_MS + 1500, OPENS_MS + 300_000])
    lines = [encode_tick_line(Tick(SBIN, at_ms, 800 + n)) for n, at_ms in enumerate(times)]
    file = path / "bells.jsonl"
    file.write_bytes(b"".join(lines))
    return file


async def watch(client: Client) -> list[dict[str, Any]]:
    """Return what a client hears up to the word that the market is closed, and a little after."""
    heard: list[dict[str, Any]] = []
    closings = 0
    while True:
        try:
            message = await client.receive(timeout=10 if not closings else 1.5)
        except TimeoutError:
            return heard
        if message["type"] == "market_status":
            if message["data"]["feed"]["state"] == "stopped":
                continue  # the end of the recording, which is a change of its own
            closings += not message["data"]["market_open"]
        heard.append(message)


async def cross(path: Path, zone: str) -> tuple[int, int, int]:
    """Check one server's day; return the number of its quotes, and the first's and the last's
    distance from the bells, ms."""
    file = recording(path)
    options = ("replay", file, "--port", "0", "--db", path / "odin.db", "--speed", "2000")
    async with odin(*options, TZ=zone) as server, Client(server.ws, "me") as client:
        await client.send({"action": "subscribe", "stocks": ["SBIN"]})
        heard = await watch(client)
    notices = [m["data"]["market_open"] for m in heard if m["type"] == "market_status"]
    assert notices == [True, False], zone
    times = [m["data"]["timestamp"] for m in heard if m["type"] == "market_data"]
    assert times[0] == OPENS_MS, zone
    assert times[-1] == CLOSES_MS - 1, zone
    assert len(times) == len(set(times)) == 8
    kinds = [m["type"] for m in heard if m["type"] in {"market_data", "market_status"}]
    assert kinds == ["market_status", *["market_data"] * 8, "market_status"], zone
    return len(times), times[0] - OPENS_MS, times[-1] - CLOSES_MS


async def test_the_bells_ring_to_the_millisecond_in_every_time_zone(
    tmp_path: Path, figures: Figures
) -> None:
    """P10: data in [09:15:00, 15:30:00) IST only, and one notice of each change."""
    paths = [tmp_path / str(number) for number in range(len(ZONES))]
    for path in paths:
        path.mkdir()
    days = await asyncio.gather(*map(cross, paths, ZONES))
    assert len(set(days)) == 1
    quotes, first_ms, last_ms = days[0]
    figures(zones=ZONES, quotes=quotes, first_ms=first_ms, last_ms=last_ms)


async def test_steps_of_the_clock_end_no_connection_and_repeat_no_notice(
    tmp_path: Path, figures: Figures
) -> None:
    """The wall clock is set an hour on and back again, and over a bell and back; what waits for
    something waits by the monotonic clock and does not notice."""
    steps_ms = [3_600_000, -3_600_000, -60_000, 60_000, 10_000_000, -10_000_000, 1, -1]
    limits = {"ping_interval_s": 0.5}
    async with running(tmp_path, limits=limits) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        start_ms = server.clock.now_ms()
        quotes = 0
        for number, step_ms in enumerate(steps_ms):
            server.clock.set_ms(server.clock.now_ms() + step_ms)
            await asyncio.sleep(0.12)  # the bells are looked at ten times a second
            # The exchange's own clock goes on, whatever this machine's does.
            server.tick(SBIN, 800.0 + number, exchange_ms=start_ms + number)
            heard = await client.nothing_but_pong()
            notices = [m for m in heard if m["type"] == "market_status"]
            quotes += sum(m["type"] == "market_data" for m in heard)
            assert len(notices) <= 1
            is_open = server.node.view().is_streaming
            assert all(notice["data"]["market_open"] == is_open for notice in notices)
        assert server.clock.now_ms() == start_ms
        figures(steps=len(steps_ms), quotes=quotes)
        assert quotes == len(steps_ms) - 1, "one came while the market was closed"
        assert server.node.metrics.faults == 0
        # A tick of now is taken after all the steps.
        server.clock.set_ms(start_ms + 5)
        server.tick(SBIN, 900.0, exchange_ms=start_ms + 100)
        assert (await client.quote("SBIN"))["data"]["ltp"] == 900.0
