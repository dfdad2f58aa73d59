"""The formats of recorded market data: files in, rows out, and our own lines both ways.

The format of a file is recognised by its content. Naive times are India's. A line that cannot be
read becomes a Problem with its file and number; nothing is guessed or repaired. What the rows mean
together is the business of `recordings`.
"""

import csv
import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from math import inf
from pathlib import Path, PurePath
from typing import IO, Annotated, Final, NamedTuple

import msgspec
import orjson
from msgspec import Meta

from odin.clock import IST
from odin.errors import ReferenceDataError, RemoteWireError, reflect
from odin.model import InstrumentKey, Tick

TEXT_SUFFIXES: Final = (".csv", ".txt", ".jsonl", ".ndjson", ".json")
"""Files taken from a folder or an archive, also with ".gz" behind; a file named is always read."""
MAX_VOLUME: Final = 2**53 - 1
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MS: Final = timedelta(milliseconds=1)
YEARS: Final = range(1990, 2101)
"""What a recording may be of; other times are broken ones."""
MAX_MS: Final = 4_133_980_800_000
"""The end of YEARS."""

TIME_COLUMNS: Final = ("exchange_timestamp", "datetime", "timestamp", "date", "time", "minute_ts")
CODE_COLUMNS: Final = ("code", "symbol", "ticker", "tradingsymbol", "stock_code")
BAR_COLUMNS: Final = (("open", "o"), ("high", "h"), ("low", "l"), ("close", "c"))
PRICE_COLUMNS: Final = ("last_price", "ltp", "last_traded_price", "price", "value")
VOLUME_COLUMNS: Final = ("volume_traded", "volume", "vol", "v")


class Subject(NamedTuple):
    """What a row is about: an instrument by key where the file has one, else by symbol."""

    exchange: str
    symbol: str
    key: InstrumentKey | None = None


class BarRow(NamedTuple):
    """One minute of trading; `volume` is the minute's, 0 in files without that column."""

    subject: Subject
    start_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: int


class TickRow(NamedTuple):
    """One update; the fields of Tick but for its detail, which no recording holds."""

    subject: Subject
    exchange_ms: int
    ltp: float
    volume: int | None = None
    open: float | None = None
    high: float | None = None
    low: float | None = None
    prev_close: float | None = None


class Problem(NamedTuple):
    """Why a line, or with line 0 a whole file, could not be used."""

    source: str
    line: int
    text: str

    def __str__(self) -> str:
        where = f"{self.source} line {self.line}" if self.line else self.source
        return f"{where}: {self.text}"


Stream = IO[bytes] | gzip.GzipFile
Entry = BarRow | TickRow | Subject | Problem
"""What reading yields; a bare Subject says that a file is about it but has no rows."""

Price = Annotated[float, Meta(gt=0)]


class TickLine(msgspec.Struct, frozen=True):
    """One line of our own recordings: a JSON object with the fields of Tick.

    {"exchange":"NSE","segment":"CM","token":2885,"exchange_ms":1756971590000,"ltp":1365.5,
    "volume":3300000,"open":1371.8,"high":1374.0,"low":1362.0,"prev_close":1372.6}

    Required are `exchange_ms`, `ltp`, and one of `token` and `symbol`; other fields are ignored.
    """

    exchange_ms: Annotated[int, Meta(ge=0, lt=MAX_MS)]
    ltp: Price
    exchange: Annotated[str, Meta(min_length=1, max_length=16)] = "NSE"
    segment: Annotated[str, Meta(min_length=1, max_length=16)] = "CM"
    token: Annotated[int, Meta(ge=0, le=MAX_VOLUME)] | None = None
    symbol: Annotated[str, Meta(max_length=64)] = ""
    volume: Annotated[int, Meta(ge=0, le=MAX_VOLUME)] | None = None
    open: Price | None = None
    high: Price | None = None
    low: Price | None = None
    prev_close: Price | None = None

    @property
    def subject(self) -> Subject:
        """What the line is about."""
        key = None
        if self.token is not None:
            key = InstrumentKey(self.exchange, self.segment, self.token)
        return Subject(self.exchange, self.symbol.strip().upper(), key)

    def tick(self, key: InstrumentKey) -> Tick:
        """Return the line as a tick of this instrument."""
        return Tick(
            key,
            self.exchange_ms,
            self.ltp,
            self.volume,
            self.open,
            self.high,
            self.low,
            self.prev_close,
        )


_TICK_LINE: Final = msgspec.json.Decoder(TickLine)


