"""Hours of a working day in short: come and go, subscribe and unsubscribe, slow readers, faults of
the disk; memory, descriptors and tasks of the server stay flat.

The short form looks for leaks by the number: what a cycle leaves behind is multiplied by many.
"""

import asyncio
import random
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.chaos.conftest import Figures
from tests.chaos.crowd import (
    FORCED,
    STOCKS,
    UNLIMITED,
    Ages,
    depart,
    descriptors,
    join,
    metrics,
    rss_mib,
)
from tests.support.process import Process, odin
from tests.support.raw import TEXT, frame


async def visit(server: Process, name: str, chance: random.Random) -> None:
    """One client's stay: it subscribes, reads a while, asks, makes mistakes, and goes somehow."""
    with suppress(OSError, TimeoutError):
        is_slow = chance.random() < 0.2
        slow = (4096, 0.05) if is_slow else (0, 0.0)
        member = await join(server.ws, name, slow=slow, receive_buffer=4096 if is_slow else 0)
        try:
            await member.ask("subscribe", stocks=chance.sample(STOCKS, 5))
            await asyncio.sleep(chance.random() * 0.3)
            await member.ask("snapshot")
            await member.ask("subscribe", stocks=[f"NOBODY{chance.random()}"])
            member.transport.write(frame(TEXT, b'{"action":' + b"[" * chance.randrange(2000)))
            if chance.random() < 0.5:
                await member.ask("unsubscribe", stocks=list(STOCKS))
        finally:
            if chance.random() < 0.1:
                member.transport.write(b"\xff\xff\xff\xff")
            await depart([member])


async def soak(
    path: Path, figures: Figures, *, seconds: float, visitors: int, warm_up_s: float
) -> None:
    """Sample the server at rest between rounds of visits; compare the end with the warm start."""
    options = ("serve", "--port", "0", "--db", path / "odin.db")
    environ = {**FORCED, **UNLIMITED, "ODIN_STORE__BUSY_TIMEOUT_S": "0.2"}
    chance = random.Random(4)
    samples: list[tuple[float, int, int]] = []
    ages = Ages()
    visits = 0
    async with odin(*options, **environ) as server:
        stays = [await join(server.ws, f"stays{number}", ages) for number in range(5)]
        for member in stays:
            await member.ask("subscribe", stocks=STOCKS)
        started = time.monotonic()
        while time.monotonic() < started + seconds or len(samples) < 4:
            names = [f"client{chance.randrange(visitors * 2)}" for _ in range(visitors)]
            tasks = [asyncio.ensure_future(visit(server, name, chance)) for name in names]
            if chance.random() < 0.3:
                with closing(sqlite3.connect(path / "odin.db", isolation_level=None)) as other:
                    with suppress(sqlite3.OperationalError):
                        other.execute("BEGIN IMMEDIATE")
                        await asyncio.sleep(0.3)
                        other.execute("ROLLBACK")
            await asyncio.gather(*tasks)
            visits += visitors
            while (found := await metrics(server))["odin_connected"] > len(stays):
                await asyncio.sleep(0.05)
            if time.monotonic() > started + warm_up_s:
                samples.append((rss_mib(server), descriptors(server), int(found["odin_tasks"])))
        assert not any(member.ended.done() for member in stays)
        assert found["odin_faults_total"] == 0
        await depart(stays)
    first, last = samples[: len(samples) // 3 + 1], samples[-(len(samples) // 3 + 1) :]
    figures(
        seconds=time.monotonic() - started,
        visits=visits,
        samples=len(samples),
        rss_first_mib=min(sample[0] for sample in first),
        rss_last_mib=min(sample[0] for sample in last),
        descriptors=(min(s[1] for s in first), min(s[1] for s in last)),
        tasks=(min(s[2] for s in first), min(s[2] for s in last)),
        age_p99_ms=ages.at(0.99),
    )
    grown_mib = min(sample[0] for sample in last) - min(sample[0] for sample in first)
    assert grown_mib < 8, "memory is flat"
    assert min(s[1] for s in last) <= min(s[1] for s in first) + 2, "descriptors are flat"
    assert min(s[2] for s in last) <= min(s[2] for s in first) + 2, "tasks are flat"


async def test_nothing_is_left_behind(tmp_path: Path, figures: Figures) -> None:
    await soak(tmp_path, figures, seconds=5, visitors=40, warm_up_s=2)


@pytest.mark.chaos_long
@pytest.mark.timeout(1800)
async def test_long_soak_of_21_minutes(tmp_path: Path, figures: Figures) -> None:
    await soak(tmp_path, figures, seconds=21 * 60, visitors=100, warm_up_s=120)
