"""An acknowledged change survives kill -9 in the middle of a storm."""

import asyncio
import sys
from pathlib import Path

from odin.model import InstrumentKey, Subscription
from odin.store.sqlite import SqliteStore

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 20
ACKNOWLEDGED = 400
HELD = 7

STORM = f"""
import asyncio, sys
from odin.metrics import Metrics
from odin.store.journal import Journal
from odin.store.sqlite import SqliteStore
from tests.store.test_durability import request

async def main():
    store = await SqliteStore.open(sys.argv[1])
    journal = Journal(store, Metrics())
    writer = asyncio.create_task(journal.run())

    async def client(number):
        turn = 0
        while True:
            added, removed = request(turn)
            await journal.record(f"client-{{number}}", [added], removed, turn)
            print(number, turn, flush=True)
            turn += 1

    await asyncio.gather(*(client(number) for number in range({CLIENTS})))

asyncio.run(main())
"""


def request(turn: int) -> tuple[Subscription, list[InstrumentKey]]:
    """Every request adds a stock; from the eighth on it also removes the oldest."""
    added = Subscription(InstrumentKey("NSE", "CM", turn), f"STOCK{turn}", turn)
    removed = [InstrumentKey("NSE", "CM", turn - HELD)] if turn >= HELD else []
    return added, removed


def held_after(turn: int) -> list[int]:
    """The tokens a client holds when its requests up to this one were carried out."""
    return list(range(max(0, turn - HELD + 1), turn + 1))


async def test_every_acknowledged_change_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "odin.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STORM, str(path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    printed = [await process.stdout.readline() for _ in range(ACKNOWLEDGED)]
    process.kill()
    printed += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    acknowledged: dict[int, int] = {}
    for line in printed:
        if line.endswith(b"\n"):
            client, turn = map(int, line.split())
            acknowledged[client] = turn
    assert len(acknowledged) == CLIENTS
    async with await SqliteStore.open(path, create=False) as store:
        for client, turn in acknowledged.items():
            held = await store.load_subscriptions(f"client-{client}")
            tokens = [item.key.token for item in held]
            # The next request may have been committed without its answer getting out.
            assert tokens in (held_after(turn), held_after(turn + 1))
