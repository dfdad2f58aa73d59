"""Examines a deployment: what would stop a server, or cost it data, before or while it runs.

It only reads. A database in use is opened read-only, which takes no checkpoint and waits for
nobody. Every check says in one line how it is, and where it is not well what to do.
"""

import http.client
import json
import os
import shutil
import sqlite3
import ssl
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple

from odin import reference
from odin.clock import ist_date, ist_datetime_text
from odin.config import check_access
from odin.errors import ConfigError, OdinError, reflect
from odin.feeds.sources import check as check_feeds
from odin.market.sessions import CALENDAR_WARNING_DAYS, Calendar, MarketClock
from odin.settings import Settings
from odin.store import operations, sql

State = Literal["ok", "warning", "problem"]

SAFE_SQLITE = (3, 51, 3)
LOW_DISK_BYTES = 1 << 30
FULL_DISK_BYTES = 100 << 20
SPARE_FILES = 128
"""Descriptors that are not connections."""
CLOCK_SLACK_MS = 5 * 60_000
MASTER_DAYS = 7
"""Exchanges list and rename stocks every week."""
MS_PER_DAY = 86_400_000
HEALTH_TIMEOUT_S = 3.0
MAX_ANSWER_BYTES = 1 << 20
RESTORE = "if it is damaged, stop the server and put a backup in its place"
EXCHANGE = "NSE"
SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


class Finding(NamedTuple):
    """What one check found."""

    check: str
    """ "database", "clock", …"""
    state: State
    text: str
    advice: str = ""
    """What to do; empty where all is well."""


FEEDS = {
    "none": Finding("feed", "warning", "there is none: no data will flow", "set feed.kind"),
    "simulator": Finding(
        "feed", "warning", "the data is simulated, as every welcome says", "never trade on it"
    ),
}


def examine(settings: Settings, now_ms: int) -> Iterator[Finding]:
    """Yield what every check finds, in order; none of them raises.

    now_ms: the wall clock, epoch ms.
    """
    try:
        check_access(settings)
        check_feeds(settings)
    except ConfigError as error:
        yield from unusable(error)
    else:
        yield Finding("settings", "ok", "can be used")
    yield address(settings)
    if settings.server.tls_cert:
        yield tls(settings.server.tls_cert, settings.server.tls_key)
    yield sqlite_version(sqlite3.sqlite_version_info)
    path = Path(settings.store.path).absolute()
    newest_ms: int | None = None
    try:
        if path.exists():
            yield _permissions(path)
            newest_ms = yield from _database(path, now_ms)
        else:
            text = f"there is none at {path}"
            yield Finding("database", "warning", text, "the first odin serve makes it")
    except (OdinError, OSError) as error:
        yield Finding("database", "problem", reflect(error, 300), f"run as its owner; {RESTORE}")
    yield _disk(path.parent)
    yield open_files(settings.limits.connections, _granted_files())
    yield backlog(settings.server.backlog, _somaxconn())
    try:
        overrides = settings.market.calendar_file
        calendar = reference.read_calendar(EXCHANGE, Path(overrides) if overrides else None)
    except OdinError as error:
        yield Finding("calendar", "problem", str(error), "correct market.calendar_file")
    else:
        yield clock(now_ms, calendar, newest_ms)
        yield known_days(now_ms, calendar)
    yield feed(settings)
    yield _running(settings)


def unusable(error: ConfigError) -> list[Finding]:
    """Return the findings where the settings themselves cannot be used."""
    return [
        Finding("settings", "problem", f"{path}: {text}", "correct it; see docs/configuration.md")
        for path, text in error.problems
    ]


# ---------------------------------------------------------------------- settings


def address(settings: Settings) -> Finding:
    """Whether strangers can reach the server, and what they find."""
    server = settings.server
    shown = f"listens on {server.host}:{server.port}"
    if _is_loopback(server.host):
        return Finding("address", "ok", f"{shown}, this machine only")
    if settings.auth.mode == "off":
        text = f"{shown} without authentication"
        advice = 'set auth.mode = "required"; make keys with odin keys create'
        return Finding("address", "warning" if server.allow_anonymous else "problem", text, advice)
    if not server.tls_cert:
        text = f"{shown} without TLS: keys and data can be read on the way"
        return Finding("address", "warning", text, "set server.tls_cert, or put a proxy before it")
    return Finding("address", "ok", f"{shown} with authentication and TLS")


