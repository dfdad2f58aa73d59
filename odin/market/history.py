"""Daily price history: the files exchanges publish, and what a year of them says.

`parse_daily` turns one file into daily bars, row by row, so that its memory does not grow with
the file. Invariant: a bar has 0 < low <= open, close <= high and a volume of 0 or more. Prices
are unadjusted, as published. Nothing here opens files or touches the database.
"""

import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from operator import itemgetter
from typing import IO, Final, Literal, NamedTuple, Protocol

from odin.errors import ReferenceDataError, reflect
from odin.model import MAX_PRICE, DailyBar, InstrumentKey, YearSummary

Resolve = Callable[[str, str], InstrumentKey | None]
"""The key of a qualified name ("NSE:SBIN", "BSE:500112") and a series, or None if not listed."""
Progress = Callable[[int, int], None]
"""Called now and then with the bytes read of the file as given, and its size."""

MAX_FILE_BYTES: Final = 1 << 30
"""Largest file after decompression: ten years of a whole exchange are half of it."""
MAX_LINE_CHARS: Final = 10_000
EXAMPLES: Final = 5
"""How many problems and unknown names are kept; all are counted."""
PROGRESS_ROWS: Final = 5_000

EQUITY_SERIES: Final = frozenset({"EQ", "BE", "BZ", "SM", "ST"})
"""NSE series of shares: rolling, trade for trade, and the two of small companies."""
BSE_DEBT_GROUPS: Final = frozenset({"F", "G"})
"""BSE groups of fixed income and government securities; all others are shares."""

_Omission = Literal["no share", "unknown"]
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


class BadRow(NamedTuple):
    """One row that could not be used."""

    line: int
    """Line number in the file, the header being 1."""
    problem: str


@dataclass(slots=True)
class Daily:
    """One file of daily prices.

    `bars` can be gone through once; the counts are final when it has ended. Going through it
    raises ReferenceDataError where the rest of the file cannot be read.
    """

    format: str
    """What the columns were recognised as."""
    name: str
    """The file's name, for messages."""
    bars: Iterator[DailyBar] = field(default_factory=lambda: iter(()))
    rows: int = 0
    """Rows after the header; the sum of `used` and of all that follow."""
    used: int = 0
    """Rows that became bars."""
    skipped_series: int = 0
    """Rows of bonds, derivatives and whatever else is no share."""
    skipped_untraded: int = 0
    """Rows of shares without a trade, which have no prices."""
    skipped_unknown: int = 0
    """Rows of shares that `resolve` does not know."""
    unknown_names: list[str] = field(default_factory=list)
    """The first few of them."""
    bad_rows: int = 0
    """Rows that could not be read or make no sense."""
    problems: list[BadRow] = field(default_factory=list)
    """The first few of them."""


class _Format(NamedTuple):
    """The columns of one kind of file, by their names in upper case."""

    name: str
    listing: tuple[str, ...]
    """Symbol and series; then exchange, token, segment and kind where a file has more than the
    shares of NSE."""
    values: tuple[str, ...]
    """Date, open, high, low, close and volume."""


_FORMATS: Final = (
    _Format(
        "NSE full bhavcopy with delivery (sec_bhavdata_full)",
        ("SYMBOL", "SERIES"),
        ("DATE1", "OPEN_PRICE", "HIGH_PRICE", "LOW_PRICE", "CLOSE_PRICE", "TTL_TRD_QNTY"),
    ),
    _Format(
        "UDiFF bhavcopy (BhavCopy_NSE_CM, BhavCopy_BSE_CM)",
        ("TCKRSYMB", "SCTYSRS", "SRC", "FININSTRMID", "SGMT", "FININSTRMTP"),
        ("TRADDT", "OPNPRIC", "HGHPRIC", "LWPRIC", "CLSPRIC", "TTLTRADGVOL"),
    ),
    _Format(
        "NSE bhavcopy until July 2024 (cmDDMMMYYYYbhav)",
        ("SYMBOL", "SERIES"),
        ("TIMESTAMP", "OPEN", "HIGH", "LOW", "CLOSE", "TOTTRDQTY"),
    ),
    _Format(
        "daily prices, one row a symbol and day",
        ("SYMBOL", "SERIES"),
        ("DATE", "OPEN", "HIGH", "LOW", "CLOSE", "VOLUME"),
    ),
)


