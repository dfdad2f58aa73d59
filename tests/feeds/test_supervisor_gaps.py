import pytest

from odin.errors import FeedRejected, FeedUnavailable
from odin.model import FeedGap
from tests.feeds.supervised import SBIN, Scene

# ---------------------------------------------------------------------- gaps


async def test_what_an_open_market_has_missed_is_told_once_with_the_first_tick() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        assert scene.gaps == []
        last_ms = scene.now_ms
        await scene.time.advance(3)
        for _ in range(3):
            await scene.feed.end(FeedUnavailable("no"))
            await scene.time.advance(10)
        assert scene.gaps == []
        scene.feed.tick()
        assert scene.gaps == [FeedGap("fake", last_ms, last_ms + 33_000)]
        assert scene.told[-2:] == ["gap", "tick"], "before the tick that ends it"
        scene.feed.tick()
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(10)
        scene.feed.tick()
        assert scene.gaps[1:] == [FeedGap("fake", last_ms + 33_000, last_ms + 43_000)]


async def test_silence_alone_is_no_gap() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.busy(60)
        await scene.quiet(30)
        assert scene.state == "stale"
        scene.feed.tick()
    assert scene.gaps == []


async def test_there_is_no_gap_over_a_night() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        scene.is_expected = False
        await scene.time.advance(3600)
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(3600)
        scene.feed.tick()
        scene.is_expected = True
        await scene.time.advance(60)
        scene.feed.tick()
    assert scene.gaps == []


async def test_a_feed_that_is_back_after_the_close_tells_no_gap() -> None:
    """Nobody needs to be told of prices that the close has settled."""
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(5)
        scene.is_expected = False
        await scene.time.advance(3600)
        scene.feed.tick()
        scene.is_expected = True
        await scene.time.advance(60)
        scene.feed.tick()
    assert scene.gaps == []


@pytest.mark.parametrize("error", [FeedUnavailable("no"), FeedRejected("the token died")])
async def test_a_gap_begins_at_the_opening_where_the_feed_broke_off_before(
    error: Exception,
) -> None:
    async def has_new_credentials() -> bool:
        return scene.is_expected

    scene = Scene(has_new_credentials=has_new_credentials)
    scene.is_expected = False
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        scene.chance = 1
        await scene.feed.end(error)
        await scene.time.advance(0.5)
        scene.is_expected = True
        opened_ms = scene.now_ms
        await scene.time.advance(60)
        assert scene.feed.is_running
        scene.feed.tick()
    (gap,) = scene.gaps
    assert opened_ms <= gap.from_ms <= opened_ms + 1000
    assert gap.to_ms == opened_ms + 60_000


async def test_a_market_that_opens_while_the_feed_connects_again_has_its_gap_too() -> None:
    scene = Scene()
    scene.is_expected = False
    async with scene.running():
        scene.supervisor.want([SBIN])
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(1)
        assert scene.state == "connecting"
        scene.is_expected = True
        await scene.time.advance(5)
        scene.feed.tick()
    assert [gap.to_ms - gap.from_ms for gap in scene.gaps] == [4000]


async def test_nothing_is_missed_of_what_nobody_wanted() -> None:
    scene = Scene()
    async with scene.running():
        scene.supervisor.want([SBIN])
        scene.feed.tick()
        await scene.feed.end(FeedUnavailable("no"))
        scene.supervisor.unwant([SBIN.key])
        await scene.time.advance(600)
        scene.supervisor.want([SBIN])
        wanted_ms = scene.now_ms
        await scene.time.advance(5)
        scene.feed.tick()
    assert scene.gaps == [FeedGap("fake", wanted_ms, wanted_ms + 5000)]


async def test_a_feed_that_breaks_off_with_nothing_wanted_leaves_no_gap() -> None:
    scene = Scene()
    async with scene.running():
        await scene.feed.end(FeedUnavailable("no"))
        await scene.time.advance(60)
        scene.feed.tick()
    assert scene.gaps == []