def encode_tick_line(tick: Tick) -> bytes:
    """Return the tick as one line of our own format, with its newline; None fields are left out,
    and so is the detail."""
    exchange, segment, token = tick.key
    values = {"exchange": exchange, "segment": segment, "token": token}
    values |= {
        name: value for name, value in tick._asdict().items() if name not in {"key", "detail"}
    }
    line = {name: value for name, value in values.items() if value is not None}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def decode_tick_line(line: bytes | str) -> TickLine:
    """Read one line of our own format; raises RemoteWireError."""
    try:
        value = _TICK_LINE.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RemoteWireError(reflect(error, 160)) from error
    if value.token is None and not value.symbol.strip():
        raise RemoteWireError("the line names neither a token nor a symbol")
    return value


def read_entries(paths: Iterable[Path], *, symbol: str | None, exchange: str) -> Iterator[Entry]:
    """Read files, folders and tar archives, in the order given; folders by name, archives
    in their own order.

    symbol: what files without a column for it are about; None to take the file's or folder's name.
    Raises ReferenceDataError where a path does not exist or an archive is broken.
    """
    for path in paths:
        try:
            for name, stream in _open(path):
                yield from _File(name, symbol, exchange).entries(stream)
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            problem = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ReferenceDataError(f"{path} could not be read: {problem}") from error


