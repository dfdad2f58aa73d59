"""Brings reference data to where it is used: masters and daily history into the database, the
instruments into a registry, calendars from the package.

Opens the files that the pure readers in odin.market take as bytes. Invariant: an import changes
all that its files say or nothing, and a file without a usable row is an error, never an empty
success.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from odin.clock import WallClock
from odin.errors import ReferenceDataError, reflect
from odin.market.history import Daily, parse_daily
from odin.market.instruments import InstrumentRegistry
from odin.market.masters import SAMPLE_ALIASES, merge, parse_master, parse_sample
from odin.market.sessions import Calendar
from odin.model import DailyBar, Instrument, InstrumentKey

Progress = Callable[[int, int], None]
"""Called now and then with how much is done and how much there is, in one unit."""

EXAMPLES = 5
"""How many bad rows, renames and unknown names a summary shows; all are counted."""


MAX_LOST = 100
MAX_LOST_SHARE = 0.2
"""A master that removes more instruments than both of these is taken for a broken download."""


class ReferenceStore(Protocol):
    """What is asked of the database."""

    async def load_instruments(self) -> list[Instrument]:
        """Return the imported master, empty if there is none."""
        ...

    async def save_instruments(
        self,
        upserts: Iterable[Instrument],
        removed_keys: Iterable[InstrumentKey],
        source: str,
        now_ms: int,
    ) -> int:
        """Change the master, all or nothing; return its version."""
        ...

    async def save_daily_bars(self, bars: Iterable[DailyBar]) -> int:
        """Add or replace bars, all or none; return how many."""
        ...


class RegistryContent(NamedTuple):
    """What a registry is filled with."""

    instruments: list[Instrument]
    aliases: Mapping[str, InstrumentKey]
    is_sample: bool
    """Whether this is the shipped sample because no master was imported."""


class ImportSummary(NamedTuple):
    """What the import of an instrument master did."""

    source: str
    rows: int
    added: int
    changed: int
    renamed: int
    removed: int
    unchanged: int
    unmatched: int
    """Rows of a file without tokens whose stock is not known."""
    total: int
    """Instruments known now."""
    version: int
    renames: tuple[str, ...]
    """The first few, "OLD is now NEW (NSE)"."""
    bad_rows: int
    bad_examples: tuple[str, ...]
    """The first few, "line 7: what is wrong"."""

    def lines(self) -> list[str]:
        """Return the summary for a terminal."""
        lines = [
            f"{self.source}: {self.rows:,} rows",
            f"{self.added:,} added, {self.changed:,} changed, {self.renamed:,} renamed",
            f"{self.removed:,} removed, {self.unchanged:,} unchanged",
        ]
        lines += _examples(self.renames, self.renamed, "renames")
        if self.unmatched:
            lines.append(f"{self.unmatched:,} rows are of stocks that are not in the master")
        if self.bad_rows:
            lines.append(f"{self.bad_rows:,} bad rows were left out:")
            lines += _examples(self.bad_examples, self.bad_rows, "bad rows")
        lines.append(f"{self.total:,} instruments are known now")
        return lines


class HistorySummary(NamedTuple):
    """What the import of daily history did."""

    files: int
    rows: int
    saved: int
    """Daily bars added or replaced."""
    skipped_series: int
    skipped_untraded: int
    skipped_unknown: int
    unknown_names: tuple[str, ...]
    """The first few."""
    bad_rows: int
    bad_examples: tuple[str, ...]
    """The first few, "FILE line 7: what is wrong"."""

    def lines(self) -> list[str]:
        """Return the summary for a terminal."""
        lines = [f"{self.files} files, {self.rows:,} rows, {self.saved:,} daily bars saved"]
        if self.skipped_series or self.skipped_untraded:
            lines.append(
                f"left out: {self.skipped_series:,} rows of other kinds of security, "
                f"{self.skipped_untraded:,} without a trade"
            )
        if self.skipped_unknown:
            lines.append(f"{self.skipped_unknown:,} rows are of stocks that are not known:")
            lines += _examples(self.unknown_names, self.skipped_unknown, "rows")
        if self.bad_rows:
            lines.append(f"{self.bad_rows:,} bad rows were left out:")
            lines += _examples(self.bad_examples, self.bad_rows, "bad rows")
        return lines


async def import_instruments(
    store: ReferenceStore,
    path: Path,
    *,
    allow_removals: bool = False,
    progress: Progress | None = None,
) -> ImportSummary:
    """Merge an instrument master of any known format into the database.

    allow_removals: take a file that lacks so much of what is known that it looks cut short.

    Raises ReferenceDataError where the file cannot be read or has no usable row; nothing is
    changed then. A running server sees the new version by itself.
    """
    master = parse_master(_read(path), name=path.name, progress=progress)
    current = await store.load_instruments()
    change = merge(current, master)
    if not change.upserts and not change.unchanged:
        raise ReferenceDataError(
            f"No row of {reflect(path.name)} is of a known stock; it carries no tokens, so an "
            "instrument master must be imported first"
        )
    lost = len(change.removed)
    if not allow_removals and lost > MAX_LOST and lost > MAX_LOST_SHARE * len(current):
        raise ReferenceDataError(
            f"{reflect(path.name)} would remove {lost:,} of {len(current):,} instruments; it may "
            "be cut short, nothing was changed (--allow-removals takes it as it is)"
        )
    source = f"{path.name} ({master.format})"
    version = await store.save_instruments(
        change.upserts,
        [instrument.key for instrument in change.removed],
        source,
        WallClock().now_ms(),
    )
    return ImportSummary(
        source=reflect(source, 200),
        rows=master.rows,
        added=change.added,
        changed=change.changed,
        renamed=change.renamed,
        removed=len(change.removed),
        unchanged=change.unchanged,
        unmatched=change.unmatched,
        total=len(current) + change.added - len(change.removed),
        version=version,
        renames=tuple(f"{old} is now {new.label}" for old, new in change.renames[:EXAMPLES]),
        bad_rows=len(master.bad_rows),
        bad_examples=tuple(f"line {line}: {text}" for line, text in master.bad_rows[:EXAMPLES]),
    )


async def import_history(
    store: ReferenceStore,
    registry: InstrumentRegistry,
    paths: Sequence[Path],
    *,
    progress: Progress | None = None,
) -> HistorySummary:
    """Save the daily bars of all files in one transaction.

    Stocks are found by token or symbol in the registry. Raises ReferenceDataError where a file
    cannot be read, or none of them has a usable row; nothing is changed then.
    """
    files: list[Daily] = []
    saved = await store.save_daily_bars(_bars(paths, registry, files, progress))
    bad = [
        f"{reflect(file.name)} line {line}: {text}"
        for file in files
        for line, text in file.problems
    ]
    unknown = dict.fromkeys(name for file in files for name in file.unknown_names)
    summary = HistorySummary(
        files=len(files),
        rows=sum(file.rows for file in files),
        saved=saved,
        skipped_series=sum(file.skipped_series for file in files),
        skipped_untraded=sum(file.skipped_untraded for file in files),
        skipped_unknown=sum(file.skipped_unknown for file in files),
        unknown_names=tuple(unknown)[:EXAMPLES],
        bad_rows=sum(file.bad_rows for file in files),
        bad_examples=tuple(bad[:EXAMPLES]),
    )
    if not saved:
        raise ReferenceDataError("\n".join(["No daily bar could be used", *summary.lines()]))
    return summary


async def load_registry(store: ReferenceStore) -> RegistryContent:
    """Return the imported instruments, or the shipped sample where none were imported."""
    instruments = await store.load_instruments()
    sample = parse_sample(_shipped("sample_instruments.csv"))
    if instruments:
        # Few masters carry a close; the simulator begins near the real one where we know it.
        closes = {item.key: item.reference_close for item in sample}
        for index, item in enumerate(instruments):
            if item.reference_close is None and item.key in closes:
                instruments[index] = replace(item, reference_close=closes[item.key])
        return RegistryContent(instruments, {}, is_sample=False)
    return RegistryContent(sample, SAMPLE_ALIASES, is_sample=True)


async def fill_registry(
    store: ReferenceStore, registry: InstrumentRegistry, extra: Iterable[Instrument] = ()
) -> RegistryContent:
    """Replace a registry's content by what `load_registry` returns, and return that.

    extra: instruments to add, such as those of a recording, unless their key is listed anyway.
    """
    content = await load_registry(store)
    listed = {instrument.key for instrument in content.instruments}
    added = [instrument for instrument in extra if instrument.key not in listed]
    registry.replace([*content.instruments, *added], aliases=content.aliases)
    return content


def read_calendar(exchange: str, overrides: Path | None = None) -> Calendar:
    """Return the calendar of "NSE" or "BSE", with an operator's overrides if there is a file.

    Raises ReferenceDataError for an exchange without a calendar, or with every problem of the
    overrides.
    """
    try:
        facts = _shipped(f"calendars/{exchange.lower()}.toml")
    except FileNotFoundError:
        raise ReferenceDataError(f"There is no calendar for {reflect(exchange)}") from None
    if overrides is None:
        return Calendar.parse(facts)
    data = _read(overrides)
    try:
        return Calendar.parse(facts, data.decode())
    except UnicodeDecodeError as error:
        raise ReferenceDataError(f"{reflect(overrides, 200)} is not UTF-8 text") from error
    except ReferenceDataError as error:
        raise ReferenceDataError(f"{reflect(overrides, 200)}: {error}") from error


def _bars(
    paths: Sequence[Path],
    registry: InstrumentRegistry,
    files: list[Daily],
    progress: Progress | None,
) -> Iterator[DailyBar]:
    """Yield the bars of one file after the other; `files` gets what is known of each."""

    def resolve(name: str, series: str) -> InstrumentKey | None:
        # The series is not asked for: a share keeps its history when it moves from BE to EQ.
        instrument = registry.resolve(name).instrument
        if instrument is None or instrument.key.segment != "CM":
            return None
        return instrument.key

    whole = sum(_size(path) for path in paths)
    before = 0
    for path in paths:
        data = _read(path)
        report = None
        if progress is not None:

            def report(done: int, _: int, start: int = before) -> None:
                progress(start + done, whole)

        daily = parse_daily(data, resolve, name=path.name, progress=report)
        files.append(daily)
        yield from daily.bars
        before += len(data)


def _examples(examples: Sequence[str], count: int, what: str) -> list[str]:
    """Indent examples for a terminal and say how many more there are."""
    lines = [f"  {example}" for example in examples]
    if examples and count > len(examples):
        lines.append(f"  … and {count - len(examples):,} more {what}")
    return lines


def _shipped(name: str) -> str:
    return resources.files("odin.market").joinpath(name).read_text(encoding="utf-8")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReferenceDataError(
            f"{reflect(path, 200)} could not be read: {error.strerror}"
        ) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it will say what is wrong
