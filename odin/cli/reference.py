"""Commands about reference data: instruments, calendar."""

from pathlib import Path

import click

from odin.cli.options import config_option, file_path, json_option, load_settings
from odin.cli.output import print_fields, print_json, when


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
    from odin import reference
    from odin.clock import WallClock, ist_date
    from odin.market.sessions import MarketClock, describe

    overrides = file or _path(load_settings(config).market.calendar_file)
    known = reference.read_calendar(exchange.upper(), overrides)
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
