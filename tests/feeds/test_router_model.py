"""Feeds fail and recover and demand comes and goes, in any order."""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from odin.feeds.base import Emit, Feed
from odin.feeds.router import FeedRouter, Routes
from odin.feeds.supervisor import GOOD_DATA_S, FeedSupervisor
from odin.metrics import Metrics
from odin.model import FeedGap, FeedState, FeedStatus, Instrument, InstrumentKey, Mode, Tick
from tests.feeds.test_router import ALL, SBIN, FakeFeed


class FakeSupervisor:
    """Keeps what is wanted of it, and enters the states that the test says."""

    def __init__(self, feed: Feed, on_status: Callable[[FeedStatus], None]) -> None:
        self.status = FeedStatus(feed.name, "idle", is_stale=False, last_tick_ms=None)
        self.wanted: dict[InstrumentKey, Mode] = {}
        self._on_status = on_status

    def missing_since_ms(self) -> int | None:
        return 1

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        self.wanted.update((item.key, mode) for item in instruments)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        for key in keys:
            self.wanted.pop(key, None)

    def enter(self, state: FeedState, *, is_stale: bool = False) -> None:
        self.status = self.status._replace(state=state, is_stale=is_stale)
        self._on_status(self.status)


NAMES = ("odin", "kite", "third")
STATES: tuple[FeedState, ...] = (
    "idle",
    "connecting",
    "authenticating",
    "streaming",
    "stale",
    "backoff",
    "rejected",
)


class Rerouting(RuleBasedStateMachine):
    """Feeds fail and recover, demand comes and goes: who is asked for what?"""

    @initialize(standby=st.sampled_from(["kite", ""]))
    def start(self, standby: str) -> None:
        self.model: dict[InstrumentKey, Mode] = {}
        self.standby = standby
        self.emits: dict[str, Emit] = {}
        self.heard: list[str] = []
        self.routes = Routes("odin", {"MCX": "kite", "NSE:FO": "third"})
        self.live: set[FakeTimer] = set()
        self.router = FeedRouter(
            [FakeFeed(name) for name in NAMES],
            self.routes,
            standby=standby,
            supervise=self._supervise,
            emit=lambda tick, source="": self.heard.append(source),
            on_status=lambda status: None,
            on_gap=lambda gap: None,
            now_ms=lambda: 2,
            metrics=Metrics(),
            call_later=self._call_later,
        )

    def _supervise(
        self,
        feed: Feed,
        emit: Emit,
        on_status: Callable[[FeedStatus], None],
        on_gap: Callable[[FeedGap], None],
    ) -> FeedSupervisor:
        self.emits[feed.name] = emit
        return cast(FeedSupervisor, FakeSupervisor(feed, on_status))

    def _call_later(self, delay_s: float, call: Callable[[], None]) -> "FakeTimer":
        assert delay_s == GOOD_DATA_S
        timer = FakeTimer(self.live, call)
        self.live.add(timer)
        return timer

    def of(self, name: str) -> FakeSupervisor:
        return cast(FakeSupervisor, self.router.supervisors[name])

    @rule(items=st.sets(st.sampled_from(ALL)), mode=st.sampled_from(["ltp", "quote", "full"]))
    def want(self, items: set[Instrument], mode: Mode) -> None:
        self.router.want(list(items), mode)
        self.model.update(dict.fromkeys((item.key for item in items), mode))

    @rule(items=st.sets(st.sampled_from(ALL)))
    def unwant(self, items: set[Instrument]) -> None:
        self.router.unwant([item.key for item in items])
        for item in items:
            self.model.pop(item.key, None)

    @rule(name=st.sampled_from(NAMES), state=st.sampled_from(STATES), is_stale=st.booleans())
    def change(self, name: str, state: FeedState, is_stale: bool) -> None:
        has_any = any(self.routes.of(key) == name for key in self.model)
        self.of(name).enter(state, is_stale=is_stale and has_any)

    @rule(name=st.sampled_from(NAMES), item=st.sampled_from(ALL))
    def tick(self, name: str, item: Instrument) -> None:
        feed = self.of(name)
        if item.key not in feed.wanted or feed.status.state in {"backoff", "rejected"}:
            return
        feed.enter("streaming")  # as supervisors do
        self.emits[name](Tick(item.key, 1, 800.0))

    @rule()
    def pass_a_minute(self) -> None:
        for timer in list(self.live):
            timer.fire()

    def covered(self) -> set[str]:
        return set(self.router._covered)

    @invariant()
    def every_instrument_is_asked_of_its_feed_and_of_the_standby_while_that_stands_in(self) -> None:
        for name in NAMES:
            expected = {
                key: mode
                for key, mode in self.model.items()
                if (home := self.routes.of(key)) == name
                or (name == self.standby and home in self.covered())
            }
            assert self.of(name).wanted == expected

    @invariant()
    def who_is_unwell_and_wanted_is_covered_and_only_who_recovers_has_a_timer(self) -> None:
        for name in set(NAMES) - {self.standby} if self.standby else set():
            status = self.of(name).status
            is_wanted = any(self.routes.of(key) == name for key in self.model)
            is_unwell = status.is_stale or status.state in {"stale", "backoff", "rejected"}
            if is_wanted and is_unwell:
                assert name in self.covered()
            if not is_wanted:
                assert name not in self.covered()
        well = [name for name in self.covered() if self.of(name).status.state == "streaming"]
        assert len(self.live) <= len(well)
        assert self.standby not in self.covered()
        assert self.standby or not self.covered()

    @invariant()
    def what_is_wanted_is_heard_from_somebody(self) -> None:
        """Of a feed that is well and carries an instrument, or of the standby: never of neither."""
        for key in self.model:
            home = self.routes.of(key)
            self.heard.clear()
            self.emits[home](Tick(key, 1, 800.0))
            if not self.heard:
                status = self.of(self.standby).status
                assert home in self.covered()
                assert status.state not in {"stale", "backoff", "rejected"}
                assert not status.is_stale

    def teardown(self) -> None:
        self.router.close()
        assert not self.live


class FakeTimer:
    """One of the timers that are live."""

    def __init__(self, live: "set[FakeTimer]", call: Callable[[], None]) -> None:
        self._live = live
        self._call = call

    def cancel(self) -> None:
        self._live.discard(self)

    def fire(self) -> None:
        if self in self._live:
            self._live.discard(self)
            self._call()


TestRerouting = Rerouting.TestCase
TestRerouting.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


async def test_the_loop_s_own_timers_are_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odin.feeds.router.GOOD_DATA_S", 0.0)
    given_back = asyncio.Event()

    def note(status: FeedStatus) -> None:
        if router.status.name == "odin" and status.state == "streaming":
            given_back.set()

    def supervise(
        feed: Feed,
        emit: Emit,
        on_status: Callable[[FeedStatus], None],
        on_gap: Callable[[FeedGap], None],
    ) -> FeedSupervisor:
        return cast(FeedSupervisor, FakeSupervisor(feed, on_status))

    router = FeedRouter(
        [FakeFeed("odin"), FakeFeed("kite")],
        Routes("odin", {}),
        standby="kite",
        supervise=supervise,
        emit=lambda tick, source="": None,
        on_status=note,
        on_gap=lambda gap: None,
        now_ms=lambda: 0,
        metrics=Metrics(),
    )
    home = cast(FakeSupervisor, router.supervisors["odin"])
    router.want([SBIN])
    home.enter("backoff")
    assert router.status.name == "kite"
    home.enter("streaming")
    await asyncio.wait_for(given_back.wait(), 5)