def tls(cert: str, key: str) -> Finding:
    """Whether the certificate and its key can be used, and the key is kept secret."""
    advice = "correct server.tls_cert and server.tls_key"
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
        mode = Path(key).stat().st_mode
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return Finding("tls", "problem", f"{cert} with {key}: {reflect(error, 200)}", advice)
    if mode & 0o007:
        return Finding("tls", "warning", f"everybody can read {key}", "chmod o= the file")
    return Finding("tls", "ok", f"{cert} with its key")


def feed(settings: Settings) -> Finding:
    """Whether what clients get is the market."""
    if settings.market.gate == "always":
        advice = 'set market.gate = "calendar" unless this is a test'
        return Finding("feed", "warning", "data flows outside market hours too", advice)
    used = f"{settings.feed.kind}; odin feed check tries it"
    return FEEDS.get(settings.feed.kind, Finding("feed", "ok", used))


# ---------------------------------------------------------------------- the machine


def sqlite_version(version: tuple[int, ...]) -> Finding:
    """Whether the SQLite library has the fault that corrupted files until 3.51.3."""
    shown = ".".join(map(str, version))
    try:
        sql.check_sqlite(version)
    except OdinError as error:
        return Finding("sqlite", "problem", str(error), "use a newer Python or SQLite library")
    if version < SAFE_SQLITE:
        return Finding(
            "sqlite",
            "warning",
            f"{shown} can corrupt a database that two programs write at once (fixed in 3.51.3); "
            "the server and odin's commands keep out of each other's way",
            "let no other program write to the database, or use a newer library",
        )
    return Finding("sqlite", "ok", shown)


def open_files(connections: int, granted: int | None) -> Finding:
    """Whether as many connections as are allowed can be opened."""
    needed = connections + SPARE_FILES
    if granted is None:
        return Finding("open files", "ok", "as many as the system has")
    text = f"{granted} are granted to this user, limits.connections needs {needed}"
    if granted < needed:
        advice = "raise LimitNOFILE of the unit or ulimit -Hn, or lower limits.connections"
        return Finding("open files", "problem", text, advice)
    return Finding("open files", "ok", text)


def backlog(wanted: int, somaxconn: int | None) -> Finding:
    """Whether the kernel holds as many new connections as the server asks it to."""
    if somaxconn is None or somaxconn >= wanted:
        return Finding("backlog", "ok", f"{wanted} connections may wait")
    return Finding(
        "backlog",
        "warning",
        f"the kernel holds {somaxconn} of the {wanted} connections of server.backlog",
        f"sysctl -w net.core.somaxconn={wanted}",
    )


def disk_space(free_bytes: int, folder: Path) -> Finding:
    """Whether changes can be saved for a while."""
    text = f"{free_bytes >> 20} MiB are free in {folder}"
    if free_bytes < FULL_DISK_BYTES:
        advice = "free some: without space no subscription can be saved"
        return Finding("disk", "problem", text, advice)
    if free_bytes < LOW_DISK_BYTES:
        return Finding("disk", "warning", text, "free some before it is full")
    return Finding("disk", "ok", text)


def _disk(folder: Path) -> Finding:
    try:
        return disk_space(shutil.disk_usage(folder).free, folder)
    except OSError as error:
        text = f"{folder}: {error.strerror}"
        return Finding("disk", "problem", text, "make the folder of store.path")


def _granted_files() -> int | None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def _somaxconn() -> int | None:
    try:
        return int(SOMAXCONN.read_text())
    except (OSError, ValueError):  # not Linux
        return None


# ---------------------------------------------------------------------- time


def clock(now_ms: int, calendar: Calendar, newest_ms: int | None) -> Finding:
    """Whether the machine's clock can be right. The time zone does not matter."""
    shown = f"it is {ist_datetime_text(now_ms)} in India"
    advice = "set the clock; run an NTP client"
    first = calendar.known_from.isoformat()
    if ist_date(now_ms) < first:
        text = f"{shown} by the clock, before the calendar's first day, {first}"
        return Finding("clock", "problem", text, advice)
    if newest_ms is not None and newest_ms > now_ms + CLOCK_SLACK_MS:
        text = f"{shown} by the clock, but the database was written at " + ist_datetime_text(
            newest_ms
        )
        return Finding("clock", "problem", text, advice)
    return Finding("clock", "ok", shown)


