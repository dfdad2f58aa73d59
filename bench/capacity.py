"""What connections, requests and a start cost: everything but the fan-out itself."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.contenders import Contender
from bench.runner import Program, Report, RunFailed, family, pair, rss_kib_of
from bench.servers.source import TOPICS
from bench.toolchain import CACHE, Toolchain
from odin.model import Instrument, InstrumentKey
from odin.store.sqlite import SqliteStore

CONNECTIONS = 5_000
SUBSCRIPTIONS = 50
REQUEST_CLIENTS = 200
STOCKS_PER_REQUEST = 100
MASTER_ROWS = 23_000
SETTLE_S = 1.0


def connections(tools: Toolchain, contender: Contender) -> Report:
    """Return connects a second, and memory for a connection, idle and subscribed."""
    with pair(tools, contender, CONNECTIONS, SUBSCRIPTIONS) as (server, generator):
        empty = memory_kib(server)
        connected = generator.ask("connect")
        if connected["failed"]:
            raise RunFailed(f"{connected['failed']} connections were refused")
        idle = memory_kib(server)
        subscribed = generator.ask("subscribe")
        full = memory_kib(server)
    return {
        "connects_per_s": CONNECTIONS / connected["seconds"],
        "subscribes_per_s": CONNECTIONS / subscribed["seconds"],
        "idle_kib": (idle - empty) / CONNECTIONS,
        "subscribed_kib": (full - empty) / CONNECTIONS,
    }


def requests(tools: Toolchain, contender: Contender) -> Report:
    """Return subscribe requests a second, each of other stocks and answered when it is durable."""
    with pair(tools, contender, REQUEST_CLIENTS, STOCKS_PER_REQUEST) as (_server, generator):
        if generator.ask("connect")["failed"]:
            raise RunFailed("connections were refused")
        answered = generator.ask(f"requests {TOPICS // STOCKS_PER_REQUEST}")
    return {
        "requests_per_s": answered["answered"] / answered["seconds"],
        "unanswered": answered["wanted"] - answered["answered"],
        "latency": answered["latency"],
    }


def startup(times: int) -> list[float]:
    """Return the seconds from exec to listening of `odin serve` with a large master, each time."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "odin.db"
        asyncio.run(save_master(database))
        return [start_once(database) for _ in range(times)]


def start_once(database: Path) -> float:
    command = [sys.executable, "-m", "odin", "serve", "--port", "0", "--db", str(database)]
    # As it is installed: with its bytecode kept from one start to the next.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    with (CACHE / "log" / "serve").open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"listens on" in line:
                return time.perf_counter() - begin
        raise RunFailed("odin serve did not start")
    finally:
        process.terminate()
        process.communicate()


async def save_master(database: Path) -> None:
    """Save a master of MASTER_ROWS instruments."""
    instruments = [
        Instrument(
            InstrumentKey("NSE", "CM", n), f"STOCK{n}", "EQ", f"Stock {n} Limited", f"INE{n:09}"
        )
        for n in range(1, MASTER_ROWS + 1)
    ]
    async with await SqliteStore.open(database) as store:
        await store.save_instruments(instruments, [], "bench", 0)


def memory_kib(server: Program) -> int:
    time.sleep(SETTLE_S)
    return sum(map(rss_kib_of, family(server.pid)))
