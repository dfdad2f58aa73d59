"""What commands print: aligned tables and fields for people, JSON for programs.

Control characters are escaped, as what is stored once came from clients.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

import click


def print_json(rows: Iterable[object]) -> None:
    """Print each value as one line of JSON."""
    import orjson

    for row in rows:
        click.echo(orjson.dumps(row, default=str))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns, numbers to the right; what could act on a terminal is escaped."""
    from odin.log import escape

    texts = [[escape(_text(cell)) for cell in row] for row in rows]
    kinds = [all(_is_number(cell) for cell in column) for column in zip(*texts, strict=True)]
    kinds = kinds or [False] * len(headings)
    widths = [max(map(len, column)) for column in zip(headings, *texts, strict=True)]
    for cells in ([heading.upper() for heading in headings], *texts):
        padded = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(cells, widths, kinds, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """Print a line for each field, the values aligned."""
    from odin.log import escape

    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {escape(_text(value))}".rstrip())


@contextmanager
def progress_bar(
    label: str, stream: TextIO | None = None
) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function of (done, whole) that draws a bar on standard error, None off a terminal."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=stream) as bar:

        def report(done: int, whole: int) -> None:
            bar.length = whole
            bar.update(done - bar.pos)

        yield report


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).lstrip("-").isdigit()


def when(epoch_ms: int) -> str:
    """Return an instant as date and time in India."""
    from odin.clock import ist_datetime_text

    return ist_datetime_text(epoch_ms)
