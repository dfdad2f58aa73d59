"""Commands about reference data: instruments, calendar."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from odin.cli.database import with_store
from odin.cli.options import config_option, db_option, file_path, json_option, load_settings
from odin.cli.output import print_fields, print_json, print_table, progress_bar, when
from odin.errors import OdinError, reflect

if TYPE_CHECKING:
    from odin.market.instruments import InstrumentRegistry, Resolution
    from odin.model import Instrument
    from odin.reference import HistorySummary, ImportSummary
    from odin.settings import Settings
    from odin.store.sqlite import SqliteStore

COLUMNS = ("symbol", "exchange", "segment", "series", "token", "kind", "isin", "name")


@click.group()
def instruments() -> None:
    """Import and look up instruments."""


@instruments.command("import")
@click.argument("file", type=file_path(exists=True))
@click.option(
    "--allow-removals", is_flag=True, help="Even where more than a fifth of what is known goes."
)
@config_option
@db_option
def instruments_import(
    file: Path, allow_removals: bool, config: Path | None, db: Path | None
) -> None:
    """Import an instrument master: Dhan, Zerodha, Angel, Upstox, or NSE's EQUITY_L.csv.

    The format is recognised by the columns. All of the file is taken or, on an error, nothing; a
    running server uses the new master at once.
    """
    from odin.reference import import_instruments

    async def work(store: "SqliteStore") -> "ImportSummary":
        with progress_bar("Reading") as progress:
            return await import_instruments(
                store, file, allow_removals=allow_removals, progress=progress
            )

    for line in with_store(load_settings(config, db), work, create=True).lines():
        click.echo(line)


@instruments.command("history")
@click.argument("files", nargs=-1, required=True, type=file_path(exists=True), metavar="FILE…")
@config_option
@db_option
def instruments_history(files: tuple[Path, ...], config: Path | None, db: Path | None) -> None:
    """Import daily prices, from which 52-week values come: NSE and BSE bhavcopies.

    Files may be packed (gz, xz, zip). All of them are taken or, on an error, nothing.
    """
    from odin.market.instruments import InstrumentRegistry
    from odin.reference import fill_registry, import_history

    async def work(store: "SqliteStore") -> "HistorySummary":
        registry = InstrumentRegistry()
        await fill_registry(store, registry)
        with progress_bar("Reading") as progress:
            return await import_history(store, registry, files, progress=progress)

    for line in with_store(load_settings(config, db), work, create=True).lines():
        click.echo(line)


@instruments.command("search")
@click.argument("text")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most shown.")
@config_option
@db_option
@json_option
def instruments_search(
    text: str, limit: int, config: Path | None, db: Path | None, is_json: bool
) -> None:
    """Find instruments by a part of symbol or name, or the start of a token."""
    registry = _registry(load_settings(config, db))
    found = registry.search(text, limit)
    if not found:
        raise OdinError(f"No instrument matches {reflect(text)}{_near(registry.resolve(text))}")
    if is_json:
        print_json(map(_fields, found))
        return
    rows = map(_fields, found)
    print_table(COLUMNS, ([str(row[name]) for name in COLUMNS] for row in rows))


@instruments.command("show")
@click.argument("name")
@config_option
@db_option
@json_option
def instruments_show(name: str, config: Path | None, db: Path | None, is_json: bool) -> None:
    """Show what the server understands by NAME, such as SBIN, 3045 or BSE:500112."""
    registry = _registry(load_settings(config, db))
    resolution = registry.resolve(name)
    instrument = resolution.instrument
    if instrument is None:
        raise OdinError(f"{resolution.message}{_near(resolution)}")
    others = [i for i in registry if i.symbol == instrument.symbol and i.key != instrument.key]
    if is_json:
        print_json([{**_fields(instrument), "others": list(map(_fields, others))}])
        return
    shown = {key.replace("_", " "): value for key, value in _fields(instrument).items()}
    print_fields({key: "-" if value == "" else value for key, value in shown.items()})
    if others:
        click.echo("\nWith the same symbol:")
        rows = map(_fields, others)
        print_table(COLUMNS, ([str(row[name]) for name in COLUMNS] for row in rows))


def _registry(settings: "Settings") -> "InstrumentRegistry":
    """Return what a server on these settings would know; without a database that is the sample."""
    import tempfile

    from odin.market.instruments import InstrumentRegistry
    from odin.reference import fill_registry

    registry = InstrumentRegistry()

    async def fill(store: "SqliteStore") -> bool:
        return (await fill_registry(store, registry)).is_sample

    if Path(settings.store.path).exists():
        is_sample = with_store(settings, fill)
    else:
        with tempfile.TemporaryDirectory() as folder:
            is_sample = with_store(settings, fill, path=f"{folder}/odin.db", create=True)
    if is_sample:
        click.echo("No instrument master was imported: this is the built-in sample", err=True)
    return registry


def _fields(instrument: "Instrument") -> dict[str, Any]:
    from msgspec.structs import asdict

    fields = asdict(instrument)
    del fields["key"]
    return {"symbol": fields.pop("symbol"), **instrument.key._asdict(), **fields}


def _near(resolution: "Resolution") -> str:
    return f"; near: {', '.join(resolution.suggestions)}" if resolution.suggestions else ""


@click.group()
def calendar() -> None:
    """Look at the trading calendar."""


@calendar.command("show")
@click.argument("date", required=False)
@click.option("--exchange", default="NSE", show_default=True, help="NSE or BSE.")
@click.option("--file", type=file_path(exists=True), help="Days added or overridden.")
@config_option
@json_option
def calendar_show(
    date: str | None, exchange: str, file: Path | None, config: Path | None, is_json: bool
) -> None:
    """Show what a DATE (2026-11-08, today if left out) is on an exchange."""
    from odin.clock import WallClock, ist_date
    from odin.market.sessions import MarketClock, describe
    from odin.reference import read_calendar

    overrides = file or _path(load_settings(config).market.calendar_file)
    known = read_calendar(exchange.upper(), overrides)
    now_ms = WallClock().now_ms()
    day = known.day(date or ist_date(now_ms))
    status = MarketClock(known).status(now_ms)
    until = known.known_through.isoformat()
    if is_json:
        now = {"phase": status.phase, "is_open": status.is_open}
        print_json([{**day._asdict(), "known_through": until, "now": now}])
        return
    click.echo(describe(day))
    fields: dict[str, object] = {"now": status.phase.replace("_", " ")}
    if status.next_open_ms is not None:
        fields["next open (IST)"] = when(status.next_open_ms)
    if status.next_close_ms is not None:
        fields["next close (IST)"] = when(status.next_close_ms)
    click.echo()
    print_fields({**fields, "known until": until})


def _path(text: str) -> Path | None:
    return Path(text) if text else None
