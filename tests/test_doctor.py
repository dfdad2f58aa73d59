"""Every check of a deployment: what is well, what is not, and what it says to do."""

import asyncio
import os
import shutil
import socket
import sqlite3
import subprocess
from pathlib import Path

import msgspec
import pytest

from odin import doctor, reference
from odin.doctor import Finding, examine
from odin.errors import ConfigError
from odin.model import InstrumentKey, Subscription
from odin.server.run import address_of
from odin.settings import Settings
from odin.store.journal import Change
from odin.store.sqlite import SqliteStore
from tests.support.process import odin
from tests.support.server import OPEN_MS, settings_for, start_server

SBIN = Subscription(InstrumentKey("NSE", "CM", 3045), "SBIN", OPEN_MS)
MINUTE_MS = 60_000
DAY_MS = 86_400_000
CALENDAR = reference.read_calendar("NSE")


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """A database whose last change was at OPEN_MS, and one subscriber in it."""
    path = tmp_path / "odin.db"
    async with await SqliteStore.open(path) as store:
        await store.apply_changes([Change("me", (SBIN,), (), OPEN_MS)])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_migration SET applied_ms = ?", (OPEN_MS,))
    connection.close()
    return path


def found(settings: Settings, now_ms: int = OPEN_MS) -> dict[str, Finding]:
    """Examine; the finding of every check by its name."""
    findings = list(examine(settings, now_ms))
    assert all(finding.advice for finding in findings if finding.state != "ok")
    assert all("\n" not in finding.text for finding in findings)
    return {finding.check: finding for finding in findings}


def with_(**sections: dict[str, object]) -> Settings:
    return msgspec.convert(sections, Settings)


# ---------------------------------------------------------------------- all of it


async def test_a_deployment_that_is_well(database: Path) -> None:
    findings = found(settings_for(database.parent))
    assert findings["settings"].state == "ok"
    assert findings["database"].state == "ok"
    assert findings["permissions"].state == "ok"
    assert findings["schema"].state == "ok"
    assert findings["clock"].state == "ok"
    assert findings["calendar"].state == "ok"
    assert not [finding for finding in findings.values() if finding.state == "problem"]


async def test_examining_changes_nothing(database: Path) -> None:
    before = {path.name: path.read_bytes() for path in database.parent.iterdir()}
    found(settings_for(database.parent))
    assert before["odin.db"] == database.read_bytes()
    with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as connection:
        assert connection.execute("SELECT count(*) FROM clients").fetchone() == (1,)
    connection.close()


async def test_a_running_server_and_its_database(tmp_path: Path) -> None:
    async with odin("demo", "--port", "0", "--db", tmp_path / "odin.db") as server:
        port = int(server.http.rsplit(":", 1)[1])
        settings = settings_for(tmp_path, server={"port": port})
        findings = found(settings, (tmp_path / "odin.db").stat().st_mtime_ns // 1_000_000)
        assert findings["database"].state == "ok"
        assert "0 connections" in findings["server"].text
        assert await server.stop() == 0


def test_settings_that_cannot_be_used_are_a_problem_each() -> None:
    error = ConfigError([("odin.toml: server.prot", "unknown"), ("PORT", "must be a number")])
    assert [(one.state, one.text) for one in doctor.unusable(error)] == [
        ("problem", "odin.toml: server.prot: unknown"),
        ("problem", "PORT: must be a number"),
    ]


# ---------------------------------------------------------------------- the database


def test_a_database_that_is_not_there_yet(tmp_path: Path) -> None:
    assert found(settings_for(tmp_path))["database"].state == "warning"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert found(settings_for(tmp_path / "missing"))["disk"].state == "problem"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "odin.db"
    path.write_text("not a database\n" * 100)
    finding = found(settings_for(tmp_path))["database"]
    assert finding.state == "problem"
    assert "not an SQLite database" in finding.text
    assert path.read_text() == "not a database\n" * 100


def test_the_database_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "odin.db") as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    finding = found(settings_for(tmp_path))["database"]
    assert (finding.state, "another program" in finding.text) == ("problem", True)


async def test_a_damaged_database(database: Path) -> None:
    """A page in the middle is overwritten; the head stays whole."""
    with sqlite3.connect(database) as connection:
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'subscriptions'"
        ).fetchone()
    connection.close()
    content = bytearray(database.read_bytes())
    content[(root - 1) * page_bytes : root * page_bytes] = b"\xa5" * page_bytes
    database.write_bytes(content)
    finding = found(settings_for(database.parent))["database"]
    assert (finding.state, "damaged" in finding.text) == ("problem", True)
    assert "backup" in finding.advice
    assert database.read_bytes() == bytes(content)


