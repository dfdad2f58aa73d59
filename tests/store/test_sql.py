"""Finding SQL, splitting it, and migrations."""

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import MigrationError, StoreError
from odin.store import sql
from odin.store.sql import Migration

NOW_MS = 1_756_971_590_198


def migration(version: int, text: str, name: str = "step") -> Migration:
    return Migration(version, name, text, hashlib.sha256(text.encode()).hexdigest())


FIRST = migration(
    1,
    "CREATE TABLE schema_migration (version, name, sha256, applied_ms);"
    "CREATE TABLE stocks (symbol TEXT);",
)
SECOND = migration(2, "ALTER TABLE stocks ADD COLUMN lot INTEGER;")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    yield made
    made.close()


def objects(connection: sqlite3.Connection) -> dict[str, str]:
    """Return name and definition of everything in a schema, without comments and line breaks."""
    return {
        name: " ".join(sql._without_comments(text or "").split())
        for name, text in connection.execute("SELECT name, sql FROM sqlite_master")
    }


def columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


# Finding


def test_the_checkout_is_preferred() -> None:
    assert (sql.sql_root() / "pyproject.toml").is_file()
    assert (sql.sql_root() / "db" / "queries.sql").is_file()


def test_an_installed_wheel_has_its_own_sql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "odin" / "store" / "sql.py"
    monkeypatch.setattr(sql, "__file__", str(installed))
    assert sql.sql_root() == tmp_path / "site-packages" / "odin" / "_sql"


def test_every_named_query_is_understood(connection: sqlite3.Connection) -> None:
    sql.migrate(connection, sql.load_migrations(), NOW_MS)
    queries = sql.load_queries()
    queries.make_incoming(connection)
    queries.order_incoming(connection)
    names = {name for name in queries.available_queries if not name.endswith("_cursor")}
    assert "load_subscriptions" in names
    for name in names - {"make_incoming", "order_incoming"}:
        query = getattr(queries, name)
        named = dict.fromkeys(query.parameters or (), "[]")
        cells = ["1"] * query.sql.count("?")
        assert connection.execute(f"EXPLAIN {query.sql}", named or cells).fetchall()


@pytest.mark.parametrize("name", sql.ops_names())
def test_every_query_for_operators_begins_with_its_question(name: str) -> None:
    first = sql.load_ops(name).splitlines()[0]
    assert first.startswith("-- ")
    assert "?" in sql.load_ops(name).split("SELECT")[0]


@pytest.mark.parametrize("name", ["", "nothing", "../queries", "database_size.sql", "\x1b[31m"])
def test_a_query_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="No query is called") as error:
        sql.load_ops(name)
    assert "\x1b" not in str(error.value)
    assert "database_size" in str(error.value)


# Statements


def test_statements_keep_strings_comments_and_triggers_whole() -> None:
    script = """
        -- a comment; with a semicolon
        CREATE TABLE a (x TEXT DEFAULT ';'); /* ; */
        CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET x = 1; DELETE FROM a; END;
        INSERT INTO a VALUES ('it''s; fine');
        -- the end
    """
    found = list(sql.statements(script))
    assert len(found) == 3
    assert found[1].endswith("DELETE FROM a; END;")
    assert found[2] == "INSERT INTO a VALUES ('it''s; fine');"


def test_a_statement_without_end_is_refused() -> None:
    with pytest.raises(MigrationError, match="no end"):
        list(sql.statements("CREATE TABLE a (x); CREATE TABLE b (x)"))


@given(st.lists(st.text(alphabet="a;'-/*\n ", max_size=12), max_size=5))
def test_quoted_text_survives_splitting(values: list[str]) -> None:
    written = ["SELECT '" + value.replace("'", "''") + "';" for value in values]
    connection = sqlite3.connect(":memory:")
    read = [connection.execute(part).fetchone()[0] for part in sql.statements("\n".join(written))]
    connection.close()
    assert read == values


# The list of migrations


def test_the_shipped_migrations_are_in_order() -> None:
    versions = [item.version for item in sql.load_migrations()]
    assert versions == list(range(1, len(versions) + 1))
    assert sql.load_migrations()[0].label == "0001_initial"


@pytest.mark.parametrize(
    "names",
    [[], ["0002_b.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"], ["one.sql"]],
)
def test_gaps_doubles_and_other_names_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError):
        sql.load_migrations(tmp_path)


