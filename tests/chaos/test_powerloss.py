"""A power cut: of what was not synced, anything may be missing, in any order.

The real server runs with a small library in front of libc that logs every write, truncation and
completed sync of the database and its write-ahead log (powerloss.c). A cut at any place of that log
is then made by hand: what had been synced is there; of the writes since, each 512-byte sector is
there or not, by chance, newer ones perhaps without older ones. The file is opened and compared with
what clients had been told by then. What this takes for granted: a disk that keeps what it says it
has synced, whole sectors, and the two files' names (made at the start, before anybody is told
anything).

The method must be able to fail: with `synchronous = NORMAL`, the usual advice for a write-ahead
log, the same cuts lose acknowledged changes, while the file stays consistent and kill -9 shows
nothing at all. The last test keeps showing it.
"""

import asyncio
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from odin.store.sqlite import SqliteStore
from tests.chaos.conftest import Figures
from tests.chaos.crowd import UNLIMITED
from tests.chaos.lives import Life
from tests.support.process import odin

SECTOR = 512
HEAD = struct.Struct("<cBqq")
RESTART = 8
"""Writes after a checkpoint by which the write-ahead log has begun to overwrite itself."""

CONFIGURED = """
from odin.store import operations
configure = operations.configure
def configure_otherwise(connection, is_tool):
    configure(connection, is_tool)
    connection.execute("PRAGMA {pragma}")
operations.configure = configure_otherwise
from odin.cli import main
main()
"""


class Event(NamedTuple):
    """What was done to one of the files; `end` is where the log ended after it."""

    end: int
    kind: bytes
    file: int
    offset: int
    length: int
    data: bytes


class Disk:
    """The two files as they may be after a cut."""

    def __init__(self) -> None:
        self.synced = [bytearray(), bytearray()]
        self.waiting: list[list[Event]] = [[], []]

    def play(self, event: Event) -> None:
        if event.kind != b"s":
            self.waiting[event.file].append(event)
            return
        for earlier in self.waiting[event.file]:
            apply(self.synced[event.file], earlier)
        self.waiting[event.file].clear()

    def cut(self, path: Path, chance: random.Random) -> None:
        """Write the files as a cut leaves them."""
        share = chance.choice([0.0, 0.5, 0.9])
        for file, name in enumerate([path, path.with_name(path.name + "-wal")]):
            content = bytearray(self.synced[file])
            for event in self.waiting[file]:
                if event.kind == b"t":
                    if chance.random() < share:
                        apply(content, event)
                    continue
                for start in range(0, event.length, SECTOR):
                    if chance.random() < share:
                        data = event.data[start : start + SECTOR]
                        piece = event._replace(offset=event.offset + start, data=data)
                        apply(content, piece)
            name.write_bytes(content)


def apply(content: bytearray, event: Event) -> None:
    if event.kind == b"t":
        del content[event.length :]
        content.extend(bytes(event.length - len(content)))
        return
    end = event.offset + len(event.data)
    content.extend(bytes(max(0, end - len(content))))
    content[event.offset : end] = event.data


