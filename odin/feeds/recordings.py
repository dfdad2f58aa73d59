"""A recording of market data: many files, one sequence of ticks in time order.

Bars and ticks are kept in plain columns, about 50 bytes a row; Tick objects are made only while it
is iterated. A bar becomes four ticks that reproduce it exactly. Invariant: iterating twice gives
the same ticks, and the order of the files does not matter for bars.
"""

import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from math import isnan, nan
from operator import itemgetter, le
from pathlib import Path
from typing import Final
from zlib import crc32

from odin.clock import ist_date
from odin.errors import ReferenceDataError
from odin.feeds.recording_formats import BarRow, Problem, Subject, TickRow, read_entries
from odin.model import Instrument, InstrumentKey, Tick

AD_HOC_SEGMENT: Final = "REPLAY"
"""Segment of instruments the registry does not know."""
AD_HOC_TOKENS: Final = 1_000_000_000
"""First token of such instruments, and how many there are: ten digits, above all real tokens."""
MAX_PROBLEMS: Final = 100
"""Problems kept with their text; more are only counted."""

IST_OFFSET_MS: Final = 19_800_000
DAY_MS: Final = 86_400_000
LOW_HIGH_MS: Final = (15_000, 30_000)
CLOSE_MS: Final = 59_900
"""Where in its minute a bar's second, third and last ticks stand; the first is at its start."""
TICKS_PER_BAR: Final = 4


