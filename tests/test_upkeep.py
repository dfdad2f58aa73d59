"""What a running server takes in without a restart: instruments, history, the calendar."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from odin.errors import StoreUnavailable
from odin.model import DailyBar, Instrument, InstrumentKey
from odin.store.sqlite import SqliteStore
from tests.support.server import OPEN_MS, SBIN, TCS, Client, Server, running

NEXT_OPEN_MS = 1757043900000
"""Friday 2025-09-05 09:15:00 IST."""
HOLIDAY = """
[[day]]
exchange = "NSE"
date = 2025-09-04
name = "Founders' Day"
closed = true
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for changes many times a second."""
    monkeypatch.setattr("odin.node.RELOAD_CHECK_S", 0.02)


async def eventually(condition: Callable[[], object], timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------------- history


def bar(date: str, high: float, low: float, key: InstrumentKey = SBIN) -> DailyBar:
    return DailyBar(key, date, low, high, low, high, 1000)


async def import_bars(path: Path, *bars: DailyBar) -> None:
    """Save daily bars as `odin instruments history` does, beside a running server."""
    async with await SqliteStore.open(path / "odin.db", is_tool=True) as store:
        await store.save_daily_bars(bars)


async def quote_with(server: Server, client: Client, year_high: float) -> dict[str, Any]:
    """Tick until the 52-week high is the one that is waited for."""
    async with asyncio.timeout(5):
        while True:
            server.tick(SBIN, 800.0)
            data: dict[str, Any] = (await client.quote())["data"]
            if data["week_52_high"] == year_high:
                return data
            await asyncio.sleep(0.01)


async def test_history_is_there_from_the_first_tick(tmp_path: Path) -> None:
    await import_bars(
        tmp_path,
        bar("2024-09-02", 1000.0, 500.0),  # more than a year before
        bar("2024-09-10", 900.0, 700.0),
        bar("2025-09-03", 850.0, 790.0),
    )
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.tick(SBIN, 800.0)
        data = (await client.quote())["data"]
        assert (data["week_52_high"], data["week_52_high_date"]) == (900.0, "2024-09-10")
        assert (data["week_52_low"], data["week_52_low_date"]) == (700.0, "2024-09-10")
        assert (data["prev_close"], data["avg_volume_5d"]) == (850.0, 1000)


async def test_without_history_the_year_is_not_known(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.tick(SBIN, 800.0)
        data = (await client.quote())["data"]
        for field in ("week_52_high", "week_52_low_date", "avg_volume_5d", "prev_close"):
            assert data[field] is None


@pytest.mark.usefixtures("hurried")
async def test_history_moves_on_with_the_trading_day(tmp_path: Path) -> None:
    await import_bars(tmp_path, bar("2025-09-03", 850.0, 790.0), bar("2025-09-04", 870.0, 780.0))
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        assert (await quote_with(server, client, 850.0))["prev_close"] == 850.0
        server.clock.set_ms(NEXT_OPEN_MS)
        data = await quote_with(server, client, 870.0)
        assert (data["prev_close"], data["week_52_high_date"]) == (870.0, "2025-09-04")


@pytest.mark.usefixtures("hurried")
async def test_history_that_is_imported_meanwhile_is_taken_in(tmp_path: Path) -> None:
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.tick(SBIN, 800.0)
        assert (await client.quote())["data"]["week_52_high"] is None
        await import_bars(tmp_path, bar("2025-09-03", 850.0, 790.0))
        assert (await quote_with(server, client, 850.0))["avg_volume_5d"] == 1000


# ---------------------------------------------------------------------- instruments


async def import_master(path: Path, *instruments: Instrument) -> None:
    async with await SqliteStore.open(path / "odin.db", is_tool=True) as store:
        await store.save_instruments(instruments, [], "test", OPEN_MS)


@pytest.mark.usefixtures("hurried")
async def test_a_master_that_is_imported_meanwhile_is_taken_in(tmp_path: Path) -> None:
    new = Instrument(InstrumentKey("NSE", "CM", 77_001), "NEWCO", series="EQ")
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        await import_master(tmp_path, new, Instrument(SBIN, "SBINEW", series="EQ"))
        await eventually(lambda: server.node.registry.get(new.key))
        assert (await client.subscribe("NEWCO"))["status"] == "success"
        server.tick(SBIN, 800.0)
        assert (await client.quote())["symbol"] == "SBINEW"


@pytest.mark.usefixtures("hurried")
async def test_a_master_that_could_not_be_read_at_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was locked for a moment, just when the import was noticed."""
    new = Instrument(InstrumentKey("NSE", "CM", 77_001), "NEWCO", series="EQ")
    async with running(tmp_path) as server:
        load = server.node.store.load_instruments
        refused: list[bool] = []

        async def busy_once() -> list[Instrument]:
            if not refused:
                refused.append(True)
                raise StoreUnavailable("The database is locked")
            return await load()

        monkeypatch.setattr(server.node.store, "load_instruments", busy_once)
        await import_master(tmp_path, new)
        await eventually(lambda: refused)
        await eventually(lambda: server.node.registry.get(new.key), timeout=2)