def events(log: bytes) -> Iterator[Event]:
    at = 0
    while at + HEAD.size <= len(log):
        kind, file, offset, length = HEAD.unpack_from(log, at)
        at += HEAD.size
        data = log[at : at + length] if kind == b"w" else b""
        at += len(data)
        yield Event(at, kind, file, offset, length, data)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library, or skip."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and LD_PRELOAD")
    source = Path(__file__).with_name("powerloss.c")
    library = tmp_path_factory.mktemp("powerloss") / "powerloss.so"
    options = ["-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run([compiler, *options], check=True)
    return library


class Run(NamedTuple):
    """One life of a server up to its end, and what its clients knew."""

    lives: list[Life]
    log: bytes


async def record(
    path: Path, shim: Path, *, changes: int, clients: int, program: tuple[str, ...] = ("-m", "odin")
) -> Run:
    """Let clients change their subscriptions until so many changes were acknowledged."""
    database, log = path / "odin.db", path / "writes.log"
    lives = [Life(f"client{number}", mark=lambda: log.stat().st_size) for number in range(clients)]
    async with odin(
        *("serve", "--port", "0", "--db", database),
        program=program,
        ODIN_FEED__KIND="none",
        LD_PRELOAD=str(shim),
        POWERLOSS_DB=str(database.resolve()),
        POWERLOSS_LOG=str(log),
        **UNLIMITED,
    ) as server:
        storms = [asyncio.ensure_future(life.storm(server.ws)) for life in lives]
        async with asyncio.timeout(300):
            while sum(life.acknowledged for life in lives) < changes:
                assert not any(storm.done() for storm in storms)
                await asyncio.sleep(0.01)
        server.kill()
        await asyncio.gather(*storms)
    return Run(lives, log.read_bytes())


def in_checkpoints(log: list[Event]) -> list[Event]:
    """Return what was written to the database itself, and the start of the log that follows."""
    return [
        event
        for number, event in enumerate(log)
        if any(earlier.file == 0 for earlier in log[max(0, number - RESTART) : number + 1])
    ]


async def count_lost(
    path: Path, run: Run, *, cuts: int, seed: int = 1, only_checkpoints: bool = False
) -> int:
    """Cut the power at so many places; return how many acknowledged changes were lost in all.

    A change that is there in part, or a damaged file, fails at once.
    """
    chance = random.Random(seed)
    first = max(life.marks[1] for life in run.lives if len(life.marks) > 1)
    everything = list(events(run.log))
    candidates = in_checkpoints(everything) if only_checkpoints else everything
    ends = [event.end for event in candidates if event.end >= first]
    places = chance.sample(ends, min(cuts, len(ends)))
    # Checkpoints are rare and the most delicate: some more in their midst, where there were any.
    midst = [event.end for event in everything if event.end >= first and event.file == 0]
    places = sorted({*places, *chance.sample(midst, min(cuts // 4, len(midst)))})
    disk, played, lost = Disk(), iter(everything), 0
    for number, place in enumerate(places):
        for event in played:
            disk.play(event)
            if event.end >= place:
                break
        after = path / f"cut{number}"
        after.mkdir()
        disk.cut(after / "odin.db", chance)
        async with await SqliteStore.open(after / "odin.db", create=False) as store:
            assert (await store.status(check=True)).integrity == "ok"
            for life in run.lives:
                held = [item.symbol for item in await store.load_subscriptions(life.client_id)]
                lost += life.lost(held, place)
        shutil.rmtree(after)
    return lost


def configured(pragma: str) -> tuple[str, ...]:
    """Return the program `odin` with another setting of its database."""
    return ("-c", CONFIGURED.format(pragma=pragma))


async def powerloss(
    path: Path, shim: Path, figures: Figures, *, changes: int, clients: int, cuts: int
) -> None:
    run = await record(path, shim, changes=changes, clients=clients)
    log = list(events(run.log))
    synced = sum(event.kind == b"s" for event in log)
    assert synced, "the library saw no sync: it was not loaded, or SQLite calls something else"
    lost = await count_lost(path, run, cuts=cuts)
    acknowledged = sum(life.total for life in run.lives)
    checkpoints = sum(event.kind == b"s" and event.file == 0 for event in log)
    figures(
        clients=clients,
        acknowledged=acknowledged,
        syncs=synced,
        database_syncs=checkpoints,
        cuts=cuts,
        lost=lost,
    )
    assert lost == 0


async def test_a_power_cut_loses_nothing_that_was_acknowledged(
    tmp_path: Path, shim: Path, figures: Figures
) -> None:
    """P1: at every cut every acknowledged change is there, and every other whole or not at all."""
    await powerloss(tmp_path, shim, figures, changes=1500, clients=20, cuts=40)


async def test_a_power_cut_in_the_midst_of_a_checkpoint_loses_nothing(
    tmp_path: Path, shim: Path, figures: Figures
) -> None:
    """With checkpoints of 16 pages and not of 1,000 there are two dozen of them in 600 changes."""
    program = configured("wal_autocheckpoint = 16")
    run = await record(tmp_path, shim, changes=600, clients=10, program=program)
    checkpoints = sum(event.kind == b"s" and event.file == 0 for event in events(run.log))
    lost = await count_lost(tmp_path, run, cuts=60, only_checkpoints=True)
    acknowledged = sum(life.total for life in run.lives)
    figures(acknowledged=acknowledged, checkpoints=checkpoints, cuts=60, lost=lost)
    assert checkpoints > 10, "the method reached no checkpoint"
    assert lost == 0


@pytest.mark.chaos_long
@pytest.mark.timeout(900)
async def test_long_power_cuts(tmp_path: Path, shim: Path, figures: Figures) -> None:
    """Long enough for checkpoints of the write-ahead log, and cuts in their midst."""
    await powerloss(tmp_path, shim, figures, changes=20_000, clients=60, cuts=300)


async def test_the_method_can_fail_synchronous_normal_loses_acknowledged_changes(
    tmp_path: Path, shim: Path, figures: Figures
) -> None:
    """The same cuts with `synchronous = NORMAL`: the file is whole and promises are broken."""
    run = await record(
        tmp_path, shim, changes=600, clients=10, program=configured("synchronous = NORMAL")
    )
    lost = await count_lost(tmp_path, run, cuts=20)
    figures(acknowledged=sum(life.total for life in run.lives), cuts=20, lost=lost)
    assert lost > 0
