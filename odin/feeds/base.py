"""What a feed is, what keeps one running, and what decides which instruments it carries.

Demand turns many subscribers into one set of wanted instruments; the supervisor forwards that set,
restarts a feed that breaks off and notices one that falls silent. Invariants: an instrument is
wanted from its first subscriber until `linger_s` after its last; a feed is called stale only while
something is wanted and the market is expected to move. Nothing here knows a venue.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal, Protocol

from odin.errors import FeedError, FeedRejected, FeedUnavailable
from odin.metrics import Metrics
from odin.model import FeedStatus, Instrument, InstrumentKey, Tick

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_LIMIT_S: Final = 60.0
GOOD_DATA_S: Final = 60.0
"""A feed that delivered for so long starts its backoff from the beginning."""

log = logging.getLogger(__name__)


class Feed(Protocol):
    """A source of ticks."""

    name: str
    """A short lower-case name, shown to clients: "simulator"."""
    is_simulated: bool
    """True where what it delivers is not the live market."""

    async def run(self, emit: Callable[[Tick], None]) -> None:
        """Deliver ticks until cancelled; return when the source has ended for good.

        Ticks of one instrument come in the order of their exchange time. May be called again
        after it has raised.

        Raises FeedUnavailable where trying again may help, FeedRejected where it cannot.
        """
        ...

    def want(self, instruments: Sequence[Instrument]) -> None:
        """Carry these too. Cheap and idempotent; may be called before and during `run`."""
        ...

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Carry these no longer; unknown keys are ignored. May be called at any time."""
        ...


State = Literal["idle", "connecting", "streaming", "stale", "backoff", "rejected", "stopped"]
Event = Literal[
    "wanted", "unwanted", "tick", "silence", "unexpected", "failure", "retry", "rejection", "end"
]

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    ("idle", "wanted"): "connecting",
    ("connecting", "unwanted"): "idle",
    ("streaming", "unwanted"): "idle",
    ("stale", "unwanted"): "idle",
    ("connecting", "tick"): "streaming",
    ("stale", "tick"): "streaming",
    ("connecting", "silence"): "stale",
    ("streaming", "silence"): "stale",
    ("stale", "unexpected"): "connecting",
    ("idle", "failure"): "backoff",
    ("connecting", "failure"): "backoff",
    ("streaming", "failure"): "backoff",
    ("stale", "failure"): "backoff",
    ("backoff", "retry"): "connecting",
    ("idle", "rejection"): "rejected",
    ("connecting", "rejection"): "rejected",
    ("streaming", "rejection"): "rejected",
    ("stale", "rejection"): "rejected",
    ("idle", "end"): "stopped",
    ("connecting", "end"): "stopped",
    ("streaming", "end"): "stopped",
    ("stale", "end"): "stopped",
    ("backoff", "end"): "stopped",
}
"""The supervisor's states. A pair that is not listed changes nothing.

idle: nothing is wanted. connecting: something is, and nothing has arrived yet, as before the
opening. streaming: ticks arrive. stale: they should and do not. backoff: broken off, waiting to
try again. rejected and stopped are final.
"""


