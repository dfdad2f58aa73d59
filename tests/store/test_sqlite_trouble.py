"""A database that is locked, full or read-only: an honest error, and recovery."""

import asyncio
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from odin.errors import StoreError, StoreUnavailable
from odin.metrics import Metrics
from odin.model import InstrumentKey
from odin.store import operations
from odin.store.journal import Journal
from odin.store.sqlite import SqliteStore
from tests.store.samples import NOW_MS, RELIANCE, SBIN, change, subscription


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """Make this process unable to write beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_locked_database_is_an_honest_error_and_passes(
    store: SqliteStore, path: Path
) -> None:
    journal = Journal(store, metrics := Metrics())
    writer = asyncio.create_task(journal.run())
    await journal.record("a", add=[subscription(SBIN)], now_ms=NOW_MS)
    with locked(path):
        waiting = [journal.record(c, add=[subscription(RELIANCE)], now_ms=NOW_MS) for c in "ab"]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 2
        assert "locked by another process" in str(results[0])
        assert len(await store.load_subscriptions("a")) == 1  # reading goes on
    assert await store.load_subscriptions("b") == []
    await journal.record("b", add=[subscription(RELIANCE)], now_ms=NOW_MS)
    assert len(await store.load_subscriptions("b")) == 1
    assert (metrics.store_commits, metrics.store_failures) == (2, 2)
    await journal.close()
    await writer


async def test_housekeeping_does_not_wait_for_a_lock(path: Path) -> None:
    async with await SqliteStore.open(path, busy_timeout_s=30) as store, asyncio.timeout(10):
        await store.apply_changes([change("a", SBIN, now_ms=5)])
        with locked(path):
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.touch(["a"], 10)
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.expire_clients(10)
        await store.touch(["a"], 10)
        (timeout_ms,) = await store._do(lambda c: c.execute("PRAGMA busy_timeout").fetchone())
        assert timeout_ms == 30_000


async def test_a_full_disk_is_an_honest_error_and_passes(store: SqliteStore, path: Path) -> None:
    await store.apply_changes([change("a", SBIN)])
    many = [InstrumentKey("NSE", "CM", token) for token in range(3000)]
    used = path.with_name("odin.db-wal").stat().st_size
    with files_no_larger_than(used + 8192), pytest.raises(StoreUnavailable):
        await store.apply_changes([change("a", RELIANCE), change("b", *many)])
    assert [item.key for item in await store.load_subscriptions("a")] == [SBIN]
    await store.apply_changes([change("b", *many)])
    assert len(await store.load_subscriptions("b")) == 3000
    assert (await store.status(check=True)).integrity == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only files")
async def test_a_read_only_database_is_refused_at_the_start(path: Path) -> None:
    async with await SqliteStore.open(path):
        pass
    path.chmod(0o400)
    with pytest.raises(StoreError, match="read-only"):
        await SqliteStore.open(path)


async def test_a_server_does_not_start_on_what_it_cannot_write_but_on_what_is_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure = operations.configure

    def read_only(connection: sqlite3.Connection, is_tool: bool) -> None:
        configure(connection, is_tool)
        connection.execute("PRAGMA query_only = ON")

    async with await SqliteStore.open(path) as store:
        await store.apply_changes([change("a", SBIN)])
    with locked(path):
        async with await SqliteStore.open(path) as store:
            assert len(await store.load_subscriptions("a")) == 1
    monkeypatch.setattr(operations, "configure", read_only)
    with pytest.raises(StoreUnavailable, match="read-only"):
        await SqliteStore.open(path)
    async with await SqliteStore.open(path, is_tool=True) as store:
        assert len(await store.load_subscriptions("a")) == 1


async def test_a_database_that_turns_read_only_is_an_honest_error(store: SqliteStore) -> None:
    await store.apply_changes([change("a", SBIN)])
    await store._do(lambda connection: connection.execute("PRAGMA query_only = ON"))
    with pytest.raises(StoreUnavailable, match="read-only"):
        await store.apply_changes([change("a", RELIANCE)])
    assert len(await store.load_subscriptions("a")) == 1
    await store._do(lambda connection: connection.execute("PRAGMA query_only = OFF"))
    await store.apply_changes([change("a", RELIANCE)])
    assert len(await store.load_subscriptions("a")) == 2


async def test_a_cancelled_caller_leaves_no_transaction_open(
    store: SqliteStore, path: Path
) -> None:
    with locked(path):
        caller = asyncio.create_task(store.apply_changes([change("a", SBIN)]))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    await store.apply_changes([change("b", SBIN)])
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