async def test_a_database_of_a_newer_version(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(
            "INSERT INTO schema_migration VALUES (99, 'later', ?, ?)", ("0" * 64, OPEN_MS)
        )
    connection.close()
    finding = found(settings_for(database.parent))["database"]
    assert (finding.state, "newer" in finding.text) == ("problem", True)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads everything")
async def test_a_database_that_may_not_be_read(database: Path) -> None:
    database.chmod(0)
    finding = found(settings_for(database.parent))["database"]
    assert (finding.state, "owner" in finding.advice) == ("problem", True)


async def test_a_database_that_others_may_read(database: Path) -> None:
    database.chmod(0o644)
    finding = found(settings_for(database.parent))["permissions"]
    assert finding.state == "warning"
    assert finding.advice == f"chmod 600 {database}"


async def test_a_database_that_may_not_be_written(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anything, so what the system says of this user is played."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != database)
    finding = found(settings_for(database.parent))["permissions"]
    assert (finding.state, "owner" in finding.advice) == ("problem", True)


def test_integrity_and_schema() -> None:
    assert doctor.integrity("ok", 4096).state == "ok"
    assert doctor.integrity("row 3 missing from index", 4096).state == "problem"
    assert doctor.schema(2, ()).state == "ok"
    assert "0002_keys" in doctor.schema(1, ("0002_keys",)).text


@pytest.mark.parametrize(
    ("count", "imported_ms", "state"),
    [
        (0, None, "warning"),
        (9000, OPEN_MS - DAY_MS, "ok"),
        (9000, OPEN_MS - 9 * DAY_MS, "warning"),
    ],
)
def test_the_age_of_the_instruments(count: int, imported_ms: int | None, state: str) -> None:
    assert doctor.instruments(count, imported_ms, OPEN_MS).state == state


# ---------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 30, 0), "problem"),
        ((3, 40, 1), "warning"),
        ((3, 51, 2), "warning"),
        ((3, 51, 3), "ok"),
        ((3, 53, 0), "ok"),
    ],
)
def test_the_version_of_sqlite(version: tuple[int, ...], state: str) -> None:
    assert doctor.sqlite_version(version).state == state


@pytest.mark.parametrize(
    ("granted", "state"), [(1024, "problem"), (10_127, "problem"), (10_128, "ok"), (None, "ok")]
)
def test_open_files_against_the_connections_allowed(granted: int | None, state: str) -> None:
    assert doctor.open_files(10_000, granted).state == state


@pytest.mark.parametrize(("somaxconn", "state"), [(128, "warning"), (4096, "ok"), (None, "ok")])
def test_the_backlog_against_what_the_kernel_holds(somaxconn: int | None, state: str) -> None:
    finding = doctor.backlog(4096, somaxconn)
    assert finding.state == state
    assert finding.advice == ("sysctl -w net.core.somaxconn=4096" if state == "warning" else "")


@pytest.mark.parametrize(
    ("free_bytes", "state"), [(50 << 20, "problem"), (500 << 20, "warning"), (50 << 30, "ok")]
)
def test_free_space(free_bytes: int, state: str, tmp_path: Path) -> None:
    assert doctor.disk_space(free_bytes, tmp_path).state == state


# ---------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("now_ms", "newest_ms", "state"),
    [
        (0, None, "problem"),
        (OPEN_MS, None, "ok"),
        (OPEN_MS, OPEN_MS + MINUTE_MS, "ok"),
        (OPEN_MS, OPEN_MS + 6 * MINUTE_MS, "problem"),
        (OPEN_MS, OPEN_MS - 300 * DAY_MS, "ok"),
    ],
)
def test_the_clock(now_ms: int, newest_ms: int | None, state: str) -> None:
    assert doctor.clock(now_ms, CALENDAR, newest_ms).state == state


async def test_a_clock_behind_the_database_is_found(database: Path) -> None:
    finding = found(settings_for(database.parent), OPEN_MS - DAY_MS)["clock"]
    assert (finding.state, "2025-09-04" in finding.text) == ("problem", True)


@pytest.mark.parametrize(
    ("days_left", "state"), [(-1, "problem"), (0, "warning"), (29, "warning"), (30, "ok")]
)
def test_how_long_the_calendar_is_known(days_left: int, state: str) -> None:
    last_ms = CALENDAR.day(CALENDAR.known_through).start_ms + DAY_MS // 2
    assert doctor.known_days(last_ms - days_left * DAY_MS, CALENDAR).state == state