class FeedSupervisor:
    """Keeps one feed running and says how it is.

    emit: takes every tick, synchronously; what it raises is treated as a fault of the feed.
    clock_ms: market time, for `FeedStatus.last_tick_ms`.
    is_expected: whether ticks should be arriving now: True in an open market, False outside hours
        and in the closing auction.
    on_status: called once for every change of `state` or `is_stale`.
    monotonic, sleep, uniform: where time and chance come from; uniform returns [0, 1).
    """

    def __init__(
        self,
        feed: Feed,
        emit: Callable[[Tick], None],
        *,
        metrics: Metrics,
        clock_ms: Callable[[], int],
        is_expected: Callable[[], bool],
        stale_after_s: float,
        on_status: Callable[[FeedStatus], None],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._feed = feed
        self._emit = emit
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._is_expected = is_expected
        self._stale_after_s = stale_after_s
        self._on_status = on_status
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._wanted: dict[InstrumentKey, Instrument] = {}
        self._state: State = "idle"
        self._is_stale = False
        self._is_first_tick_due = True
        """Whether the next tick may change the state: looked at for every tick."""
        self._last_tick_ms: int | None = None
        self._last_tick_s = monotonic()
        self._first_tick_s: float | None = None
        """When the first tick of this run of the feed arrived."""
        self._expected_since_s: float | None = None
        self._wanted_since_s = monotonic()
        self._attempts = 0

    @property
    def status(self) -> FeedStatus:
        """The feed's state now; `is_stale` outlives a reconnect, until the next tick."""
        return FeedStatus(self._feed.name, self._state, self._is_stale, self._last_tick_ms)

    def want(self, instruments: Sequence[Instrument]) -> None:
        """Ask the feed for these instruments, now and after every restart."""
        if not instruments:
            return
        if not self._wanted:
            self._wanted_since_s = self._monotonic()
            self._is_first_tick_due = True
        self._wanted.update((instrument.key, instrument) for instrument in instruments)
        self._feed.want(instruments)
        self._enter("wanted")

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Ask the feed for these instruments no longer."""
        for key in keys:
            self._wanted.pop(key, None)
        self._feed.unwant(keys)
        if not self._wanted:
            self._enter("unwanted", is_stale=False)

    async def run(self) -> None:
        """Run the feed until it ends or is rejected; cancel to stop it."""
        watchdog = asyncio.create_task(self._watch())
        try:
            await self._keep_running()
        finally:
            watchdog.cancel()
            await asyncio.gather(watchdog, return_exceptions=True)
            self._enter("end", is_stale=self._is_stale and self._state == "rejected")

    async def _keep_running(self) -> None:
        name = self._feed.name
        while True:
            self._first_tick_s = None
            self._is_first_tick_due = True
            self._feed.want(list(self._wanted.values()))
            try:
                await self._feed.run(self._take)
            except FeedRejected as error:
                log.error("feed %s was rejected and stays off: %s", name, error)
                self._enter("rejection", is_stale=bool(self._wanted))
                return
            except FeedError as error:
                failure: Exception = error
            except Exception as error:  # a feed's bug must not end the server
                log.exception("feed %s failed unexpectedly", name)
                self._metrics.faults += 1
                failure = FeedUnavailable(str(error))
            else:
                log.info("feed %s has ended", name)
                return
            if self._has_delivered_well():
                self._attempts = 0
            delay_s = self._uniform() * min(
                BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2.0 ** min(self._attempts, 16)
            )
            self._attempts += 1
            log.warning("feed %s broke off, next try in %.1f s: %s", name, delay_s, failure)
            self._enter("failure")
            await self._sleep(delay_s)
            self._metrics.feed_restarts += 1
            self._enter("retry")
            if not self._wanted:
                self._enter("unwanted")

    def _take(self, tick: Tick) -> None:
        self._metrics.ticks += 1
        self._last_tick_s = self._monotonic()
        self._last_tick_ms = self._clock_ms()
        if self._is_first_tick_due:
            self._is_first_tick_due = False
            if self._first_tick_s is None:
                self._first_tick_s = self._last_tick_s
            self._enter("tick", is_stale=False)
        self._emit(tick)

    def _has_delivered_well(self) -> bool:
        return (
            self._first_tick_s is not None and self._last_tick_s - self._first_tick_s >= GOOD_DATA_S
        )

    async def _watch(self) -> None:
        interval_s = min(1.0, self._stale_after_s / 4)
        while True:
            try:
                self._look_for_silence()
            except Exception:  # the watchdog outlives a fault in what it asks
                log.exception("the silence watchdog of feed %s failed", self._feed.name)
                self._metrics.faults += 1
            await self._sleep(interval_s)

    def _look_for_silence(self) -> None:
        now_s = self._monotonic()
        if not self._is_expected():
            self._expected_since_s = None
            if self._is_stale:
                self._is_first_tick_due = True
                self._enter("unexpected", is_stale=False)
            return
        if self._expected_since_s is None:
            self._expected_since_s = now_s
        if self._is_stale:
            self._enter("silence")  # a new attempt is as stale as the one before it
            return
        if not self._wanted:
            return
        since_s = max(self._last_tick_s, self._expected_since_s, self._wanted_since_s)
        if now_s - since_s >= self._stale_after_s:
            self._metrics.feed_stale_periods += 1
            self._is_first_tick_due = True
            log.warning("feed %s has been silent for %.1f s", self._feed.name, now_s - since_s)
            self._enter("silence", is_stale=True)

    def _enter(self, event: Event, *, is_stale: bool | None = None) -> None:
        """Follow the table, and tell when something about the status has changed."""
        before = (self._state, self._is_stale)
        self._state = TRANSITIONS.get((self._state, event), self._state)
        if is_stale is not None:
            self._is_stale = is_stale
        if (self._state, self._is_stale) != before:
            self._on_status(self.status)


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not make the call."""
        ...


class _Departure:
    """Keys that lost their last subscriber together, and the timer that lets them go."""

    __slots__ = ("keys", "timer")

    def __init__(self, keys: set[InstrumentKey]) -> None:
        self.keys = keys
        self.timer: Timer | None = None


class Demand:
    """Counts the subscribers of every instrument and keeps upstream wanting the right set.

    find: the instrument of a key, or None where the master has none now.
    want, unwant: what is told, once for each batch that changes something.
    linger_s: how long an instrument stays wanted after its last subscriber, so that a client that
        reconnects finds it flowing.
    call_later: the event loop's, unless a test brings its own.
    """

    def __init__(
        self,
        find: Callable[[InstrumentKey], Instrument | None],
        want: Callable[[Sequence[Instrument]], None],
        unwant: Callable[[Sequence[InstrumentKey]], None],
        *,
        linger_s: float,
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        self._find = find
        self._want = want
        self._unwant = unwant
        self._linger_s = linger_s
        self._call_later = call_later
        self._counts: dict[InstrumentKey, int] = {}
        self._lingering: dict[InstrumentKey, _Departure] = {}
        self._asked: dict[InstrumentKey, Instrument] = {}
        """What upstream was last asked for."""

    @property
    def wanted(self) -> frozenset[InstrumentKey]:
        """Every key with a subscriber, or that lingers after its last one."""
        return frozenset(self._counts.keys() | self._lingering.keys())

    def add(self, keys: Iterable[InstrumentKey]) -> None:
        """Count one more subscriber of each key; upstream hears at once of those that are new."""
        fresh = []
        for key in keys:
            count = self._counts.get(key, 0)
            self._counts[key] = count + 1
            if count:
                continue
            departure = self._lingering.pop(key, None)
            if departure is None:
                fresh.append(key)
                continue
            departure.keys.discard(key)
            if not departure.keys and departure.timer is not None:
                departure.timer.cancel()
        self._ask(fresh)

    def remove(self, keys: Iterable[InstrumentKey]) -> None:
        """Count one subscriber less of each key; keys that have none are ignored."""
        gone = set()
        for key in keys:
            count = self._counts.get(key, 0)
            if count > 1:
                self._counts[key] = count - 1
            elif count:
                del self._counts[key]
                gone.add(key)
        if not gone:
            return
        departure = _Departure(gone)
        self._lingering.update(dict.fromkeys(gone, departure))
        if self._linger_s > 0:
            call_later = self._call_later or asyncio.get_running_loop().call_later
            departure.timer = call_later(self._linger_s, lambda: self._let_go(departure))
        else:
            self._let_go(departure)

    def refresh(self) -> None:
        """Ask again for what a new instrument master has added or changed."""
        self._ask(sorted(self.wanted))

    def close(self) -> None:
        """Cancel all timers; nothing is told upstream."""
        for departure in set(self._lingering.values()):
            if departure.timer is not None:
                departure.timer.cancel()
        self._lingering.clear()

    def _ask(self, keys: Iterable[InstrumentKey]) -> None:
        instruments = []
        for key in keys:
            instrument = self._find(key)
            if instrument is not None and self._asked.get(key) != instrument:
                self._asked[key] = instrument
                instruments.append(instrument)
        if instruments:
            self._want(instruments)

    def _let_go(self, departure: _Departure) -> None:
        keys = sorted(departure.keys)
        for key in keys:
            del self._lingering[key]
        asked = [key for key in keys if self._asked.pop(key, None) is not None]
        if asked:
            self._unwant(asked)
