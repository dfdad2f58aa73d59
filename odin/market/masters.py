"""Reads the instrument masters of exchanges and brokers into instruments.

The format is recognised by its columns, never by the file's name. A row is understood whole or
counted as bad with its line; nothing is guessed. Prices come out in rupees, symbols without series
suffix. Takes bytes and gives values: opening files and storing the result is the caller's.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import orjson
from msgspec.structs import replace

from odin.errors import ReferenceDataError, reflect
from odin.market.master_formats import (
    CSV_FORMATS,
    JSON_FORMATS,
    SAMPLE_FORMAT,
    Detail,
    MasterFormat,
    Row,
    RowError,
)
from odin.model import Instrument, InstrumentKey

MAX_MASTER_BYTES = 200_000_000
"""Largest master read, after decompression."""

SAMPLE_ALIASES: Mapping[str, InstrumentKey] = MappingProxyType(
    {
        "356": InstrumentKey("NSE", "CM", 1394),  # HINDUNILVR
        "424": InstrumentKey("NSE", "CM", 1660),  # ITC
        "492": InstrumentKey("NSE", "CM", 1922),  # KOTAKBANK
    }
)
"""Numbers that the integration guide prints for three stocks and that no exchange ever gave them.
For the sample registry only: in real masters some of them belong to something else."""

Progress = Callable[[int, int], None]
"""Called with the rows read so far and the number of rows, which may be an estimate."""

_PROGRESS_ROWS = 1000


class BadRow(NamedTuple):
    """A row that could not be used."""

    line: int
    """Line of the file, from 1; for JSON the number of the array's element, from 1."""
    problem: str


@dataclass(slots=True)
class Master:
    """The content of one file."""

    format: str
    """ "dhan", "zerodha", "angel", "upstox", "nse_equity_l" or "sample"."""
    instruments: list[Instrument] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    """Only of "nse_equity_l", which has these in place of instruments."""
    bad_rows: list[BadRow] = field(default_factory=list)
    rows: int = 0
    """Rows in the file, bad ones included."""


class MasterChange(NamedTuple):
    """What a master changes in what is known; the four counts are disjoint."""

    upserts: list[Instrument]
    removed: list[Instrument]
    added: int
    changed: int
    renamed: int
    unchanged: int
    renames: list[tuple[str, Instrument]]
    """Old symbol and the instrument as it is now."""
    unmatched: int
    """Rows of a file without tokens whose symbol and series are not known."""


def parse_master(data: bytes, *, name: str = "", progress: Progress | None = None) -> Master:
    """Read a master: Dhan CSV, Zerodha CSV, Angel JSON, Upstox CSV or JSON, NSE EQUITY_L.csv.

    Any of them may be gzipped. `name` is only used in error texts. Raises ReferenceDataError when
    the format is not known, the file is damaged or too large, or no row of it can be used.
    """
    what = reflect(name) if name else "The file"
    content = _decompress(data, what).removeprefix(codecs.BOM_UTF8)
    start = content.lstrip()[:1]
    if not start:
        raise ReferenceDataError(f"{what} is empty")
    if start in b"[{":
        master = _parse_json(content, what, progress)
    else:
        master = _parse_csv(content.decode(errors="replace"), what, progress, CSV_FORMATS)
    if not master.instruments and not master.details:
        first = next((f", line {bad.line}: {bad.problem}" for bad in master.bad_rows), "")
        raise ReferenceDataError(
            f"{what} has no usable row among its {master.rows} ({master.format} format){first}"
        )
    return master


def parse_sample(text: str) -> list[Instrument]:
    """Read the sample registry's CSV. Raises ReferenceDataError at the first bad row."""
    master = _parse_csv(text, "The sample registry", None, (SAMPLE_FORMAT,))
    if master.bad_rows:
        line, problem = master.bad_rows[0]
        raise ReferenceDataError(f"The sample registry is broken in line {line}: {problem}")
    return master.instruments


