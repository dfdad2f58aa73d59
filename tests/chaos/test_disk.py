"""Faults of the disk: locked, full, read-only, damaged. P8: streaming goes on, requests get an
honest error within 4 s, all recovers without a restart, and a damaged file is never overwritten."""

import asyncio
import random
import resource
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.conftest import Figures
from tests.chaos.crowd import FORCED, STOCKS, UNLIMITED, Ages, Member, depart, join, metrics, until
from tests.support.process import REPO, Process, odin

ANSWER_S = 4.0
CLIENTS = 10


class Trouble:
    """Clients that go on asking while the disk has a fault, and what they were answered."""

    def __init__(self, server: Process) -> None:
        self.server = server
        self.ages = Ages()
        self.waits_s: list[float] = []
        self.refused = 0
        self.saved = 0
        self.members: list[Member] = []
        self.held: list[set[str]] = []
        self._joined = 0

    async def start(self) -> None:
        for number in range(CLIENTS):
            member = await join(self.server.ws, f"client{number}", self.ages)
            await member.ask("subscribe", stocks=STOCKS[:2])
            self.members.append(member)
            self.held.append(set(STOCKS[:2]))

    async def go_on(self, until_done: Callable[[], bool]) -> None:
        """Subscribe and unsubscribe, each client at its own pace and three requests at a time."""

        async def one(member: Member, held: set[str], chance: random.Random) -> None:
            while not until_done():
                stocks = chance.sample(STOCKS[2:], 3)
                started = time.monotonic()
                for stock, asked in [(s, member.ask("subscribe", stocks=[s])) for s in stocks]:
                    answer = await asked
                    self.waits_s.append(time.monotonic() - started)
                    if self._count(answer):
                        held.add(stock)
                if self._count(await member.ask("unsubscribe", stocks=stocks)):
                    held.difference_update(stocks)
                await asyncio.sleep(chance.random() * 0.3)

        async def newcomers() -> None:
            while not until_done():
                self._joined += 1
                started = time.monotonic()
                member = await join(self.server.ws, f"newcomer{self._joined}")
                self.waits_s.append(time.monotonic() - started)
                await depart([member])
                await asyncio.sleep(0.3)

        storms = [
            one(member, held, random.Random(number))
            for number, (member, held) in enumerate(zip(self.members, self.held, strict=True))
        ]
        await asyncio.gather(newcomers(), *storms)

    def _count(self, answer: dict[str, Any]) -> bool:
        if answer["type"] == "error":
            assert answer["code"] == "store_unavailable", answer
            self.refused += 1
            return False
        self.saved += answer["status"] == "success"
        return True

    async def recovered(self) -> None:
        """Wait until a change is saved again, then compare with what the database holds."""

        async def is_saved() -> bool:
            return self._count(await self.members[0].ask("subscribe", stocks=[STOCKS[0], "LT"]))

        await until(is_saved, 10)
        self.held[0].add("LT")
        await depart(self.members)
        back = [await join(self.server.ws, member.client_id) for member in self.members]
        for member, held in zip(back, self.held, strict=True):
            answer = await member.ask("get_subscriptions")
            assert set(answer["data"]["subscribed_symbols"]) == held
        await depart(back)
        found = await metrics(self.server)
        assert found["odin_faults_total"] == 0

    def note(self, figures: Figures, **values: object) -> None:
        figures(
            clients=CLIENTS,
            **values,
            refused=self.refused,
            saved=self.saved,
            slowest_answer_s=max(self.waits_s),
            age_p99_ms=self.ages.at(0.99),
        )


def ticking(path: Path) -> tuple[str | Path, ...]:
    return ("serve", "--port", "0", "--db", path)


# ---------------------------------------------------------------------- locked


async def locked(path: Path, figures: Figures, *, seconds: float) -> None:
    database = path / "odin.db"
    async with odin(*ticking(database), **FORCED, **UNLIMITED) as server:
        trouble = Trouble(server)
        await trouble.start()
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            end_s = time.monotonic() + seconds
            trouble.ages.ms.clear()
            await trouble.go_on(lambda: time.monotonic() > end_s - 0.5)
            ages = list(trouble.ages.ms)
            await asyncio.sleep(max(0, end_s - time.monotonic()))
            assert trouble.refused, "nothing can have been saved"
            assert not trouble.saved
            other.execute("ROLLBACK")
        released = time.monotonic()
        await trouble.recovered()
        recovery_s = time.monotonic() - released
        trouble.ages.ms = ages
        trouble.note(figures, locked_s=seconds, recovery_s=recovery_s)
        assert ages
        assert trouble.ages.at(0.99) < 1000
        assert max(trouble.waits_s) < ANSWER_S


async def test_a_locked_database_delays_only_what_must_be_saved(
    tmp_path: Path, figures: Figures
) -> None:
    await locked(tmp_path, figures, seconds=6)


@pytest.mark.chaos_long
async def test_long_a_database_locked_for_20_seconds(tmp_path: Path, figures: Figures) -> None:
    await locked(tmp_path, figures, seconds=20)


# ---------------------------------------------------------------------- full