def parse_daily(
    data: bytes, resolve: Resolve, *, name: str = "", progress: Progress | None = None
) -> Daily:
    """Recognise a file of daily prices by its columns and return it, its bars yet to be read.

    data: the file as published: CSV in UTF-8, plain, or packed by gzip, xz or zip.
    resolve: maps rows to instruments. Where the file carries tokens it is asked for
        EXCHANGE:TOKEN and then for EXCHANGE:SYMBOL, else for NSE:SYMBOL; once for each name.
    name: the file's name, for messages.

    Raises ReferenceDataError where the file cannot be unpacked or is none of the known kinds.
    """
    source = io.BytesIO(data)
    reader = csv.reader(_lines(_unpack(data, source, name), name), skipinitialspace=True)
    rows = _readable(reader, name)
    header = [cell.strip().upper() for cell in next(rows, [])]
    for kind in _FORMATS:
        if {*kind.listing, *kind.values} <= set(header):
            break
    else:
        shown = reflect(",".join(header)) or "empty"
        raise ReferenceDataError(
            f"{_shown(name)} has no known columns of daily prices; its first line was {shown}"
        )

    def report(*, is_done: bool = False) -> int:
        if progress is not None:
            progress(len(data) if is_done else source.tell(), len(data))
        return reader.line_num

    daily = Daily(kind.name, name)
    daily.bars = _Table(daily, kind, header, resolve).bars(rows, report)
    return daily


def summarise(bars: Sequence[DailyBar]) -> YearSummary:
    """Return what the daily bars of one instrument say, in any order but one a date.

    Where a price was reached on several days the latest counts. The average volume is that of
    the last five bars, or of all where there are fewer, with halves rounded up.
    Raises ValueError where there are no bars.
    """
    if not bars:
        raise ValueError("a summary needs at least one daily bar")
    ordered = sorted(bars, key=lambda bar: bar.date)
    highest = max(reversed(ordered), key=lambda bar: bar.high)
    lowest = min(reversed(ordered), key=lambda bar: bar.low)
    recent = [bar.volume for bar in ordered[-5:]]
    return YearSummary(
        high=highest.high,
        high_date=highest.date,
        low=lowest.low,
        low_date=lowest.date,
        avg_volume_5d=(2 * sum(recent) + len(recent)) // (2 * len(recent)),
        prev_close=ordered[-1].close,
        prev_date=ordered[-1].date,
    )


def window_start(previous_trading_day: str) -> str:
    """Return the first ISO date of the 52-week window: the same date one year back of the
    previous trading day, 28 February for 29 February. The window ends now, today included.

    Source: NSE's published year highs and lows of live quotes.
    """
    last = date.fromisoformat(previous_trading_day)
    if (last.month, last.day) == (2, 29):
        last = last.replace(day=28)
    return last.replace(year=last.year - 1).isoformat()


class _Report(Protocol):
    """Tells how far reading has come, and returns the number of the line read last."""

    def __call__(self, *, is_done: bool = False) -> int: ...


class _RowError(Exception):
    """A row has a problem, which is the text."""


