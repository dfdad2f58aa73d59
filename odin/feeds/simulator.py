"""A synthetic market: seeded, deterministic, and never mistaken for the real one.

The n-th tick of an instrument on a date depends on (seed, key, date, n) and the instrument's own
data alone, whatever else is wanted and however fast. Invariants: every price lies on the tick grid
and within 20 % of the previous close, low <= open, ltp <= high, and the volume of a day never
falls; what is wanted in full changes none of them. It knows no calendar: it is told whether the
market streams.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from decimal import Decimal
from math import ceil, exp, floor, inf, isfinite, log
from random import Random
from typing import Final

from odin.clock import Clock, ist_date, ist_datetime
from odin.feeds.base import Emit, Report, ignore
from odin.model import Depth, Detail, Instrument, InstrumentKey, Level, Mode, Tick

BAND: Final = 0.20
"""Farthest from the previous close, either way: the widest price band of NSE."""
STEP: Final = 0.0006
"""Width of one step of the walk, of the previous close: a deviation of 1.7 basis points."""
PULL: Final = 0.0002
"""Part of the distance to the previous close that each step takes back. With STEP it keeps the
walk within about 1 % of the previous close for two thirds of the time."""
OPENING_GAP: Final = 0.01
"""Width of the range, around the previous close, in which a day opens."""
CHEAPEST: Final = 20.0
DEAREST: Final = 4000.0
"""Range of the made-up previous closes, in rupees."""
DEFAULT_TICK_SIZE: Final = 0.05
DEPTH_LEVELS: Final = 5
"""Of each side of the order book, as Indian brokers show it."""

SLICE_TICKS: Final = 64
"""Ticks between two turns of the event loop: about 1 ms of work downstream."""
SHORTEST_SLEEP_S: Final = 0.001
LONGEST_SLEEP_S: Final = 0.04
"""A newly wanted instrument and the opening bell wait no longer than this."""
LONGEST_CATCH_UP_S: Final = 0.25
"""After a stall, ticks older than this are left out rather than sent in a burst."""
DAY_MS: Final = 86_400_000


def _nothing_known(key: InstrumentKey) -> float | None:
    return None


class Simulator:
    """A feed of random walks around the previous close.

    seed: the same seed gives the same market.
    rate_hz: ticks a second for each wanted instrument, spread evenly.
    clock: market time; its date in India is the trading day.
    is_streaming: whether the market streams now; nothing is emitted while it does not.
    prev_close: the previous close in rupees, or None where it is not known; then the instrument's
        reference close is taken, or a plausible price that depends on the seed.
    """

    name = "simulator"
    is_simulated = True

    def __init__(
        self,
        *,
        seed: int,
        rate_hz: float,
        clock: Clock,
        is_streaming: Callable[[], bool],
        prev_close: Callable[[InstrumentKey], float | None] = _nothing_known,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._seed = seed
        self._rate_hz = rate_hz
        self._clock = clock
        self._is_streaming = is_streaming
        self._prev_close = prev_close
        self._monotonic = monotonic
        self._sleep = sleep
        self._fresh: OrderedDict[InstrumentKey, Instrument] = OrderedDict()
        """Newly wanted: their first tick is due at once."""
        self._ring: OrderedDict[InstrumentKey, Instrument] = OrderedDict()
        """The other wanted ones, in the order of their turns."""
        self._full: set[InstrumentKey] = set()
        """Wanted in full."""
        self._walks: dict[InstrumentKey, Walk] = {}
        """Today's walks, also of instruments that are no longer wanted: they may come back."""
        self._has_wanted = asyncio.Event()
        self._day_start_ms = self._day_end_ms = 0
        self._date = ""

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        """Simulate these too; the first tick of each is due within 50 ms while streaming.

        In the full mode ticks carry details and an order book; otherwise they are the same.
        """
        keys = {instrument.key for instrument in instruments}
        self._full = self._full | keys if mode == "full" else self._full - keys
        for instrument in instruments:
            queue = self._ring if instrument.key in self._ring else self._fresh
            queue[instrument.key] = instrument
        if instruments:
            self._has_wanted.set()

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Simulate these no longer."""
        self._full.difference_update(keys)
        for key in keys:
            self._fresh.pop(key, None)
            self._ring.pop(key, None)
        if not self._count:
            self._has_wanted.clear()

    @property
    def _count(self) -> int:
        return len(self._fresh) + len(self._ring)

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        """Emit ticks for ever."""
        due = 0.0
        last_s = self._monotonic()
        while True:
            if not self._count:
                await self._has_wanted.wait()
                last_s = self._monotonic()
            if not self._is_streaming():
                self._ring.update(self._fresh)  # so that the opening is no burst
                self._fresh.clear()
                due = 0.0
                await self._sleep(LONGEST_SLEEP_S)
                last_s = self._monotonic()
                continue
            now_s = self._monotonic()
            rate = self._rate_hz * self._count
            due = min(due + (now_s - last_s) * rate, max(1.0, LONGEST_CATCH_UP_S * rate))
            last_s = now_s
            due -= self._emit_slice(emit, int(due))
            if self._fresh or due >= 1:
                await self._sleep(0)
                continue
            rate = self._rate_hz * max(1, self._count)
            await self._sleep(min(max((1 - due) / rate, SHORTEST_SLEEP_S), LONGEST_SLEEP_S))

    def _emit_slice(self, emit: Emit, due: int) -> int:
        """Emit what is fresh, then up to `due` regular ticks, SLICE_TICKS in all; return how many
        of them were regular."""
        regular = 0
        now_ms = self._clock.now_ms
        for _ in range(SLICE_TICKS):
            if self._fresh:
                key, instrument = self._fresh.popitem(last=False)
                self._ring[key] = instrument
            elif regular < due and self._ring:
                key = next(iter(self._ring))
                instrument = self._ring[key]
                self._ring.move_to_end(key)
                regular += 1
            else:
                break
            tick_ms = now_ms()
            if not self._day_start_ms <= tick_ms < self._day_end_ms:
                self._begin_day(tick_ms)
            walk = self._walks.get(key)
            if walk is None:
                walk = self._walks[key] = Walk(
                    instrument,
                    Random(f"{self._seed}/{'/'.join(map(str, key))}/{self._date}"),
                    self._previous_close(instrument),
                )
            tick = walk.step(tick_ms)
            emit(tick._replace(detail=walk.detail()) if key in self._full else tick)
        return regular

    def _begin_day(self, now_ms: int) -> None:
        midnight = ist_datetime(now_ms).replace(hour=0, minute=0, second=0, microsecond=0)
        self._day_start_ms = round(midnight.timestamp() * 1000)
        self._day_end_ms = self._day_start_ms + DAY_MS
        self._date = ist_date(now_ms)
        self._walks.clear()

    def _previous_close(self, instrument: Instrument) -> float:
        for known in (self._prev_close(instrument.key), instrument.reference_close):
            if known is not None and isfinite(known) and known > 0:
                return known
        chance = Random(f"{self._seed}/{'/'.join(map(str, instrument.key))}").random()
        numerator, denominator = _grid(instrument.tick_size)
        made_up = exp(log(CHEAPEST) + chance * (log(DEAREST) - log(CHEAPEST)))
        return max(1, round(made_up * denominator / numerator)) * numerator / denominator


class Walk:
    """One trading day of one instrument: a random walk on its tick grid.

    prev_close: in rupees, positive and finite; need not lie on the grid.
    """

    __slots__ = (
        "_chance",
        "_denominator",
        "_high",
        "_highest",
        "_key",
        "_low",
        "_lowest",
        "_numerator",
        "_open",
        "_position",
        "_prev_close",
        "_size",
        "_start",
        "_step_width",
        "_turnover",
        "_unit",
        "_volume",
    )

    def __init__(self, instrument: Instrument, random: Random, prev_close: float) -> None:
        self._key = instrument.key
        self._chance = random.random
        # Prices are whole numbers of ticks times an exact fraction: one division of integers is
        # the float nearest to the decimal price, 1365.55 and not 1365.5500000000002.
        self._numerator, self._denominator = _grid(instrument.tick_size)
        self._prev_close = prev_close
        self._start = prev_close * self._denominator / self._numerator
        self._lowest = max(1, ceil(self._start * (1 - BAND)))
        self._highest = floor(self._start * (1 + BAND))
        if self._highest < self._lowest:  # a band without a price in it: stay on the nearest one
            self._lowest = self._highest = max(1, round(self._start))
        self._step_width = self._start * STEP
        self._position = self._start * (1 + OPENING_GAP * (self._chance() - 0.5))
        self._open = self._high = 0.0
        self._low = inf
        self._volume = 0
        self._turnover = 0
        """Volume times price in ticks."""
        self._size = 0.0
        """Of the last trade, as a chance between 0 and 1."""
        self._unit = 0 if instrument.kind == "index" else max(1, instrument.lot_size)

    def step(self, exchange_ms: int) -> Tick:
        """Return the next tick, stamped with the given time."""
        chance = self._chance
        position = self._position
        if self._open:
            position += self._step_width * (chance() - 0.5) + PULL * (self._start - position)
        ticks = round(position)
        if ticks < self._lowest:
            position = ticks = self._lowest
        elif ticks > self._highest:
            position = ticks = self._highest
        self._position = position
        price = ticks * self._numerator / self._denominator
        if price > self._high:
            self._high = price
        if price < self._low:
            self._low = price
        if not self._open:
            self._open = price
        size = chance()
        traded = self._unit * (1 + int(400 * size * size * size * size))
        self._volume += traded
        self._turnover += traded * ticks
        self._size = size
        return Tick(
            self._key,
            exchange_ms,
            price,
            self._volume,
            self._open,
            self._high,
            self._low,
            self._prev_close,
        )

    def detail(self) -> Detail:
        """Return the details of the last tick; nothing for an index, which nobody trades."""
        if not self._unit:
            return Detail()
        average = self._turnover / self._volume * self._numerator / self._denominator
        ticks = round(self._position)
        draws = _draws(int(self._size * 2**53))
        buy = self._levels(range(ticks, 0, -1), draws)
        sell = self._levels(range(ticks + 1, ticks + 1 + DEPTH_LEVELS), draws)
        total_buy, total_sell = (
            sum(level.quantity for level in side) * (20 + next(draws) % 60) for side in (buy, sell)
        )
        return Detail(
            min(max(round(average, 2), self._low), self._high),
            total_buy,
            total_sell,
            depth=Depth(buy, sell),
        )

    def _levels(self, prices_in_ticks: Sequence[int], draws: Iterator[int]) -> tuple[Level, ...]:
        """Return the best levels of a side: farther from the price more is offered."""
        levels = []
        for distance, ticks in enumerate(prices_in_ticks[:DEPTH_LEVELS], start=1):
            orders = 1 + next(draws) % (8 * distance)
            quantity = self._unit * orders * (1 + next(draws) % 50)
            levels.append(Level(ticks * self._numerator / self._denominator, quantity, orders))
        return tuple(levels)


def _draws(seed: int) -> Iterator[int]:
    """Yield numbers below 2**31 that depend on the seed alone. Not of the walk's own chance: its
    prices must be the same with and without an order book."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def _grid(tick_size: float) -> tuple[int, int]:
    """Return the tick size as an exact fraction: 0.05 is (1, 20)."""
    if not (isfinite(tick_size) and tick_size > 0):
        tick_size = DEFAULT_TICK_SIZE
    return Decimal(repr(tick_size)).as_integer_ratio()
