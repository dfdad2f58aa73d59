"""The SQLite database.

One connection per process and file, used only on its own thread: every operation is one function
run there, in turn, so a cancelled caller never leaves a transaction open. What has been committed
survives kill -9 and a power cut (WAL, synchronous=FULL). It never uses mmap, and a file that is
damaged or another program's is refused, never overwritten.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import aiosqlite
import orjson

from odin.errors import StoreUnavailable
from odin.model import ApiKey, DailyBar, Instrument, InstrumentKey, Subscription, YearSummary
from odin.store import operations, sql
from odin.store.journal import Change
from odin.store.operations import StoreStatus

log = logging.getLogger("odin.store")

T = TypeVar("T")

MAX_CLIENTS = 100_000
"""Clients kept; beyond it only those already known can subscribe, so random ids fill no disk."""

BARS_PER_STEP = 10_000
EXPIRED_PER_TRANSACTION = 500
"""A forgotten client may hold thousands of rows; changes get their turn in between."""
CLIENTS_PER_READ = 64
"""Clients whose subscriptions are read in one trip; each may hold thousands."""
READ_PAUSE_S = 0.005
"""From one such trip to the next: without it two or three shared one where 20 could."""


class ClientRow(NamedTuple):
    """One stored client."""

    client_id: str
    created_ms: int
    last_seen_ms: int
    subscription_count: int
    subscriptions: tuple[Subscription, ...] = ()
    """In order; only filled when one client is asked for."""


class SqliteStore:
    """The database of one server. Use `async with await SqliteStore.open(path) as store`.

    Every method raises StoreUnavailable where the database is locked, full, read-only, damaged or
    closed; nothing was changed then, and the store works again as soon as the cause is gone.
    """

    def __init__(self, path: Path, db: aiosqlite.Connection, max_clients: int) -> None:
        self.path = path
        self._db = db
        self._max_clients = max_clients
        self._is_open = True
        self._gathering = asyncio.Lock()
        """Held by whoever fills the table of incoming bars."""
        self._asked: list[tuple[str, asyncio.Future[str]]] = []
        """Who waits for the subscriptions of which client, and has yet to be read for."""
        self._reader: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ life

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        busy_timeout_s: float = 3.0,
        create: bool = True,
        migrate: bool = True,
        is_tool: bool = False,
        max_clients: int = MAX_CLIENTS,
    ) -> Self:
        """Open the database, made (mode 0600) and migrated if need be.

        migrate: False leaves an older schema as it is; `migrate` brings it up to date.
        is_tool: for a program that runs beside a server: it leaves checkpoints of the write-ahead
            log to the server, because SQLite before 3.51.3 can corrupt a file that two
            connections checkpoint at once.

        Raises StoreError where the file is missing (without `create`), damaged or not ours, and
        MigrationError where its schema and this version do not fit. It is left as it was.
        """
        sql.check_sqlite()
        file = operations.locate(path, create)
        with operations.translated(file):
            db = await aiosqlite.connect(file, timeout=busy_timeout_s, isolation_level=None)
        store = cls(file, db, max_clients)
        try:
            await store._do(operations.check_identity, file)
            await store._do(operations.configure, is_tool)
            if migrate:
                await store.migrate()
            version, waiting = await store._do(operations.schema_version)
            if not waiting and not is_tool:
                await store._do(operations.check_writable)
            if not waiting:
                await store._do(operations.check_promises, file)
        except BaseException:
            await store.close()
            raise
        log.info(
            "database open",
            extra={"path": str(file), "sqlite": sqlite3.sqlite_version, "schema": version},
        )
        return store

    async def close(self) -> None:
        """Finish what is under way and let go of the file."""
        if self._is_open:
            self._is_open = False
            with operations.translated(self.path):
                await self._db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def migrate(self) -> list[str]:
        """Apply the migrations that are pending and return their names, "0001_initial"."""
        done = await self._do(operations.migrate)
        for name in done:
            log.info("migration applied", extra={"migration": name})
        return done

    async def _do(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run work(connection, …) on the connection's thread.

        One hop for a whole operation: aiosqlite's public methods take one for each statement,
        and under a busy event loop every hop costs a turn of it.
        """
        if not self._is_open:
            raise StoreUnavailable("The database is closed")
        execute: Callable[..., Awaitable[T]] = self._db._execute
        with operations.translated(self.path):
            return await execute(partial(work, self._db._conn, *args, **kwargs))

    # ------------------------------------------------------------------ clients

    async def load_subscriptions(self, client_id: str) -> list[Subscription]:
        """Return a client's subscriptions in the order they were made; none for an unknown id.

        The first one is read for at once, and who asks soon after it together with all others:
        when everybody comes back, a trip for each was a third of what a connection cost.
        """
        asked = asyncio.get_running_loop().create_future()
        self._asked.append((client_id, asked))
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_subscriptions())
        return operations.decode_subscriptions(await asked)

    async def _read_subscriptions(self) -> None:
        """Read for whoever asks, until nobody does any more."""
        batch: list[tuple[str, asyncio.Future[str]]] = []
        try:
            while self._asked:
                batch = self._asked[:CLIENTS_PER_READ]
                del self._asked[:CLIENTS_PER_READ]
                client_ids = [client_id for client_id, asked in batch if not asked.done()]
                try:
                    pages = await self._do(operations.load_subscriptions, client_ids)
                    for client_id, asked in batch:
                        if not asked.done():
                            asked.set_result(pages[client_id])
                except Exception as error:  # noqa: BLE001 - whoever waits raises it
                    for _, asked in batch:
                        if not asked.done():
                            asked.set_exception(error)
                await asyncio.sleep(READ_PAUSE_S)
        finally:
            self._reader = None
            for _, asked in [*batch, *self._asked]:
                asked.cancel()  # only where this task was cancelled is anybody left
            self._asked.clear()

    async def apply_changes(self, batch: Sequence[Change], *, may_wait: bool = True) -> None:
        """Commit all changes, those of one client in their order, or none of them and raise.

        A client's row appears with its first subscription. may_wait: whether a locked database is
        waited for. Raises StoreUnavailable where the database is to blame, another StoreError
        where one of the changes is; StoreFull for a client too many.
        """
        if may_wait:
            await self._do(operations.apply_changes, batch, self._max_clients)
        else:
            await self._do(
                operations.without_waiting, operations.apply_changes, batch, self._max_clients
            )

    async def touch(self, client_ids: Collection[str], now_ms: int) -> None:
        """Note that clients were connected at an instant; unknown ids are passed over.

        Does not wait for a locked database: raises StoreUnavailable at once.
        """
        if client_ids:
            await self._do(
                operations.without_waiting,
                sql.load_queries().touch_clients,
                client_ids=operations.to_json(client_ids),
                now_ms=now_ms,
            )

    async def expire_clients(
        self, before_ms: int, keep: Callable[[], Collection[str]] = tuple
    ) -> int:
        """Forget clients last seen before an instant, but for those in `keep`; return how many.

        keep: called on the connection's thread before each transaction, so that a client whose
            subscriptions were loaded before it is never forgotten by it.

        Does not wait for a locked database: raises StoreUnavailable at once.
        """
        total = 0
        while True:
            expired: int = await self._do(
                operations.without_waiting,
                operations.expire_clients,
                before_ms,
                keep,
                EXPIRED_PER_TRANSACTION,
            )
            total += expired
            if expired < EXPIRED_PER_TRANSACTION:
                return total

    async def clients(self) -> list[ClientRow]:
        """Return all clients, without their subscriptions, the one seen last first."""
        rows = await self._do(lambda connection: list(sql.load_queries().clients(connection)))
        return [ClientRow(*row) for row in rows]

    async def client(self, client_id: str) -> ClientRow | None:
        """Return one client with its subscriptions, or None."""
        row = await self._do(sql.load_queries().client, client_id=client_id)
        if row is None:
            return None
        held = await self.load_subscriptions(client_id)
        return ClientRow(row[0], row[1], row[2], len(held), tuple(held))

    async def forget(self, client_id: str) -> bool:
        """Delete a client with its subscriptions; return whether it was known."""
        forgotten: int = await self._do(sql.load_queries().forget_client, client_id=client_id)
        return forgotten > 0

    async def resume_sha256(self, client_id: str) -> str | None:
        """Return the hash of a client's resume token, None where it has none."""
        found: str | None = await self._do(sql.load_queries().resume_sha256, client_id=client_id)
        return found

    async def keep_resume_token(self, client_id: str, resume_sha256: str) -> None:
        """Keep the hash of a known client's first resume token; others get it with their row.

        Does not wait for a locked database: raises StoreUnavailable at once.
        """
        await self._do(
            operations.without_waiting,
            sql.load_queries().keep_resume_token,
            client_id=client_id,
            resume_sha256=resume_sha256,
        )

    # ------------------------------------------------------------------ API keys

    async def api_keys(self) -> list[ApiKey]:
        """Return all keys ever made, the oldest first, those revoked too."""
        rows = await self._do(lambda connection: list(sql.load_queries().api_keys(connection)))
        return [ApiKey(row[0], row[1], frozenset(row[2].split(",")), *row[3:]) for row in rows]

    async def add_api_key(self, key: ApiKey) -> None:
        """Keep a new key. Raises StoreError where its name is empty or too long."""
        scopes = ",".join(sorted(key.scopes))
        await self._do(
            sql.load_queries().add_api_key,
            **{**key._asdict(), "scopes": scopes},
        )

    async def revoke_api_key(self, key_id: str, now_ms: int) -> bool:
        """Make a key invalid from now on; return whether it was valid before."""
        revoked: int = await self._do(sql.load_queries().revoke_api_key, id=key_id, now_ms=now_ms)
        return revoked > 0

    # ------------------------------------------------------------------ instruments

    async def load_instruments(self) -> list[Instrument]:
        """Return the imported master in the order of its keys; empty where none was imported."""
        instruments: list[Instrument] = []
        for page in await self._do(operations.load_instruments):
            instruments += operations.decode_instruments(*page)
            await asyncio.sleep(0)  # a master of 200,000 must not hold up the ticks
        return instruments

    async def instruments_version(self) -> int:
        """Return the number of imports so far."""
        imported = await self._do(sql.load_queries().last_import)
        return 0 if imported is None else int(imported[0])

    async def outside_changes(self) -> int:
        """Return a number that differs whenever another process has changed the database."""
        return await self._do(operations.data_version)

    async def save_instruments(
        self,
        upserts: Iterable[Instrument],
        removed_keys: Iterable[InstrumentKey],
        source: str,
        now_ms: int,
    ) -> int:
        """Add, replace and remove instruments in one transaction; return the new version."""
        return await self._do(
            operations.save_instruments, list(upserts), list(removed_keys), source, now_ms
        )

    # ------------------------------------------------------------------ daily history

    async def save_daily_bars(self, bars: Iterable[DailyBar]) -> int:
        """Add or replace daily bars, all or none; return how many there were.

        `bars` is consumed as it comes, so that a generator over a large file needs no memory. The
        database is locked for other processes only while the gathered bars are put in place.
        """
        source = iter(bars)
        count = 0
        async with self._gathering:
            await self._do(operations.begin_bars)
            try:
                while chunk := list(islice(source, BARS_PER_STEP)):
                    await self._do(operations.gather_bars, chunk)
                    count += len(chunk)
                if count:
                    await self._do(operations.merge_bars)
            finally:
                await self._do(operations.end_bars)
        return count

    async def year_summaries(
        self, from_date: str, until_date: str
    ) -> dict[InstrumentKey, YearSummary]:
        """Return what the daily bars between two ISO dates, both included, say of each instrument.

        Where a price was reached on several days the latest counts. The average volume is that of
        the last five bars, or of all where there are fewer, with halves rounded up.
        """
        queries = sql.load_queries()
        text = await self._do(queries.year_summaries, from_date=from_date, until_date=until_date)
        return {InstrumentKey(*row[:3]): YearSummary(*row[3:]) for row in orjson.loads(text)}

    async def history_extent(self) -> tuple[str | None, str | None, int]:
        """Return the first and the last date with a daily bar, and the number of bars."""
        first, last, count = await self._do(sql.load_queries().history_extent)
        return first, last, count

    # ------------------------------------------------------------------ for operators

    async def status(self, *, check: bool = False) -> StoreStatus:
        """Return the state of the database; `check` also looks for damage, reading all of it."""
        return await self._do(operations.status, self.path, check)

    async def backup(self, path: str | Path) -> None:
        """Copy the database, consistent as of now, to a new file (mode 0600).

        Raises StoreError where the file exists or cannot be made.
        """
        await self._do(operations.backup, path)

    def ops_names(self) -> list[str]:
        """Return the names of the operators' queries."""
        return sql.ops_names()

    async def run_ops(self, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run the operators' query db/ops/NAME.sql, which cannot change anything.

        Returns the names of the columns, and the rows. Raises StoreError for an unknown name.
        """
        return await self._do(operations.run_read_only, sql.load_ops(name))