def merge(current: Iterable[Instrument], master: Master) -> MasterChange:
    """Compare a master with what is known, by exchange, segment and token.

    Only exchange segments that the master has rows of are touched: a list of NSE removes nothing
    of BSE. A row without ISIN or reference close keeps the known one.
    """
    known = {instrument.key: instrument for instrument in current}
    rows: Iterable[Instrument] = master.instruments
    unmatched = 0
    removed: list[Instrument] = []
    if master.details:
        rows = list(_detailed(known.values(), master.details))
        unmatched = len(master.details) - len(rows)
    else:
        listed = {instrument.key for instrument in master.instruments}
        scope = {key[:2] for key in listed}
        removed = [i for i in known.values() if i.key[:2] in scope and i.key not in listed]
    upserts, renames = [], []
    added = changed = unchanged = 0
    for row in rows:
        old = known.get(row.key)
        new = row if old is None else _kept(old, row)
        if new == old:
            unchanged += 1
            continue
        upserts.append(new)
        if old is None:
            added += 1
        elif old.symbol != new.symbol:
            renames.append((old.symbol, new))
        else:
            changed += 1
    return MasterChange(
        upserts, removed, added, changed, len(renames), unchanged, renames, unmatched
    )


def _kept(old: Instrument, new: Instrument) -> Instrument:
    isin = new.isin or old.isin
    close = old.reference_close if new.reference_close is None else new.reference_close
    if isin == new.isin and close == new.reference_close:
        return new
    return replace(new, isin=isin, reference_close=close)


def _detailed(known: Iterable[Instrument], details: Sequence[Detail]) -> Iterator[Instrument]:
    by_name = {(i.symbol, i.series): i for i in known if i.key[:2] == ("NSE", "CM")}
    for symbol, series, name, isin in details:
        instrument = by_name.get((symbol, series))
        if instrument is not None:
            yield replace(instrument, name=name, isin=isin)


# Containers: gzip, JSON, CSV


def _decompress(data: bytes, what: str) -> bytes:
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(MAX_MASTER_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ReferenceDataError(f"{what} is a damaged gzip file: {error}") from None
    if len(data) > MAX_MASTER_BYTES:
        raise ReferenceDataError(f"{what} is larger than {MAX_MASTER_BYTES:,} bytes unpacked")
    return data


def _parse_json(content: bytes, what: str, progress: Progress | None) -> Master:
    try:
        rows = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ReferenceDataError(f"{what} is not valid JSON: {reflect(error)}") from None
    if not isinstance(rows, list):
        raise ReferenceDataError(f"{what} is JSON, but not an array of instruments")
    first = next((row for row in rows if isinstance(row, dict)), {})
    reading = _recognise(list(first), JSON_FORMATS, what)
    return _read(reading, enumerate(rows, 1), len(rows), progress)


def _parse_csv(
    text: str, what: str, progress: Progress | None, formats: Sequence[MasterFormat]
) -> Master:
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        columns = [column.strip() for column in next(filter(None, lines), [])]
        reading = _recognise(columns, formats, what)
        rows = (
            (lines.line_num, dict(zip(columns, values, strict=True)))
            if len(values) == len(columns)
            else (lines.line_num, values)
            for values in lines
            if values
        )
        return _read(reading, rows, text.count("\n"), progress)
    except csv.Error as error:
        raise ReferenceDataError(
            f"{what} is not readable CSV in line {lines.line_num}: {error}"
        ) from None


def _recognise(columns: Sequence[str], formats: Sequence[MasterFormat], what: str) -> MasterFormat:
    for reading in formats:
        if reading.columns.issubset(columns):
            return reading
    known = ", ".join(reading.title for reading in (*CSV_FORMATS, *JSON_FORMATS))
    seen = reflect(", ".join(columns) or "none", 300)
    raise ReferenceDataError(
        f"{what} is in no known format, which are {known}; its columns were: {seen}"
    )


def _read(
    reading: MasterFormat, rows: Iterable[tuple[int, object]], total: int, progress: Progress | None
) -> Master:
    master = Master(reading.name)
    seen: dict[object, str] = {}
    for line, row in rows:
        master.rows += 1
        if progress is not None and master.rows % _PROGRESS_ROWS == 0:
            progress(min(master.rows, total), total)
        try:
            value = reading.read(_checked(row))
            key = value.key if isinstance(value, Instrument) else value[:2]
            if key in seen:
                raise RowError(
                    f"duplicate: {' '.join(map(str, key))} was listed before, as {seen[key]}"
                )
        except RowError as error:
            master.bad_rows.append(BadRow(line, str(error)))
            continue
        seen[key] = value.symbol
        if isinstance(value, Instrument):
            master.instruments.append(value)
        else:
            master.details.append(value)
    if progress is not None:
        progress(total, total)
    return master


def _checked(row: object) -> Row:
    if isinstance(row, dict):
        return row
    if isinstance(row, list):
        raise RowError(f"the number of columns was {len(row)}, not that of the header")
    raise RowError(f"a row was not an object: {reflect(row)}")