def known_days(now_ms: int, calendar: Calendar) -> Finding:
    """Whether holidays are known for some time to come."""
    days = MarketClock(calendar).days_known(now_ms)
    last = calendar.known_through.isoformat()
    advice = "install a newer version, or add the exchange's holidays to market.calendar_file"
    if days < 0:
        return Finding("calendar", "problem", f"nothing is known after {last}", advice)
    text = f"known until {last}, for {days} more days"
    if days < CALENDAR_WARNING_DAYS:
        return Finding("calendar", "warning", text, advice)
    return Finding("calendar", "ok", text)


# ---------------------------------------------------------------------- the database


def _permissions(path: Path) -> Finding:
    """Whether the server can write the database, and others cannot read it."""
    mode = path.stat().st_mode & 0o777
    text = f"{path} has the mode {mode:04o}"
    # SQLite makes two files of its own beside it.
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        advice = "run as the server's user, or correct the owner of the file and its folder"
        return Finding("permissions", "problem", f"{text}; this user may not write there", advice)
    if mode & 0o077:
        return Finding("permissions", "warning", text, f"chmod 600 {path}")
    return Finding("permissions", "ok", text)


def _database(path: Path, now_ms: int) -> Generator[Finding, None, int | None]:
    """Yield what is found in the database; return the latest time in it, epoch ms.

    Raises StoreError where it cannot be read.
    """
    queries = sql.load_queries()
    with (
        operations.translated(path),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection,
    ):
        operations.check_identity(connection, path)
        status = operations.status(connection, path, True)
        yield integrity(status.integrity or "", status.file_bytes)
        yield schema(status.schema_version, status.pending_migrations)
        if not status.schema_version:
            return None
        yield instruments(status.instruments, queries.last_import_instant(connection), now_ms)
        newest_ms: int | None = queries.newest_instant(connection)
        return newest_ms


def integrity(verdict: str, file_bytes: int) -> Finding:
    """Whether SQLite finds the file whole; `verdict` is that of PRAGMA quick_check."""
    if verdict == "ok":
        return Finding("database", "ok", f"whole, {file_bytes >> 10} KiB")
    return Finding("database", "problem", f"damaged: {reflect(verdict, 200)}", RESTORE)


def schema(version: int, pending: Sequence[str]) -> Finding:
    """Whether this version's migrations were applied."""
    if pending:
        text = f"{len(pending)} migrations are pending: {', '.join(pending)}"
        return Finding("schema", "warning", text, "the next start of the server applies them")
    return Finding("schema", "ok", f"version {version}")


def instruments(count: int, imported_ms: int | None, now_ms: int) -> Finding:
    """Whether clients can subscribe to what is listed today."""
    if not count or imported_ms is None:
        text = "no master was imported: only the sample of about fifty stocks is known"
        return Finding("instruments", "warning", text, "odin instruments import FILE")
    days = (now_ms - imported_ms) // MS_PER_DAY
    text = f"{count:,}, imported {days} days ago"
    if days > MASTER_DAYS:
        return Finding("instruments", "warning", text, "odin instruments import a newer FILE")
    return Finding("instruments", "ok", text)


# ---------------------------------------------------------------------- the server, if it runs


def _running(settings: Settings) -> Finding:
    """Ask the server of these settings how it is."""
    host, port = settings.server.host, settings.server.port
    if port == 0:
        return Finding("server", "ok", "was not asked: the system chooses its port")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    connection = http.client.HTTPConnection(host, port, timeout=HEALTH_TIMEOUT_S)
    if settings.server.tls_cert:
        # Its name is not "127.0.0.1", and nothing is told to it.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, port, timeout=HEALTH_TIMEOUT_S, context=context
        )
    try:
        with closing(connection):
            connection.request("GET", "/health")
            answer = connection.getresponse()
            body = json.loads(answer.read(MAX_ANSWER_BYTES))
        if answer.status != HTTPStatus.OK:
            raise ValueError(f"status {answer.status}")
        return health(body, f"{host}:{port}")
    except ConnectionRefusedError:
        text = f"none listens on {host}:{port}"
        return Finding("server", "warning", text, "start it: odin serve, or its unit")
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        text = f"what listens on {host}:{port} does not answer as a server of Odin: " + reflect(
            error
        )
        return Finding("server", "problem", text, "see its log; is the port another program's?")


def health(body: dict[str, Any], where: str) -> Finding:
    """Judge the answer of /health."""
    known = f"{body['version']} on {where}, {body['connections']} connections"
    if body["status"] == "ok":
        return Finding("server", "ok", known)
    degraded = "; ".join(reflect(problem, 200) for problem in body["degraded"])
    return Finding("server", "warning", f"{known}: {degraded}", "see its log")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
