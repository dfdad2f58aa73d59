"""What is done to the database: each function is one whole operation on a connection.

They are plain, blocking functions; SqliteStore runs them one after another on the connection's
thread. Invariant: none leaves a transaction open. Long results travel as JSON and rows are
inserted by the hundred, because Python asks for its global lock after every row.
"""

import os
import sqlite3
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

from odin.clock import WallClock
from odin.errors import StoreError, StoreFull, StoreUnavailable, reflect
from odin.model import DailyBar, Instrument, InstrumentKey, Subscription
from odin.store import sql
from odin.store.journal import Change

T = TypeVar("T")

ROWS_PER_STATEMENT = 500
INSTRUMENTS_PER_PAGE = 2_000
CHECKPOINT_PAGES = 4_000
"""16 MB of write-ahead log between checkpoints."""

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


@contextmanager
def _transaction(
    connection: sqlite3.Connection, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE"
) -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with suppress(sqlite3.Error):  # the first error is the one to tell
                connection.execute("ROLLBACK")


def insert_rows(
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
        cells = list(chain.from_iterable(chunk))
        connection.execute(head + more * (len(chunk) - 1), cells)


def check_identity(connection: sqlite3.Connection, path: Path) -> None:
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


def configure(connection: sqlite3.Connection, is_tool: bool) -> None:
    """Set what the promises rest on. Raises StoreError where the file system is not up to it."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"The file system does not support a write-ahead log; it was {mode}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    # Of SQLite's own 1,000 pages a large group of changes fills more than all at once.
    connection.execute(f"PRAGMA wal_autocheckpoint = {0 if is_tool else CHECKPOINT_PAGES}")


def check_writable(connection: sqlite3.Connection) -> None:
    """Raise where nothing can be saved: a server must not start on a read-only file as if all were
    well. That another process has it locked for now is no reason."""
    try:
        # BEGIN IMMEDIATE alone succeeds on a read-only file: SQLite makes it a reading one.
        without_waiting(
            connection, sqlite3.Connection.execute, "DELETE FROM schema_migration WHERE false"
        )
    except sqlite3.OperationalError as error:
        if _primary_code(error) != sqlite3.SQLITE_BUSY:
            raise


def check_promises(connection: sqlite3.Connection, path: Path) -> None:
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


def migrate(connection: sqlite3.Connection) -> list[str]:
    """Apply what is pending and return the names."""
    connection.execute("PRAGMA foreign_keys = OFF")  # or a rebuilt table would empty its children
    try:
        done = sql.migrate(connection, sql.load_migrations(), WallClock().now_ms())
    finally:
        connection.execute("PRAGMA foreign_keys = ON")
    return [migration.label for migration in done]


def schema_version(connection: sqlite3.Connection) -> tuple[int, tuple[str, ...]]:
    """Return the number of the last migration applied, and the names of those pending."""
    migrations = sql.load_migrations()
    waiting = sql.pending(connection, migrations)
    return len(migrations) - len(waiting), tuple(migration.label for migration in waiting)


def apply_changes(
    connection: sqlite3.Connection, batch: Sequence[Change], max_clients: int
) -> None:
    """Apply all changes in one transaction, or raise and apply none."""
    queries = sql.load_queries()
    with _transaction(connection):
        known = queries.count_clients(connection)
        for changes in _rounds(batch):
            removed = [(change.client_id, *key) for change in changes for key in change.remove]
            if removed:
                queries.remove_subscriptions(connection, rows=to_json(removed))
            seen = [
                (change.client_id, change.now_ms, change.resume_sha256)
                for change in changes
                if change.add
            ]
            if seen:
                queries.see_clients(connection, rows=to_json(seen))
                insert_rows(
                    connection,
                    queries.add_subscriptions.sql,
                    (
                        (change.client_id, *key, symbol, subscribed_ms, mode)
                        for change in changes
                        for key, symbol, subscribed_ms, mode in change.add
                    ),
                )
            modes = [
                (change.client_id, *key, mode) for change in changes for key, mode in change.modes
            ]
            if modes:
                queries.set_modes(connection, rows=to_json(modes))
            if removed:
                queries.drop_empty_clients(connection, rows=to_json(removed))
        if known < queries.count_clients(connection) > max_clients:
            raise StoreFull(f"The database keeps {max_clients:,} clients and is full")


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


def load_subscriptions(connection: sqlite3.Connection, client_ids: list[str]) -> dict[str, str]:
    """Return each client's subscriptions, as JSON for decode_subscriptions."""
    pages = sql.load_queries().load_subscriptions(connection, client_ids=to_json(client_ids))
    found: dict[str, str] = orjson.loads(pages)
    return found


def without_waiting(
    connection: sqlite3.Connection, work: Callable[..., T], *args: Any, **kwargs: Any
) -> T:
    """Run housekeeping that fails at once on a locked database, so that the changes of clients,
    which come after it on this thread, do not wait twice."""
    (timeout_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        return work(connection, *args, **kwargs)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(timeout_ms)}")


def expire_clients(
    connection: sqlite3.Connection, before_ms: int, keep: Callable[[], Collection[str]], most: int
) -> int:
    """Forget at most so many clients in one transaction; see SqliteStore.expire_clients."""
    expire = sql.load_queries().expire_clients
    expired: int = expire(connection, before_ms=before_ms, keep=to_json(list(keep())), most=most)
    return expired


def load_instruments(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Return all instruments as of one instant: exchange, segment and JSON of each page."""
    queries = sql.load_queries()
    pages = []
    with _transaction(connection, "DEFERRED"):
        for exchange, segment in list(queries.markets(connection)):
            after = -1
            while after is not None:
                page, after = queries.load_instruments(
                    connection,
                    exchange=exchange,
                    segment=segment,
                    after=after,
                    most=INSTRUMENTS_PER_PAGE,
                )
                pages.append((exchange, segment, page))
    return pages


def save_instruments(
    connection: sqlite3.Connection,
    upserts: list[Instrument],
    removed_keys: list[InstrumentKey],
    source: str,
    now_ms: int,
) -> int:
    """Change the instruments in one transaction; return the new version."""
    queries = sql.load_queries()
    with _transaction(connection):
        if removed_keys:
            queries.remove_instruments(
                connection, rows=to_json([tuple(key) for key in removed_keys])
            )
        insert_rows(
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


def begin_bars(connection: sqlite3.Connection) -> None:
    """Make the temporary table that bars are gathered in, empty."""
    end_bars(connection)
    sql.load_queries().make_incoming(connection)


def gather_bars(connection: sqlite3.Connection, bars: Iterable[DailyBar]) -> None:
    """Add bars to the temporary table."""
    with _transaction(connection, "DEFERRED"):  # locks only the temporary database
        insert_rows(
            connection,
            sql.load_queries().add_incoming.sql,
            ((*bar.key, *bar[1:]) for bar in bars),
        )


def merge_bars(connection: sqlite3.Connection) -> None:
    """Put the gathered bars in place, all or none."""
    queries = sql.load_queries()
    queries.order_incoming(connection)
    queries.merge_incoming(connection)


def end_bars(connection: sqlite3.Connection) -> None:
    """Drop the temporary tables."""
    queries = sql.load_queries()
    queries.drop_incoming(connection)
    queries.drop_ordered(connection)


def status(connection: sqlite3.Connection, path: Path, check: bool) -> StoreStatus:
    """Count everything; read every page for damage if `check` is set."""
    queries = sql.load_queries()
    version, waiting = schema_version(connection)
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


def backup(connection: sqlite3.Connection, path: str | Path) -> None:
    """Copy the database to a new file; on an error there is no such file."""
    target = Path(path).absolute()
    _make_private(target)
    try:
        with closing(sqlite3.connect(target)) as copy:
            connection.backup(copy)
    except BaseException:
        target.unlink()
        raise


def data_version(db: sqlite3.Connection) -> int:
    """See SqliteStore.outside_changes: SQLite counts the commits of other connections."""
    version: int = db.execute("PRAGMA data_version").fetchone()[0]
    return version


def run_read_only(
    connection: sqlite3.Connection, query: str
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the names of a query's columns and its rows."""
    connection.execute("PRAGMA query_only = ON")
    try:
        cursor = connection.execute(query)
        return [column[0] for column in cursor.description], cursor.fetchall()
    finally:
        connection.execute("PRAGMA query_only = OFF")


# Values and errors


def to_json(rows: Iterable[object]) -> str:
    """Return rows as the JSON array that a named query takes."""
    return orjson.dumps(list(rows)).decode()


def decode_subscriptions(page: str) -> list[Subscription]:
    """Read what load_subscriptions returns of one client."""
    return [
        Subscription(InstrumentKey(exchange, segment, token), symbol, subscribed_ms, mode)
        for exchange, segment, token, symbol, subscribed_ms, mode in orjson.loads(page)
    ]


def decode_instruments(exchange: str, segment: str, page: str) -> Iterator[Instrument]:
    """Read a page of load_instruments."""
    tokens, symbols, series, names, isins, kinds, *numbers = orjson.loads(page)
    intern = sys.intern  # in 200,000 rows these are a few dozen different texts
    keys = map(InstrumentKey, repeat(intern(exchange)), repeat(intern(segment)), tokens)
    series, kinds = map(intern, series), map(intern, kinds)
    return map(Instrument, keys, symbols, series, names, isins, kinds, *numbers)


def locate(path: str | Path, create: bool) -> Path:
    """Return where the database is, made empty with mode 0600 if it is not there.

    Raises StoreError where it cannot be made, or is missing and is not to be made.
    """
    file = Path(path).absolute()
    if not file.exists():
        if not create:
            raise StoreError(f"There is no database at {reflect(file, 200)}")
        _make_private(file)
    return file


def _make_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as error:
        raise StoreError(f"{reflect(path, 200)} exists and was left as it is") from error
    except OSError as error:
        raise StoreError(f"{reflect(path, 200)} could not be made: {error.strerror}") from error


@contextmanager
def translated(path: Path) -> Iterator[None]:
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