class _Table:
    """Turns the rows of one file into bars and counts those it leaves out."""

    def __init__(self, daily: Daily, kind: _Format, header: list[str], resolve: Resolve) -> None:
        self._daily = daily
        self._resolve = resolve
        listing = [header.index(column) for column in kind.listing]
        values = [header.index(column) for column in kind.values]
        self._listing = itemgetter(*listing)
        self._values = itemgetter(*values)
        self._width = max(listing + values) + 1
        self._keys: dict[tuple[str, ...], InstrumentKey | _Omission] = {}
        self._dates: dict[str, str] = {}

    def bars(self, rows: Iterator[list[str]], report: _Report) -> Iterator[DailyBar]:
        """Yield the bars of the rows."""
        daily = self._daily
        for row in rows:
            if not row:
                continue
            daily.rows += 1
            if daily.rows % PROGRESS_ROWS == 0:
                report()
            try:
                bar = self._bar(row)
            except _RowError as error:
                daily.bad_rows += 1
                if len(daily.problems) < EXAMPLES:
                    daily.problems.append(BadRow(report(), str(error)))
                continue
            if bar is not None:
                daily.used += 1
                yield bar
        report(is_done=True)

    def _bar(self, row: list[str]) -> DailyBar | None:
        """Return a row's bar, or None where it is left out, which is counted."""
        daily = self._daily
        if len(row) < self._width:
            raise _RowError(f"{len(row)} columns where {self._width} were needed")
        listing = self._listing(row)
        key = self._keys.get(listing)
        if key is None:
            key = self._keys[listing] = self._key(*(cell.strip() for cell in listing))
        if isinstance(key, str):
            if key == "unknown":
                daily.skipped_unknown += 1
            else:
                daily.skipped_series += 1
            return None
        day_text, *texts, volume_text = self._values(row)
        day = self._dates.get(day_text)
        if day is None:
            day = self._dates[day_text] = _iso_date(day_text.strip())
        try:
            opened, high, low, close = map(float, texts)
        except ValueError:
            raise _RowError(f"the prices were {reflect(', '.join(texts))!r}") from None
        volume = _volume(volume_text)
        if 0.0 < low <= opened <= high < MAX_PRICE and low <= close <= high:
            return DailyBar(key, day, opened, high, low, close, volume)
        if volume == 0 and 0.0 in (opened, high, low, close):
            daily.skipped_untraded += 1
            return None
        raise _RowError(
            f"{reflect(listing[0])} had open {opened}, high {high}, low {low}, close {close}: "
            "not 0 < low <= open, close <= high"
        )

    def _key(
        self,
        symbol: str,
        series: str,
        exchange: str = "NSE",
        token: str = "",
        segment: str = "CM",
        kind: str = "STK",
    ) -> InstrumentKey | _Omission:
        if (segment, kind) != ("CM", "STK"):
            return "no share"
        if series in BSE_DEBT_GROUPS if exchange == "BSE" else series not in EQUITY_SERIES:
            return "no share"
        key = self._resolve(f"{exchange}:{token}", series) if token else None
        if key is None and symbol:
            key = self._resolve(f"{exchange}:{symbol}", series)
        if key is not None:
            return key
        if len(self._daily.unknown_names) < EXAMPLES:
            self._daily.unknown_names.append(reflect(f"{exchange}:{symbol or token}"))
        return "unknown"


def _iso_date(text: str) -> str:
    """Read "2025-09-04", "04-Sep-2025" and "04-SEP-2025"."""
    try:
        if len(text) == 11:
            day, month, year = text.split("-")
            return date(int(year), _MONTHS.index(month.upper()) + 1, int(day)).isoformat()
        if len(text) == 10:
            return date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    raise _RowError(f"the date was {reflect(text)!r}")


def _volume(text: str) -> int:
    try:
        volume = int(text)
    except ValueError:
        volume = _whole(text)
    if not 0 <= volume < 2**53:
        raise _RowError(f"the volume was {reflect(text)!r}")
    return volume


def _whole(text: str) -> int:
    """Read "12345.0", as spreadsheets write it; -1 for what is no whole number."""
    try:
        number = float(text)
    except ValueError:
        return -1
    return int(number) if number.is_integer() else -1


def _readable(rows: Iterator[list[str]], name: str) -> Iterator[list[str]]:
    """Yield the rows; whatever unpacking and reading them raises becomes our error."""
    try:
        yield from rows
    except (
        csv.Error,
        EOFError,
        OSError,
        RuntimeError,  # zipfile: encrypted, or packed in a way it does not know
        UnicodeDecodeError,
        lzma.LZMAError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ReferenceDataError(f"{_shown(name)} cannot be read: {reflect(error)}") from error


def _unpack(data: bytes, source: io.BytesIO, name: str) -> IO[bytes]:
    """Return the bytes within, told by the first ones of the file and not by its name."""
    if data.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.GzipFile(fileobj=source))
    if data.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(lzma.LZMAFile(source))
    if not data.startswith(b"PK\x03\x04"):
        return source
    try:
        archive = zipfile.ZipFile(source)
        members = [each for each in archive.namelist() if each.lower().endswith(".csv")]
        if len(members) == 1:
            return archive.open(members[0])
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise ReferenceDataError(f"{_shown(name)} cannot be read: {reflect(error)}") from error
    raise ReferenceDataError(f"{_shown(name)} holds {len(members)} CSV files, not one")


def _lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """Yield the lines of the unpacked file; a file that would fill the memory ends in an error."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    size = 0
    while line := text.readline(MAX_LINE_CHARS):
        size += len(line)
        if len(line) == MAX_LINE_CHARS:
            raise ReferenceDataError(
                f"{_shown(name)} has a line of more than {MAX_LINE_CHARS} characters"
            )
        if size > MAX_FILE_BYTES:
            raise ReferenceDataError(
                f"{_shown(name)} is larger than {MAX_FILE_BYTES >> 20} MiB unpacked"
            )
        yield line


def _shown(name: str) -> str:
    return reflect(name) or "the file"