def test_a_calendar_file_that_cannot_be_read(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, market={"calendar_file": str(tmp_path / "missing.toml")})
    assert found(settings)["calendar"].state == "problem"


# ---------------------------------------------------------------------- settings and server


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.3.2.1"])
def test_an_address_of_this_machine_alone(host: str) -> None:
    assert doctor.address(with_(server={"host": host})).state == "ok"


@pytest.mark.parametrize(
    ("server", "mode", "state"),
    [
        ({}, "off", "problem"),
        ({"allow_anonymous": True}, "off", "warning"),
        ({}, "required", "warning"),
        ({"tls_cert": "cert.pem", "tls_key": "key.pem"}, "required", "ok"),
    ],
)
def test_an_address_that_others_reach(server: dict[str, object], mode: str, state: str) -> None:
    settings = with_(server={"host": "0.0.0.0", **server}, auth={"mode": mode})
    assert doctor.address(settings).state == state


def test_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_text("no certificate")
    server = {"tls_cert": str(cert), "tls_key": str(tmp_path / "missing.pem")}
    assert found(settings_for(tmp_path, server=server))["tls"].state == "problem"


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
async def test_a_server_with_a_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]
    subprocess.run(
        [*command, "-subj", "/CN=feed.example", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    key.chmod(0o640)
    tls = {"tls_cert": str(cert), "tls_key": str(key)}
    server = await start_server(tmp_path, server=tls)
    settings = settings_for(tmp_path, server=tls | {"port": address_of(server.runner)[1]})
    findings = await asyncio.to_thread(found, settings)
    await server.close()
    assert findings["tls"].state == "ok"
    assert "0 connections" in findings["server"].text
    key.chmod(0o644)
    assert doctor.tls(str(cert), str(key)).state == "warning"


def test_settings_that_a_server_would_refuse(tmp_path: Path) -> None:
    server = {"host": "0.0.0.0", "trusted_proxies": ["proxy"], "tls_cert": "cert.pem"}
    texts = [one.text for one in examine(settings_for(tmp_path, server=server), OPEN_MS)][:3]
    assert [text.split(":")[0] for text in texts] == [
        "server.host",
        "server.tls_key",
        "server.trusted_proxies",
    ]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"feed": {"kind": "none"}}, "no data"),
        ({"feed": {"kind": "simulator"}}, "simulated"),
        ({"market": {"gate": "always"}}, "outside market hours"),
    ],
)
def test_feeds_that_are_not_the_market(sections: dict[str, dict[str, object]], said: str) -> None:
    finding = doctor.feed(with_(**sections))
    assert (finding.state, said in finding.text) == ("warning", True)


def test_a_feed_of_the_market_and_how_to_try_it() -> None:
    finding = doctor.feed(with_(feed={"kind": "kite"}))
    assert (finding.state, finding.text) == ("ok", "kite; odin feed check tries it")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"feed": {"kind": "odin"}}, "odin.url: must be set: the feed is used"),
        ({"feed": {"kind": "kite", "standby": "kite"}}, "feed.standby: must be another feed"),
        ({"feed": {"kind": "kite"}, "kite": {"credentials": "SECRET"}}, "kite.credentials: "),
        ({"feed": {"routes": ["MCX"]}}, "feed.routes: 'MCX' must be like"),
    ],
)
def test_a_feed_that_could_not_be_built_is_a_problem_and_the_rest_is_looked_at(
    tmp_path: Path, sections: dict[str, dict[str, object]], said: str
) -> None:
    findings = list(examine(settings_for(tmp_path, **sections), OPEN_MS))
    [problem] = [one for one in findings if one.check == "settings"]
    assert (problem.state, problem.text.startswith(said)) == ("problem", True)
    assert "database" in {one.check for one in findings}


def test_no_server_is_no_problem(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = settings_for(tmp_path, server={"port": free.getsockname()[1]})
        assert found(settings)["server"].state == "warning"


def test_a_server_that_is_another_program_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = settings_for(tmp_path, server={"port": port})
        monkeypatch.setattr(doctor, "HEALTH_TIMEOUT_S", 0.05)
        finding = found(settings)["server"]
    assert finding.state == "problem"


def test_what_a_server_says_is_degraded_is_passed_on() -> None:
    body = {"status": "degraded", "degraded": ["feed x is stale"], "version": "1", "connections": 3}
    finding = doctor.health(body, "127.0.0.1:8080")
    assert (finding.state, "feed x is stale" in finding.text) == ("warning", True)