# ---------------------------------------------------------------------- the calendar


def write(path: Path, text: str, at_s: int) -> None:
    """Replace the file as an editor does, with a time of change of its own."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.utime(new, (at_s, at_s))
    new.rename(path)


@pytest.mark.usefixtures("hurried")
async def test_the_calendar_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "days.toml"
    write(path, "", 1)
    async with (
        running(tmp_path, market={"calendar_file": str(path)}) as server,
        Client(server.ws, "me") as client,
    ):
        assert client.welcome["data"]["market_open"] is True
        await client.subscribe("SBIN")
        write(path, HOLIDAY, 2)
        closed = await client.receive()
        assert (closed["type"], closed["data"]["market_open"]) == ("market_status", False)
        assert closed["data"]["holiday"] == "Founders' Day"
        server.tick(SBIN, 800.0)
        assert await client.nothing_but_pong() == []
        write(path, "# nothing any more", 3)
        opened = await client.receive()
        assert (opened["type"], opened["data"]["market_open"]) == ("market_status", True)
        server.tick(SBIN, 801.0)
        assert (await client.quote())["data"]["ltp"] == 801.0


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("broken", ["[[day", '[[day]]\nexchange = "XYZ"', "\x00\x80", None])
async def test_a_broken_edit_of_the_calendar_keeps_the_old_one(
    tmp_path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "days.toml"
    write(path, HOLIDAY, 1)
    async with (
        running(tmp_path, market={"calendar_file": str(path)}) as server,
        Client(server.ws, "me") as client,
    ):
        assert client.welcome["data"]["market_open"] is False
        if broken is None:
            path.unlink()
        else:
            write(path, broken, 2)
        await eventually(lambda: "was not read again" in caplog.text)
        assert (await client.ask("market_status"))["data"]["holiday"] == "Founders' Day"
        write(path, "", 3)
        message = await client.until(lambda m: m["type"] == "market_status")
        assert message["data"]["market_open"] is True, "a good edit is taken again"
        assert server.node.metrics.faults == 0


async def test_a_calendar_file_that_is_made_later_is_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "days.toml"
    write(path, "", 1)
    async with running(tmp_path, market={"calendar_file": str(path)}) as server:
        path.unlink()
        await server.node.upkeep.check()
        assert "days.toml" in server.node.problems["calendar file"]
        await server.node.upkeep.check()
        assert "calendar file" in server.node.problems, "until it can be read again"
        write(path, HOLIDAY, 1)
        await server.node.upkeep.check()
        assert "calendar file" not in server.node.problems
        assert server.node.view().status.is_open is False


async def test_history_that_could_not_be_read_at_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await import_bars(tmp_path, bar("2025-09-03", 850.0, 790.0))
    async with running(tmp_path) as server:
        upkeep = server.node.upkeep
        await import_bars(tmp_path, bar("2025-09-03", 900.0, 790.0))
        with monkeypatch.context() as patch:
            patch.setattr(server.node.store, "year_summaries", refuse)
            with pytest.raises(StoreUnavailable):
                await upkeep.check()
        assert upkeep.last_close(SBIN) == 850.0, "what was known stays in force"
        await upkeep.check()
        assert upkeep.last_close(SBIN) == 900.0


async def refuse(*_: object) -> None:
    raise StoreUnavailable("The database is locked")


async def test_nothing_is_read_again_while_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as server:
        for name in ("load_instruments", "year_summaries", "instruments_version"):
            monkeypatch.setattr(server.node.store, name, refuse)
        await server.node.upkeep.check()


async def test_the_last_close_is_known_of_what_has_a_history(tmp_path: Path) -> None:
    await import_bars(tmp_path, bar("2025-09-02", 840.0, 790.0), bar("2025-09-03", 850.0, 790.0))
    async with running(tmp_path) as server:
        assert server.node.upkeep.last_close(SBIN) == 850.0
        assert server.node.upkeep.last_close(TCS) is None


async def test_own_changes_of_the_server_are_no_reason_to_read_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.node.store, "instruments_version", refuse)
    async with Client(server.ws, "me") as client:
        assert (await client.subscribe("SBIN"))["status"] == "success"
    await server.node.upkeep.check()
