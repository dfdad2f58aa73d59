"""Keeps one feed running and says how it is.

It forwards what is wanted, starts a feed again that broke off, waits for new credentials where the
old ones were refused, and notices silence. Invariant: a feed is called stale only while something
is wanted, the market is expected to move and the silence cannot be chance. It knows no venue.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

from odin.errors import FeedError, FeedRejected, FeedSilent, FeedUnavailable
from odin.feeds.base import Emit, Feed, LinkEvent
from odin.metrics import Metrics
from odin.model import FeedGap, FeedState, FeedStatus, Instrument, InstrumentKey, Mode, Tick

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_LIMIT_S: Final = 60.0
GOOD_DATA_S: Final = 60.0
"""A feed that delivered for so long starts its backoff from the beginning."""
CREDENTIALS_CHECK_S: Final = 30.0
"""How often a rejected feed looks whether its credentials have changed. Doubles, up to 32 times, as
often as the new ones are refused too: a source that never says the same twice must not hammer."""
MISSED_TICKS: Final = 20.0
"""Ticks that must have been missed, at the rate they came before, for silence to mean anything: a
single quiet stock may well say nothing for an hour."""
RATE_MEMORY_S: Final = 300.0
"""How far back that rate looks."""
GIVE_UP_AFTER: Final = 4.0
"""A stale feed is broken off when its silence is so many times `stale_after_s`."""

Event = Literal[
    "wanted",
    "unwanted",
    "login",
    "ready",
    "parked",
    "resumed",
    "tick",
    "silence",
    "unexpected",
    "failure",
    "retry",
    "rejection",
    "end",
]

TRANSITIONS: Final[dict[tuple[FeedState, Event], FeedState]] = {
    ("idle", "wanted"): "connecting",
    ("idle", "resumed"): "streaming",
    ("connecting", "unwanted"): "idle",
    ("streaming", "unwanted"): "idle",
    ("stale", "unwanted"): "idle",
    ("idle", "login"): "authenticating",
    ("connecting", "login"): "authenticating",
    ("stale", "login"): "authenticating",
    ("idle", "ready"): "streaming",
    ("connecting", "ready"): "streaming",
    ("authenticating", "ready"): "streaming",
    ("stale", "ready"): "streaming",
    ("connecting", "parked"): "idle",
    ("authenticating", "parked"): "idle",
    ("connecting", "tick"): "streaming",
    ("authenticating", "tick"): "streaming",
    ("stale", "tick"): "streaming",
    ("connecting", "silence"): "stale",
    ("streaming", "silence"): "stale",
    ("stale", "unexpected"): "connecting",
    ("stale", "resumed"): "streaming",
    ("idle", "failure"): "backoff",
    ("connecting", "failure"): "backoff",
    ("authenticating", "failure"): "backoff",
    ("streaming", "failure"): "backoff",
    ("stale", "failure"): "backoff",
    ("backoff", "retry"): "connecting",
    ("rejected", "retry"): "connecting",
    ("idle", "rejection"): "rejected",
    ("connecting", "rejection"): "rejected",
    ("authenticating", "rejection"): "rejected",
    ("streaming", "rejection"): "rejected",
    ("stale", "rejection"): "rejected",
    ("idle", "end"): "stopped",
    ("connecting", "end"): "stopped",
    ("authenticating", "end"): "stopped",
    ("streaming", "end"): "stopped",
    ("stale", "end"): "stopped",
    ("backoff", "end"): "stopped",
}
"""The supervisor's states. A pair that is not listed changes nothing.

