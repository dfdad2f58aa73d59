"""Commands that run a server or follow one: serve, demo, replay, tail."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from odin.cli.options import config_option, db_option, file_path, json_option, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])


class _Speed(click.ParamType[float | None]):
    """A multiple of real time, or "max", which is None."""

    name = "speed"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if value == "max":
            return None
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            self.fail(f"{value!r} is neither a number above 0 nor max", param, ctx)
        return speed


def _server_options(command: Command) -> Command:
    """Add the options that every command which runs a server has."""
    for option in reversed(
        (
            config_option,
            click.option("--host", help="Address to listen on."),
            click.option("--port", type=click.IntRange(0, 65535), help="TCP port; 0: any."),
            db_option,
            click.option(
                "--auth",
                type=click.Choice(["off", "required"]),
                help="Whether clients need an API key.",
            ),
            click.option(
                "--allow-anonymous",
                is_flag=True,
                default=None,
                help="Listen for others though authentication is off.",
            ),
            click.option("--tls-cert", type=file_path(), help="Certificate chain, PEM."),
            click.option("--tls-key", type=file_path(), help="Its private key, PEM."),
            click.option(
                "--gate",
                type=click.Choice(["calendar", "always"]),
                help="Send market_data in market hours only, or at any hour.",
            ),
            click.option(
                "--open-market", is_flag=True, help="At any hour; the same as --gate always."
            ),
            click.option(
                "--log-level",
                type=click.Choice(["debug", "info", "warning", "error"]),
                help="Least level written.",
            ),
        )
    ):
        command = option(command)
    return command


def _serve(
    config: Path | None,
    host: str | None,
    port: int | None,
    db: Path | None,
    auth: str | None,
    allow_anonymous: bool | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    gate: str | None,
    open_market: bool,
    log_level: str | None,
    *,
    replay: Any = None,
    **flags: object,
) -> None:
    from odin.server.run import serve

    settings = load_settings(
        config,
        db,
        server__host=host,
        server__port=port,
        server__allow_anonymous=allow_anonymous,
        server__tls_cert=None if tls_cert is None else str(tls_cert),
        server__tls_key=None if tls_key is None else str(tls_key),
        auth__mode=auth,
        market__gate="always" if open_market else gate,
        log__level=log_level,
        **flags,
    )
    serve(settings, replay=replay)


@click.command()
@_server_options
def serve(**options: Any) -> None:
    """Run the server.

    It ends on Ctrl-C or SIGTERM, after its clients were told.
    """
    _serve(**options)


@click.command()
@_server_options
@click.option("--rate", type=float, help="Ticks a second for each instrument.")
@click.option("--seed", type=int, help="The same seed gives the same market.")
def demo(rate: float | None, seed: int | None, **options: Any) -> None:
    """Run the server on a simulated market that is open at any hour."""
    _serve(
        **options,
        feed__kind="simulator",
        simulator__clock="session",
        simulator__rate_hz=rate,
        simulator__seed=seed,
    )


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE…",
)
@click.option("--speed", type=_Speed(), default="1", help="Times real time, or max. [default: 1]")
@click.option("--symbol", help="What a file is of whose lines and name do not say it.")
@_server_options
def replay(
    files: tuple[Path, ...], speed: float | None, symbol: str | None, **options: Any
) -> None:
    """Run the server on recordings: minute bars, ticks, JSON lines, or captures of feeds.

    A folder stands for all that is in it.
    """
    from odin.node import ReplayOptions

    paths = tuple(map(str, files))
    _serve(**options, replay=ReplayOptions(paths=paths, speed=speed, symbol=symbol))


@click.command()
@click.argument("stocks", nargs=-1, required=True, metavar="STOCK…")
@click.option("--url", help="Address of the server's stream. [default: that of a local server]")
@json_option
@click.option("--client-id", help="Use this client, and keep what it subscribes.")
def tail(stocks: tuple[str, ...], url: str | None, is_json: bool, client_id: str | None) -> None:
    """Follow the quotes of stocks, by symbol or token.

    A live table on a terminal (with the extra `tui` installed), lines otherwise, and with --json
    the messages themselves. A server with authentication gets the API key that ODIN_API_KEY holds.
    """
    from odin.server.tail import DEFAULT_URL, follow

    follow(
        stocks,
        url=url or DEFAULT_URL,
        client_id=client_id,
        api_key=os.environ.get("ODIN_API_KEY"),
        is_json=is_json,
        out=sys.stdout,
        err=sys.stderr,
    )