def _open(path: Path) -> Iterator[tuple[str, Stream]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and _is_text(file):
                yield from _open(file)
    elif path.name.endswith((".tar", ".tar.gz", ".tgz")):
        with tarfile.open(path) as archive:
            for member in archive:  # in its own order: going back would unpack it all again
                stream = None
                if member.isfile() and _is_text(member.name):
                    stream = archive.extractfile(member)
                if stream is not None:
                    with stream:
                        yield f"{path}:{member.name}", stream
    elif path.suffix == ".gz":
        with gzip.open(path) as unpacked:
            yield str(path), unpacked
    else:
        with path.open("rb") as stream:
            yield str(path), stream


def _is_text(path: PurePath | str) -> bool:
    name = PurePath(path).name
    return not name.startswith(".") and name.removesuffix(".gz").endswith(TEXT_SUFFIXES)


def symbol_of(name: str) -> str | None:
    """Return the symbol a file's name states, or else its folder's: up to the first underscore,
    in upper case. "minute/SBIN.csv" is SBIN, "nifty_1s_2022/2022-08-12.csv" is NIFTY."""
    path = PurePath(name.rpartition(":")[2])
    stem = path.name.removesuffix(".gz")
    for suffix in TEXT_SUFFIXES:
        stem = stem.removesuffix(suffix)
    for part in (stem, path.parent.name):
        symbol = part.partition("_")[0].strip().upper()
        if any(character.isalpha() for character in symbol):
            return symbol
    return None


class _File:
    """One file being read."""

    def __init__(self, name: str, symbol: str | None, exchange: str) -> None:
        self._name = name
        self._exchange = exchange
        text = symbol.strip().upper() if symbol else symbol_of(name)
        self._own = Subject(exchange, text) if text else None
        self._subjects: dict[str, Subject] = {}
        self._midnights: dict[object, int] = {}

    def entries(self, stream: Stream) -> Iterator[Entry]:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        try:
            blank = 0
            for first in lines:
                if first.strip():
                    break
                blank += 1
            else:
                yield Problem(self._name, 0, "the file is empty")
                return
            rest = chain([first], lines)
            if first.lstrip().startswith("{"):
                yield from self._json_entries(rest, blank)
            else:
                yield from self._csv_entries(rest, blank)
        finally:
            lines.detach()  # the stream is closed by whoever opened it

    def _json_entries(self, lines: Iterable[str], before: int) -> Iterator[Entry]:
        for number, line in enumerate(lines, before + 1):
            if not line.strip():
                continue
            try:
                value = decode_tick_line(line)
            except RemoteWireError as error:
                yield Problem(self._name, number, str(error))
            else:
                subject = value.subject
                yield TickRow(subject, *value.tick(InstrumentKey("", "", 0))[1:8])

    def _csv_entries(self, lines: Iterable[str], before: int) -> Iterator[Entry]:
        reader = csv.reader(lines, skipinitialspace=True)
        try:
            first = next(reader)
            read = self._layout(first)
            rows: Iterable[list[str]] = reader
            if read is None:
                read = self._headless(first)
                rows = chain([first], reader)
            if read is None:
                header = reflect(",".join(first))
                yield Problem(self._name, before + 1, f"no known columns were found in {header}")
                return
            has_rows = False
            for cells in rows:
                if not cells:
                    continue
                has_rows = True
                try:
                    yield read(cells)
                except IndexError:
                    text = f"the line had {len(cells)} fields of {len(first)}"
                    yield Problem(self._name, before + reader.line_num, text)
                except ValueError as error:
                    yield Problem(self._name, before + reader.line_num, str(error))
        except csv.Error as error:
            yield Problem(self._name, before + reader.line_num, f"no CSV from here on: {error}")
            return
        if not has_rows:
            yield Problem(self._name, 0, "the file has a header and no rows")
            if self._own is not None:
                yield self._own

    def _layout(self, header: Sequence[str]) -> Callable[[Sequence[str]], Entry] | None:
        """Return what reads the rows below a header, or None where it is not one."""
        places = {name.strip().lower(): place for place, name in enumerate(header)}

        def find(names: Iterable[str]) -> int | None:
            return next((places[name] for name in names if name in places), None)

        time = find(TIME_COLUMNS)
        if time is None:
            return None
        code, volume = find(CODE_COLUMNS), find(VOLUME_COLUMNS)
        prices = [place for place in map(find, BAR_COLUMNS) if place is not None]
        if len(prices) == len(BAR_COLUMNS):
            return self._bar_reader(code, time, prices, volume)
        price = find(PRICE_COLUMNS)
        return None if price is None else self._tick_reader(code, time, price, volume)

    def _headless(self, cells: Sequence[str]) -> Callable[[Sequence[str]], Entry] | None:
        """Return what reads "time,value" rows without a header, or None where it is not one."""
        read = self._tick_reader(None, 0, 1, None)
        try:
            read(cells)
        except (ValueError, IndexError):
            return None
        return read

    def _bar_reader(
        self, code: int | None, time: int, prices: Sequence[int], volume: int | None
    ) -> Callable[[Sequence[str]], Entry]:
        at_open, at_high, at_low, at_close = prices

        def read(cells: Sequence[str]) -> Entry:
            opens, high = _price(cells[at_open]), _price(cells[at_high])
            low, close = _price(cells[at_low]), _price(cells[at_close])
            if not (low <= opens <= high and low <= close <= high):
                raise ValueError(
                    f"the bar's open {opens} and close {close} were not all between "
                    f"its low {low} and high {high}"
                )
            size = 0 if volume is None else _volume(cells[volume])
            subject = self._subject(None if code is None else cells[code])
            return BarRow(subject, self._time(cells[time]), opens, high, low, close, size)

        return read

    def _tick_reader(
        self, code: int | None, time: int, price: int, volume: int | None
    ) -> Callable[[Sequence[str]], Entry]:
        def read(cells: Sequence[str]) -> Entry:
            ltp = _price(cells[price])
            size = None if volume is None else _volume(cells[volume])
            subject = self._subject(None if code is None else cells[code])
            return TickRow(subject, self._time(cells[time]), ltp, size)

        return read

    def _subject(self, code: str | None) -> Subject:
        if code is None:
            if self._own is None:
                raise ValueError("neither the file's name nor an option says which symbol this is")
            return self._own
        subject = self._subjects.get(code)
        if subject is None:
            symbol = code.strip().upper()
            if not symbol or len(symbol) > 64:
                raise ValueError(f"the symbol was '{reflect(code)}'")
            subject = self._subjects[code] = Subject(self._exchange, symbol)
        return subject

    def _time(self, text: str) -> int:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            raise ValueError(f"the time was '{reflect(text)}'") from None
        if moment.year not in YEARS:
            raise ValueError(f"the time was '{reflect(text)}'")
        if moment.tzinfo is not None:
            return (moment - EPOCH) // MS
        day = moment.date()
        midnight_ms = self._midnights.get(day)
        if midnight_ms is None:
            midnight = IST.localize(moment.replace(hour=0, minute=0, second=0, microsecond=0))
            midnight_ms = self._midnights[day] = (midnight - EPOCH) // MS
        seconds = (moment.hour * 60 + moment.minute) * 60 + moment.second
        return midnight_ms + seconds * 1000 + moment.microsecond // 1000


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = inf
    if not 0 < price < inf:
        raise ValueError(f"the price was '{reflect(text)}'")
    return price


def _volume(text: str) -> int:
    try:
        volume = float(text)
    except ValueError:
        volume = inf
    if not (0 <= volume <= MAX_VOLUME and volume.is_integer()):
        raise ValueError(f"the volume was '{reflect(text)}'")
    return int(volume)
