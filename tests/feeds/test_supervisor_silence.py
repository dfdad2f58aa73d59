import asyncio
from itertools import pairwise

import pytest

from odin.errors import FeedUnavailable
from odin.feeds.supervisor import (
    BACKOFF_LIMIT_S,
    GIVE_UP_AFTER,
    MISSED_TICKS,
)
from odin.model import FeedStatus, Instrument, InstrumentKey
from tests.feeds.supervised import INFY, SBIN, Scene


async def test_silence_of_a_busy_feed_makes_it_stale_until_the_next_tick() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.busy(60)
        last_ms = scene.now_ms - 250
        await scene.quiet(14)
        assert scene.state == "streaming"
        await scene.quiet(1.5)
        assert scene.supervisor.status == FeedStatus("fake", "stale", True, last_ms)
        await scene.quiet(100)
        assert scene.metrics.feed_stale_periods == 1
        await scene.busy(60)
        assert scene.supervisor.status[1:3] == ("streaming", False)
        await scene.quiet(16)
        assert scene.metrics.feed_stale_periods == 2
    assert scene.states[:5] == ["connecting", "streaming", "stale", "streaming", "stale"]


async def test_a_feed_that_never_says_anything_is_stale_too() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.quiet(14)
        assert scene.state == "connecting"
        await scene.quiet(2)
        assert scene.state == "stale"


@pytest.mark.parametrize("every_s", [20, 60, 400, 3000])
async def test_a_single_quiet_instrument_never_raises_an_alarm(every_s: float) -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        for _ in range(10):
            scene.feed.tick()
            await scene.quiet(every_s)
        await scene.quiet(3600)
        assert scene.supervisor.status[1:3] == ("streaming", False)
    assert scene.metrics.feed_stale_periods == 0


async def test_a_long_silence_does_not_slow_the_pace_down() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.busy(120)
        await scene.quiet(3600)
        scene.feed.tick()
        await scene.quiet(17)
        assert scene.state == "stale"
    assert scene.metrics.feed_stale_periods == 2


async def test_the_slower_a_feed_is_the_longer_its_silence_must_be() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.busy(600, per_s=0.5)
        await scene.quiet(MISSED_TICKS / 0.5 - 5)
        assert scene.state == "streaming"
        await scene.quiet(20)
        assert scene.state == "stale"


async def test_the_last_known_states_of_many_quiet_instruments_are_not_a_pace() -> None:
    scene = Scene(stale_after_s=15)
    many = [Instrument(InstrumentKey("NSE", "CM", n), f"S{n}") for n in range(500)]
    async with scene.running():
        scene.supervisor.want(many)
        for _ in range(2):
            for instrument in many:
                scene.feed.tick(instrument)
            await scene.quiet(600)
            assert scene.state == "streaming"
            await scene.feed.end(FeedUnavailable("the line went dead"))
            await scene.quiet(1)


async def test_a_quiet_instrument_that_remains_is_not_held_to_the_pace_of_those_that_left() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN, INFY])
        scene.feed.tick(INFY)
        await scene.busy(300, SBIN)
        for _ in range(100):
            scene.feed.tick(SBIN)
        scene.supervisor.unwant([SBIN.key])
        for _ in range(100):  # on their way when they were unwanted
            scene.feed.tick(SBIN)
        await scene.quiet(3600)
        assert scene.state == "streaming"


async def test_leaving_a_quiet_instrument_hides_no_silence_of_the_busy_one() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN, INFY])
        scene.feed.tick(INFY)
        await scene.busy(300, SBIN)
        scene.supervisor.unwant([INFY.key])
        await scene.quiet(16)
        assert scene.state == "stale"


async def test_silence_out_of_hours_is_never_stale() -> None:
    scene = Scene(stale_after_s=15)
    scene.is_expected = False
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.busy(60)
        await scene.quiet(60 * 60)
        assert scene.state == "streaming"
    assert scene.metrics.feed_stale_periods == 0


async def test_silence_is_counted_from_the_opening_not_from_yesterday() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.busy(120)
        scene.is_expected = False
        await scene.quiet(17 * 3600)
        scene.is_expected = True
        await scene.quiet(14)
        assert scene.state == "streaming"
        await scene.quiet(3)
        assert scene.state == "stale"


