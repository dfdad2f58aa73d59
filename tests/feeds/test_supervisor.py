import asyncio
from itertools import pairwise
from typing import get_args

import pytest

from odin.errors import FeedRejected, FeedSilent, FeedUnavailable
from odin.feeds.base import Feed
from odin.feeds.supervisor import (
    BACKOFF_LIMIT_S,
    CREDENTIALS_CHECK_S,
    GOOD_DATA_S,
    TRANSITIONS,
    Event,
)
from odin.model import FeedState, FeedStatus
from tests.feeds.fake_time import settle
from tests.feeds.supervised import INFY, SBIN, FakeFeed, Scene


def test_the_fake_is_a_feed() -> None:
    feed: Feed = FakeFeed()
    assert feed.name == "fake"


def test_the_table_speaks_only_of_known_states_and_final_ones_are_final() -> None:
    states, events = set(get_args(FeedState)), set(get_args(Event))
    for (state, event), after in TRANSITIONS.items():
        assert {state, after} <= states
        assert event in events
        assert state != after
        assert state != "stopped"
        assert state != "rejected" or event == "retry"
    assert {event for _, event in TRANSITIONS} == events


async def test_states_from_idle_to_streaming_and_back() -> None:
    scene = Scene()
    async with scene.running():
        assert scene.state == "idle"
        scene.supervisor.want([SBIN])
        assert scene.state == "connecting"
        scene.feed.tick()
        assert scene.supervisor.status == FeedStatus("fake", "streaming", False, 1_000_000)
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
            scene.feed.tick(exchange_ms=number)
            await scene.time.advance(1)
    assert [tick.exchange_ms for tick in scene.ticks] == [0, 1, 2]
    assert scene.metrics.ticks == 3
    assert scene.supervisor.status.last_tick_ms == 1_002_000


async def test_wanting_nothing_changes_nothing() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([])
        assert scene.state == "idle"


async def test_want_before_run_is_known_at_the_start() -> None:
    scene = Scene()
    scene.supervisor.want([SBIN, INFY])
    async with scene.running():
        assert scene.feed.wanted_at_start == [{"SBIN": "quote", "INFY": "quote"}]


# ---------------------------------------------------------------------- the connection's states


async def test_the_states_of_a_feed_with_a_connection() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.report("login")
        assert scene.state == "authenticating"
        scene.feed.report("ready")
        assert scene.state == "streaming"
        scene.feed.report("heard")
        scene.supervisor.unwant([SBIN.key])
        assert scene.state == "idle"
        scene.supervisor.want([INFY])
    assert scene.states == [
        "connecting",
        "authenticating",
        "streaming",
        "idle",
        "streaming",
        "stopped",
    ]


async def test_a_connection_for_which_nothing_is_wanted_is_idle() -> None:
    scene = Scene()
    async with scene.running():
        scene.feed.report("login")
        scene.feed.report("ready")
        assert scene.states == ["authenticating", "idle"]
        scene.supervisor.want([SBIN])
        assert scene.state == "streaming"


async def test_what_was_unwanted_during_the_login_leaves_an_idle_connection() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.report("login")
        scene.supervisor.unwant([SBIN.key])
        scene.feed.report("ready")
        assert scene.state == "idle"


async def test_a_tick_before_the_venue_said_yes_is_streaming_too() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.report("login")
        scene.feed.tick()
        assert scene.state == "streaming"


async def test_a_lost_connection_does_not_count_as_one() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.link()
        scene.supervisor.unwant([SBIN.key])
        await scene.feed.end(FeedUnavailable("gone"))
        await scene.time.advance(1)
        scene.supervisor.want([SBIN])
        assert scene.state == "connecting"


async def test_a_mode_is_passed_on_and_kept_over_a_restart() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN, INFY])
        scene.supervisor.want([SBIN], "full")
        assert scene.feed.wanted[SBIN.key] == (SBIN, "full")
        scene.feed.forget()
        await scene.feed.end(FeedUnavailable("gone"))
        await scene.time.advance(1)
        assert scene.feed.wanted_at_start[1] == {"SBIN": "full", "INFY": "quote"}


@pytest.mark.parametrize("sign", ["ready", "tick"])
async def test_the_problem_is_told_until_the_feed_is_well(sign: str) -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.feed.end(FeedUnavailable("the line went dead"))
        assert scene.supervisor.status.problem == "the line went dead"
        await scene.time.advance(1)
        scene.feed.report("login")
        assert scene.supervisor.status.problem == "the line went dead"
        scene.feed.report("ready") if sign == "ready" else scene.feed.tick()
        assert scene.supervisor.status.problem == ""


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
        assert scene.feed.wanted_at_start == [{}, {"SBIN": "quote"}]
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
        assert scene.feed.runs == 5
        await scene.time.advance(1)
        assert scene.feed.runs == 6
        scene.feed.tick()
        await scene.time.advance(GOOD_DATA_S)
        scene.feed.tick()
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(1)
        assert scene.feed.runs == 7


