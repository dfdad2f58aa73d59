"""Finds the project's SQL and brings a database's schema up to date.

Migrations only go forward. A database whose applied migrations are not exactly the first ones of
this version is refused, and each migration is applied whole, with its row, or not at all.
Functions here are plain and blocking; SqliteStore runs them on its thread.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import aiosql

from odin.errors import MigrationError, StoreError, reflect

MIN_SQLITE = (3, 37, 0)
"""STRICT tables came with 3.37."""
APPLICATION_ID = 0x4F44494E
"""What PRAGMA application_id says in our databases: "ODIN"."""

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    name: str
    sql: str
    sha256: str
    """Of the text with line feeds, so that a checkout's line endings do not matter."""

    @property
    def label(self) -> str:
        """The file's name without its end: "0001_initial"."""
        return f"{self.version:04}_{self.name}"


def sql_root() -> Path:
    """Return the folder that holds `db/` and `migrations/`: the checkout, or `odin/_sql` of an
    installed wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "migrations").is_dir():
        return checkout
    return package / "_sql"


@cache
def load_queries() -> Any:
    """Return the named queries of db/queries.sql as methods of one object."""
    return aiosql.from_path(sql_root() / "db" / "queries.sql", "sqlite3", encoding="utf-8")


def ops_names() -> list[str]:
    """Return the names of the operators' queries, sorted."""
    return sorted(path.stem for path in (sql_root() / "db" / "ops").glob("*.sql"))


def load_ops(name: str) -> str:
    """Return the SQL text of an operators' query. Raises StoreError for a name that is not one."""
    if name not in ops_names():
        raise StoreError(f"No query is called {reflect(name)}; there are {', '.join(ops_names())}")
    return (sql_root() / "db" / "ops" / f"{name}.sql").read_text(encoding="utf-8")


def load_migrations(folder: Path | None = None) -> list[Migration]:
    """Return all migrations in order.

    Raises MigrationError unless they are NNNN_what.sql, numbered from 0001 without gap or double.
    """
    folder = folder or sql_root() / "migrations"
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{reflect(path.name)} is not named NNNN_what.sql")
        sql = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(sql.encode()).hexdigest()
        migrations.append(Migration(int(match[1]), match[2], sql, digest))
    numbers = [migration.version for migration in migrations]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise MigrationError(
            f"The migrations are not numbered from 1 without gaps: {numbers or 'there are none'}"
        )
    return migrations


def check_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    """Raise MigrationError where the SQLite library is too old for the schema."""
    if version < MIN_SQLITE:
        raise MigrationError(
            f"SQLite {'.'.join(map(str, MIN_SQLITE))} or newer is needed; this Python has "
            f"{'.'.join(map(str, version))}"
        )


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether the database is empty or was made by these migrations."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    return bool(application_id == APPLICATION_ID or (tables == 0 and application_id == 0))


def pending(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> Sequence[Migration]:
    """Return the migrations that were not applied yet.

    Raises MigrationError when those applied are not the first of `migrations`.
    """
    (has_table,) = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE name = 'schema_migration'"
    ).fetchone()
    query = "SELECT version, name, sha256 FROM schema_migration ORDER BY version"
    applied = connection.execute(query).fetchall() if has_table else []
    for place, (version, name, sha256) in enumerate(applied):
        if place >= len(migrations):
            raise MigrationError(
                f"The database has migration {version:04}_{reflect(name)}, which this version "
                "does not know: it was made by a newer one"
            )
        known = migrations[place]
        if (version, sha256) != (known.version, known.sha256):
            raise MigrationError(
                f"Migration {known.label} is not the one that was applied to "
                f"the database as {version:04}_{reflect(name)}"
            )
    return migrations[len(applied) :]


def migrate(
    connection: sqlite3.Connection, migrations: Sequence[Migration], now_ms: int
) -> list[Migration]:
    """Apply what is pending, each migration in its own transaction; return what was applied.

    The connection must be in autocommit mode, with foreign keys off so that tables can be rebuilt.
    Raises MigrationError with the database as the last whole migration left it.
    """
    done = []
    for migration in pending(connection, migrations):
        label = migration.label
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have been faster while this one waited for the lock.
            if migration in pending(connection, migrations):
                for statement in statements(migration.sql):
                    connection.execute(statement)
                if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
                    raise MigrationError(f"Migration {label} would leave rows without their parent")
                connection.execute(
                    "INSERT INTO schema_migration VALUES (?, ?, ?, ?)",
                    (migration.version, migration.name, migration.sha256, now_ms),
                )
                done.append(migration)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise MigrationError(
                f"Migration {label} failed, nothing of it is left: {error}"
            ) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    return done


def statements(sql: str) -> Iterator[str]:
    """Split a script into its statements; triggers, strings and comments stay whole.

    `executescript` will not do: it commits before it starts.
    """
    start = 0
    for end in (place + 1 for place, char in enumerate(sql) if char == ";"):
        if sqlite3.complete_statement(sql[start:end]):
            yield sql[start:end].strip()
            start = end
    if _without_comments(sql[start:]).strip():
        raise MigrationError(f"A statement has no end: {reflect(sql[start:].strip())}")


def _without_comments(sql: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", "", sql, flags=re.DOTALL)
