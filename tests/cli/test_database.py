"""clients and db, against a database that a server has used."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from odin.model import InstrumentKey, Subscription
from odin.store.journal import Change
from odin.store.sqlite import SqliteStore
from tests.cli.conftest import Run

SEEN_MS = 1756971590198
SBIN = Subscription(InstrumentKey("NSE", "CM", 3045), "SBIN", SEEN_MS)
TCS = Subscription(InstrumentKey("NSE", "CM", 11536), "TCS", SEEN_MS + 1000)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with the clients "app" (two stocks) and "bot" (one stock)."""
    path = tmp_path / "odin.db"

    async def fill() -> None:
        async with await SqliteStore.open(path) as store:
            await store.apply_changes(
                [
                    Change("app", (SBIN, TCS), (), SEEN_MS),
                    Change("bot", (TCS,), (), SEEN_MS + 2000),
                ]
            )

    asyncio.run(fill())
    return path


@pytest.mark.usefixtures("database")
def test_clients_list(run: Run) -> None:
    result = run("clients", "list")
    assert result.exit_code == 0
    assert result.stdout == (
        "CLIENT  STOCKS  LAST SEEN (IST)      FIRST SEEN (IST)\n"
        "bot          1  2025-09-04 13:09:52  2025-09-04 13:09:52\n"
        "app          2  2025-09-04 13:09:50  2025-09-04 13:09:50\n"
    )


@pytest.mark.usefixtures("database")
def test_clients_list_as_json(run: Run) -> None:
    rows = [json.loads(line) for line in run("clients", "list", "--json").stdout.splitlines()]
    assert rows[1] == {
        "client_id": "app",
        "created_ms": SEEN_MS,
        "last_seen_ms": SEEN_MS,
        "subscription_count": 2,
    }
    assert len(rows) == 2


@pytest.mark.usefixtures("database")
def test_clients_show(run: Run) -> None:
    result = run("clients", "show", "app")
    assert result.stdout == (
        "client            app\n"
        "first seen (IST)  2025-09-04 13:09:50\n"
        "last seen (IST)   2025-09-04 13:09:50\n"
        "stocks            2\n"
        "\n"
        "SYMBOL  EXCHANGE  SEGMENT  TOKEN  MODE   SUBSCRIBED (IST)\n"
        "SBIN    NSE       CM        3045  quote  2025-09-04 13:09:50\n"
        "TCS     NSE       CM       11536  quote  2025-09-04 13:09:51\n"
    )


@pytest.mark.usefixtures("database")
def test_clients_show_as_json(run: Run) -> None:
    shown = json.loads(run("clients", "show", "bot", "--json").stdout)
    assert shown["client_id"] == "bot"
    assert shown["subscriptions"] == [
        {
            "exchange": "NSE",
            "segment": "CM",
            "token": 11536,
            "symbol": "TCS",
            "subscribed_ms": SEEN_MS + 1000,
            "mode": "quote",
        }
    ]


@pytest.mark.usefixtures("database")
def test_clients_forget(run: Run) -> None:
    result = run("clients", "forget", "app")
    assert (result.exit_code, result.stdout) == (0, "Client app was forgotten\n")
    assert "app" not in run("clients", "list").stdout
    assert run("clients", "forget", "app").exit_code == 1


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", ["show", "forget"])
def test_an_unknown_client(command: str, run: Run) -> None:
    result = run("clients", command, "no\x1bone")
    assert (result.exit_code, result.stderr) == (1, "error: No client is called no\\x1bone\n")


def test_the_database_can_be_named(database: Path, run: Run) -> None:
    database.rename(database.with_name("other.db"))
    Path("odin.toml").write_text("[store]\npath = 'nowhere.db'\n")
    Path("mine.toml").write_text("[store]\npath = 'other.db'\n")
    assert run("clients", "list").exit_code == 1
    assert "app" in run("clients", "list", "--db", "other.db").stdout
    assert "app" in run("clients", "list", "--config", "mine.toml").stdout
    assert "app" in run("clients", "list", env={"ODIN_STORE__PATH": "other.db"}).stdout


@pytest.mark.parametrize(
    "command",
    [
        ("clients", "list"),
        ("clients", "show", "x"),
        ("clients", "forget", "x"),
        ("db", "status"),
        ("db", "query", "idle_clients"),
        ("db", "backup", "copy.db"),
    ],
    ids=" ".join,
)
def test_a_database_that_is_not_there_is_not_made(command: tuple[str, ...], run: Run) -> None:
    result = run(*command)
    assert result.exit_code == 1
    assert result.stderr == f"error: There is no database at {Path.cwd() / 'odin.db'}\n"
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.usefixtures("database")
def test_a_database_in_use_can_be_looked_at(run: Run, database: Path) -> None:
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        assert "app" in run("clients", "list").stdout
        result = run("clients", "forget", "app", env={"ODIN_STORE__BUSY_TIMEOUT_S": "0"})
        assert result.exit_code == 1
        assert "is locked by another process" in result.stderr
    finally:
        holder.close()


def test_db_status(database: Path, run: Run) -> None:
    lines = dict(line.split(None, 1) for line in run("db", "status").stdout.splitlines())
    assert lines["path"].strip() == str(database)
    assert (lines["clients"].strip(), lines["subscriptions"].strip()) == ("2", "3")


@pytest.mark.usefixtures("database")
def test_db_status_as_json_looks_for_damage_when_asked(run: Run) -> None:
    assert json.loads(run("db", "status", "--json").stdout)["integrity"] is None
    status = json.loads(run("db", "status", "--json", "--check").stdout)
    assert status["integrity"] == "ok"
    assert status["pending_migrations"] == []


def test_db_migrate_makes_a_database_once(run: Run) -> None:
    first = run("db", "migrate")
    assert first.exit_code == 0
    assert first.stdout.startswith("applied 0001_")
    assert run("db", "migrate").stdout == "The schema is up to date\n"
    assert run("clients", "list").exit_code == 0


@pytest.mark.usefixtures("database")
def test_db_query_runs_a_query_for_operators(run: Run) -> None:
    result = run("db", "query", "largest_clients")
    assert result.exit_code == 0
    assert "app" in result.stdout
    rows = [
        json.loads(s)
        for s in run("db", "query", "largest_clients", "--json").stdout.split("\n")
        if s
    ]
    assert rows[0]["client_id"] == "app"


@pytest.mark.usefixtures("database")
def test_every_query_for_operators_runs(run: Run) -> None:
    names = run("db", "query").stdout.split()
    assert "largest_clients" in names
    for name in names:
        assert run("db", "query", name).exit_code == 0, name


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("name", ["nonsense", "../queries", ""])
def test_an_unknown_query(name: str, run: Run) -> None:
    result = run("db", "query", name)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


@pytest.mark.usefixtures("database")
def test_db_backup_copies_to_a_new_file(run: Run) -> None:
    result = run("db", "backup", "copy.db")
    assert (result.exit_code, result.stdout) == (0, "The database was copied to copy.db\n")
    assert "app" in run("clients", "list", "--db", "copy.db").stdout
    again = run("db", "backup", "copy.db")
    assert again.exit_code == 1
    assert "exists and was left as it is" in again.stderr