async def test_rejection_is_final_where_nobody_knows_of_new_credentials() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.feed.end(FeedRejected("the password has expired"))
        await scene.time.advance(3600)
        problem = "the password has expired"
        assert scene.supervisor.status == FeedStatus("fake", "rejected", True, None, problem)
        scene.supervisor.want([INFY])
        assert scene.state == "rejected"
    assert scene.feed.runs == 1
    assert scene.states == ["connecting", "rejected"]


async def test_a_rejected_feed_waits_for_new_credentials_and_tries_those() -> None:
    asked, is_new = [], False

    async def has_new_credentials() -> bool:
        asked.append(scene.time.now_s)
        return is_new

    scene = Scene(has_new_credentials=has_new_credentials)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.report("login")
        await scene.feed.end(FeedRejected("the token has expired"))
        await scene.time.advance(10 * CREDENTIALS_CHECK_S)
        assert scene.state == "rejected"
        assert len(asked) == 10
        assert scene.feed.runs == 1
        is_new = True
        await scene.time.advance(CREDENTIALS_CHECK_S)
        assert scene.states[-2:] == ["connecting", "stale"]
        assert scene.feed.wanted_at_start[1] == {"SBIN": "quote"}
        scene.feed.link()
        assert scene.supervisor.status.problem == ""
    assert scene.metrics.feed_restarts == 1


async def test_credentials_that_always_change_and_never_work_do_not_hammer() -> None:
    async def has_new_credentials() -> bool:
        return True

    scene = Scene(has_new_credentials=has_new_credentials)
    began_s = []
    async with scene.running():
        for _ in range(9):
            began_s.append(scene.time.now_s)
            await scene.feed.end(FeedRejected("no"))
            while scene.feed.is_running is False:
                await scene.time.advance(1)
        scene.feed.link()
        began_s.append(scene.time.now_s)
        await scene.feed.end(FeedRejected("no"))
        await scene.time.advance(CREDENTIALS_CHECK_S)
        assert scene.feed.is_running
    pauses = [after - before for before, after in pairwise(began_s)]
    assert pauses == [CREDENTIALS_CHECK_S * factor for factor in (1, 2, 4, 8, 16, 32, 32, 32, 32)]


async def test_a_fault_where_credentials_are_looked_for_is_counted_and_the_look_repeated() -> None:
    asked = 0

    async def has_new_credentials() -> bool:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise RuntimeError("can't start new thread")
        return True

    scene = Scene(has_new_credentials=has_new_credentials)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.feed.end(FeedRejected("no"))
        await scene.time.advance(3 * CREDENTIALS_CHECK_S)
        assert scene.feed.runs == 2
    assert scene.metrics.faults == 2


async def test_a_rejection_out_of_hours_is_stale_only_from_the_opening_on() -> None:
    async def has_new_credentials() -> bool:
        return False

    scene = Scene(stale_after_s=15, has_new_credentials=has_new_credentials)
    scene.is_expected = False
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.feed.end(FeedRejected("the token died at six"))
        assert scene.supervisor.status[1:3] == ("rejected", False)
        await scene.time.advance(3600)
        scene.is_expected = True
        await scene.time.advance(17)
    assert [status[1:3] for status in scene.statuses] == [
        ("connecting", False),
        ("rejected", False),
        ("rejected", True),
    ]


async def test_the_end_of_the_source_is_not_a_failure() -> None:
    scene = Scene()
    task = asyncio.create_task(scene.supervisor.run())
    await settle()
    scene.supervisor.want([SBIN])
    scene.feed.tick()
    await scene.feed.end()
    await asyncio.wait_for(task, 5)
    assert scene.supervisor.status == FeedStatus("fake", "stopped", False, 1_000_000)
    assert scene.metrics.feed_restarts == 0


async def test_a_bug_in_a_feed_is_counted_and_the_feed_started_again() -> None:
    scene = Scene()
    async with scene.running():
        await scene.feed.end(ZeroDivisionError("a bug"))
        assert scene.metrics.faults == 1
        await scene.time.advance(1)
        assert scene.feed.runs == 2


async def test_a_fault_in_the_calendar_does_not_end_the_feed_that_breaks_off() -> None:
    scene = Scene()
    async with scene.running():

        def is_expected() -> bool:
            raise RuntimeError("no calendar")

        scene.supervisor._is_expected = is_expected
        scene.supervisor.want([SBIN])
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(1)
        assert scene.feed.runs == 2


async def test_a_feed_that_fails_when_it_is_told_what_is_wanted_is_tried_again() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.feed.end(FeedUnavailable("no"))
        want, scene.feed.want = scene.feed.want, None  # type: ignore[method-assign, assignment]
        await scene.time.advance(1)
        assert scene.state == "backoff"
        scene.feed.want = want  # type: ignore[method-assign]
        await scene.time.advance(2)
        assert scene.feed.is_running
    assert scene.metrics.faults == 1


async def test_cancelling_stops_the_feed_and_the_watchdog() -> None:
    scene = Scene()
    async with scene.running():
        pass
    assert not scene.feed.is_running
    assert scene.state == "stopped"
    assert len(asyncio.all_tasks()) == 1
