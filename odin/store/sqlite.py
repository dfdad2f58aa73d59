"""The SQLite database.

One connection per process and file, used only on its own thread: every operation is one function
run there, in turn, so a cancelled caller never leaves a transaction open. What has been committed
survives kill -9 and a power cut (WAL, synchronous=FULL). It never uses mmap, and a file that is
damaged or another program's is refused, never overwritten.
"""

import asyncio
import logging
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import aiosqlite
import orjson

from odin.clock import WallClock
from odin.errors import StoreError, StoreUnavailable, reflect
from odin.model import DailyBar, Instrument, InstrumentKey, Subscription, YearSummary
from odin.store import sql
from odin.store.journal import Change

log = logging.getLogger("odin.store")

T = TypeVar("T")

MAX_CLIENTS = 100_000
"""Clients kept; beyond it only those already known can subscribe, so random ids fill no disk."""

ROWS_PER_STATEMENT = 500
BARS_PER_STEP = 10_000
INSTRUMENTS_PER_PAGE = 2_000
EXPIRED_PER_TRANSACTION = 500
"""A forgotten client may hold thousands of rows; changes get their turn in between."""

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked",
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_IOERR: "could not be read or written",
    sqlite3.SQLITE_FULL: "has no room left on the disk",
    sqlite3.SQLITE_CANTOPEN: "could not be opened",
    sqlite3.SQLITE_PERM: "may not be used by this user",
    sqlite3.SQLITE_NOMEM: "needs more memory than there is",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database",
}


class ClientRow(NamedTuple):
    """One stored client."""

    client_id: str
    created_ms: int
    last_seen_ms: int
    subscription_count: int
    subscriptions: tuple[Subscription, ...] = ()
    """In order; only filled when one client is asked for."""