async def test_a_full_disk_is_told_and_passes(tmp_path: Path, figures: Figures) -> None:
    """Full is a limit on the size of the server's files, which needs no root to set and to lift;
    the errors of SQLite are those of a disk that takes no more."""
    database = tmp_path / "odin.db"
    async with odin(*ticking(database), **FORCED, **UNLIMITED) as server:
        trouble = Trouble(server)
        await trouble.start()
        log = database.with_name("odin.db-wal")
        full = log.stat().st_size + 20_000
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
        await trouble.go_on(lambda: trouble.refused >= 100)
        assert log.stat().st_size <= full
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
        await trouble.recovered()
        trouble.note(figures)
        assert max(trouble.waits_s) < ANSWER_S


# ---------------------------------------------------------------------- read-only

UNPRIVILEGED = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None)
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root write anywhere
    libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv({sys.executable!r}, [{sys.executable!r}, "-m", "odin", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes the rights of root away as Linux does")
async def test_a_read_only_file_or_directory_is_refused_at_the_start(tmp_path: Path) -> None:
    database = tmp_path / "odin.db"
    async with odin(*ticking(database)) as server:
        assert await server.stop() == 0
    before = database.read_bytes()
    # An earlier server's lock file would be found where the directory cannot be written.
    for file_mode, directory_mode in [(0o400, 0o700), (0o600, 0o500), (0o400, 0o500)]:
        database.chmod(file_mode)
        tmp_path.chmod(directory_mode)
        try:
            code, printed = await start(database, program=("-c", UNPRIVILEGED))
        finally:
            tmp_path.chmod(0o700)
        assert code == 1, printed
        assert "Traceback" not in printed
        assert database.read_bytes() == before


async def start(database: Path, program: tuple[str, ...] = ("-m", "odin")) -> tuple[int, str]:
    """Start a server that cannot start; return its exit code and all it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        *("serve", "--port", "0", "--db", database),
        cwd=REPO,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, printed.decode()


# ---------------------------------------------------------------------- damaged


async def with_clients(path: Path, count: int) -> Path:
    """Return a database that many clients have subscribed in, at rest."""
    database = path / "odin.db"
    async with odin(*ticking(database), ODIN_FEED__KIND="none", **UNLIMITED) as server:
        members = [await join(server.ws, f"client{number}") for number in range(count)]
        await asyncio.gather(*(member.ask("subscribe", stocks=STOCKS) for member in members))
        await depart(members)
        assert await server.stop() == 0
    return database


async def damaged_at_start(path: Path, figures: Figures, *, tries: int) -> None:
    whole = (await with_clients(path, 200)).read_bytes()
    refused = served = 0
    for number in range(tries):
        chance = random.Random(number)
        content = bytearray(whole)
        if number == 0:
            content[:100] = b"not a database".ljust(100)
        elif number == 1:
            del content[len(content) // 2 :]
        else:
            for _ in range(3):
                at = chance.randrange(1, len(content) // 4096) * 4096
                content[at : at + 4096] = chance.randbytes(4096)
        database = path / f"try{number}" / "odin.db"
        database.parent.mkdir()
        database.write_bytes(content)
        try:
            async with odin(*ticking(database), ODIN_FEED__KIND="none") as server:
                member = await join(server.ws, "client7")
                held = (await member.ask("get_subscriptions"))["data"]["subscribed_symbols"]
                assert held == list(STOCKS), "what is served is whole"
                await depart([member])
                served += 1
        except AssertionError as problem:
            assert "the server ended with 1" in str(problem), problem
            assert "Traceback" not in str(problem)
            assert database.read_bytes() == bytes(content), "a damaged file is left as it is"
            refused += 1
    figures(tries=tries, refused=refused, served_whole=served)
    assert refused >= 2


async def test_a_damaged_database_is_refused_and_left_alone(
    tmp_path: Path, figures: Figures
) -> None:
    await damaged_at_start(tmp_path, figures, tries=5)


@pytest.mark.chaos_long
@pytest.mark.timeout(300)
async def test_long_damaged_databases(tmp_path: Path, figures: Figures) -> None:
    await damaged_at_start(tmp_path, figures, tries=100)


async def test_a_database_damaged_while_it_is_used_ends_no_stream(
    tmp_path: Path, figures: Figures
) -> None:
    """Who is connected goes on; whatever cannot be read or saved is said so."""
    database = await with_clients(tmp_path, 200)
    async with odin(*ticking(database), **FORCED, **UNLIMITED) as server:
        ages = Ages()
        member = await join(server.ws, "client7", ages)
        content = bytearray(database.read_bytes())
        for at in range(4096, len(content), 4096):
            content[at : at + 4096] = random.Random(at).randbytes(4096)
        with database.open("r+b") as file:
            file.write(content)
        refused = closed = 0
        for number in range(100, 130):
            try:
                other = await join(server.ws, f"client{number}")
                answer = await other.ask("unsubscribe", stocks=["SBIN"])
                if answer["type"] == "error":
                    assert answer["code"] == "store_unavailable"
                    refused += 1
                await depart([other])
            except ConnectionError:
                closed += 1
        ages.ms.clear()
        await until(lambda: len(ages.ms) > len(STOCKS))
        assert not member.ended.done()
        found = await metrics(server)
        figures(refused=refused, told_to_come_back=closed, faults=found["odin_faults_total"])
        assert found["odin_faults_total"] == 0
        await depart([member])
