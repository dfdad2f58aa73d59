"""What a running node does again and again: takes in what was imported or edited meanwhile.

Instruments, daily history and the calendar are read again when they have changed, without a
restart. Invariant: what could not be read leaves what was known in force, and is tried again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from odin import reference
from odin.clock import ist_date
from odin.errors import OdinError
from odin.market.gate import MarketGate
from odin.market.history import window_start
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.market.sessions import Calendar, MarketClock
from odin.model import Instrument, InstrumentKey, YearSummary
from odin.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

EXCHANGES = ("NSE", "BSE")
"""Exchanges with a calendar; the first is the one whose status clients are told."""


class Upkeep:
    """Keeps the reference data of one node up to date.

    instruments_version: of what the registry holds.
    on_instruments: called after the registry has changed.
    problems: where it is noted that the calendar could not be read.
    """

    def __init__(
        self,
        store: SqliteStore,
        registry: InstrumentRegistry,
        board: QuoteBoard,
        gate: MarketGate,
        clocks: Mapping[str, MarketClock],
        *,
        calendar_file: str,
        extra_instruments: Sequence[Instrument],
        instruments_version: int,
        now_ms: Callable[[], int],
        on_instruments: Callable[[], None],
        problems: dict[str, str],
    ) -> None:
        self._store = store
        self._registry = registry
        self._board = board
        self._gate = gate
        self._clocks = clocks
        self._calendar_file = calendar_file
        self._extra_instruments = extra_instruments
        self._instruments_version = instruments_version
        self._now_ms = now_ms
        self._on_instruments = on_instruments
        self._problems = problems
        self._outside_changes = -1
        self._summaries: dict[InstrumentKey, YearSummary] = {}
        self._history_day = ""
        self._calendar_stamp: float | None = None

    async def start(self) -> None:
        """Load the history, and note how everything else stands."""
        self._calendar_stamp = self._calendar_mtime()
        self._outside_changes = await self._store.outside_changes()
        await self._load_history()

    async def check(self) -> None:
        """Take in what was imported, edited or begun since the last look. Raises StoreError."""
        changes = await self._store.outside_changes()
        if changes != self._outside_changes:
            await self._load_instruments()
            await self._load_history()
            self._outside_changes = changes  # only now: what failed is tried again
        stamp = self._calendar_mtime()
        if stamp != self._calendar_stamp:
            self._calendar_stamp = stamp
            self._reload_calendars()
        if self._trading_day() != self._history_day:
            await self._load_history()

    def last_close(self, key: InstrumentKey) -> float | None:
        """Return the close the history has of the day before the market's current one."""
        summary = self._summaries.get(key)
        return None if summary is None else summary.prev_close

    async def _load_instruments(self) -> None:
        """Take in a master that was imported since the last time, if there is one."""
        version = await self._store.instruments_version()
        if version == self._instruments_version:
            return
        await reference.fill_registry(self._store, self._registry, self._extra_instruments)
        self._instruments_version = version
        self._board.refresh_names()
        self._on_instruments()
        log.info("instruments were loaded", extra={"instruments": len(self._registry)})

    async def _load_history(self) -> None:
        """Give the board the year before the market's current trading day, if it is news."""
        day = self._trading_day()
        previous = self._calendar.previous_trading_day(day)
        summaries = await self._store.year_summaries(window_start(previous), previous)
        if (day, summaries) != (self._history_day, self._summaries):
            self._summaries, self._history_day = summaries, day
            self._board.load_history(summaries, day)

    def _reload_calendars(self) -> None:
        try:
            calendars = read_calendars(self._calendar_file)
        except OdinError as error:
            # The operator is in the middle of an edit: what was known stays in force.
            log.error("the calendar file was not read again", extra={"problem": str(error)})
            self._problems["calendar file"] = str(error)
            return
        self._problems.pop("calendar file", None)
        for exchange, calendar in calendars.items():
            self._clocks[exchange].use(calendar)
        self._gate.reset()
        log.info("the calendar file was read again")

    @property
    def _calendar(self) -> Calendar:
        return self._clocks[EXCHANGES[0]].calendar

    def _trading_day(self) -> str:
        return self._calendar.latest_trading_day(ist_date(self._now_ms()))

    def _calendar_mtime(self) -> float | None:
        try:
            return Path(self._calendar_file).stat().st_mtime if self._calendar_file else None
        except OSError:
            return None


def read_calendars(overrides: str) -> dict[str, Calendar]:
    """Return the calendar of every exchange, with the operator's overrides if there are any."""
    path = Path(overrides) if overrides else None
    return {exchange: reference.read_calendar(exchange, path) for exchange in EXCHANGES}
