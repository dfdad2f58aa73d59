"""Renders the reference pages of docs/ from the code, so that neither can lie about the other.

Pure text in, text out; a test holds the files against it. `python -m odin docs` writes them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import click
import msgspec

from odin.config import NOT_SETTINGS, PLAIN_VARIABLES, settings_table
from odin.errors import CLIENT_ERRORS, CLOSE_CODES, STOCK_ERRORS, ErrorSpec
from odin.metrics import Metrics
from odin.settings import Settings

HTTP_STATUSES: Mapping[int, str] = {
    200: "The answer of the API and of the status page.",
    101: "The WebSocket is open; `welcome` follows.",
    400: "`client_id` has a character or a length that is not allowed, or a parameter is wrong.",
    401: "An API key or ticket is needed, or was not accepted.",
    403: "The page that connects comes from an origin that `server.cors_origins` does not list, a "
    "browser uses a name that `server.host_names` does not list, or the key has not the scope.",
    404: "There is nothing at this path.",
    405: "The path exists, but not for this method.",
    414: "The address is longer than 8 KiB.",
    417: "Something else than `100-continue` is expected.",
    426: "A plain GET of a WebSocket address, or a WebSocket version other than 13.",
    429: "Too many connections, or too many in a short time, from one address or with one key, or "
    "too many failures to authenticate, or too many requests; see `Retry-After`.",
    431: "More than 128 headers, or more than 8 KiB of them.",
    503: "The server is full, starting or stopping; see `Retry-After`.",
}
"""Statuses that the server answers with, and when."""

_NOTE = "<!-- Generated from the code: run `python -m odin docs` instead of editing. -->"

_CONFIGURATION = """
A setting is taken from the first of these that has it:

1. a flag of the command line (`--port 9000`),
2. its environment variable (`ODIN_SERVER__PORT=9000`; lists are separated by commas),
3. a variable that hosting platforms set: {plain},
4. the configuration file,
5. its default.

The file is TOML. It is the one that `--config` names, or `ODIN_CONFIG`, or `./odin.toml` if there
is one. An unknown section, setting or `ODIN_` variable is an error that names the nearest known
one. All problems are reported together, with exit code 78. `odin config check` looks for problems;
`odin config show` prints what is in force.
"""

_ERRORS = """
An error is a message of the type `error` with a `code` for programs and a `message` for people;
the connection stays open. Words in braces are filled in, at most 64 characters each; a message has
at most 200. The request it answers has changed nothing.

```json
{
  "type": "error", "status": "error", "code": "no_stocks_subscribe",
  "message": "No stocks provided for subscription",
  "client_id": "trading_app_123", "timestamp": 1756971590827
}
```
"""

_FAILED = """
Stocks that could not be subscribed or unsubscribed are listed in `failed_stocks`, and with a reason
in `failed_details`; the others of the request were carried out.
"""

_CLOSE_CODES = """
A program that comes back should do so with the same `client_id`: its subscriptions are kept. Waits
should be random within their bound, so that not all come back at once. A client that reads nothing
for a second when it is closed gets no code: its connection is reset, which it sees as 1006.
"""

_METRICS = """
`/metrics` answers in the Prometheus text format. Counters start at zero with the server. Beside
them there are gauges of the present state, named and explained in the answer itself.
"""

_COMMAND_LINE = """
Exit codes: 0 success, 1 an error that is told in one line, 2 wrong usage, 78 a configuration that
cannot be used, 130 ended by Ctrl-C.
"""


def pages(command: click.Command) -> dict[str, str]:
    """Return the text of every generated page by its file name.

    command: the root of the command line, described in cli.md.
    """
    return {
        "configuration.md": configuration(),
        "errors.md": errors(),
        "metrics.md": metrics(),
        "cli.md": command_line(command),
    }


def write(directory: Path, command: click.Command) -> list[Path]:
    """Write all pages into a directory that exists; return their paths."""
    written = []
    for name, text in pages(command).items():
        path = directory / name
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written


def configuration() -> str:
    """Return docs/configuration.md."""
    plain = ", ".join(f"`{name}` for `{path}`" for name, path in PLAIN_VARIABLES.items())
    lines = _head("Configuration", _CONFIGURATION.format(plain=plain))
    rows = settings_table()
    for section in msgspec.structs.fields(Settings):
        lines += [f"## [{section.name}]", "", (section.type.__doc__ or "").strip(), ""]
        lines += _table(
            ("Setting", "Value", "Default", "Variable", "Meaning"),
            (
                (
                    f"`{row.path.partition('.')[2]}`",
                    row.type_text,
                    f"`{row.default}`",
                    f"`{row.env}`",
                    row.description,
                )
                for row in rows
                if row.path.startswith(f"{section.name}.")
            ),
        )
    lines += ["## Variables that are no settings", ""]
    others = ((f"`{name}`", text) for name, text in NOT_SETTINGS.items())
    return _page(lines + _table(("Variable", "Meaning"), others))


def errors() -> str:
    """Return docs/errors.md."""
    lines = _head("Errors and close codes", _ERRORS)
    lines += ["## Errors", "", *_catalogue(CLIENT_ERRORS)]
    lines += ["## Reasons in `failed_details`", _FAILED, *_catalogue(STOCK_ERRORS)]
    codes = ((str(code), spec.reason, spec.come_back) for code, spec in CLOSE_CODES.items())
    lines += ["## Close codes", _CLOSE_CODES, *_table(("Code", "Reason", "Come back?"), codes)]
    statuses = ((str(status), text) for status, text in HTTP_STATUSES.items())
    return _page([*lines, "## HTTP statuses", "", *_table(("Status", "When"), statuses)])


def metrics() -> str:
    """Return docs/metrics.md."""
    counters = ((f"`odin_{item.name}_total`", item.metadata["help"]) for item in fields(Metrics))
    lines = [*_head("Metrics", _METRICS), "## Counters", ""]
    return _page(lines + _table(("Metric", "Counts"), counters))


def command_line(root: click.Command) -> str:
    """Return docs/cli.md: the help of every command that is not hidden."""
    lines = _head("Command line", _COMMAND_LINE)
    for context in _commands(
        click.Context(root, info_name="odin", terminal_width=96, **root.context_settings)
    ):
        text = "\n".join(line.rstrip() for line in context.get_help().splitlines())
        lines += [f"## `{context.command_path}`", "", "```text", text, "```", ""]
    return _page(lines)


def _commands(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield from _commands(click.Context(command, info_name=name, parent=context))


def _head(title: str, text: str) -> list[str]:
    return [f"# {title}", "", _NOTE, text]


def _catalogue(catalogue: Mapping[str, ErrorSpec]) -> list[str]:
    return _table(
        ("Code", "Message", "When"),
        ((f"`{code}`", spec.text, spec.when) for code, spec in catalogue.items()),
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(headings), line(["---"] * len(headings)), *map(line, rows), ""]


def _page(lines: Sequence[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"
