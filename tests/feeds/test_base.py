import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import FeedRejected, FeedSilent, FeedUnavailable
from odin.feeds.base import (
    BACKOFF_LIMIT_S,
    GOOD_DATA_S,
    TRANSITIONS,
    Demand,
    Event,
    Feed,
    FeedSupervisor,
    State,
)
from odin.metrics import Metrics
from odin.model import FeedStatus, Instrument, InstrumentKey, Tick
from tests.feeds.fake_time import FakeTime, settle

SBIN = Instrument(InstrumentKey("NSE", "CM", 3045), "SBIN")
INFY = Instrument(InstrumentKey("NSE", "CM", 1594), "INFY")
TCS = Instrument(InstrumentKey("NSE", "CM", 11536), "TCS")
BY_KEY = {instrument.key: instrument for instrument in (SBIN, INFY, TCS)}

Ending = Exception | None


class FakeFeed:
    """A feed that does what the test tells it."""

    name = "fake"
    is_simulated = False

    def __init__(self) -> None:
        self.wanted: dict[InstrumentKey, Instrument] = {}
        self.wanted_at_start: list[set[str]] = []
        self.emit: Callable[[Tick], None] | None = None
        self._ending: asyncio.Future[Ending] | None = None

    @property
    def is_running(self) -> bool:
        return self._ending is not None

    @property
    def runs(self) -> int:
        return len(self.wanted_at_start)

    async def run(self, emit: Callable[[Tick], None]) -> None:
        self.wanted_at_start.append({instrument.symbol for instrument in self.wanted.values()})
        self.emit = emit
        self._ending = asyncio.get_running_loop().create_future()
        try:
            error = await self._ending
        finally:
            self._ending = None
        if error is not None:
            raise error

    def want(self, instruments: Sequence[Instrument]) -> None:
        self.wanted.update((instrument.key, instrument) for instrument in instruments)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        for key in keys:
            self.wanted.pop(key, None)

    def forget(self) -> None:
        """What a feed may do that keeps its subscriptions in the connection."""
        self.wanted.clear()

    async def end(self, error: Ending = None) -> None:
        assert self._ending is not None
        self._ending.set_result(error)
        await settle()

    def tick(self, instrument: Instrument = SBIN, exchange_ms: int = 1) -> None:
        assert self.emit is not None
        self.emit(Tick(instrument.key, exchange_ms, 800.0))


class Scene:
    """A supervisor with everything around it under the test's control."""

    def __init__(self, stale_after_s: float = 15.0) -> None:
        self.time = FakeTime()
        self.feed = FakeFeed()
        self.metrics = Metrics()
        self.ticks: list[Tick] = []
        self.statuses: list[FeedStatus] = []
        self.is_expected = True
        self.chance = 0.5
        self.now_ms = 5_000
        self.supervisor = FeedSupervisor(
            self.feed,
            self.ticks.append,
            metrics=self.metrics,
            clock_ms=lambda: self.now_ms,
            is_expected=lambda: self.is_expected,
            stale_after_s=stale_after_s,
            on_status=self.statuses.append,
            monotonic=self.time.monotonic,
            sleep=self.time.sleep,
            uniform=lambda: self.chance,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run())
        await settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def states(self) -> list[str]:
        return [status.state for status in self.statuses]

    @property
    def state(self) -> str:
        return self.supervisor.status.state


def test_the_fake_is_a_feed() -> None:
    feed: Feed = FakeFeed()
    assert feed.name == "fake"


def test_the_table_speaks_only_of_known_states_and_final_ones_are_final() -> None:
    states, events = set(get_args(State)), set(get_args(Event))
    for (state, event), after in TRANSITIONS.items():
        assert {state, after} <= states
        assert event in events
        assert state != after
        assert state not in {"rejected", "stopped"}
    assert {event for _, event in TRANSITIONS} == events


async def test_states_from_idle_to_streaming_and_back() -> None:
    scene = Scene()
    async with scene.running():
        assert scene.state == "idle"
        scene.supervisor.want([SBIN])
        assert scene.state == "connecting"
        scene.feed.tick()
        assert scene.supervisor.status == FeedStatus("fake", "streaming", False, 5_000)
        scene.feed.tick()
        scene.supervisor.want([INFY])
        scene.supervisor.unwant([SBIN.key])
        assert scene.state == "streaming"
        scene.supervisor.unwant([INFY.key])
        assert scene.state == "idle"
        scene.feed.tick()
        assert scene.state == "idle"
        scene.supervisor.want([SBIN])
        scene.feed.tick()
    assert scene.states == ["connecting", "streaming", "idle", "connecting", "streaming", "stopped"]