def test_line_endings_do_not_change_the_checksum(tmp_path: Path) -> None:
    digests = set()
    for folder, text in (("unix", b"SELECT 1;\n"), ("windows", b"SELECT 1;\r\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0001_a.sql").write_bytes(text)
        digests.add(sql.load_migrations(tmp_path / folder)[0].sha256)
    assert len(digests) == 1


# Applying


def test_schema_sql_is_what_the_migrations_make(connection: sqlite3.Connection) -> None:
    sql.migrate(connection, sql.load_migrations(), NOW_MS)
    described = sqlite3.connect(":memory:")
    described.executescript((sql.sql_root() / "db" / "schema.sql").read_text())
    assert objects(connection) == objects(described)
    for question in ("PRAGMA application_id", "PRAGMA user_version"):
        assert connection.execute(question).fetchone() == described.execute(question).fetchone()
    described.close()


def test_migrations_are_applied_once_and_recorded(connection: sqlite3.Connection) -> None:
    assert sql.migrate(connection, [FIRST], NOW_MS) == [FIRST]
    assert sql.migrate(connection, [FIRST, SECOND], NOW_MS + 1) == [SECOND]
    assert sql.migrate(connection, [FIRST, SECOND], NOW_MS + 2) == []
    assert columns(connection, "stocks") == ["symbol", "lot"]
    assert connection.execute("SELECT * FROM schema_migration").fetchall() == [
        (1, "step", FIRST.sha256, NOW_MS),
        (2, "step", SECOND.sha256, NOW_MS + 1),
    ]


def test_a_migration_that_was_changed_is_refused(connection: sqlite3.Connection) -> None:
    sql.migrate(connection, [FIRST], NOW_MS)
    changed = FIRST._replace(sha256="0" * 64)
    with pytest.raises(MigrationError, match="not the one that was applied"):
        sql.migrate(connection, [changed, SECOND], NOW_MS)
    assert columns(connection, "stocks") == ["symbol"]


def test_a_newer_database_is_refused(connection: sqlite3.Connection) -> None:
    sql.migrate(connection, [FIRST, SECOND], NOW_MS)
    with pytest.raises(MigrationError, match="made by a newer one"):
        sql.migrate(connection, [FIRST], NOW_MS)


def test_a_migration_that_fails_leaves_nothing(connection: sqlite3.Connection) -> None:
    sql.migrate(connection, [FIRST], NOW_MS)
    broken = migration(2, "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1);")
    before = objects(connection)
    with pytest.raises(MigrationError, match="0002_step failed"):
        sql.migrate(connection, [FIRST, broken], NOW_MS)
    assert objects(connection) == before
    assert sql.migrate(connection, [FIRST, SECOND], NOW_MS) == [SECOND]


def test_a_migration_that_orphans_rows_is_refused(connection: sqlite3.Connection) -> None:
    orphan = migration(
        2,
        "CREATE TABLE parents (id INTEGER PRIMARY KEY);"
        "CREATE TABLE children (parent INTEGER REFERENCES parents (id));"
        "INSERT INTO children VALUES (7);",
    )
    with pytest.raises(MigrationError, match="without their parent"):
        sql.migrate(connection, [FIRST, orphan], NOW_MS)
    assert "children" not in objects(connection)


def test_a_process_killed_in_a_migration_leaves_nothing(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    sql.migrate(connection, [FIRST], NOW_MS)
    before = objects(connection)
    program = f"""
import os, sqlite3
from odin.store import sql
from tests.store.test_sql import FIRST, migration
connection = sqlite3.connect({str(tmp_path / "test.db")!r}, isolation_level=None)
connection.create_function("die", 0, lambda: os._exit(9))
step = migration(2, "CREATE TABLE more (x); INSERT INTO more VALUES (1); SELECT die();")
sql.migrate(connection, [FIRST, step], 0)
"""
    root = str(Path(__file__).resolve().parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": root}, cwd=root
    )
    assert ended.returncode == 9
    assert objects(connection) == before
    assert sql.pending(connection, [FIRST, SECOND]) == [SECOND]


def test_two_programs_may_migrate_at_once(connection: sqlite3.Connection, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    faster = sql.pending(connection, [FIRST])
    sql.migrate(other, [FIRST], NOW_MS)
    assert sql.migrate(connection, faster, NOW_MS) == []
    other.close()


def test_an_old_sqlite_is_refused() -> None:
    sql.check_sqlite()
    with pytest.raises(MigrationError, match=r"3\.37\.0 or newer is needed; this Python has 3\.36"):
        sql.check_sqlite((3, 36, 9))


def test_our_databases_are_recognised(connection: sqlite3.Connection) -> None:
    assert sql.is_ours(connection)
    connection.execute("CREATE TABLE photos (x)")
    assert not sql.is_ours(connection)
    connection.execute("DROP TABLE photos")
    sql.migrate(connection, sql.load_migrations(), NOW_MS)
    assert sql.is_ours(connection)