idle: nothing is wanted. connecting: something is, and the feed is on its way, or has yet to say
anything. authenticating: connected, credentials sent. streaming: ready, or ticks arrive. stale:
they should and do not. backoff: broken off, waiting to try again. rejected: the credentials were
refused; they are not tried again before they change. stopped is final.
"""


class FeedSupervisor:
    """Keeps one feed running and says how it is.

    emit: takes every tick, synchronously; what it raises is treated as a fault of the feed.
    clock_ms: market time.
    is_expected: whether ticks should be arriving now: True in an open market, False outside hours
        and in the closing auction.
    on_status: called once for every change of `state` or `is_stale`.
    on_gap: told what an open market has missed, with the first tick after a feed broke off.
    has_new_credentials: whether those that were refused have been replaced; without it a
        rejection is final.
    monotonic, sleep, uniform: where time and chance come from; uniform returns [0, 1).
    """

    def __init__(
        self,
        feed: Feed,
        emit: Emit,
        *,
        metrics: Metrics,
        clock_ms: Callable[[], int],
        is_expected: Callable[[], bool],
        stale_after_s: float,
        on_status: Callable[[FeedStatus], None],
        on_gap: Callable[[FeedGap], None] = lambda _: None,
        has_new_credentials: Callable[[], Awaitable[bool]] | None = None,
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
        self._on_gap = on_gap
        self._has_new_credentials = has_new_credentials
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._wanted: dict[InstrumentKey, _Wanted] = {}
        self._state: FeedState = "idle"
        self._is_stale = False
        self._is_linked = False
        """Whether the feed has a connection, and it is ready."""
        self._linked_since_s = 0.0
        self._problem = ""
        self._run: asyncio.Timeout | None = None
        self._is_first_tick_due = True
        """Whether the next tick may change the state: looked at for every tick."""
        self._last_tick_ms: int | None = None
        self._last_tick_s = monotonic()
        self._first_tick_s: float | None = None
        """When the first tick of this run of the feed arrived."""
        self._ticks = 0
        """Those of wanted instruments since the watchdog last looked, as `_Wanted` counts them."""
        self._pace = _Pace()
        self._outage_since_s: float | None = None
        """When the feed broke off, if nothing has come since."""
        self._expected_since_s: float | None = None
        self._wanted_since_s = monotonic()
        self._gap_from_ms: int | None = None
        self._attempts = 0
        self._rejections = 0

    @property
    def status(self) -> FeedStatus:
        """The feed's state now; `is_stale` outlives a reconnect, until the next tick."""
        return FeedStatus(
            self._feed.name, self._state, self._is_stale, self._last_tick_ms, self._problem
        )

    def missing_since_ms(self) -> int | None:
        """Return since when ticks that should be arriving are not: since the last one, or the
        opening, or when they became wanted, if that came later. None where none are expected."""
        if not self._wanted or self._expected_since_s is None:
            return None
        since_s = max(self._expected_since_s, self._wanted_since_s)
        since_ms = self._clock_ms() - int((self._monotonic() - since_s) * 1000)
        return max(self._last_tick_ms or 0, since_ms)

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        """Ask the feed for these instruments in this mode, now and after every restart."""
        if not instruments:
            return
        if not self._wanted:
            self._wanted_since_s = self._monotonic()
            self._is_first_tick_due = True
        for item in instruments:
            known = self._wanted.get(item.key)
            if known is None:
                self._wanted[item.key] = _Wanted(item, mode)
            else:
                known.instrument, known.mode = item, mode
        self._feed.want(instruments, mode)
        self._enter("resumed" if self._is_linked else "wanted")

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Ask the feed for these instruments no longer."""
        ticks = sum(wanted.ticks for wanted in self._wanted.values())
        left = ticks
        for key in keys:
            gone = self._wanted.pop(key, None)
            left -= 0 if gone is None else gone.ticks
        self._feed.unwant(keys)
        if self._wanted:
            share = left / ticks if ticks else 1.0
            self._ticks = int(self._ticks * share)
            self._pace.shrink(share)
        else:
            self._pace = _Pace()
            self._gap_from_ms = None
            self._enter("unwanted", is_stale=False)

    async def run(self) -> None:
        """Run the feed until it ends or is rejected for good; cancel to stop it."""
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
            failure = await self._run_once()
            self._is_linked = False
            if failure is None:
                log.info("feed %s has ended", name)
                return
            self._problem = str(failure)
            if self._outage_since_s is None:
                self._outage_since_s = self._monotonic()
            self._note_gap()
            if isinstance(failure, FeedRejected):
                log.error("feed %s was rejected and stays off: %s", name, failure)
                is_missed = bool(self._wanted) and self._expected_since_s is not None
                self._enter("rejection", is_stale=is_missed)
                if self._has_new_credentials is None:
                    return
                await self._wait_for_credentials(self._has_new_credentials)
                log.info("feed %s has new credentials", name)
                self._attempts = 0
            else:
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

    async def _run_once(self) -> Exception | None:
        """Run the feed; return why it broke off, None where its source has ended."""
        self._first_tick_s = None
        self._is_first_tick_due = True
        for wanted in self._wanted.values():
            wanted.has_spoken, wanted.ticks = False, 0
        self._run = run = asyncio.timeout(None)
        try:
            for mode in {wanted.mode for wanted in self._wanted.values()}:
                self._feed.want(
                    [w.instrument for w in self._wanted.values() if w.mode == mode], mode
                )
            async with run:
                await self._feed.run(self._take, self._hear)
        except FeedError as error:
            return error
        except TimeoutError:
            if run.expired():
                return FeedSilent("it was connected and said nothing though the market is open")
            return FeedUnavailable("it took too long to answer")
        except Exception as error:  # a feed's bug must not end the server
            log.exception("feed %s failed unexpectedly", self._feed.name)
            self._metrics.faults += 1
            return FeedUnavailable(f"it failed unexpectedly: {type(error).__name__}")
        finally:
            self._run = None
        return None

    async def _wait_for_credentials(
        self, has_new_credentials: Callable[[], Awaitable[bool]]
    ) -> None:
        pause_s = CREDENTIALS_CHECK_S * 2.0 ** min(self._rejections, 5)
        self._rejections += 1
        await self._sleep(pause_s)
        while True:
            try:
                if await has_new_credentials():
                    return
            except Exception:  # a feed that is refused must not stay so for a bug where it asks
                log.exception("the credentials of feed %s could not be looked at", self._feed.name)
                self._metrics.faults += 1
            await self._sleep(CREDENTIALS_CHECK_S)

    # ------------------------------------------------------------------ what the feed says

    def _take(self, tick: Tick) -> None:
        self._metrics.ticks += 1
        wanted = self._wanted.get(tick.key)
        if wanted is not None:
            if wanted.has_spoken:
                wanted.ticks += 1
                self._ticks += 1
            else:
                wanted.has_spoken = True
        self._last_tick_s = self._monotonic()
        self._last_tick_ms = self._clock_ms()
        if self._is_first_tick_due:
            self._is_first_tick_due = False
            if self._first_tick_s is None:
                self._first_tick_s = self._last_tick_s
            self._problem = ""
            self._rejections = 0
            self._outage_since_s = None
            self._pace.hear()
            self._enter("tick", is_stale=False)
            if self._gap_from_ms is not None:
                gap = FeedGap(self._feed.name, self._gap_from_ms, self._last_tick_ms)
                self._gap_from_ms = None
                self._on_gap(gap)
        self._emit(tick)

    def _hear(self, event: LinkEvent) -> None:
        if event == "login":
            self._enter("login")
        elif event == "ready":
            self._is_linked = True
            self._linked_since_s = self._monotonic()
            self._problem = ""
            self._rejections = 0
            self._enter("ready" if self._wanted else "parked")

    def _has_delivered_well(self) -> bool:
        return (
            self._first_tick_s is not None and self._last_tick_s - self._first_tick_s >= GOOD_DATA_S
        )

    # ------------------------------------------------------------------ silence

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
        ticks, self._ticks = self._ticks, 0
        if not self._is_expected():
            self._expected_since_s = self._gap_from_ms = None
            if now_s - self._last_tick_s < RATE_MEMORY_S / MISSED_TICKS:
                self._pace.note(ticks, now_s)
            else:
                self._pace.pause()
            if self._is_stale:
                self._is_first_tick_due = True
                self._enter("resumed" if self._is_linked else "unexpected", is_stale=False)
            return
        if self._expected_since_s is None:
            self._expected_since_s = now_s
        if self._outage_since_s is not None:
            self._note_gap()
        if not self._wanted:
            return
        since_s = max(self._last_tick_s, self._expected_since_s, self._wanted_since_s)
        if self._outage_since_s is not None:
            since_s = max(since_s, self._outage_since_s)
        silent_s = now_s - since_s
        if self._is_stale:
            self._pace.pause()
            self._enter("silence")  # a new attempt is as stale as the one before it
            since_s = max(since_s, self._linked_since_s)
            if self._is_linked and now_s - since_s >= GIVE_UP_AFTER * self._stale_after_s:
                self._break_off()
            return
        self._pace.note(ticks, now_s)
        if silent_s >= self._stale_after_s and (
            self._outage_since_s is not None or self._pace.is_telling(silent_s)
        ):
            self._metrics.feed_stale_periods += 1
            self._is_first_tick_due = True
            log.warning("feed %s has been silent for %.1f s", self._feed.name, silent_s)
            self._enter("silence", is_stale=True)

    def _break_off(self) -> None:
        """End this run of a feed whose connection stands and brings nothing."""
        run, self._run = self._run, None  # once: closing the connection may take it a while
        if run is not None:
            run.reschedule(asyncio.get_running_loop().time())

    def _note_gap(self) -> None:
        """Remember since when an open market is missed."""
        if self._gap_from_ms is None:
            self._gap_from_ms = self.missing_since_ms()

    def _enter(self, event: Event, *, is_stale: bool | None = None) -> None:
        """Follow the table, and tell when something about the status has changed."""
        before = (self._state, self._is_stale)
        self._state = TRANSITIONS.get((self._state, event), self._state)
        if is_stale is not None:
            self._is_stale = is_stale
        if (self._state, self._is_stale) != before:
            self._on_status(self.status)


class _Wanted:
    """What is asked of the feed for one instrument, and what has come of it in this run."""

    __slots__ = ("has_spoken", "instrument", "mode", "ticks")

    def __init__(self, instrument: Instrument, mode: Mode) -> None:
        self.instrument = instrument
        self.mode = mode
        self.has_spoken = False
        self.ticks = 0
        """Without the first: it is the last known state, which every venue sends unasked and which
        says nothing of how often more will come."""


class _Pace:
    """How often ticks have come lately, as far as the market was expected to move."""

    __slots__ = ("_has_spoken", "_noted_s", "_span_s", "_ticks")

    def __init__(self) -> None:
        self._has_spoken = False
        self._ticks = 0.0
        self._span_s = 0.0
        self._noted_s: float | None = None

    def hear(self) -> None:
        """Something has come, were it only the last known state."""
        self._has_spoken = True

    def note(self, ticks: int, now_s: float) -> None:
        """Count the ticks since the last call. What is long ago fades."""
        elapsed_s = 0.0 if self._noted_s is None else now_s - self._noted_s
        self._noted_s = now_s
        fade = max(0.0, 1.0 - elapsed_s / RATE_MEMORY_S)
        self._ticks = self._ticks * fade + ticks
        self._span_s = self._span_s * fade + elapsed_s

    def pause(self) -> None:
        """Let the time until the next `note` count for nothing."""
        self._noted_s = None

    def shrink(self, share: float) -> None:
        """Expect only this share of what came before."""
        self._ticks *= share

    def is_telling(self, silent_s: float) -> bool:
        """Whether a silence is longer than chance allows. Where nothing has come yet it always is:
        every venue sends the last known state first."""
        if not self._has_spoken:
            return True
        return self._ticks * silent_s >= MISSED_TICKS * max(self._span_s, silent_s)
