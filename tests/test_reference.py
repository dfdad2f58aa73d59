"""Importing reference data into a database, and what comes out of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from odin import reference
from odin.errors import ReferenceDataError
from odin.market.instruments import InstrumentRegistry
from odin.model import Instrument, InstrumentKey
from odin.store.sqlite import SqliteStore
from tests.support.shared import shared

SBIN = InstrumentKey("NSE", "CM", 3045)
HEADER = (
    "SEM_EXM_EXCH_ID,SEM_SEGMENT,SEM_SMST_SECURITY_ID,SEM_INSTRUMENT_NAME,SEM_EXPIRY_CODE,"
    "SEM_TRADING_SYMBOL,SEM_LOT_UNITS,SEM_CUSTOM_SYMBOL,SEM_EXPIRY_DATE,SEM_STRIKE_PRICE,"
    "SEM_OPTION_TYPE,SEM_TICK_SIZE,SEM_EXPIRY_FLAG,SEM_EXCH_INSTRUMENT_TYPE,SEM_SERIES,"
    "SM_SYMBOL_NAME"
)
EQUITY_HEADER = (
    "SYMBOL,NAME OF COMPANY, SERIES, DATE OF LISTING, PAID UP VALUE, MARKET LOT, ISIN NUMBER,"
    " FACE VALUE"
)
DAILY_HEADER = "date,symbol,series,prev_close,open,high,low,last,close,vwap,volume,trades"


def row(token: object, symbol: str) -> str:
    return f"NSE,E,{token},EQUITY,0,{symbol},1,{symbol} Ltd,,,,5.0000,NA,ES,EQ,{symbol} LIMITED"


def daily(date: str, symbol: str, close: object = 100.0) -> str:
    return f"{date},{symbol},EQ,99.0,100.0,110.0,90.0,{close},{close},100.0,1000,50"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(tmp_path / "odin.db") as opened:
        yield opened


@pytest.fixture
async def registry(store: SqliteStore) -> InstrumentRegistry:
    made = InstrumentRegistry()
    await reference.fill_registry(store, made)
    return made


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


# Instruments


async def test_a_master_is_imported_and_refreshed(store: SqliteStore, tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", HEADER, row(1, "AAA"), row(2, "BBB"), row(3, "CCC"))
    summary = await reference.import_instruments(store, first)
    assert (summary.added, summary.total, summary.version) == (3, 3, 1)
    second = write(tmp_path / "b.csv", HEADER, row(1, "AAA"), row(2, "BETA"), row(4, "DDD"))
    summary = await reference.import_instruments(store, second)
    assert summary.source == "b.csv (dhan)"
    assert (summary.added, summary.renamed, summary.removed) == (1, 1, 1)
    assert (summary.unchanged, summary.total, summary.version) == (1, 3, 2)
    assert "  BBB is now BETA (NSE)" in summary.lines()
    assert "1 added, 0 changed, 1 renamed" in summary.lines()
    symbols = {item.symbol for item in await store.load_instruments()}
    assert symbols == {"AAA", "BETA", "DDD"}


async def test_bad_rows_are_counted_and_the_first_five_shown(
    store: SqliteStore, tmp_path: Path
) -> None:
    bad = [row("x", f"BAD{n}") for n in range(7)]
    path = write(tmp_path / "a.csv", HEADER, row(1, "AAA"), *bad)
    summary = await reference.import_instruments(store, path)
    assert (summary.added, summary.bad_rows, len(summary.bad_examples)) == (1, 7, 5)
    assert summary.bad_examples[0].startswith("line 3: ")
    assert "  … and 2 more bad rows" in summary.lines()


@pytest.mark.parametrize(
    "content",
    [b"", b"name,age\nx,1\n", HEADER.encode(), f"{HEADER}\n{row('x', 'BAD')}\n".encode()],
)
async def test_a_useless_master_changes_nothing(
    store: SqliteStore, tmp_path: Path, content: bytes
) -> None:
    await reference.import_instruments(store, write(tmp_path / "a.csv", HEADER, row(1, "AAA")))
    useless = tmp_path / "useless.csv"
    useless.write_bytes(content)
    with pytest.raises(ReferenceDataError, match=r"useless\.csv"):
        await reference.import_instruments(store, useless)
    with pytest.raises(ReferenceDataError, match="could not be read: No such file"):
        await reference.import_instruments(store, tmp_path / "missing.csv")
    assert [item.symbol for item in await store.load_instruments()] == ["AAA"]
    assert await store.instruments_version() == 1


async def test_the_list_of_equities_adds_isin_to_known_stocks(
    store: SqliteStore, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "EQUITY_L.csv",
        EQUITY_HEADER,
        "AAA,Alpha Limited,EQ,06-OCT-2008,10,1,INE144J01027,10",
        "ZZZ,Zeta Limited,EQ,06-OCT-2008,10,1,INE144J01028,10",
    )
    with pytest.raises(ReferenceDataError, match="must be imported first"):
        await reference.import_instruments(store, path)
    assert await store.instruments_version() == 0
    await reference.import_instruments(store, write(tmp_path / "a.csv", HEADER, row(1, "AAA")))
    summary = await reference.import_instruments(store, path)
    assert (summary.changed, summary.unmatched, summary.total) == (1, 1, 1)
    (known,) = await store.load_instruments()
    assert (known.name, known.isin) == ("Alpha Limited", "INE144J01027")


async def test_a_real_master_and_its_refresh(store: SqliteStore) -> None:
    seen: list[tuple[int, int]] = []
    old = shared("data/instruments/dhan_scrip_master_nse_2025-08-09.csv")
    new = shared("data/instruments/dhan_scrip_master_2026-07-01.csv")
    await reference.import_instruments(
        store, old, progress=lambda done, whole: seen.append((done, whole))
    )
    assert seen
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    summary = await reference.import_instruments(store, new)
    assert (summary.rows, summary.total, summary.bad_rows) == (23_116, 23_116, 0)
    assert summary.renamed > 10
    assert summary.removed > 100
    registry = InstrumentRegistry()
    content = await reference.fill_registry(store, registry)
    assert not content.is_sample
    assert len(registry) == 23_116
    found = registry.resolve("SBIN").instrument
    assert found is not None
    assert found.key == SBIN
    again = await reference.import_instruments(store, new)
    assert (again.unchanged, again.added, again.changed, again.version) == (23_116, 0, 0, 3)


# The registry


async def test_without_a_master_the_sample_is_used(store: SqliteStore) -> None:
    content = await reference.load_registry(store)
    assert content.is_sample
    assert len(content.instruments) >= 30
    registry = InstrumentRegistry(content.instruments, aliases=content.aliases)
    for name, symbol in (("3045", "SBIN"), ("424", "ITC"), ("1660", "ITC"), ("TCS", "TCS")):
        found = registry.resolve(name).instrument
        assert found is not None
        assert found.symbol == symbol


async def test_a_master_takes_the_samples_place(store: SqliteStore) -> None:
    only = Instrument(InstrumentKey("NSE", "CM", 424), "AAA")
    await store.save_instruments([only], [], "test", 0)
    registry = InstrumentRegistry()
    await reference.fill_registry(store, registry)
    assert list(registry) == [only]
    assert registry.resolve("424").instrument == only
    assert registry.resolve("SBIN").instrument is None


async def test_extra_instruments_do_not_replace_listed_ones(store: SqliteStore) -> None:
    registry = InstrumentRegistry()
    recorded = Instrument(InstrumentKey("NSE", "CM", 999_999), "RECORDED")
    await reference.fill_registry(store, registry, [recorded, Instrument(SBIN, "WRONG")])
    assert registry.get(recorded.key) == recorded
    found = registry.get(SBIN)
    assert found is not None
    assert found.symbol == "SBIN"


# Daily history


async def test_history_of_several_files_is_imported(
    store: SqliteStore, registry: InstrumentRegistry, tmp_path: Path
) -> None:
    files = [
        write(tmp_path / "1.csv", DAILY_HEADER, daily("2025-01-01", "SBIN")),
        write(
            tmp_path / "2.csv",
            DAILY_HEADER,
            daily("2025-01-02", "SBIN", 105.0),
            daily("2025-01-02", "UNHEARD"),
            daily("2025-01-02", "TCS", "abc"),
        ),
    ]
    seen: list[tuple[int, int]] = []
    summary = await reference.import_history(
        store, registry, files, progress=lambda done, whole: seen.append((done, whole))
    )
    assert (summary.files, summary.rows, summary.saved) == (2, 4, 2)
    assert (summary.skipped_unknown, summary.unknown_names) == (1, ("NSE:UNHEARD",))
    assert summary.bad_rows == 1
    assert summary.bad_examples[0].startswith("2.csv line 4: ")
    assert "2 files, 4 rows, 2 daily bars saved" in summary.lines()
    size = sum(path.stat().st_size for path in files)
    assert seen[-1] == (size, size)
    year = (await store.year_summaries("2025-01-01", "2025-12-31"))[SBIN]
    assert (year.prev_close, year.prev_date) == (105.0, "2025-01-02")


async def test_one_bad_file_leaves_all_history_as_it_was(
    store: SqliteStore, registry: InstrumentRegistry, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.csv", DAILY_HEADER, daily("2025-01-01", "SBIN"))
    for bad in (write(tmp_path / "bad.csv", "no,such,columns"), tmp_path / "missing.csv"):
        with pytest.raises(ReferenceDataError, match=bad.name):
            await reference.import_history(store, registry, [good, bad])
    assert await store.history_extent() == (None, None, 0)


async def test_history_without_a_usable_row_is_an_error(
    store: SqliteStore, registry: InstrumentRegistry, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.csv", DAILY_HEADER, daily("2025-01-01", "UNHEARD"))
    with pytest.raises(ReferenceDataError, match="NSE:UNHEARD"):
        await reference.import_history(store, registry, [path])


async def test_an_index_is_no_share(store: SqliteStore, tmp_path: Path) -> None:
    index = Instrument(InstrumentKey("NSE", "INDEX", 13), "NIFTY", kind="index")
    path = write(tmp_path / "a.csv", DAILY_HEADER, daily("2025-01-01", "NIFTY"))
    with pytest.raises(ReferenceDataError, match="NSE:NIFTY"):
        await reference.import_history(store, InstrumentRegistry([index]), [path])


# Calendars


@pytest.mark.parametrize("exchange", ["NSE", "BSE"])
def test_every_exchange_has_its_calendar(exchange: str) -> None:
    calendar = reference.read_calendar(exchange)
    assert calendar.exchange == exchange
    assert not calendar.day("2025-08-15").windows


def test_an_operator_overrides_days(tmp_path: Path) -> None:
    from odin.market.calendar_text import OVERRIDES_EXAMPLE

    path = tmp_path / "calendar.toml"
    path.write_text(OVERRIDES_EXAMPLE)
    overridden = reference.read_calendar("NSE", path)
    assert overridden.known_through > reference.read_calendar("NSE").known_through


def test_calendars_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ReferenceDataError, match="no calendar for LSE"):
        reference.read_calendar("LSE")
    with pytest.raises(ReferenceDataError, match="could not be read"):
        reference.read_calendar("NSE", tmp_path / "missing.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ReferenceDataError, match="not UTF-8"):
        reference.read_calendar("NSE", binary)


async def test_a_master_that_was_cut_short_does_not_empty_the_market(
    store: SqliteStore, tmp_path: Path
) -> None:
    def master(name: str, count: int) -> Path:
        header = (
            "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,"
            "lot_size,instrument_type,segment,exchange\n"
        )
        rows = [
            f"{n << 8},{n},STOCK{n},Stock {n},0,,0,0.05,1,EQ,NSE,NSE\n" for n in range(1, count + 1)
        ]
        path = tmp_path / name
        path.write_text(header + "".join(rows))
        return path

    whole, cut = master("whole.csv", 1000), master("cut.csv", 10)
    await reference.import_instruments(store, whole)
    with pytest.raises(ReferenceDataError, match="would remove 990 of 1,000"):
        await reference.import_instruments(store, cut)
    assert len(await store.load_instruments()) == 1000
    await reference.import_instruments(store, master("nearly.csv", 850))
    assert len(await store.load_instruments()) == 850
    await reference.import_instruments(store, cut, allow_removals=True)
    assert len(await store.load_instruments()) == 10


async def test_a_master_without_closes_keeps_those_of_the_sample(
    store: SqliteStore,
) -> None:
    sbin = InstrumentKey("NSE", "CM", 3045)
    await store.save_instruments([Instrument(sbin, "SBIN", series="EQ")], [], "test", 1)
    registry = InstrumentRegistry()
    await reference.fill_registry(store, registry)
    instrument = registry.get(sbin)
    assert instrument is not None
    assert instrument.reference_close is not None