async def test_every_tick_is_counted_stamped_and_passed_on() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        for number in range(3):
            scene.now_ms = 6_000 + number
            scene.feed.tick(exchange_ms=number)
    assert [tick.exchange_ms for tick in scene.ticks] == [0, 1, 2]
    assert scene.metrics.ticks == 3
    assert scene.supervisor.status.last_tick_ms == 6_002


async def test_wanting_nothing_changes_nothing() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([])
        assert scene.state == "idle"


async def test_want_before_run_is_known_at_the_start() -> None:
    scene = Scene()
    scene.supervisor.want([SBIN, INFY])
    async with scene.running():
        assert scene.feed.wanted_at_start == [{"SBIN", "INFY"}]


async def test_silence_in_an_open_market_makes_it_stale_until_the_next_tick() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        await scene.time.advance(14.5)
        assert scene.state == "streaming"
        await scene.time.advance(1.5)
        assert scene.supervisor.status == FeedStatus("fake", "stale", True, 5_000)
        await scene.time.advance(100)
        assert scene.metrics.feed_stale_periods == 1
        scene.feed.tick()
        assert scene.supervisor.status == FeedStatus("fake", "streaming", False, 5_000)
        await scene.time.advance(16)
        assert scene.metrics.feed_stale_periods == 2
    assert scene.states[:5] == ["connecting", "streaming", "stale", "streaming", "stale"]


async def test_a_feed_that_never_says_anything_is_stale_too() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.time.advance(16)
        assert scene.state == "stale"


async def test_silence_out_of_hours_is_never_stale() -> None:
    scene = Scene(stale_after_s=15)
    scene.is_expected = False
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        await scene.time.advance(60 * 60)
        assert scene.state == "streaming"
    assert scene.metrics.feed_stale_periods == 0


async def test_silence_is_counted_from_the_opening_not_from_yesterday() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        scene.is_expected = False
        await scene.time.advance(3600)
        scene.is_expected = True
        await scene.time.advance(14)
        assert scene.state == "streaming"
        await scene.time.advance(3)
        assert scene.state == "stale"


async def test_the_closing_auction_ends_a_stale_period_and_starts_none() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        await scene.time.advance(16)
        assert scene.state == "stale"
        scene.is_expected = False
        await scene.time.advance(20 * 60)
        assert scene.supervisor.status[1:3] == ("connecting", False)
        scene.feed.tick()
        assert scene.state == "streaming"
    assert scene.metrics.feed_stale_periods == 1


async def test_silence_is_counted_from_when_something_became_wanted() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        await scene.time.advance(600)
        assert scene.state == "idle"
        scene.supervisor.want([SBIN])
        await scene.time.advance(14)
        assert scene.state == "connecting"
        scene.supervisor.unwant([SBIN.key])
        await scene.time.advance(600)
        assert scene.state == "idle"
    assert scene.metrics.feed_stale_periods == 0


async def test_unwanting_everything_ends_a_stale_period() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.time.advance(16)
        scene.supervisor.unwant([SBIN.key])
        assert scene.supervisor.status[1:3] == ("idle", False)


async def test_a_fault_of_what_the_watchdog_asks_is_counted_and_it_goes_on() -> None:
    scene = Scene(stale_after_s=15)
    answers = [RuntimeError("no calendar")]

    def is_expected() -> bool:
        if answers:
            raise answers.pop()
        return True

    scene.supervisor._is_expected = is_expected
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.time.advance(20)
        assert scene.state == "stale"
    assert scene.metrics.faults == 1


@pytest.mark.parametrize("error", [FeedUnavailable("no route"), FeedSilent("mute")])
async def test_a_broken_feed_is_started_again_with_everything_it_had(error: Exception) -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN, INFY])
        scene.supervisor.unwant([INFY.key])
        scene.feed.tick()
        scene.feed.forget()
        await scene.feed.end(error)
        assert scene.state == "backoff"
        assert scene.metrics.feed_restarts == 0
        await scene.time.advance(0.6)
        assert scene.state == "connecting"
        assert scene.feed.wanted_at_start == [set(), {"SBIN"}]
        scene.feed.tick()
        assert scene.state == "streaming"
    assert scene.metrics.feed_restarts == 1
    assert scene.metrics.faults == 0
    assert scene.states == [
        "connecting",
        "streaming",
        "backoff",
        "connecting",
        "streaming",
        "stopped",
    ]


async def test_a_restart_without_demand_is_idle() -> None:
    scene = Scene()
    async with scene.running():
        await scene.feed.end(FeedUnavailable("gone"))
        await scene.time.advance(1)
        assert scene.state == "idle"
        assert scene.feed.is_running


