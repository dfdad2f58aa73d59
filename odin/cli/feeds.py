"""Commands about live feeds: try one out, capture what it sends."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from odin.cli.database import with_store
from odin.cli.options import config_option, db_option, load_settings
from odin.errors import ConfigError, OdinError, reflect

if TYPE_CHECKING:
    from odin.feeds.trial import Finding
    from odin.settings import Settings
    from odin.store.sqlite import SqliteStore

DEFAULT_STOCKS = ("NSE:RELIANCE", "NSE:SBIN", "NSE:INFY", "NSE:TCS", "NSE:NIFTY 50")

SECONDS = click.FloatRange(0, 86_400, min_open=True)

name_option = click.option("--feed", "name", help="Which feed. [default: feed.kind]")


@click.group()
def feed() -> None:
    """Try out a live feed."""


@feed.command("check")
@click.argument("stocks", nargs=-1, metavar="[STOCK…]")
@name_option
@click.option("--seconds", type=SECONDS, default=30, show_default=True, help="How long to look.")
@config_option
@db_option
@click.pass_context
def feed_check(
    ctx: click.Context,
    stocks: tuple[str, ...],
    name: str | None,
    seconds: float,
    config: Path | None,
    db: Path | None,
) -> None:
    """Connect with the configured credentials, show what arrives, and say how it went.

    Without a STOCK a few large ones are asked for. Exit code 1 where the feed does not work.
    """
    finding = _try(load_settings(config, db), name, stocks, seconds)
    if not finding.is_well:
        ctx.exit(1)


@feed.command("capture")
@click.argument("stocks", nargs=-1, metavar="[STOCK…]")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the captures.",
)
@name_option
@click.option("--seconds", type=SECONDS, default=60, show_default=True, help="How long.")
@config_option
@db_option
@click.pass_context
def feed_capture(
    ctx: click.Context,
    stocks: tuple[str, ...],
    folder: Path,
    name: str | None,
    seconds: float,
    config: Path | None,
    db: Path | None,
) -> None:
    """Keep all that a feed sends for a while, byte for byte, for `odin replay`.

    A server does so all day with feed.capture_dir.
    """
    settings = load_settings(config, db, feed__capture_dir=str(folder))
    finding = _try(settings, name, stocks, seconds, lines=0)
    if not finding.is_well:
        ctx.exit(1)


def _try(
    settings: "Settings", name: str | None, stocks: tuple[str, ...], seconds: float, lines: int = 50
) -> "Finding":
    """Run a trial in a terminal."""
    import msgspec

    from odin.clock import WallClock
    from odin.feeds import sources
    from odin.feeds.trial import Trial
    from odin.log import escape
    from odin.market.instruments import InstrumentRegistry
    from odin.market.sessions import MarketClock
    from odin.metrics import Metrics
    from odin.reference import fill_registry, read_calendar

    name = name or settings.feed.kind
    if name not in sources.VENUES:
        problem = f"{reflect(name)} cannot be tried: name {' or '.join(sources.VENUES)}"
        raise ConfigError([("--feed", problem)])
    # Only this feed is used: what the settings say of others does not matter now.
    only = msgspec.structs.replace(settings.feed, kind=name, routes=(), standby="")
    settings = msgspec.structs.replace(settings, feed=only)
    sources.check(settings)

    def show(line: str) -> None:
        click.echo(escape(line))

    async def work(store: "SqliteStore") -> "Finding":
        registry = InstrumentRegistry()
        await fill_registry(store, registry)
        found = registry.resolve_many(stocks or DEFAULT_STOCKS)
        for item in found:
            if item.instrument is None:
                show(f"{reflect(item.stock)}: {item.message}")
        instruments = [item.instrument for item in found if item.instrument is not None]
        if not instruments:
            raise OdinError("none of the stocks is known: import an instrument master first")
        metrics = Metrics()
        now_ms = WallClock().now_ms
        trial = Trial(
            sources.build(settings, name, registry, metrics),
            instruments,
            metrics,
            now_ms=now_ms,
            show=show,
            lines=lines,
        )
        market = MarketClock(read_calendar("NSE")).status(now_ms())
        return await trial.run(seconds, market)

    finding: Finding = with_store(settings, work, create=True)
    show(finding.verdict)
    return finding
