"""The quote board: ticks become quotes.

One slotted record for each instrument holds its trading day and its year; a tick changes it in
place and yields a new Quote. Invariant: low <= open, ltp <= high, and no zero, negative or
non-finite price is ever in a quote. A trading day is a calendar day in India. The board knows no
market hours and asks nobody for history: the caller gates, and loads.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from math import nan
from typing import Final

from odin.clock import NS_PER_MS, NS_PER_S, Rfc3339, ist_date
from odin.metrics import Metrics
from odin.model import MAX_PRICE, Detail, Instrument, InstrumentKey, Quote, Tick, YearSummary

IST_OFFSET_MS: Final = 19_800_000
DAY_MS: Final = 86_400_000
MAX_AHEAD_NS: Final = 86_400 * NS_PER_S
"""A tick from further in the future is impossible: applied, it would silence its instrument,
since every later one would be older."""
MAX_VOLUME: Final = 2**53 - 1
"""Largest integer that every JSON reader keeps exact."""


class QuoteBoard:
    """The newest quote of every instrument that has had a tick.

    find: the instrument of a key, or None where the master has none. It is asked at an
        instrument's first tick and by `refresh_names` only.
    metrics: where dropped ticks are counted.
    """

    def __init__(
        self, find: Callable[[InstrumentKey], Instrument | None], metrics: Metrics
    ) -> None:
        self._find = find
        self._metrics = metrics
        self._rfc3339 = Rfc3339()
        self._states: dict[InstrumentKey, _State] = {}
        self._unlisted: dict[InstrumentKey, _State] = {}
        """States of instruments that left the master, kept in case they come back."""
        self._summaries: Mapping[InstrumentKey, YearSummary] = {}
        self._history_day: str | None = None

    @property
    def history_day(self) -> str | None:
        """ISO date of the trading day whose history is loaded; None before the first load."""
        return self._history_day

    def apply(
        self, tick: Tick, now_ns: int, *, is_pre_open: bool = False, source: str = ""
    ) -> Quote | None:
        """Take in a tick and return the instrument's new quote, or None where it is dropped.

        Dropped and counted are ticks of unknown instruments, ticks whose price or exchange time
        is impossible, and ticks older than the last applied one of the instrument (one of the
        same millisecond is applied). An impossible optional field is ignored by itself.

        The new-high flag is True where the last price lies above the 52-week high as it stood
        before this tick, and is the day's high; likewise the new-low flag. A day high that only
        the feed states raises the 52-week high without the flag.

        now_ns: when the tick is applied, ns since the epoch; becomes `last_updated`.
        is_pre_open: whether no session of the day has begun yet. Such prices are shown, but
            the day's open, high, low and volume, and the 52-week values, begin with the session.
        source: name of the feed, where quotes are to say it.
        """
        key, exchange_ms, ltp, volume, feed_open, feed_high, feed_low, prev_close, detail = tick
        state = self._states.get(key) or self._admit(key)
        if state is None:
            self._metrics.ticks_unknown += 1
            return None
        if type(ltp) is not float:
            ltp = _as_float(ltp)
        if type(exchange_ms) is not int or not (
            0 <= exchange_ms * NS_PER_MS < now_ns + MAX_AHEAD_NS and 0.0 < ltp < MAX_PRICE
        ):
            self._metrics.ticks_invalid += 1
            return None
        if exchange_ms < state.exchange_ms:
            self._metrics.ticks_out_of_order += 1
            return None

        if exchange_ms >= state.day_end_ms:
            state.roll(exchange_ms, ltp)
        elif state.is_pre_open:
            # Some feeds show yesterday's state before the opening, under the time of arrival.
            state.open = state.high = state.low = ltp
            state.volume = 0
        state.is_pre_open = is_pre_open
        state.exchange_ms = exchange_ms
        state.ltp = ltp
        high = state.high
        low = state.low
        if ltp > high:
            high = ltp
        elif ltp < low:
            low = ltp
        # The comparisons below are all False for NaN, so a broken field falls through.
        if feed_open is not None:
            if type(feed_open) is not float:
                feed_open = _as_float(feed_open)
            if 0.0 < feed_open < MAX_PRICE:
                state.open = feed_open
                if feed_open > high:
                    high = feed_open
                elif feed_open < low:
                    low = feed_open
        if feed_high is not None:
            if type(feed_high) is not float:
                feed_high = _as_float(feed_high)
            if high < feed_high < MAX_PRICE:
                high = feed_high
        if feed_low is not None:
            if type(feed_low) is not float:
                feed_low = _as_float(feed_low)
            if 0.0 < feed_low < low:
                low = feed_low
        if prev_close is not None:
            if type(prev_close) is not float:
                prev_close = _as_float(prev_close)
            if 0.0 < prev_close < MAX_PRICE:
                state.prev_close = prev_close
                state.is_prev_close_fed = True
        if type(volume) is int and state.volume < volume <= MAX_VOLUME:
            state.volume = volume
        state.high = high
        state.low = low
        if source != state.source:  # an order book is no part of another feed's quote
            state.source = source
            state.detail = None
        if detail is not None:
            state.detail = detail if state.detail is None else _merged(state.detail, detail)

        is_new_high = is_new_low = False
        year = state.year
        if year is not None and not is_pre_open and (high >= year.high or low <= year.low):
            is_new_high = year.high < ltp == high
            is_new_low = year.low > ltp == low
            year.extend(high, state.date, low, state.date)
        quote = state.compose(self._rfc3339(now_ns), is_new_high, is_new_low)
        state.quote = quote
        return quote

    def load_history(self, summaries: Mapping[InstrumentKey, YearSummary], day: str) -> None:
        """Set the year of daily history that ends before the trading day `day` (ISO date).

        The mapping is kept, not copied, and replaces the one of the last load; an instrument
        that is not in it has no 52-week fields. Everything seen live stays: today's extremes,
        and those of earlier days that the history does not reach yet. Quotes already made are
        corrected, apart from their new-high and new-low flags.

        Ticks of a day after `day` go on extending the same year, so the extremes of `day` itself
        are held when the next day begins; until the next load the window only begins too early,
        by the days that have passed. Ticks of a day before `day`, such as a feed sends on
        connecting in the morning, extend it too: their day lies in the window.

        Raises ValueError where `day` is no ISO date.
        """
        date.fromisoformat(day)
        self._summaries = summaries
        self._history_day = day
        for states in (self._states, self._unlisted):
            for key, state in states.items():
                state.load(summaries.get(key))

    def refresh_names(self) -> None:
        """Ask for every instrument again, after the master has changed.

        A renamed one shows its new symbol from now on. One that is gone has no quote, and its
        ticks are unknown; where it comes back the same day nothing of that day is lost.
        """
        known = self._states | self._unlisted
        self._states = {}
        self._unlisted = {}
        for key, state in known.items():
            instrument = self._find(key)
            if instrument is None:
                self._unlisted[key] = state
            else:
                state.rename(instrument)
                self._states[key] = state

    def quote(self, key: InstrumentKey) -> Quote | None:
        """Return the newest quote; None where the instrument has had no tick."""
        state = self._states.get(key)
        return None if state is None else state.quote

    def detail(self, key: InstrumentKey) -> Detail | None:
        """Return what the full mode adds to the newest quote; None where nothing of it is known."""
        state = self._states.get(key)
        return None if state is None else state.detail

    def forget_detail(self, key: InstrumentKey) -> None:
        """Drop what the full mode adds: it may be older than the newest quote."""
        state = self._states.get(key) or self._unlisted.get(key)
        if state is not None:
            state.detail = None

    def quotes(self, keys: Iterable[InstrumentKey]) -> list[Quote]:
        """Return the newest quotes in the order of `keys`, without those that have none."""
        return [quote for key in keys if (quote := self.quote(key)) is not None]

    def last_tick_ms(self, key: InstrumentKey) -> int | None:
        """Return the exchange time of the newest applied tick; None before the first one."""
        quote = self.quote(key)
        return None if quote is None else quote.timestamp

    def forget(self, key: InstrumentKey) -> None:
        """Drop all that was seen live of an instrument; its next tick begins its day anew."""
        self._states.pop(key, None)
        self._unlisted.pop(key, None)

    def _admit(self, key: InstrumentKey) -> "_State | None":
        instrument = self._find(key)
        if instrument is None:
            return None
        state = self._unlisted.pop(key, None)
        if state is None:
            state = _State(instrument)
            state.load(self._summaries.get(key))
        else:
            state.rename(instrument)
        self._states[key] = state
        return state


class _Extremes:
    """The highest and the lowest price of some days, each with the last date it was reached."""

    __slots__ = ("high", "high_date", "low", "low_date")

    def __init__(self, high: float, high_date: str, low: float, low_date: str) -> None:
        self.high = high
        self.high_date = high_date
        self.low = low
        self.low_date = low_date

    def extend(self, high: float, high_date: str, low: float, low_date: str) -> None:
        """Take in later days; a price they equal gets their date, as in the daily history."""
        if high >= self.high:
            self.high = high
            self.high_date = high_date
        if low <= self.low:
            self.low = low
            self.low_date = low_date


class _State:
    """What the board keeps for one instrument: its trading day, its year, its newest quote."""

    __slots__ = (
        "date",
        "day_end_ms",
        "detail",
        "exchange",
        "exchange_ms",
        "high",
        "is_pre_open",
        "is_prev_close_fed",
        "low",
        "ltp",
        "open",
        "past",
        "past_close",
        "past_date",
        "prev_close",
        "quote",
        "source",
        "summary",
        "symbol",
        "token",
        "volume",
        "year",
    )

    def __init__(self, instrument: Instrument) -> None:
        self.symbol = instrument.symbol
        self.token = instrument.token
        self.exchange = instrument.exchange
        # The trading day. `date` is "" before the first tick.
        self.date = ""
        self.day_end_ms = 0
        self.is_pre_open = False
        self.exchange_ms = 0
        self.ltp = self.open = self.high = self.low = 0.0
        self.volume = 0
        self.prev_close: float | None = None
        self.is_prev_close_fed = False
        # Earlier days seen live, as far as the history does not hold them: their extremes, the
        # newest one's date ("" if there was none) and its last price.
        self.past: _Extremes | None = None
        self.past_date = ""
        self.past_close: float | None = None
        # The year: history and everything seen live. Both are None without history.
        self.summary: YearSummary | None = None
        self.year: _Extremes | None = None
        self.quote: Quote | None = None
        self.detail: Detail | None = None
        self.source = ""

    def roll(self, exchange_ms: int, ltp: float) -> None:
        """Begin the trading day of `exchange_ms` with its first price."""
        if self.date and not self.is_pre_open:
            self.past = self.past or _Extremes(self.high, self.date, self.low, self.date)
            self.past.extend(self.high, self.date, self.low, self.date)
            self.past_date = self.date
            self.past_close = self.ltp
        days = (exchange_ms + IST_OFFSET_MS) // DAY_MS
        self.day_end_ms = (days + 1) * DAY_MS - IST_OFFSET_MS
        self.date = ist_date(exchange_ms)
        self.open = self.high = self.low = ltp
        self.volume = 0
        self.detail = None
        self.prev_close = self.official_close() or self.past_close
        self.is_prev_close_fed = False

    def official_close(self) -> float | None:
        """Return the close before `date` where the history knows it better than we do, because
        it reaches the newest earlier day that was seen live, or beyond."""
        summary = self.summary
        if summary is not None and self.past_date <= summary.prev_date < self.date:
            return summary.prev_close
        return None

    def load(self, summary: YearSummary | None) -> None:
        """Put another history under what was seen live."""
        self.summary = summary
        self.year = None
        if summary is not None:
            year = _Extremes(summary.high, summary.high_date, summary.low, summary.low_date)
            if summary.prev_date >= self.past_date:
                self.past = None
            elif self.past is not None:
                past = self.past
                year.extend(past.high, past.high_date, past.low, past.low_date)
            if self.date:
                year.extend(self.high, self.date, self.low, self.date)
            self.year = year
        if not self.is_prev_close_fed:
            self.prev_close = self.official_close() or self.prev_close
        self.recompose()

    def rename(self, instrument: Instrument) -> None:
        """Show the instrument's present symbol."""
        self.symbol = instrument.symbol
        self.recompose()

    def recompose(self) -> None:
        """Bring the newest quote, if there is one, up to date between two ticks."""
        last = self.quote
        if last is not None:
            self.quote = self.compose(
                last.last_updated, last.is_new_week_52_high, last.is_new_week_52_low
            )

    def compose(self, last_updated: str, is_new_high: bool, is_new_low: bool) -> Quote:
        """Return the quote of the present state."""
        ltp = self.ltp
        high = self.high
        low = self.low
        close = self.prev_close
        summary = self.summary
        year = self.year
        if summary is None or year is None:
            avg_volume = year_high = year_low = year_high_date = year_low_date = None
        else:
            avg_volume = summary.avg_volume_5d
            year_high = year.high
            year_low = year.low
            year_high_date = year.high_date
            year_low_date = year.low_date
        return Quote(
            self.symbol,
            self.token,
            self.exchange,
            ltp,
            self.open,
            high,
            low,
            close,
            close,
            self.volume,
            0.0 if close is None else (ltp - close) / close * 100,
            year_high,
            year_low,
            year_high_date,
            year_low_date,
            high,
            low,
            avg_volume,
            self.exchange_ms,
            last_updated,
            is_new_high,
            is_new_low,
            self.source,
        )


def _merged(known: Detail, news: Detail) -> Detail:
    """Return the news, completed by what was known where it is silent."""
    if None not in (news.avg_price, news.total_buy_qty, news.total_sell_qty, news.oi, news.depth):
        return news
    return Detail(
        known.avg_price if news.avg_price is None else news.avg_price,
        known.total_buy_qty if news.total_buy_qty is None else news.total_buy_qty,
        known.total_sell_qty if news.total_sell_qty is None else news.total_sell_qty,
        known.oi if news.oi is None else news.oi,
        known.depth if news.depth is None else news.depth,
    )


def _as_float(value: object) -> float:
    """Return a number that is not a float yet as one; NaN for what is no number, like True."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return nan
    return nan
