"""The `odin` command: options in, calls of the other modules, plain text or JSON out.

It has no logic of its own, and imports what a command needs only when that command runs, so that
help and completion are quick. Errors raised on purpose are told in one line each, without a stack.
"""

import os
import sys
from pathlib import Path
from typing import Any

import click

from odin import __version__
from odin.cli import database, doctor, feeds, keys, reference, servers
from odin.cli.options import config_option, load_settings
from odin.errors import ConfigError, OdinError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it."""


class _Root(click.Group):
    """Turns exceptions into exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for path, problem in error.problems:
                click.echo(f"error: {path}: {problem}", err=True)
            ctx.exit(error.exit_code)
        except OdinError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except BrokenPipeError:
            # The reader has seen enough. Python would try to flush once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:
            click.echo(f"error: {error.filename or 'system'}: {error.strerror}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="odin", message="%(prog)s %(version)s")
def main() -> None:
    """Odin Streamer: live Indian market data over WebSocket.

    Try `odin demo`, and `odin tail SBIN RELIANCE` in another terminal.
    """


@main.group()
def config() -> None:
    """Look at the configuration."""


@config.command("show")
@config_option
def config_show(config: Path | None) -> None:
    """Print all settings in force, as TOML; secrets are masked."""
    from odin.config import dump_toml

    click.echo(dump_toml(load_settings(config)), nl=False)


@config.command("check")
@config_option
def config_check(config: Path | None) -> None:
    """Report every problem of the configuration; exit code 78 if there is one."""
    from odin.config import check_access
    from odin.feeds.sources import check

    settings = load_settings(config)
    check_access(settings)
    check(settings)
    click.echo("The configuration is fine")


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL.

    For bash, put `eval "$(odin completion bash)"` into ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "odin", "_ODIN_COMPLETE").source())


@main.command(hidden=True)
@click.argument("directory", default="docs", type=click.Path(path_type=Path, exists=True))
def docs(directory: Path) -> None:
    """Write the reference pages that are generated from the code."""
    from odin.server.docs import write

    for path in write(directory, main):
        click.echo(path)


for command in (
    servers.serve,
    servers.demo,
    servers.replay,
    servers.tail,
    doctor.doctor,
    feeds.feed,
    keys.keys,
    database.clients,
    database.db,
    reference.instruments,
    reference.calendar,
):
    main.add_command(command)
