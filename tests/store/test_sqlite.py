"""The SQLite store on real files."""

import asyncio
import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin.errors import MigrationError, StoreError, StoreUnavailable
from odin.market.history import summarise
from odin.model import ApiKey, DailyBar, Instrument, InstrumentKey, Subscription
from odin.store import sql
from odin.store.journal import Change
from odin.store.sqlite import SqliteStore
from tests.store.samples import NIFTY, NOW_MS, RELIANCE, SBIN, change, subscription


def stock(token: int, symbol: str = "") -> Instrument:
    return Instrument(InstrumentKey("NSE", "CM", token), symbol or f"STOCK{token}", "EQ")


# Opening


async def test_the_file_is_private_and_durable(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await store.apply_changes([change("a", SBIN)])
        for name in ("odin.db", "odin.db-wal", "odin.db-shm"):
            assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600
        pragmas = {
            name: await store._do(lambda c, q=f"PRAGMA {name}": c.execute(q).fetchone()[0])
            for name in ("journal_mode", "synchronous", "foreign_keys", "mmap_size")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "mmap_size": 0,
    }


async def test_a_tool_leaves_checkpoints_to_the_server(path: Path, store: SqliteStore) -> None:
    async with await SqliteStore.open(path, create=False, is_tool=True) as tool:
        await tool.save_instruments([stock(token) for token in range(30_000)], [], "test", NOW_MS)
        assert (await tool.status()).wal_bytes > 1_000_000
        assert path.stat().st_size < 1_000_000
    assert len(await store.load_instruments()) == 30_000


async def test_what_was_written_is_there_after_opening_again(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await store.apply_changes([change("a", SBIN, RELIANCE)])
    async with await SqliteStore.open(path, create=False) as store:
        assert [item.key for item in await store.load_subscriptions("a")] == [SBIN, RELIANCE]


async def test_a_missing_database_is_only_made_when_asked(path: Path) -> None:
    with pytest.raises(StoreError, match="There is no database at"):
        await SqliteStore.open(path, create=False)
    assert not path.exists()
    with pytest.raises(StoreError, match="could not be made: No such file or directory"):
        await SqliteStore.open(path / "no" / "folder.db")


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + b"\xff" * 4096, b"my diary " * 1000])
async def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged or not an SQLite database; it was left as it is"):
        await SqliteStore.open(path)
    assert path.read_bytes() == content


