"""The command that examines a deployment."""

from pathlib import Path

import click

from odin.cli.options import config_option, db_option, json_option, load_settings
from odin.cli.output import print_json
from odin.errors import ConfigError

MARKS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@config_option
@db_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, config: Path | None, db: Path | None, is_json: bool) -> None:
    """Examine a deployment: settings, database, limits, clock, calendar, server.

    One line for every check, with what to do. It changes nothing, and may run beside a server, as
    the server's user. Exit code 1 if there is a problem.
    """
    from odin.clock import WallClock
    from odin.doctor import examine, unusable
    from odin.log import escape

    try:
        findings = list(examine(load_settings(config, db), WallClock().now_ms()))
    except ConfigError as error:
        findings = unusable(error)
    if is_json:
        print_json(finding._asdict() for finding in findings)
    else:
        for check, state, text, advice in findings:
            mark = click.style(f"{state:<8}", fg=MARKS[state])
            told = f"{check}: {text}" + (f" ({advice})" if advice else "")
            click.echo(f"{mark} {escape(told)}")
    if any(finding.state == "problem" for finding in findings):
        ctx.exit(1)