async def test_backoff_doubles_up_to_a_minute_with_full_jitter() -> None:
    scene = Scene(stale_after_s=2)
    scene.is_expected = False
    watchdog_s = 0.5
    delays = []
    async with scene.running():
        for chance in (1.0, 1.0, 1.0, 0.25, 1.0, 1.0, 1.0, 1.0, 0.0):
            scene.chance = chance
            scene.time.slept.clear()
            await scene.feed.end(FeedUnavailable("no"))
            delays += [slept for slept in scene.time.slept if slept != watchdog_s]
            await scene.time.advance(BACKOFF_LIMIT_S)
            assert scene.feed.is_running
    assert delays == [1, 2, 4, 2, 16, 32, 60, 60, 0]


async def test_good_data_resets_the_backoff_and_a_short_burst_does_not() -> None:
    scene = Scene(stale_after_s=1e9)
    scene.chance = 0.999
    async with scene.running():
        for _ in range(4):
            await scene.feed.end(FeedUnavailable("no"))
            await scene.time.advance(BACKOFF_LIMIT_S)
        scene.feed.tick()
        await scene.time.advance(GOOD_DATA_S - 1)
        scene.feed.tick()
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(15)
        assert scene.state != "streaming"
        assert not scene.feed.is_running
        await scene.time.advance(1)
        assert scene.feed.is_running
        scene.feed.tick()
        await scene.time.advance(GOOD_DATA_S)
        scene.feed.tick()
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(1)
        assert scene.feed.is_running


async def test_rejection_is_final() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.feed.end(FeedRejected("the password has expired"))
        await scene.time.advance(3600)
        assert scene.supervisor.status == FeedStatus("fake", "rejected", True, None)
        scene.supervisor.want([INFY])
        assert scene.state == "rejected"
    assert scene.feed.runs == 1
    assert scene.states == ["connecting", "rejected"]


async def test_the_end_of_the_source_is_not_a_failure() -> None:
    scene = Scene()
    task = asyncio.create_task(scene.supervisor.run())
    await settle()
    scene.supervisor.want([SBIN])
    scene.feed.tick()
    await scene.feed.end()
    await asyncio.wait_for(task, 5)
    assert scene.supervisor.status == FeedStatus("fake", "stopped", False, 5_000)
    assert scene.metrics.feed_restarts == 0


async def test_a_bug_in_a_feed_is_counted_and_the_feed_started_again() -> None:
    scene = Scene()
    async with scene.running():
        await scene.feed.end(ZeroDivisionError("a bug"))
        assert scene.metrics.faults == 1
        await scene.time.advance(1)
        assert scene.feed.runs == 2


async def test_a_long_outage_is_one_stale_period() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        for _ in range(8):
            await scene.feed.end(FeedUnavailable("no"))
            assert scene.state == "backoff"
            await scene.time.advance(BACKOFF_LIMIT_S)
        assert scene.supervisor.status[1:3] == ("stale", True)
        scene.feed.tick()
        assert scene.supervisor.status[1:3] == ("streaming", False)
    assert scene.metrics.feed_stale_periods == 1
    pairs = [(status.state, status.is_stale) for status in scene.statuses]
    assert all(a != b for a, b in pairwise(pairs))


async def test_cancelling_stops_the_feed_and_the_watchdog() -> None:
    scene = Scene()
    async with scene.running():
        pass
    assert not scene.feed.is_running
    assert scene.state == "stopped"
    assert len(asyncio.all_tasks()) == 1