async def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE photos (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before


async def test_damage_that_would_cost_subscriptions_is_found_at_once(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        many = [InstrumentKey("NSE", "CM", token) for token in range(2000)]
        await store.apply_changes([change(f"client-{n}", *many) for n in range(3)])
    with closing(sqlite3.connect(path)) as other:
        (page_bytes,) = other.execute("PRAGMA page_size").fetchone()
        (root,) = other.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'subscriptions'"
        ).fetchone()
    content = bytearray(path.read_bytes())
    content[(root - 1) * page_bytes : root * page_bytes] = os.urandom(page_bytes)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        await SqliteStore.open(path)
    assert path.read_bytes() == content


async def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    async with await SqliteStore.open(path):
        pass
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("INSERT INTO schema_migration VALUES (9999, 'future', ?, 0)", ("0" * 64,))
    with pytest.raises(MigrationError, match="made by a newer one"):
        await SqliteStore.open(path)


async def test_migrations_can_be_left_for_later(path: Path) -> None:
    async with await SqliteStore.open(path, migrate=False) as store:
        before = await store.status()
        assert (before.schema_version, before.pending_migrations[0]) == (0, "0001_initial")
        with pytest.raises(StoreError, match="no such table"):
            await store.load_instruments()
        assert await store.migrate() == list(before.pending_migrations)
        assert (await store.status()).pending_migrations == ()
        assert await store.load_instruments() == []


async def test_a_closed_store_says_so(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.clients()


# Subscriptions


async def test_subscriptions_keep_their_order_and_symbol(store: SqliteStore) -> None:
    made = [
        subscription(SBIN, "SBIN", 1),
        subscription(NIFTY, "NIFTY 50", 2),
        subscription(RELIANCE, "RELIANCE", 3),
    ]
    await store.apply_changes([Change("a", tuple(made), (), NOW_MS)])
    assert await store.load_subscriptions("a") == made
    assert await store.load_subscriptions("A") == []


async def test_subscribing_again_moves_to_the_end(store: SqliteStore) -> None:
    await store.apply_changes([change("a", SBIN, RELIANCE)])
    await store.apply_changes([change("a", SBIN)])
    assert [item.key for item in await store.load_subscriptions("a")] == [RELIANCE, SBIN]


async def test_a_mode_changes_in_its_place(store: SqliteStore) -> None:
    full = subscription(SBIN)._replace(mode="full")
    await store.apply_changes([Change("a", (full, subscription(RELIANCE)), (), NOW_MS)])
    await store.apply_changes([change("b", SBIN, RELIANCE)])
    await store.apply_changes(
        [
            Change("a", (), (), NOW_MS, modes=((SBIN, "ltp"), (NIFTY, "full"))),
            Change("stranger", (), (), NOW_MS, modes=((SBIN, "ltp"),)),
            Change("a", (), (), NOW_MS, modes=((RELIANCE, "full"),)),
        ]
    )
    held = await store.load_subscriptions("a")
    assert [(item.key, item.mode) for item in held] == [(SBIN, "ltp"), (RELIANCE, "full")]
    assert {item.mode for item in await store.load_subscriptions("b")} == {"quote"}
    assert {row.client_id for row in await store.clients()} == {"a", "b"}


async def test_in_one_batch_a_clients_changes_come_in_order(store: SqliteStore) -> None:
    await store.apply_changes(
        [
            change("a", SBIN, RELIANCE),
            change("b", SBIN),
            Change("a", (), (SBIN,), NOW_MS),
            change("a", NIFTY),
            Change("a", (subscription(SBIN),), (NIFTY, SBIN), NOW_MS),
        ]
    )
    assert [item.key for item in await store.load_subscriptions("a")] == [RELIANCE, SBIN]
    assert [item.key for item in await store.load_subscriptions("b")] == [SBIN]


async def test_a_row_appears_with_the_first_subscription_only(store: SqliteStore) -> None:
    await store.load_subscriptions("reader")
    await store.touch(["reader"], NOW_MS)
    await store.apply_changes([Change("leaver", (), (SBIN,), NOW_MS)])
    assert await store.clients() == []
    await store.apply_changes([change("a", SBIN)])
    assert [row.client_id for row in await store.clients()] == ["a"]


@pytest.mark.parametrize(
    "bad",
    [
        change("", SBIN),
        change("x" * 138, SBIN),
        change("a", InstrumentKey("NSE", "CM", -1)),
        change("a", InstrumentKey("NSE", "CM", 2**63)),
        change("a", InstrumentKey("", "CM", 1)),
        change("\ud800", SBIN),
        Change("a", (Subscription(SBIN, "", 1),), (), NOW_MS),
        Change("a", (), (InstrumentKey("NSE", "CM", 2**64),), NOW_MS),
        Change("a", (subscription(SBIN)._replace(mode="all"),), (), NOW_MS),  # type: ignore[arg-type]
        Change("good", (), (), NOW_MS, modes=((SBIN, "all"),)),  # type: ignore[arg-type]
    ],
)
async def test_a_bad_change_undoes_its_whole_batch(store: SqliteStore, bad: Change) -> None:
    with pytest.raises(StoreError) as error:
        await store.apply_changes([change("good", SBIN), bad])
    assert not isinstance(error.value, StoreUnavailable)
    assert await store.clients() == []
    await store.apply_changes([change("good", SBIN)])
    assert len(await store.load_subscriptions("good")) == 1


async def test_random_ids_cannot_fill_the_disk(path: Path) -> None:
    async with await SqliteStore.open(path, max_clients=2) as store:
        await store.apply_changes([change("a", SBIN), change("b", SBIN)])
        with pytest.raises(StoreError, match="keeps 2 clients and is full"):
            await store.apply_changes([change("a", RELIANCE), change("c", SBIN)])
        await store.apply_changes([change("a", RELIANCE)])
        assert len(await store.load_subscriptions("a")) == 2
        await store.forget("b")
        await store.apply_changes([change("c", SBIN)])


# Reading for many clients at once


async def test_everybody_who_asks_together_gets_their_own_in_order(store: SqliteStore) -> None:
    await store.apply_changes(
        [change(f"client-{n}", SBIN, InstrumentKey("NSE", "CM", n), RELIANCE) for n in range(150)]
    )
    names = [f"client-{n}" for n in range(150)]
    held = await asyncio.gather(*map(store.load_subscriptions, [*names, "unknown", "client-7"]))
    expected = [[SBIN, InstrumentKey("NSE", "CM", n), RELIANCE] for n in [*range(150), 7]]
    expected.insert(150, [])
    assert [[item.key for item in one] for one in held] == expected


async def test_what_was_committed_before_is_always_seen(store: SqliteStore) -> None:
    reading = asyncio.ensure_future(store.load_subscriptions("early"))
    for token in range(3):
        await store.apply_changes([change("a", InstrumentKey("NSE", "CM", token))])
        assert len(await store.load_subscriptions("a")) == token + 1
    assert await reading == []


async def test_who_gives_up_waiting_harms_nobody_else(store: SqliteStore) -> None:
    await store.apply_changes([change("a", SBIN)])
    waiting = [asyncio.ensure_future(store.load_subscriptions("a")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[0] == results[2] == [subscription(SBIN)]


async def test_a_failure_reaches_everybody_who_asked_and_passes(store: SqliteStore) -> None:
    await store.apply_changes([change("a", SBIN)])
    await store._do(lambda connection: connection.execute("ALTER TABLE subscriptions RENAME TO s"))
    asked = map(store.load_subscriptions, "ab")
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results] == [StoreError, StoreError]
    await store._do(lambda connection: connection.execute("ALTER TABLE s RENAME TO subscriptions"))
    assert await store.load_subscriptions("a") == [subscription(SBIN)]


async def test_nobody_waits_for_ever_when_the_readers_task_is_cancelled(
    store: SqliteStore,
) -> None:
    waiting = [asyncio.ensure_future(store.load_subscriptions("a")) for _ in range(2)]
    for _ in range(2):  # they ask, it begins to read
        await asyncio.sleep(0)
    assert store._reader is not None
    store._reader.cancel()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert await store.load_subscriptions("a") == []


# Clients


async def test_clients_are_touched_listed_and_forgotten(store: SqliteStore) -> None:
    await store.apply_changes([change("a", SBIN, RELIANCE, now_ms=10), change("b", SBIN, now_ms=5)])
    await store.touch(["b", "unknown"], 20)
    await store.touch(["b"], 15)
    assert [row[:4] for row in await store.clients()] == [("b", 5, 20, 1), ("a", 10, 10, 2)]
    one = await store.client("a")
    assert one is not None
    assert [item.key for item in one.subscriptions] == [SBIN, RELIANCE]
    assert one.subscription_count == 2
    assert await store.client("unknown") is None
    assert await store.forget("a")
    assert not await store.forget("a")
    assert await store.load_subscriptions("a") == []


async def test_idle_clients_expire_unless_they_are_connected(store: SqliteStore) -> None:
    idle = [change(f"idle-{n}", SBIN, now_ms=10) for n in range(1200)]
    await store.apply_changes([*idle, change("kept", SBIN, now_ms=10), change("new", SBIN)])
    assert await store.expire_clients(11, keep=lambda: {"kept"}) == 1200
    assert await store.expire_clients(11, keep=lambda: {"kept"}) == 0
    assert {row.client_id for row in await store.clients()} == {"kept", "new"}
    assert (await store.status()).subscriptions == 2


# Instruments and history


async def test_instruments_survive_the_round_trip(store: SqliteStore) -> None:
    everything = [
        Instrument(SBIN, "SBIN", "EQ", "State Bank of India", "INE062A01020", "equity", 0.05, 1),
        Instrument(NIFTY, "NIFTY 50", kind="index", tick_size=0.01, reference_close=24_734.3),
        Instrument(InstrumentKey("BSE", "CM", 500112), "S&S\"P'ü", "A", tick_size=1.0, lot_size=75),
        *(stock(token) for token in range(100_000, 105_000)),
    ]
    assert await store.save_instruments(everything, [], "master.csv", NOW_MS) == 1
    assert sorted(await store.load_instruments(), key=lambda item: item.key) == sorted(
        everything, key=lambda item: item.key
    )


async def test_every_import_is_a_new_version(store: SqliteStore) -> None:
    assert await store.instruments_version() == 0
    await store.save_instruments([stock(1), stock(2), stock(3)], [], "one", NOW_MS)
    gone = [stock(2).key]
    assert await store.save_instruments([stock(1, "RENAMED")], gone, "two", NOW_MS) == 2
    assert await store.instruments_version() == 2
    assert {item.symbol for item in await store.load_instruments()} == {"RENAMED", "STOCK3"}
    assert (await store.status()).instruments_source == "two"


async def test_a_bad_instrument_changes_nothing(store: SqliteStore) -> None:
    await store.save_instruments([stock(1)], [], "one", NOW_MS)
    bad = Instrument(SBIN, "SBIN", tick_size=0.0)
    with pytest.raises(StoreError):
        await store.save_instruments([stock(2), bad], [stock(1).key], "two", NOW_MS)
    assert await store.load_instruments() == [stock(1)]
    assert await store.instruments_version() == 1


def bar(day: int, high: float = 110.0, low: float = 90.0, **changes: object) -> DailyBar:
    made = DailyBar(SBIN, f"2025-01-{day:02}", 100.0, high, low, 100.0, 1000)
    return made._replace(**changes)  # type: ignore[arg-type]


async def test_bars_are_added_and_replaced(store: SqliteStore) -> None:
    assert await store.history_extent() == (None, None, 0)
    assert await store.save_daily_bars(bar(day) for day in (2, 1, 3)) == 3
    assert await store.save_daily_bars([bar(3, 120.0), bar(3, 130.0)]) == 2
    assert await store.history_extent() == ("2025-01-01", "2025-01-03", 3)
    assert (await store.year_summaries("2025-01-01", "2025-12-31"))[SBIN].high == 130.0


async def test_an_import_of_bars_that_fails_changes_nothing(store: SqliteStore) -> None:
    def broken() -> Iterator[DailyBar]:
        yield from (bar(day) for day in (1, 2))
        raise ValueError("line 3")

    with pytest.raises(ValueError, match="line 3"):
        await store.save_daily_bars(broken())
    with pytest.raises(StoreError):
        await store.save_daily_bars([bar(1), bar(2, high=1.0)])
    assert await store.history_extent() == (None, None, 0)
    assert await store.save_daily_bars([bar(1)]) == 1


days = st.integers(1, 9)
prices = st.integers(90, 110).map(float)
bars = st.builds(
    lambda token, day, ends, volume: DailyBar(
        SBIN._replace(token=token),
        f"2025-01-{day:02}",
        min(ends),
        max(ends),
        min(ends),
        max(ends),
        volume,
    ),
    st.integers(1, 2),
    days,
    st.tuples(prices, prices),
    st.integers(0, 10**12),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(bars, unique_by=lambda item: (item.key, item.date)), days, days)
def test_a_summary_is_what_the_market_says_of_the_bars(
    given_bars: list[DailyBar], first: int, last: int
) -> None:
    async def summaries() -> dict[InstrumentKey, object]:
        with tempfile.TemporaryDirectory() as folder:
            async with await SqliteStore.open(Path(folder) / "odin.db") as store:
                await store.save_daily_bars(given_bars)
                found = await store.year_summaries(f"2025-01-{first:02}", f"2025-01-{last:02}")
                return dict(found)

    within = [item for item in given_bars if first <= int(item.date[-2:]) <= last]
    expected = {
        key: summarise([item for item in within if item.key == key])
        for key in {item.key for item in within}
    }
    assert asyncio.run(summaries()) == expected


# For operators


@pytest.mark.parametrize("name", sql.ops_names())
async def test_every_query_for_operators_answers(store: SqliteStore, name: str) -> None:
    columns, _ = await store.run_ops(name)  # an empty database is no error
    await fill(store)
    names, rows = await store.run_ops(name)
    assert names == columns
    assert rows, f"{name} found nothing in a database that has everything"
    assert all(len(row) == len(columns) for row in rows)


async def fill(store: SqliteStore) -> None:
    await store.save_instruments(
        [Instrument(SBIN, "SBIN", "EQ"), Instrument(RELIANCE, "RELIANCE", "EQ")], [], "x", NOW_MS
    )
    renamed = Subscription(RELIANCE, "RELIANCE OLD", 1_756_971_590_198, "full")
    unlisted = Subscription(InstrumentKey("BSE", "CM", 1), "GONE", 1_756_971_590_198)
    today_ms = await store._do(
        lambda c: c.execute("SELECT strftime('%s', 'now') * 1000").fetchone()[0]
    )
    await store.apply_changes([Change("idle", (subscription(SBIN), renamed, unlisted), (), NOW_MS)])
    await store.apply_changes([change("new", SBIN, now_ms=today_ms)])
    await store.save_daily_bars([bar(1)])


async def test_the_views_are_for_people(store: SqliteStore, path: Path) -> None:
    await fill(store)
    with closing(sqlite3.connect(path)) as other:
        listed = other.execute(
            "SELECT position, symbol, symbol_when_subscribed, is_listed, mode, subscribed_ist"
            " FROM client_subscriptions WHERE client_id = 'idle' ORDER BY position"
        ).fetchall()
        assert listed == [
            (1, "SBIN", "SBIN", 1, "quote", "2025-09-04 13:09:50"),
            (2, "RELIANCE", "RELIANCE OLD", 1, "full", "2025-09-04 13:09:50"),
            (3, "GONE", "GONE", 0, "quote", "2025-09-04 13:09:50"),
        ]
        active = other.execute("SELECT client_id, subscriptions FROM active_clients").fetchall()
        assert active == [("new", 1), ("idle", 3)]
        popular = other.execute("SELECT symbol, clients FROM popular_stocks").fetchall()
        assert popular == [("SBIN", 2), ("GONE", 1), ("RELIANCE", 1)]


async def test_queries_for_operators_cannot_write(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store)
    monkeypatch.setattr(sql, "load_ops", lambda name: "DELETE FROM clients RETURNING client_id")
    with pytest.raises(StoreUnavailable, match="read-only"):
        await store.run_ops("database_size")
    assert len(await store.clients()) == 2
    await store.apply_changes([change("c", SBIN)])


async def test_the_status_counts_everything(store: SqliteStore, path: Path) -> None:
    await fill(store)
    status = await store.status(check=True)
    assert status.path == str(path)
    assert status.sqlite_version == sqlite3.sqlite_version
    assert status.schema_version == len(sql.load_migrations())
    assert (status.clients, status.subscriptions, status.instruments) == (2, 4, 2)
    assert (status.daily_bars, status.first_bar_date) == (1, "2025-01-01")
    assert status.integrity == "ok"
    assert (await store.status()).integrity is None


async def test_a_backup_is_a_whole_private_database(store: SqliteStore, tmp_path: Path) -> None:
    await fill(store)
    copy = tmp_path / "copy.db"
    await store.backup(copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    async with await SqliteStore.open(copy, create=False) as restored:
        assert await restored.clients() == await store.clients()
        assert await restored.load_subscriptions("idle") == await store.load_subscriptions("idle")


async def test_a_backup_overwrites_nothing(store: SqliteStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    with pytest.raises(StoreError, match="exists and was left as it is"):
        await store.backup(precious)
    assert precious.read_text() == "mine"
    with pytest.raises(StoreError, match="could not be made"):
        await store.backup(tmp_path / "no" / "folder")


# API keys


async def test_api_keys_are_kept_and_revoked_once(store: SqliteStore) -> None:
    one = ApiKey("aaaaaaaa", "one", frozenset({"stream"}), "0" * 64, NOW_MS)
    two = ApiKey("bbbbbbbb", "two", frozenset({"stream", "admin"}), "1" * 64, NOW_MS + 1)
    await store.add_api_key(two)
    await store.add_api_key(one)
    assert await store.api_keys() == [one, two]
    assert await store.revoke_api_key("aaaaaaaa", NOW_MS + 5)
    assert not await store.revoke_api_key("aaaaaaaa", NOW_MS + 6)
    assert not await store.revoke_api_key("cccccccc", NOW_MS)
    assert await store.api_keys() == [one._replace(revoked_ms=NOW_MS + 5), two]
    with pytest.raises(StoreError):
        await store.add_api_key(one)
    with pytest.raises(StoreError):
        await store.add_api_key(one._replace(id="dddddddd", name=""))


async def test_a_resume_token_comes_with_the_first_subscription_and_stays(
    store: SqliteStore,
) -> None:
    assert await store.resume_sha256("a") is None
    await store.apply_changes([change("a", SBIN)._replace(resume_sha256="0" * 64)])
    await store.apply_changes([change("a", RELIANCE)._replace(resume_sha256="1" * 64)])
    await store.apply_changes([change("a", NIFTY)])
    assert await store.resume_sha256("a") == "0" * 64


async def test_clients_of_the_first_schema_are_kept_by_the_second(path: Path) -> None:
    async with await SqliteStore.open(path, migrate=False) as store:
        first = sql.load_migrations()[:1]
        await store._do(sql.migrate, first, NOW_MS)
        await store._do(
            lambda db: db.execute("INSERT INTO clients VALUES ('a', ?, ?)", (NOW_MS, NOW_MS + 1))
        )
        await store._do(
            lambda db: db.execute(
                "INSERT INTO subscriptions VALUES (7, 'a', 'NSE', 'CM', 3045, 'SBIN', ?)", (NOW_MS,)
            )
        )
        assert (await store.migrate())[0] == "0002_api_keys"
        row = await store.client("a")
        assert row is not None
        assert (row.created_ms, row.last_seen_ms, row.subscription_count) == (
            NOW_MS,
            NOW_MS + 1,
            1,
        )
        await store.forget("a")  # the foreign key holds on
        assert await store.load_subscriptions("a") == []


async def test_subscriptions_of_the_second_schema_are_kept_as_quotes(path: Path) -> None:
    """Made by the statements that the version before modes used."""
    made = [subscription(NIFTY, "NIFTY 50", 3), subscription(SBIN, "SBIN", 1)]

    def fill_second_schema(db: sqlite3.Connection) -> None:
        sql.migrate(db, sql.load_migrations()[:2], NOW_MS)
        db.execute("INSERT INTO clients VALUES ('a', 1, 2, ?)", ("0" * 64,))
        for item in made:
            db.execute(
                "INSERT INTO subscriptions"
                " (client_id, exchange, segment, token, symbol, subscribed_ms)"
                " VALUES ('a', ?, ?, ?, ?, ?)",
                (*item.key, item.symbol, item.subscribed_ms),
            )

    async with await SqliteStore.open(path, migrate=False) as store:
        await store._do(fill_second_schema)
        assert await store.migrate() == ["0003_modes"]
        assert await store.load_subscriptions("a") == made
        assert await store.resume_sha256("a") == "0" * 64
    async with await SqliteStore.open(path) as store:
        await store.apply_changes([Change("a", (), (), NOW_MS, modes=((SBIN, "full"),))])
        expected = [made[0], made[1]._replace(mode="full")]
        assert await store.load_subscriptions("a") == expected
        assert (await store.status(check=True)).integrity == "ok"