class Recording:
    """Ticks of one or more days and instruments; iterate it for them, oldest first.

    Ticks of the same millisecond come in the order of `instruments`.
    """

    def __init__(
        self,
        series: Iterable[tuple[Instrument, "_Columns", "_Columns"]],
        problems: Iterable[Problem],
        problem_count: int,
    ) -> None:
        self._series = list(series)
        self.problems = tuple(problems)
        """The first MAX_PROBLEMS of what could not be used."""
        self.problem_count = problem_count
        self.instruments = tuple(instrument for instrument, _, _ in self._series)
        """Every instrument the files are about, also one whose file has no rows."""
        bars = [columns for _, columns, _ in self._series if columns.times]
        ticks = [columns for _, _, columns in self._series if columns.times]
        self.bar_count = sum(len(columns.times) for columns in bars)
        self.tick_count = TICKS_PER_BAR * self.bar_count + sum(len(c.times) for c in ticks)
        if not self.tick_count:
            raise ReferenceDataError(_nothing_usable(self.problems))
        self.start_ms = min(columns.times[0] for columns in bars + ticks)
        """Exchange time of the first tick."""
        self.end_ms = max([c.times[-1] + CLOSE_MS for c in bars] + [c.times[-1] for c in ticks])
        """Exchange time of the last tick."""
        days = {(ms + IST_OFFSET_MS) // DAY_MS for c in bars + ticks for ms in c.times}
        self.days = tuple(ist_date(day * DAY_MS) for day in sorted(days))
        """ISO dates in India that have data."""

    @classmethod
    def load(
        cls,
        paths: Iterable[str | Path],
        *,
        resolve: Callable[[str], Instrument | None],
        symbol: str | None = None,
        exchange: str = "NSE",
    ) -> "Recording":
        """Read files, folders (recursively) and .tar[.gz] archives.

        Recognised by content: CSV with a time, open, high, low, close and volume column (1-minute
        bars, in any order); CSV with a time and a price column, with or without a cumulative
        volume; "time,value" without a header; and our own JSON lines, see TickLine. A column for
        the code or symbol names the instrument, else `symbol`, else the name of the file or its
        folder. Naive times are India's.

        resolve: the registry's lookup, asked for "EXCHANGE:SYMBOL". What it does not know gets an
            instrument of its own: segment "REPLAY", token 1,000,000,000 + crc32(symbol) modulo
            1,000,000,000; on a collision the symbol later in the alphabet takes the next free one.

        Raises ReferenceDataError where a file cannot be opened or nothing usable was found.
        """
        series: dict[Subject, tuple[_Columns, _Columns]] = {}
        problems: list[Problem] = []
        problem_count = 0
        entries = read_entries(map(Path, paths), symbol=symbol, exchange=exchange)
        for entry in entries:
            if isinstance(entry, Problem):
                problem_count += 1
                if len(problems) < MAX_PROBLEMS:
                    problems.append(entry)
                continue
            subject = entry if isinstance(entry, Subject) else entry.subject
            columns = series.get(subject)
            if columns is None:
                columns = series[subject] = (_Columns(4), _Columns(5))
            if isinstance(entry, BarRow):
                columns[0].append(entry.start_ms, entry.volume, entry[2:6])
            elif isinstance(entry, TickRow):
                prices = (entry.ltp, entry.open, entry.high, entry.low, entry.prev_close)
                columns[1].append(entry.exchange_ms, entry.volume, prices)
        merged: dict[InstrumentKey, tuple[Instrument, _Columns, _Columns]] = {}
        for subject, instrument in _instruments(series, resolve):
            bars, ticks = series[subject]
            known = merged.setdefault(instrument.key, (instrument, _Columns(4), _Columns(5)))
            known[1].extend(bars)
            known[2].extend(ticks)
        for instrument, bars, ticks in merged.values():
            ticks.sort()
            bars.sort()
            repeated = bars.drop_repeated()
            if repeated:
                problem_count += repeated
                text = f"{repeated} bars repeat a minute, the first of each was taken"
                problems.append(Problem(instrument.symbol, 0, text))
        return cls(merged.values(), problems, problem_count)

    def __iter__(self) -> Iterator[Tick]:
        streams = []
        for instrument, bars, ticks in self._series:
            if bars.times:
                streams.append(_bar_ticks(instrument.key, bars))
            if ticks.times:
                streams.append(_plain_ticks(instrument.key, ticks))
        return heapq.merge(*streams, key=itemgetter(Tick._fields.index("exchange_ms")))

    def timeline(self) -> Iterator[tuple[int, Tick]]:
        """Yield every tick with its exchange time."""
        return ((tick.exchange_ms, tick) for tick in self)


class _Columns:
    """Rows of one instrument: time, volume (-1 is unknown) and prices (NaN is unknown)."""

    __slots__ = ("prices", "times", "volumes")

    def __init__(self, width: int) -> None:
        self.times = array("q")
        self.volumes = array("q")
        self.prices = [array("d") for _ in range(width)]

    def append(self, ms: int, volume: int | None, prices: Iterable[float | None]) -> None:
        self.times.append(ms)
        self.volumes.append(-1 if volume is None else volume)
        for column, price in zip(self.prices, prices, strict=True):
            column.append(nan if price is None else price)

    def extend(self, other: "_Columns") -> None:
        self.times.extend(other.times)
        self.volumes.extend(other.volumes)
        for column, more in zip(self.prices, other.prices, strict=True):
            column.extend(more)

    def sort(self) -> None:
        """Order the rows by time; rows of the same time keep their order."""
        times = self.times
        if not all(map(le, times, islice(times, 1, None))):
            self._take(sorted(range(len(times)), key=times.__getitem__))

    def drop_repeated(self) -> int:
        """Keep the first row of each time; return how many were dropped."""
        times = self.times
        keep = [i for i in range(len(times)) if not i or times[i] != times[i - 1]]
        dropped = len(times) - len(keep)
        if dropped:
            self._take(keep)
        return dropped

    def _take(self, order: list[int]) -> None:
        self.times = array("q", map(self.times.__getitem__, order))
        self.volumes = array("q", map(self.volumes.__getitem__, order))
        self.prices = [array("d", map(column.__getitem__, order)) for column in self.prices]


def _bar_ticks(key: InstrumentKey, bars: _Columns) -> Iterator[Tick]:
    """Open, then low and high, then close: low first in a bar that did not fall.

    The day's open, high, low and volume are those so far; a bar's volume is spread over its four
    ticks, and all of it is in with the close.
    """
    second_ms, third_ms = LOW_HIGH_MS
    day_end_ms = -1
    traded = 0
    day_open = day_high = day_low = 0.0
    for ms, volume, opens, high, low, close in zip(
        bars.times, bars.volumes, *bars.prices, strict=True
    ):
        if ms >= day_end_ms:
            day_end_ms = ms - (ms + IST_OFFSET_MS) % DAY_MS + DAY_MS
            traded = 0
            day_open = day_high = day_low = opens
        day_high, day_low = max(day_high, opens), min(day_low, opens)
        yield Tick(key, ms, opens, traded + volume // 4, day_open, day_high, day_low)
        second, third = (low, high) if close >= opens else (high, low)
        day_high, day_low = max(day_high, second), min(day_low, second)
        half = traded + volume // 2
        yield Tick(key, ms + second_ms, second, half, day_open, day_high, day_low)
        day_high, day_low = max(day_high, third), min(day_low, third)
        most = traded + volume * 3 // 4
        yield Tick(key, ms + third_ms, third, most, day_open, day_high, day_low)
        traded += volume
        yield Tick(key, ms + CLOSE_MS, close, traded, day_open, day_high, day_low)


def _plain_ticks(key: InstrumentKey, ticks: _Columns) -> Iterator[Tick]:
    for ms, volume, ltp, *known in zip(ticks.times, ticks.volumes, *ticks.prices, strict=True):
        prices = [None if isnan(price) else price for price in known]
        yield Tick(key, ms, ltp, None if volume < 0 else volume, *prices)


def _instruments(
    subjects: Iterable[Subject], resolve: Callable[[str], Instrument | None]
) -> Iterator[tuple[Subject, Instrument]]:
    """Yield every subject with its instrument, in the order of their names."""
    taken: set[tuple[str, int]] = set()
    for subject in sorted(subjects, key=lambda subject: (subject[:2], subject.key or ())):
        exchange, symbol, key = subject
        if key is None:
            instrument = resolve(f"{exchange}:{symbol}")
            if instrument is None:
                instrument = _ad_hoc(exchange, symbol, taken)
        else:
            names = (f"{exchange}:{key.token}", f"{exchange}:{symbol}")
            found = (resolve(name) for name in names)
            instrument = next(
                (known for known in found if known is not None and known.key == key),
                Instrument(key, symbol or str(key.token), kind="other"),
            )
        yield subject, instrument


def _ad_hoc(exchange: str, symbol: str, taken: set[tuple[str, int]]) -> Instrument:
    place = crc32(symbol.encode()) % AD_HOC_TOKENS
    while (exchange, place) in taken:
        place = (place + 1) % AD_HOC_TOKENS
    taken.add((exchange, place))
    key = InstrumentKey(exchange, AD_HOC_SEGMENT, AD_HOC_TOKENS + place)
    return Instrument(key, symbol, kind="other")


def _nothing_usable(problems: tuple[Problem, ...]) -> str:
    shown = "; ".join(map(str, problems[:3])) or "no file was given"
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"the recording held nothing usable: {shown}{more}"