class Upstream:
    """What Demand talks to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.wanted: set[InstrumentKey] = set()

    def want(self, instruments: Sequence[Instrument]) -> None:
        self.calls.append(("want", [instrument.symbol for instrument in instruments]))
        self.wanted.update(instrument.key for instrument in instruments)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        self.calls.append(("unwant", [BY_KEY[key].symbol for key in keys]))
        self.wanted.difference_update(keys)


def _demand(
    linger_s: float = 30.0,
) -> tuple[Demand, Upstream, FakeTime, dict[InstrumentKey, Instrument]]:
    upstream, time, master = Upstream(), FakeTime(), dict(BY_KEY)
    demand = Demand(
        master.get, upstream.want, upstream.unwant, linger_s=linger_s, call_later=time.call_later
    )
    return demand, upstream, time, master


async def test_the_first_subscriber_wants_and_the_last_one_unwants_after_the_linger() -> None:
    demand, upstream, time, _ = _demand(linger_s=30)
    demand.add([SBIN.key, INFY.key])
    demand.add([SBIN.key])
    assert upstream.calls == [("want", ["SBIN", "INFY"])]
    demand.remove([SBIN.key])
    await time.advance(100)
    assert len(upstream.calls) == 1
    demand.remove([SBIN.key])
    await time.advance(29.9)
    assert demand.wanted == {SBIN.key, INFY.key}
    assert len(upstream.calls) == 1
    await time.advance(0.2)
    assert upstream.calls[1:] == [("unwant", ["SBIN"])]
    assert demand.wanted == {INFY.key}


async def test_a_subscriber_who_comes_back_in_time_is_not_noticed_upstream() -> None:
    demand, upstream, time, _ = _demand(linger_s=30)
    demand.add([SBIN.key, INFY.key])
    demand.remove([SBIN.key, INFY.key])
    await time.advance(20)
    demand.add([SBIN.key])
    await time.advance(20)
    assert upstream.calls == [("want", ["SBIN", "INFY"]), ("unwant", ["INFY"])]
    demand.remove([SBIN.key])
    await time.advance(29)
    assert upstream.wanted == {SBIN.key}
    await time.advance(2)
    assert upstream.wanted == set()


async def test_a_timer_nobody_needs_is_cancelled() -> None:
    demand, _, time, _ = _demand()
    demand.add([SBIN.key])
    demand.remove([SBIN.key])
    demand.add([SBIN.key])
    assert [timer.is_cancelled for timer in time.timers] == [True]


def test_without_linger_the_last_one_unwants_at_once() -> None:
    demand, upstream, time, _ = _demand(linger_s=0)
    demand.add([SBIN.key])
    demand.remove([SBIN.key])
    assert upstream.calls == [("want", ["SBIN"]), ("unwant", ["SBIN"])]
    assert time.timers == []


def test_a_removal_too_many_is_ignored() -> None:
    demand, upstream, _, _ = _demand(linger_s=0)
    demand.remove([SBIN.key])
    demand.add([SBIN.key])
    assert upstream.calls == [("want", ["SBIN"])]


def test_refresh_asks_for_what_a_new_master_added_or_changed() -> None:
    demand, upstream, _, master = _demand()
    del master[SBIN.key]
    demand.add([SBIN.key, INFY.key])
    assert upstream.calls == [("want", ["INFY"])]
    assert demand.wanted == {SBIN.key, INFY.key}
    demand.refresh()
    assert len(upstream.calls) == 1
    master[SBIN.key] = SBIN
    demand.refresh()
    assert upstream.calls[1:] == [("want", ["SBIN"])]
    master[INFY.key] = Instrument(INFY.key, "INFOSYS")
    demand.refresh()
    assert upstream.calls[2:] == [("want", ["INFOSYS"])]


def test_what_was_never_asked_for_is_not_taken_back() -> None:
    demand, upstream, _, master = _demand(linger_s=0)
    master.clear()
    demand.add([SBIN.key])
    demand.remove([SBIN.key])
    assert upstream.calls == []


async def test_close_cancels_the_timers() -> None:
    demand, upstream, time, _ = _demand()
    demand.add([SBIN.key])
    demand.remove([SBIN.key])
    demand.close()
    await time.advance(1000)
    assert upstream.calls == [("want", ["SBIN"])]


async def test_the_event_loops_timers_are_used_by_default() -> None:
    upstream = Upstream()
    demand = Demand(BY_KEY.get, upstream.want, upstream.unwant, linger_s=3600)
    demand.add([SBIN.key])
    demand.remove([SBIN.key])
    assert upstream.wanted == {SBIN.key}
    demand.close()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "wait"]),
            st.lists(st.sampled_from(sorted(BY_KEY)), max_size=4),
        ),
        max_size=40,
    )
)
def test_upstream_always_wants_what_has_a_subscriber(
    steps: list[tuple[str, list[InstrumentKey]]],
) -> None:
    """Against a plain model: counts, and the moment each key lost its last subscriber."""

    async def play() -> None:
        demand, upstream, time, _ = _demand(linger_s=30)
        counts: dict[InstrumentKey, int] = dict.fromkeys(BY_KEY, 0)
        left_s: dict[InstrumentKey, float] = {}
        for step, keys in steps:
            if step == "wait":
                await time.advance(12)
            elif step == "add":
                demand.add(keys)
                for key in keys:
                    counts[key] += 1
                    left_s.pop(key, None)
            else:
                demand.remove(keys)
                for key in keys:
                    counts[key] -= counts[key] > 0
                    if counts[key] == 0 and key in upstream.wanted:
                        left_s.setdefault(key, time.now_s)
            left_s = {key: at_s for key, at_s in left_s.items() if time.now_s - at_s < 30}
            expected = {key for key, count in counts.items() if count} | left_s.keys()
            assert upstream.wanted == expected == demand.wanted

    asyncio.run(play())