async def test_ticks_before_the_opening_are_signs_of_life() -> None:
    """A quiet stock has said something in the pre-open and need not at the opening."""
    scene = Scene(stale_after_s=15)
    scene.is_expected = False
    async with scene.running():
        scene.supervisor.want([SBIN])
        for _ in range(30):
            scene.feed.tick()
            await scene.quiet(30)
        scene.is_expected = True
        await scene.quiet(1800)
        assert scene.state == "streaming"


async def test_a_feed_that_was_busy_before_the_opening_and_dies_there_is_noticed() -> None:
    scene = Scene(stale_after_s=15)
    scene.is_expected = False
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.busy(60)
        scene.is_expected = True
        await scene.quiet(17)
        assert scene.state == "stale"


async def test_the_closing_auction_ends_a_stale_period_and_starts_none() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.busy(60)
        await scene.quiet(16)
        assert scene.state == "stale"
        scene.is_expected = False
        await scene.quiet(20 * 60)
        assert scene.supervisor.status[1:3] == ("connecting", False)
        scene.feed.tick()
        assert scene.state == "streaming"
    assert scene.metrics.feed_stale_periods == 1


async def test_a_linked_feed_streams_again_where_the_closing_auction_ends_a_stale_period() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.link()
        await scene.busy(60)
        await scene.quiet(16)
        scene.is_expected = False
        await scene.quiet(2)
        assert scene.supervisor.status[1:3] == ("streaming", False)


async def test_silence_is_counted_from_when_something_became_wanted() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        await scene.quiet(600)
        assert scene.state == "idle"
        scene.supervisor.want([SBIN])
        await scene.quiet(14)
        assert scene.state == "connecting"
        scene.supervisor.unwant([SBIN.key])
        await scene.quiet(600)
        assert scene.state == "idle"
    assert scene.metrics.feed_stale_periods == 0


# ---------------------------------------------------------------------- connected and silent


async def test_a_linked_feed_that_stays_silent_is_broken_off_and_not_again_at_once() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.link()
        await scene.busy(60)
        await scene.quiet(GIVE_UP_AFTER * 15 - 2)
        assert scene.feed.runs == 1
        await scene.quiet(2)
        assert scene.supervisor.status[1:3] == ("backoff", True)
        assert "said nothing" in scene.supervisor.status.problem
        await scene.quiet(1)
        assert scene.feed.runs == 2
        scene.feed.link()
        await scene.quiet(GIVE_UP_AFTER * 15 - 3)
        assert scene.feed.runs == 2
        await scene.quiet(6)
        assert scene.feed.runs == 3
    assert scene.metrics.faults == 0
    assert scene.metrics.feed_stale_periods == 1


async def test_a_connection_that_took_long_has_all_its_time_before_it_is_broken_off() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.quiet(600)
        scene.feed.link()
        await scene.quiet(GIVE_UP_AFTER * 15 - 2)
        assert scene.feed.runs == 1
        await scene.quiet(4)
        assert scene.feed.runs == 2


async def test_a_feed_that_never_reported_ready_is_never_broken_off() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.report("login")
        await scene.quiet(3600)
        assert scene.supervisor.status[1:3] == ("authenticating", True)
        assert scene.feed.runs == 1


async def test_a_connection_that_takes_its_time_to_close_is_broken_off_once() -> None:
    scene = Scene(stale_after_s=15)
    scene.feed.closing = asyncio.Event()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.link()
        await scene.quiet(600)
        assert scene.metrics.faults == 0
        scene.feed.closing.set()
        await scene.quiet(1)
        assert scene.feed.runs == 2


async def test_a_timeout_of_the_feeds_own_is_not_taken_for_silence() -> None:
    scene = Scene()
    async with scene.running():
        await scene.feed.end(TimeoutError())
        assert scene.supervisor.status.problem == "it took too long to answer"
    assert scene.metrics.faults == 0


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


async def test_a_quiet_feed_that_breaks_off_for_a_moment_is_not_stale() -> None:
    scene = Scene(stale_after_s=15)
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        await scene.time.advance(3000)
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(10)
        scene.feed.tick()
        await scene.time.advance(600)
    assert scene.metrics.feed_stale_periods == 0
