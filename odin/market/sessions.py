"""The trading calendar of an exchange, and the clock that reads it.

A calendar is data: a file of facts that ships with the server, and an operator's file of
corrections. The only rule is that weekdays trade at regular hours; a day that no fact backs says
that it is not known. A trading day is one that has data windows; they are half-open,
[open, close). No I/O here: texts come in, values go out.
"""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import NamedTuple

from odin.clock import IST, ist_date, ist_datetime, ist_time_text
from odin.errors import ReferenceDataError
from odin.market.calendar_text import CalendarFacts, Span, hh_mm, iso_date, read_calendar
from odin.model import MarketStatus, Phase

DAY_MS = 86_400_000
SEARCH_DAYS = 731
"""How far the next or previous trading day is looked for: two years."""
CACHED_DAYS = 4096
CALENDAR_WARNING_DAYS = 30
"""Operators are told when a calendar has facts for fewer days than these."""

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SATURDAY = 5


class TradingDay(NamedTuple):
    """What the calendar says of one date in India."""

    date: str
    """ISO date."""
    start_ms: int
    """Midnight in India, epoch ms."""
    is_trading: bool
    """Whether the day has a data window."""
    is_known: bool
    """False where the day rests on the weekday rule alone, or a session's hours are not known."""
    holiday: str | None
    """Why the market is closed: the holiday's name or "Saturday"/"Sunday"; None if it trades."""
    session: str | None
    """Name of the special session; None on an ordinary day."""
    market_hours: str
    """The data windows, "09:15 - 15:30 IST"; the regular one where the day has none."""
    windows: tuple[Span, ...]
    """Data windows in epoch ms, in order, never touching."""
    phases: tuple[tuple[Phase, int, int], ...]
    """(phase, start, end) in epoch ms, in order; between them the phase is "closed"."""


class Calendar:
    """The trading days of one exchange.

    Dates are `datetime.date` or ISO text; other text raises ReferenceDataError.
    """

    __slots__ = ("_days", "_facts")

    def __init__(self, facts: CalendarFacts) -> None:
        self._facts = facts
        self._days: dict[date, TradingDay] = {}

    @classmethod
    def parse(cls, text: str, overrides: str | None = None) -> "Calendar":
        """Read a calendar file and an operator's overrides (`calendar_text.OVERRIDES_EXAMPLE`).

        Raises:
            ReferenceDataError: Every problem of both texts, one a line, each with its place.
        """
        return cls(read_calendar(text, overrides or ""))

    @property
    def exchange(self) -> str:
        return self._facts.exchange

    @property
    def known_from(self) -> date:
        """First date the calendar has facts for."""
        return self._facts.known_from

    @property
    def known_through(self) -> date:
        """Last date the calendar has facts for."""
        return self._facts.known_through

    def day(self, on: str | date) -> TradingDay:
        """Return what is known of a date."""
        key = _as_date(on)
        day = self._days.get(key)
        if day is None:
            if len(self._days) >= CACHED_DAYS:
                self._days.clear()
            day = self._days[key] = self._build(key)
        return day

    def trading_days(self, from_date: str | date, until_date: str | date) -> list[str]:
        """Return the ISO dates that trade, both ends included."""
        first, last = _as_date(from_date), _as_date(until_date)
        days = (self.day(first + timedelta(n)) for n in range((last - first).days + 1))
        return [day.date for day in days if day.is_trading]

    def latest_trading_day(self, on: str | date) -> str:
        """Return the date itself if it trades, or else the last one before it that does.

        Raises:
            ReferenceDataError: None of the two years before it trades.
        """
        start = _as_date(on)
        for n in range(SEARCH_DAYS):
            day = self.day(start - timedelta(n))
            if day.is_trading:
                return day.date
        raise ReferenceDataError(
            f"{self.exchange} has no trading day in the two years before {start.isoformat()}"
        )

    def previous_trading_day(self, on: str | date) -> str:
        """Return the last trading day before a date; errors as `latest_trading_day`."""
        return self.latest_trading_day(_as_date(on) - timedelta(1))

    def sessions_from(self, epoch_ms: int) -> Iterator[Span]:
        """Yield the data windows that end after an instant, in order, for two years."""
        start = ist_datetime(epoch_ms).date()
        for n in range(SEARCH_DAYS):
            for window in self.day(start + timedelta(n)).windows:
                if window[1] > epoch_ms:
                    yield window

    def next_session(self, epoch_ms: int) -> Span:
        """Return (open, close) in epoch ms of the data window around an instant, or the next one.

        Raises:
            ReferenceDataError: There is none in two years.
        """
        window = next(self.sessions_from(epoch_ms), None)
        if window is not None:
            return window
        today = ist_datetime(epoch_ms).date().isoformat()
        raise ReferenceDataError(f"{self.exchange} has no session in the two years from {today}")

    def _build(self, on: date) -> TradingDay:
        # Before the oldest hours on file the oldest are the best guess; such days are unknown.
        at = bisect_right(self._facts.hours, on, key=lambda hours: hours.effective)
        regular = self._facts.hours[max(at - 1, 0)]
        is_known = self.known_from <= on <= self.known_through
        weekend = WEEKDAYS[on.weekday()] if on.weekday() >= SATURDAY else None
        fact = self._facts.days.get(on)

        windows: tuple[Span, ...] = () if weekend else (regular.window,)
        phases = () if weekend else regular.phases
        holiday, session = weekend, None
        if fact is not None:
            is_known = fact.windows is not None
            windows = fact.windows or ()
            # A special day that is a full one runs like any other.
            is_full = fact.phases == (("open", *regular.window),)
            phases = regular.phases if is_full else fact.phases
            if fact.windows == ():
                holiday = fact.name
            else:
                session = fact.name
                holiday = None if windows else weekend or fact.name

        # India has not changed its clocks since 1945: offsets from midnight are exact.
        midnight = int(IST.localize(datetime.combine(on, time.min)).timestamp()) * 1000
        return TradingDay(
            date=on.isoformat(),
            start_ms=midnight,
            is_trading=bool(windows),
            is_known=is_known,
            holiday=holiday,
            session=session,
            market_hours=_hours_text(windows or (regular.window,)),
            windows=tuple((midnight + start, midnight + end) for start, end in windows),
            phases=tuple((name, midnight + start, midnight + end) for name, start, end in phases),
        )


