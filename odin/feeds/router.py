"""Which feed carries which instrument, and who stands in for one that fails.

Instruments are routed by exchange and segment. Where a standby is named, it takes over what a
silent, broken or rejected feed carries, and gives it back once that feed has been well for a
minute; until then nobody listens to that feed for what the standby brings. Invariant: an
instrument is asked of its own feed at all times, and of another only while that one stands in.
Knows no venue.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from odin.feeds.base import Emit, Feed
from odin.feeds.demand import Timer
from odin.feeds.supervisor import GOOD_DATA_S, FeedSupervisor
from odin.metrics import Metrics
from odin.model import FeedGap, FeedState, FeedStatus, Instrument, InstrumentKey, Mode, Tick

log = logging.getLogger(__name__)

UNWELL: frozenset[FeedState] = frozenset({"stale", "backoff", "rejected", "stopped"})

Supervise = Callable[
    [Feed, Emit, Callable[[FeedStatus], None], Callable[[FeedGap], None]], FeedSupervisor
]


class TakeTick(Protocol):
    """Takes a tick; the source is "" where there is one feed only."""

    def __call__(self, tick: Tick, source: str = "") -> None: ...


class Routes:
    """The feed of every exchange and segment.

    default: the feed of all that no route names.
    routes: by "NSE" or "NSE:FO"; the segment's goes before the exchange's.
    """

    def __init__(self, default: str, routes: Mapping[str, str]) -> None:
        self.default = default
        self._routes = dict(routes)
        self.names = tuple(dict.fromkeys((default, *routes.values())))

    def of(self, key: InstrumentKey) -> str:
        """Return the name of the instrument's feed."""
        routes = self._routes
        by_segment = routes.get(f"{key.exchange}:{key.segment}")
        return by_segment or routes.get(key.exchange) or self.default


