"""The text of calendar files, read into facts about dates.

Two forms, both TOML: the calendar of one exchange, and an operator's overrides for any of them.
Both are taken whole or not at all, and every problem is reported with its place. Whether a date
trades is not decided here.
"""

import difflib
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import NamedTuple, get_args

from odin.clock import IST
from odin.errors import ReferenceDataError, reflect
from odin.model import Phase

Span = tuple[int, int]
"""Half-open [start, end): ms of the day inside a calendar, epoch ms in what it answers."""

OVERRIDES_EXAMPLE = """\
# The last date the exchange's published list covers, once you have entered it here.
[known_through]
NSE = 2027-12-31

# A special session; several windows make a day in parts.
[[day]]
exchange = "NSE"
date = 2026-11-08
name = "Muhurat (Diwali Laxmi Pujan)"
pre_open = [["17:45", "18:00"]]    # may be left out
open = [["18:00", "19:00"]]

# A holiday.
[[day]]
exchange = "NSE"
date = 2027-01-26
name = "Republic Day"
closed = true

# A session whose hours are not announced yet.
[[day]]
exchange = "BSE"
date = 2027-10-29
name = "Muhurat (Diwali Laxmi Pujan)"
open = "unknown"
"""
"""An operator's overrides file: every form an entry may have. Times are HH:MM in India."""


class Hours(NamedTuple):
    """Regular hours from a date on."""

    effective: date
    window: Span
    phases: tuple[tuple[Phase, int, int], ...]


class DayFact(NamedTuple):
    """What a file says of one date. `windows`: () closed, None a session without known hours."""

    name: str
    windows: tuple[Span, ...] | None
    phases: tuple[tuple[Phase, int, int], ...]


class CalendarFacts(NamedTuple):
    """The facts of one exchange."""

    exchange: str
    known_from: date
    known_through: date
    hours: list[Hours]
    """By effective date, at least one."""
    days: dict[date, DayFact]


class _Overrides(NamedTuple):
    """Corrections by exchange."""

    known_through: dict[str, date]
    days: dict[str, dict[date, DayFact]]


TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
PHASES: dict[str, Phase] = {name: name for name in get_args(Phase) if name != "closed"}


YEARS = range(1950, 3000)


def read_calendar(text: str, overrides: str = "") -> CalendarFacts:
    """Read a calendar file and an operator's file of overrides.

    Overrides for other exchanges are checked but not used.

    Raises:
        ReferenceDataError: Every problem of both texts, one a line, each with its place.
    """
    reader = _Reader()
    facts = reader.calendar(text)
    corrections = reader.overrides(overrides)
    if facts is not None:
        through = corrections.known_through.get(facts.exchange, facts.known_through)
        if through < facts.known_from:
            reader.problem("known_through", "comes before known_from", through)
        days = {**facts.days, **corrections.days.get(facts.exchange, {})}
        facts = facts._replace(known_through=through, days=days)
    if reader.problems or facts is None:
        raise ReferenceDataError("\n".join(reader.problems))
    return facts


def iso_date(text: str) -> date:
    """Return the date written as YYYY-MM-DD, or raise ReferenceDataError."""
    try:
        parsed = date.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.isoformat() != text or parsed.year not in YEARS:
        raise ReferenceDataError(f'A date is written like "2026-11-08", it was "{reflect(text)}"')
    return parsed