class MarketClock:
    """Tells where an exchange is in its trading day; the instant comes from the caller.

    Between two changes the answer is kept, so that asking for every tick costs two comparisons.
    Time may jump, forward or back.
    """

    __slots__ = ("_calendar", "_from_ms", "_is_open", "_status", "_until_ms")

    def __init__(self, calendar: Calendar) -> None:
        self.use(calendar)

    @property
    def calendar(self) -> Calendar:
        return self._calendar

    def use(self, calendar: Calendar) -> None:
        """Go by another calendar from now on: its file was changed."""
        self._calendar = calendar
        self._look_up(0)

    def is_open(self, now_ms: int) -> bool:
        """Return whether the instant lies in a data window."""
        if not self._from_ms <= now_ms < self._until_ms:
            self._look_up(now_ms)
        return self._is_open

    def is_before_open(self, now_ms: int) -> bool:
        """Return whether no data window of the instant's day has begun, as before the opening and
        all day where there is none."""
        windows = self._calendar.day(ist_date(now_ms)).windows
        return not windows or now_ms < windows[0][0]

    def status(self, now_ms: int) -> MarketStatus:
        """Return everything about the instant; the same object until `next_change_ms`."""
        if not self._from_ms <= now_ms < self._until_ms:
            self._look_up(now_ms)
        return self._status

    def phase(self, now_ms: int) -> Phase:
        """Return the phase of the trading day."""
        return self.status(now_ms).phase

    def days_known(self, now_ms: int) -> int:
        """Return how many days after today the calendar has facts for; negative once it is out."""
        return (self._calendar.known_through - ist_datetime(now_ms).date()).days

    def _look_up(self, now_ms: int) -> None:
        day = self._calendar.day(ist_datetime(now_ms).date())
        spans = [*day.windows, *((start, end) for _, start, end in day.phases)]
        edges = sorted({day.start_ms, day.start_ms + DAY_MS, *(e for span in spans for e in span)})
        at = bisect_right(edges, now_ms)
        upcoming = self._calendar.sessions_from(now_ms)
        current = next(upcoming, None)
        is_open = current is not None and current[0] <= now_ms
        opening = next(upcoming, None) if is_open else current
        self._from_ms, self._until_ms, self._is_open = edges[at - 1], edges[at], is_open
        self._status = MarketStatus(
            exchange=self._calendar.exchange,
            is_open=is_open,
            phase=next(
                (name for name, start, end in day.phases if start <= now_ms < end), "closed"
            ),
            holiday=day.holiday,
            session=day.session,
            market_hours=day.market_hours,
            next_open_ms=opening and opening[0],
            next_close_ms=current and current[1],
            next_change_ms=self._until_ms,
            is_calendar_known=day.is_known,
        )


def describe(day: TradingDay) -> str:
    """Return a few lines for people: the date, why it trades or not, hours, phases, certainty."""
    weekday = WEEKDAYS[date.fromisoformat(day.date).weekday()]
    parts = ["trading" if day.is_trading else "closed"]
    # The line starts with the weekday, and a session of unknown hours can be the reason as well.
    parts += dict.fromkeys(t for t in (day.holiday, day.session) if t and t != weekday)
    lines = [f"{day.date} {weekday}: {', '.join(parts)}"]
    if day.is_trading:
        lines.append(f"hours: {day.market_hours}")
        phases = (f"{name} {_clock_text(a)} - {_clock_text(b)}" for name, a, b in day.phases)
        lines.append(f"phases: {', '.join(phases)}")
    if not day.is_known and day.session:
        lines.append("not known: the hours of this session, so it counts as closed")
    elif not day.is_known:
        lines.append("not known: no facts for this date, only the rule that weekdays trade")
    return "\n".join(lines)


def _as_date(on: str | date) -> date:
    return iso_date(on) if isinstance(on, str) else on


def _clock_text(epoch_ms: int) -> str:
    return ist_time_text(epoch_ms)[:5]


def _hours_text(windows: tuple[Span, ...]) -> str:
    return ", ".join(f"{hh_mm(a)} - {hh_mm(b)}" for a, b in windows) + " IST"