class FeedRouter:
    """Shares out what is wanted among supervised feeds.

    feeds: all of them, the standby too.
    standby: name of the one that stands in, "" for none.
    supervise: makes the supervisor of a feed.
    emit: takes every tick, and the name of its feed where there are several.
    on_status: told every change of any feed, and of who carries what.
    on_gap: told what nobody brought: until the feed itself or its standby brings something again.
    now_ms: market time.
    call_later: the event loop's, unless a test brings its own.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        routes: Routes,
        *,
        standby: str,
        supervise: Supervise,
        emit: TakeTick,
        on_status: Callable[[FeedStatus], None],
        on_gap: Callable[[FeedGap], None],
        now_ms: Callable[[], int],
        metrics: Metrics,
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        self._routes = routes
        self._standby = standby
        self._forward = emit
        self._on_status = on_status
        self._on_gap = on_gap
        self._now_ms = now_ms
        self._metrics = metrics
        self._call_later = call_later
        self._wanted: dict[str, dict[InstrumentKey, tuple[Instrument, Mode]]] = {}
        """By the feed they are routed to."""
        self._covered: dict[str, Timer | None] = {}
        """Feeds that the standby stands in for, each with the timer that gives back to it."""
        self._brought: set[InstrumentKey] = set()
        """What the standby has brought since it stood in, or since it was last unwell itself."""
        self._missing_since_ms: dict[str, int | None] = {}
        """Covered feeds of whose instruments nobody brings a tick, and since when; None where
        none was to be expected at the time."""
        self.supervisors = {
            feed.name: supervise(
                feed,
                self._emitter(feed.name) if len(feeds) > 1 else emit,
                self._note,
                self._note_gap,
            )
            for feed in feeds
        }

    @property
    def statuses(self) -> list[FeedStatus]:
        """How every feed is, in the order of the settings."""
        return [supervisor.status for supervisor in self.supervisors.values()]

    @property
    def status(self) -> FeedStatus:
        """How the feed is that now carries what no route names."""
        name = self._routes.default
        if name in self._covered:
            status = self.supervisors[self._standby].status
            if not _is_unwell(status):
                return status
        if name not in self.supervisors:  # "none"
            return FeedStatus(name, "stopped", is_stale=False, last_tick_ms=None)
        return self.supervisors[name].status

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        """Have these carried, each by its feed."""
        for name, items in self._by_feed(instruments).items():
            if name not in self.supervisors:  # "none"
                continue
            self._wanted.setdefault(name, {}).update((item.key, (item, mode)) for item in items)
            self.supervisors[name].want(items, mode)
            if name in self._covered:
                self.supervisors[self._standby].want(items, mode)
            elif name != self._standby and _is_unwell(status := self.supervisors[name].status):
                self._take_over(name)
                self._on_status(status)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Have these carried no longer."""
        for name, supervisor in self.supervisors.items():
            wanted = self._wanted.get(name, {})
            gone = [key for key in keys if wanted.pop(key, None) is not None]
            if gone:
                supervisor.unwant(gone)
                self._brought.difference_update(gone)
                if name in self._covered:
                    self.supervisors[self._standby].unwant(gone)
                    if not wanted:
                        self._uncover(name)

    def close(self) -> None:
        """Cancel all timers; how feeds end from now on is nobody's to stand in for."""
        for name in list(self._covered):
            self._uncover(name)
        self._wanted.clear()

    def _by_feed(self, instruments: Iterable[Instrument]) -> dict[str, list[Instrument]]:
        by_feed: dict[str, list[Instrument]] = {}
        for item in instruments:
            by_feed.setdefault(self._routes.of(item.key), []).append(item)
        return by_feed

    def _emitter(self, name: str) -> Emit:
        """Return what takes the ticks of one feed. Runs once per tick: keep it bare."""
        covered = self._covered
        brought = self._brought
        wanted = self._wanted
        missing = self._missing_since_ms
        forward = self._forward
        is_standby = name == self._standby

        def emit(tick: Tick) -> None:
            if covered:
                if is_standby:
                    if any(tick.key in wanted[covered_name] for covered_name in covered):
                        brought.add(tick.key)
                elif tick.key in brought and name in covered:
                    return
                if missing:
                    self._end_missing(tick.key)
            forward(tick, name)

        return emit

    # ------------------------------------------------------------------ standing in

    def _note(self, status: FeedStatus) -> None:
        name = status.name
        if name == self._standby:
            if _is_unwell(status):
                self._lose_standby()
        elif name not in self._covered:
            if _is_unwell(status) and self._wanted.get(name):
                self._take_over(name)
        elif _is_unwell(status):
            self._stop_giving_back(name)
            if not self._is_bridged(name):
                self._note_missing(name, self.supervisors[name])
        elif status.state != "streaming":
            self._stop_giving_back(name)
        elif self._covered[name] is None:
            call_later = self._call_later or asyncio.get_running_loop().call_later
            self._covered[name] = call_later(GOOD_DATA_S, lambda: self._give_back(name))
        self._on_status(status)

    def _take_over(self, name: str) -> None:
        """Have the standby carry what a feed does not bring."""
        if not self._standby:
            return
        self._metrics.feed_takeovers += 1
        log.warning("feed %s takes over from %s", self._standby, name)
        self._covered[name] = None
        self._note_missing(name, self.supervisors[name])
        standby = self.supervisors[self._standby]
        for mode, items in _by_mode(self._wanted[name]).items():
            standby.want(items, mode)

    def _stop_giving_back(self, name: str) -> None:
        timer = self._covered[name]
        if timer is not None:
            timer.cancel()
            self._covered[name] = None

    def _give_back(self, name: str) -> None:
        """Let a feed that is well again carry its instruments."""
        log.info("feed %s is well again and carries its instruments", name)
        self._uncover(name)
        self.supervisors[self._standby].unwant(list(self._wanted[name]))
        self._on_status(self.supervisors[name].status)

    def _uncover(self, name: str) -> None:
        self._stop_giving_back(name)
        del self._covered[name]
        self._missing_since_ms.pop(name, None)
        self._brought.difference_update(self._wanted[name])

    # ------------------------------------------------------------------ what nobody brought

    def _is_bridged(self, name: str) -> bool:
        """Whether the standby brings what a covered feed should."""
        return not self._brought.isdisjoint(self._wanted[name])

    def _lose_standby(self) -> None:
        """Listen again to the feeds that are covered: the standby brings nothing now."""
        for name in self._covered:
            if self._is_bridged(name):
                self._note_missing(name, self.supervisors[self._standby])
        self._brought.clear()

    def _note_missing(self, name: str, carrier: FeedSupervisor) -> None:
        self._missing_since_ms.setdefault(name, carrier.missing_since_ms())

    def _end_missing(self, key: InstrumentKey) -> None:
        """Tell what was missed of the feed whose instrument was brought now, by whomever."""
        for name, since_ms in self._missing_since_ms.items():
            if key in self._wanted[name]:
                del self._missing_since_ms[name]
                if since_ms is None:  # the market may have opened since
                    since_ms = self.supervisors[name].missing_since_ms()
                if since_ms is not None:
                    self._on_gap(FeedGap(name, since_ms, self._now_ms()))
                return

    def _note_gap(self, gap: FeedGap) -> None:
        """Tell what a feed has missed, unless another has brought it."""
        name = gap.feed
        if name in self._covered:
            if name not in self._missing_since_ms:
                return
            since_ms = self._missing_since_ms.pop(name) or 0
            gap = gap._replace(from_ms=max(gap.from_ms, since_ms))
        elif name == self._standby and not self._wanted.get(name):
            return  # it is told of those it stands in for
        self._on_gap(gap)


def _is_unwell(status: FeedStatus) -> bool:
    return status.is_stale or status.state in UNWELL


def _by_mode(
    wanted: Mapping[InstrumentKey, tuple[Instrument, Mode]],
) -> dict[Mode, list[Instrument]]:
    by_mode: dict[Mode, list[Instrument]] = {}
    for item, mode in wanted.values():
        by_mode.setdefault(mode, []).append(item)
    return by_mode