def hh_mm(of_day_ms: int) -> str:
    """Return "15:30" for ms of the day."""
    hours, minutes = divmod(of_day_ms // 60_000, 60)
    return f"{hours:02d}:{minutes:02d}"


class _Reader:
    """Reads both files and gathers every problem with its place.

    A value with a problem is replaced by a harmless one so that reading goes on; what was read
    must not be used when there are problems.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def calendar(self, text: str) -> CalendarFacts | None:
        document = self._load("calendar", text)
        if document is None:
            return None
        self._keys(
            "calendar",
            document,
            required=("exchange", "timezone", "known_from", "known_through", "regular"),
            optional=("holidays", "session"),
        )
        zone = document.get("timezone", IST.zone)
        if zone != IST.zone:
            self.problem("calendar: timezone", f"only {IST.zone} is supported", zone)
        days: dict[date, DayFact] = {}
        for key, name in self._table("calendar: holidays", document.get("holidays", {})).items():
            where = f"calendar: holidays.{reflect(key)}"
            self._add(where, days, self._date(where, key), DayFact(self._text(where, name), (), ()))
        for where, entry in self._entries("calendar: session", document.get("session", [])):
            self._keys(where, entry, required=("date", "name", "open"), optional=("pre_open",))
            self._add(where, days, self._date_in(where, entry, "date"), self._day(where, entry))
        return CalendarFacts(
            self._text_in("calendar", document, "exchange"),
            self._date_in("calendar", document, "known_from") or date.min,
            self._date_in("calendar", document, "known_through") or date.max,
            self._regular(document.get("regular", [])),
            days,
        )

    def overrides(self, text: str) -> _Overrides:
        document = self._load("overrides", text) or {}
        self._keys("overrides", document, optional=("known_through", "day"))
        where = "overrides: known_through"
        limits = self._table(where, document.get("known_through", {}))
        known_through = {
            exchange.upper(): self._date_in(where, limits, exchange) or date.max
            for exchange in limits
        }
        days: dict[str, dict[date, DayFact]] = {}
        for where, entry in self._entries("overrides: day", document.get("day", [])):
            self._keys(
                where,
                entry,
                required=("exchange", "date", "name"),
                optional=("open", "pre_open", "closed"),
            )
            if ("open" in entry) == ("closed" in entry):
                self.problems.append(f"{where}: needs either open or closed = true")
            if entry.get("closed", True) is not True:
                self.problem(f"{where}: closed", "can only be true", entry["closed"])
            own = days.setdefault(self._text_in(where, entry, "exchange").upper(), {})
            self._add(where, own, self._date_in(where, entry, "date"), self._day(where, entry))
        return _Overrides(known_through, days)

    def _regular(self, value: object) -> list[Hours]:
        hours: list[Hours] = []
        for where, entry in self._entries("calendar: regular", value):
            self._keys(where, entry, required=("from", "market_hours", "phases"))
            effective = self._date_in(where, entry, "from") or date.max
            if hours and effective <= hours[-1].effective:
                self.problem(f"{where}: from", "must be later than the one before", effective)
            window = (0, 1)
            if "market_hours" in entry:
                window = self._span(f"{where}: market_hours", entry["market_hours"])
            phases: list[tuple[Phase, int, int]] = []
            place = f"{where}: phases"
            for number, phase in enumerate(self._list(place, entry.get("phases", [])), 1):
                name, *times = self._list(f"{place} {number}", phase) or [None]
                if isinstance(name, str) and name in PHASES:
                    phases.append((PHASES[name], *self._span(f"{place} {number}", times)))
                else:
                    known = ", ".join(PHASES)
                    self.problem(f"{place} {number}", f"a phase is one of {known}", name)
            self._order(place, [(start, end) for _, start, end in phases])
            hours.append(Hours(effective, window, tuple(phases)))
        if value == []:
            self.problems.append("calendar: regular: needs at least one entry")
        return hours

    def _day(self, where: str, entry: Mapping[str, object]) -> DayFact:
        """Read name, open and pre_open; without open the day is closed."""
        name = self._text_in(where, entry, "name")
        before = self._spans(f"{where}: pre_open", entry.get("pre_open", []))
        is_unknown = entry.get("open") == "unknown"
        windows = [] if is_unknown else self._spans(f"{where}: open", entry.get("open", []))
        if entry.get("open") == []:
            self.problems.append(f"{where}: open: needs at least one window")
        if before and not windows:
            self.problems.append(f"{where}: pre_open: needs windows in open")
        # Windows that touch are one window: the market does not close between them.
        self._order(f"{where}: open", windows, gap_ms=1)
        phases: list[tuple[Phase, int, int]] = [("pre_open", *span) for span in before]
        phases += [("open", *span) for span in windows]
        phases.sort(key=lambda phase: phase[1])
        if before:
            self._order(f"{where}: pre_open", [(start, end) for _, start, end in phases])
        return DayFact(name, None if is_unknown else tuple(windows), tuple(phases))

    def _add(self, where: str, days: dict[date, DayFact], on: date | None, fact: DayFact) -> None:
        if on in days:
            self.problem(where, "a date can be listed only once", on)
        elif on:
            days[on] = fact

    def _order(self, where: str, spans: list[Span], *, gap_ms: int = 0) -> None:
        for (_, end), (start, _) in itertools.pairwise(spans):
            if start < end + gap_ms:
                self.problem(where, "must be in order and apart", f"{hh_mm(end)}, {hh_mm(start)}")

    def problem(self, where: str, problem: str, value: object) -> None:
        self.problems.append(f'{where}: {problem}, was "{reflect(value)}"')

    def _load(self, document: str, text: str) -> dict[str, object] | None:
        try:
            return tomllib.loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            self.problems.append(f"{document}: not valid TOML: {reflect(error, 120)}")
            return None

    def _keys(
        self,
        where: str,
        table: Mapping[str, object],
        *,
        required: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
    ) -> None:
        known = (*required, *optional)
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f", did you mean {near[0]}" if near else ""
                self.problems.append(f'{where}: unknown key "{reflect(key)}"{hint}')
        self.problems += [f"{where}: {key} is missing" for key in required if key not in table]

    def _table(self, where: str, value: object) -> dict[str, object]:
        if isinstance(value, dict):
            return value
        self.problem(where, "must be a table", value)
        return {}

    def _list(self, where: str, value: object) -> list[object]:
        if isinstance(value, list):
            return value
        self.problem(where, "must be a list", value)
        return []

    def _entries(self, where: str, value: object) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield (place, table) of an array of tables; places count from 1 and name the date."""
        for number, entry in enumerate(self._list(where, value), 1):
            on = entry.get("date") if isinstance(entry, dict) else None
            place = f"{where} {number} ({reflect(on)})" if on else f"{where} {number}"
            yield place, self._table(place, entry)

    def _text_in(self, where: str, table: Mapping[str, object], key: str) -> str:
        # A key that is missing is reported by _keys, and only there.
        return self._text(f"{where}: {key}", table[key]) if key in table else ""

    def _date_in(self, where: str, table: Mapping[str, object], key: str) -> date | None:
        return self._date(f"{where}: {reflect(key)}", table[key]) if key in table else None

    def _text(self, where: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            self.problem(where, "must be a text that is not empty", value)
            return ""
        return value

    def _date(self, where: str, value: object) -> date | None:
        if isinstance(value, str):
            try:
                return iso_date(value)
            except ReferenceDataError:
                pass
        elif isinstance(value, date) and not isinstance(value, datetime) and value.year in YEARS:
            return value
        self.problem(where, "must be a date like 2026-11-08", value)
        return None

    def _span(self, where: str, value: object) -> Span:
        """Read ["HH:MM", "HH:MM"] as ms of the day."""
        pair = value if isinstance(value, list) else []
        times = [TIME.fullmatch(text) for text in pair if isinstance(text, str)]
        if len(pair) == 2 and len(times) == 2 and times[0] and times[1]:
            start, end = (int(t[1]) * 3_600_000 + int(t[2]) * 60_000 for t in times if t)
            if start >= end:
                self.problem(where, "must end after it starts", f"{pair[0]} - {pair[1]}")
            return start, end
        self.problem(where, 'must be two times like ["09:15", "15:30"]', value)
        return (0, 1)

    def _spans(self, where: str, value: object) -> list[Span]:
        spans = self._list(where, value)
        return [self._span(f"{where} {number}", span) for number, span in enumerate(spans, 1)]