class StoreStatus(NamedTuple):
    """What an operator wants to know of the database."""

    path: str
    sqlite_version: str
    schema_version: int
    pending_migrations: tuple[str, ...]
    file_bytes: int
    wal_bytes: int
    clients: int
    subscriptions: int
    instruments: int
    instruments_version: int
    instruments_source: str
    daily_bars: int
    first_bar_date: str | None
    last_bar_date: str | None
    integrity: str | None
    """ "ok" or what is wrong; None unless it was asked for."""


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
        file = Path(path).absolute()
        if not file.exists():
            if not create:
                raise StoreError(f"There is no database at {reflect(file, 200)}")
            _make_private(file)
        with _translated(file):
            db = await aiosqlite.connect(file, timeout=busy_timeout_s, isolation_level=None)
        store = cls(file, db, max_clients)
        try:
            await store._do(_check_identity, file)
            await store._do(_configure, is_tool)
            if migrate:
                await store.migrate()
            version, waiting = await store._do(_schema_version)
            if not waiting:
                await store._do(_check_promises, file)
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
            with _translated(self.path):
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
        done = await self._do(_migrate)
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
        with _translated(self.path):
            return await execute(partial(work, self._db._conn, *args, **kwargs))

    # ------------------------------------------------------------------ clients

    async def load_subscriptions(self, client_id: str) -> list[Subscription]:
        """Return a client's subscriptions in the order they were made; none for an unknown id."""
        queries = sql.load_queries()
        return _subscriptions(await self._do(queries.load_subscriptions, client_id=client_id))

    async def apply_changes(self, batch: Sequence[Change]) -> None:
        """Commit all changes, those of one client in their order, or none of them and raise.

        A client's row appears with its first subscription. Raises StoreUnavailable where the
        database is to blame, another StoreError where one of the changes is.
        """
        await self._do(_apply_changes, batch, self._max_clients)

    async def touch(self, client_ids: Collection[str], now_ms: int) -> None:
        """Note that clients were connected at an instant; unknown ids are passed over."""
        if client_ids:
            queries = sql.load_queries()
            await self._do(queries.touch_clients, client_ids=_json(client_ids), now_ms=now_ms)

    async def expire_clients(self, before_ms: int, keep: Collection[str] = ()) -> int:
        """Forget clients last seen before an instant, but for those in `keep`; return how many."""
        queries = sql.load_queries()
        kept = _json(keep)
        total = 0
        while True:
            expired: int = await self._do(
                queries.expire_clients,
                before_ms=before_ms,
                keep=kept,
                most=EXPIRED_PER_TRANSACTION,
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
        return ClientRow(*row, len(held), tuple(held))

    async def forget(self, client_id: str) -> bool:
        """Delete a client with its subscriptions; return whether it was known."""
        forgotten: int = await self._do(sql.load_queries().forget_client, client_id=client_id)
        return forgotten > 0

    # ------------------------------------------------------------------ instruments

    async def load_instruments(self) -> list[Instrument]:
        """Return the imported master in the order of its keys; empty where none was imported."""
        instruments: list[Instrument] = []
        for page in await self._do(_instrument_pages):
            instruments += map(_instrument, orjson.loads(page))
            await asyncio.sleep(0)  # a master of 200,000 must not hold up the ticks
        return instruments

    async def instruments_version(self) -> int:
        """Return the number of imports so far."""
        imported = await self._do(sql.load_queries().last_import)
        return 0 if imported is None else int(imported[0])

    async def save_instruments(
        self,
        upserts: Iterable[Instrument],
        removed_keys: Iterable[InstrumentKey],
        source: str,
        now_ms: int,
    ) -> int:
        """Add, replace and remove instruments in one transaction; return the new version."""
        return await self._do(
            _save_instruments, list(upserts), list(removed_keys), source, now_ms
        )

    # ------------------------------------------------------------------ daily history

    async def save_daily_bars(self, bars: Iterable[DailyBar]) -> int:
        """Add or replace daily bars, all or none; return how many there were.

        `bars` is consumed as it comes, so that a generator over a large file needs no memory. The
        database is locked for other processes only while the gathered bars are put in place.
        """
        queries = sql.load_queries()
        source = iter(bars)
        count = 0
        async with self._gathering:
            await self._do(queries.drop_incoming)
            await self._do(queries.make_incoming)
            try:
                while chunk := [(*bar.key, *bar[1:]) for bar in islice(source, BARS_PER_STEP)]:
                    await self._do(_insert, queries.add_incoming.sql, chunk)
                    count += len(chunk)
                if count:
                    await self._do(queries.order_incoming)
                    await self._do(queries.merge_incoming)
            finally:
                await self._do(queries.drop_incoming)
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
        return await self._do(_status, self.path, check)

    async def backup(self, path: str | Path) -> None:
        """Copy the database, consistent as of now, to a new file (mode 0600).

        Raises StoreError where the file exists or cannot be made.
        """
        target = Path(path).absolute()
        _make_private(target)
        try:
            await self._do(_backup, target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def ops_names(self) -> list[str]:
        """Return the names of the operators' queries."""
        return sql.ops_names()

    async def run_ops(self, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run the operators' query db/ops/NAME.sql, which cannot change anything.

        Returns the names of the columns, and the rows. Raises StoreError for an unknown name.
        """
        return await self._do(_run_read_only, sql.load_ops(name))


# On the connection's thread ----------------------------------------------------------------------


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with suppress(sqlite3.Error):  # the first error is the one to tell
                connection.execute("ROLLBACK")


def _insert(
    connection: sqlite3.Connection, statement: str, rows: Iterable[Sequence[object]]
) -> None:
    """Insert rows by a statement that ends in one row of VALUES, hundreds at a time.

    Against a saturated event loop, `executemany` of 100 rows took 0.8 to 1.7 s, as it asks for
    Python's global lock after every row; this way it takes 0.2 s, and half the time on an idle one.
    """
    head = statement.rstrip("; \n")
    more = ", " + head[head.rindex("(") :]
    source = iter(rows)
    while chunk := list(islice(source, ROWS_PER_STATEMENT)):
        cells = [cell for row in chunk for cell in row]
        connection.execute(head + more * (len(chunk) - 1), cells)


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not ours, before anything is written."""
    try:
        if sql.is_ours(connection):
            return
    except sqlite3.DatabaseError as error:
        if _primary_code(error) in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            raise StoreError(
                f"{reflect(path, 200)} is damaged or not an SQLite database; it was left as it is"
            ) from error
        raise
    raise StoreError(
        f"{reflect(path, 200)} is the database of another program; it was left as it is"
    )


def _configure(connection: sqlite3.Connection, is_tool: bool) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"The file system does not support a write-ahead log; it was {mode}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    if is_tool:
        connection.execute("PRAGMA wal_autocheckpoint = 0")


def _check_promises(connection: sqlite3.Connection, path: Path) -> None:
    """Look for damage where it would cost subscriptions; the rest can be imported again."""
    for table in ("clients", "subscriptions"):
        try:
            (verdict,) = connection.execute(f"PRAGMA quick_check({table})").fetchone()
        except sqlite3.DatabaseError as error:
            if _primary_code(error) != sqlite3.SQLITE_CORRUPT:
                raise
            verdict = str(error)
        if verdict != "ok":
            raise StoreError(
                f"{reflect(path, 200)} is damaged and was left as it is ({reflect(verdict)}); "
                "put a backup in its place"
            )


def _migrate(connection: sqlite3.Connection) -> list[str]:
    connection.execute("PRAGMA foreign_keys = OFF")  # or a rebuilt table would empty its children
    try:
        done = sql.migrate(connection, sql.load_migrations(), WallClock().now_ms())
    finally:
        connection.execute("PRAGMA foreign_keys = ON")
    return [migration.label for migration in done]


def _schema_version(connection: sqlite3.Connection) -> tuple[int, tuple[str, ...]]:
    migrations = sql.load_migrations()
    waiting = sql.pending(connection, migrations)
    return len(migrations) - len(waiting), tuple(migration.label for migration in waiting)


def _apply_changes(
    connection: sqlite3.Connection, batch: Sequence[Change], max_clients: int
) -> None:
    queries = sql.load_queries()
    with _transaction(connection):
        known = queries.count_clients(connection)
        for changes in _rounds(batch):
            removed = [(change.client_id, *key) for change in changes for key in change.remove]
            if removed:
                queries.remove_subscriptions(connection, rows=_json(removed))
            seen = [(change.client_id, change.now_ms) for change in changes if change.add]
            if seen:
                queries.see_clients(connection, rows=_json(seen))
                _insert(
                    connection,
                    queries.add_subscriptions.sql,
                    (
                        (change.client_id, *item.key, item.symbol, item.subscribed_ms)
                        for change in changes
                        for item in change.add
                    ),
                )
        if known < queries.count_clients(connection) > max_clients:
            raise StoreError(f"The database keeps {max_clients:,} clients and is full")


def _rounds(batch: Sequence[Change]) -> list[list[Change]]:
    """Split a batch so that no round has two changes of a client: the first of each, the second
    of each, and so on. Within a round all removals may go before all additions."""
    rounds: list[list[Change]] = []
    counts: dict[str, int] = {}
    for change in batch:
        place = counts.get(change.client_id, 0)
        counts[change.client_id] = place + 1
        if place == len(rounds):
            rounds.append([])
        rounds[place].append(change)
    return rounds


def _instrument_pages(connection: sqlite3.Connection) -> list[str]:
    """Read the instruments as JSON, a page each, all as of one instant."""
    queries = sql.load_queries()
    pages = []
    exchange, segment, token = "", "", -1
    connection.execute("BEGIN")
    try:
        while True:
            page, count, *last = queries.instrument_page(
                connection,
                exchange=exchange,
                segment=segment,
                token=token,
                most=INSTRUMENTS_PER_PAGE,
            )
            if not count:
                return pages
            pages.append(page)
            exchange, segment, token = last
    finally:
        connection.execute("COMMIT")


def _save_instruments(
    connection: sqlite3.Connection,
    upserts: list[Instrument],
    removed_keys: list[InstrumentKey],
    source: str,
    now_ms: int,
) -> int:
    queries = sql.load_queries()
    with _transaction(connection):
        if removed_keys:
            queries.remove_instruments(connection, rows=_json([tuple(key) for key in removed_keys]))
        _insert(
            connection,
            queries.save_instruments.sql,
            (
                (
                    *item.key,
                    item.symbol,
                    item.series,
                    item.name,
                    item.isin,
                    item.kind,
                    item.tick_size,
                    item.lot_size,
                    item.reference_close,
                )
                for item in upserts
            ),
        )
        queries.note_import(
            connection,
            source=source,
            saved=len(upserts),
            removed=len(removed_keys),
            now_ms=now_ms,
        )
        return int(queries.last_import(connection)[0])


def _status(connection: sqlite3.Connection, path: Path, check: bool) -> StoreStatus:
    queries = sql.load_queries()
    version, waiting = _schema_version(connection)
    clients = subscriptions = instruments = bars = 0
    imported, first, last = None, None, None
    if version:
        clients, subscriptions, instruments = queries.table_counts(connection)
        imported = queries.last_import(connection)
        first, last, bars = queries.history_extent(connection)
    integrity = None
    if check:
        integrity = "; ".join(row[0] for row in connection.execute("PRAGMA quick_check"))
    wal = path.with_name(path.name + "-wal")
    return StoreStatus(
        path=str(path),
        sqlite_version=sqlite3.sqlite_version,
        schema_version=version,
        pending_migrations=waiting,
        file_bytes=path.stat().st_size,
        wal_bytes=wal.stat().st_size if wal.exists() else 0,
        clients=clients,
        subscriptions=subscriptions,
        instruments=instruments,
        instruments_version=imported[0] if imported else 0,
        instruments_source=imported[1] if imported else "",
        daily_bars=bars,
        first_bar_date=first,
        last_bar_date=last,
        integrity=integrity,
    )


def _backup(connection: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)


def _run_read_only(
    connection: sqlite3.Connection, query: str
) -> tuple[list[str], list[tuple[Any, ...]]]:
    connection.execute("PRAGMA query_only = ON")
    try:
        cursor = connection.execute(query)
        return [column[0] for column in cursor.description], cursor.fetchall()
    finally:
        connection.execute("PRAGMA query_only = OFF")


# Values and errors -------------------------------------------------------------------------------


def _json(rows: Iterable[object]) -> str:
    return orjson.dumps(list(rows)).decode()


def _subscriptions(page: str) -> list[Subscription]:
    return [
        Subscription(InstrumentKey(exchange, segment, token), symbol, subscribed_ms)
        for exchange, segment, token, symbol, subscribed_ms in orjson.loads(page)
    ]


def _instrument(row: list[Any]) -> Instrument:
    exchange, segment, token, symbol, series, name, isin, kind, *rest = row
    intern = sys.intern  # of 200,000 rows these hold a few dozen different texts
    key = InstrumentKey(intern(exchange), intern(segment), token)
    return Instrument(key, symbol, intern(series), name, isin, intern(kind), *rest)


def _make_private(path: Path) -> None:
    """Make an empty file that only its owner may read. Raises StoreError where there is one."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as error:
        raise StoreError(f"{reflect(path, 200)} exists and was left as it is") from error
    except OSError as error:
        raise StoreError(f"{reflect(path, 200)} could not be made: {error.strerror}") from error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        problem = _UNAVAILABLE.get(_primary_code(error))
        if problem is None:
            raise StoreError(f"The database refused it: {error}") from error
        raise StoreUnavailable(f"The database {reflect(path, 200)} {problem}") from error
    except (OverflowError, UnicodeError, orjson.JSONEncodeError) as error:
        raise StoreError(f"The database cannot hold the value: {error}") from error


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension, 0 where Python's module raised the error."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
