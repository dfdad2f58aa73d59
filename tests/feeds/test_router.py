import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from odin.errors import FeedRejected, FeedUnavailable
from odin.feeds.base import Emit, Feed, Report, ignore
from odin.feeds.router import FeedRouter, Routes
from odin.feeds.supervisor import GOOD_DATA_S, FeedSupervisor
from odin.metrics import Metrics
from odin.model import FeedGap, FeedStatus, Instrument, InstrumentKey, Mode, Tick
from tests.feeds.fake_time import FakeTime, settle

SBIN = Instrument(InstrumentKey("NSE", "CM", 3045), "SBIN")
INFY = Instrument(InstrumentKey("NSE", "CM", 1594), "INFY")
NIFTY_FUT = Instrument(InstrumentKey("NSE", "FO", 35001), "NIFTY25SEPFUT")
GOLD = Instrument(InstrumentKey("MCX", "CO", 424), "GOLD")
ALL = (SBIN, INFY, NIFTY_FUT, GOLD)

BROKEN = FeedUnavailable("the connection broke")
REFUSED = FeedRejected("the token has died")


# ---------------------------------------------------------------------- routes


@pytest.mark.parametrize(
    ("routes", "feeds"),
    [
        ({}, "odin odin odin"),
        ({"NSE": "kite"}, "kite kite odin"),
        ({"NSE:FO": "kite"}, "odin kite odin"),
        ({"NSE": "kite", "NSE:FO": "odin"}, "kite odin odin"),
        ({"NSE:FO": "odin", "NSE": "kite", "MCX:CO": "kite"}, "kite odin kite"),
        ({"MCX:FO": "kite"}, "odin odin odin"),
    ],
)
def test_the_segment_goes_before_the_exchange_and_both_before_the_default(
    routes: dict[str, str], feeds: str
) -> None:
    table = Routes("odin", routes)
    assert [table.of(item.key) for item in (SBIN, NIFTY_FUT, GOLD)] == feeds.split()


def test_the_feeds_that_routes_use_are_each_named_once() -> None:
    assert Routes("odin", {"NSE": "kite", "MCX": "kite", "BSE": "odin"}).names == ("odin", "kite")


# ---------------------------------------------------------------------- the scene


class FakeFeed:
    """A feed that does what the test tells it."""

    is_simulated = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted: dict[InstrumentKey, Mode] = {}
        self.emit: Emit | None = None
        self.report: Report = ignore
        self._ending: asyncio.Future[Exception | None] | None = None

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        self.emit, self.report = emit, report
        self._ending = asyncio.get_running_loop().create_future()
        error = await self._ending
        if error is not None:
            raise error

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        self.wanted.update((item.key, mode) for item in instruments)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        for key in keys:
            self.wanted.pop(key, None)

    async def link(self) -> None:
        self.report("login")
        self.report("ready")
        await settle()

    async def end(self, error: Exception | None) -> None:
        assert self._ending is not None
        self._ending.set_result(error)
        await settle()

    def tick(self, item: Instrument = SBIN) -> None:
        assert self.emit is not None
        self.emit(Tick(item.key, 1, 800.0))


class Scene:
    """A router, real supervisors and feeds under the test's control, on fake time."""

    def __init__(
        self,
        *names: str,
        standby: str = "",
        routes: dict[str, str] | None = None,
        default: str = "odin",
    ) -> None:
        self.time = FakeTime()
        self.feeds = {name: FakeFeed(name) for name in names}
        self.metrics = Metrics()
        self.ticks: list[tuple[str, str]] = []
        self.statuses: list[FeedStatus] = []
        self.shown: list[FeedStatus] = []
        """What the router called its status at each change."""
        self.gaps: list[FeedGap] = []
        self.is_expected = True
        self.has_new_credentials = False
        self.router = FeedRouter(
            list(self.feeds.values()),
            Routes(default, routes or {}),
            standby=standby,
            supervise=self._supervise,
            emit=self._take,
            on_status=self._note,
            on_gap=self.gaps.append,
            now_ms=self.now_ms,
            metrics=self.metrics,
            call_later=self.time.call_later,
        )

    def now_ms(self) -> int:
        return round(self.time.now_s * 1000)

    def _take(self, tick: Tick, source: str = "") -> None:
        symbol = next(item.symbol for item in ALL if item.key == tick.key)
        self.ticks.append((symbol, source))

    def _note(self, status: FeedStatus) -> None:
        self.statuses.append(status)
        self.shown.append(self.router.status)

    def _supervise(
        self,
        feed: Feed,
        emit: Emit,
        on_status: Callable[[FeedStatus], None],
        on_gap: Callable[[FeedGap], None],
    ) -> FeedSupervisor:
        async def has_new_credentials() -> bool:
            return self.has_new_credentials

        return FeedSupervisor(
            feed,
            emit,
            metrics=self.metrics,
            clock_ms=self.now_ms,
            is_expected=lambda: self.is_expected,
            stale_after_s=15.0,
            on_status=on_status,
            on_gap=on_gap,
            has_new_credentials=has_new_credentials,
            monotonic=self.time.monotonic,
            sleep=self.time.sleep,
            uniform=lambda: 0.5,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(one.run()) for one in self.router.supervisors.values()]
        await settle()
        try:
            yield
        finally:
            self.router.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def wanted(self, name: str) -> dict[str, Mode]:
        return {
            item.symbol: self.feeds[name].wanted[item.key] for item in ALL if self.asks(name, item)
        }

    def asks(self, name: str, item: Instrument) -> bool:
        return item.key in self.feeds[name].wanted

    async def stream(self, name: str, item: Instrument, seconds: float) -> None:
        """Two ticks a second."""
        for _ in range(round(seconds * 2)):
            self.feeds[name].tick(item)
            await self.time.advance(0.5)

    async def heal(self, name: str) -> None:
        """Let a feed that broke off come back."""
        await self.time.advance(1)
        await self.feeds[name].link()

    @property
    def live_timers(self) -> list[float]:
        return [0.0 for timer in self.time.timers if not timer.is_cancelled]


@asynccontextmanager
async def covered(error: Exception = BROKEN, *more: Instrument) -> AsyncIterator[Scene]:
    """odin carried SBIN, broke off after 30 s of ticks, and kite stands in."""
    scene = Scene("odin", "kite", standby="kite", routes={"MCX": "kite"})
    async with scene.running():
        for feed in scene.feeds.values():
            await feed.link()
        scene.router.want([SBIN, *more])
        await scene.stream("odin", SBIN, 30)
        await scene.feeds["odin"].end(error)
        assert scene.router.status.name == "kite"
        yield scene


# ---------------------------------------------------------------------- sharing out


async def test_each_instrument_is_asked_of_its_feed_and_of_no_other() -> None:
    scene = Scene("odin", "kite", routes={"MCX": "kite", "NSE:FO": "kite"})
    async with scene.running():
        scene.router.want([SBIN, GOLD, NIFTY_FUT], "full")
        scene.router.want([INFY], "ltp")
        assert scene.wanted("odin") == {"SBIN": "full", "INFY": "ltp"}
        assert scene.wanted("kite") == {"NIFTY25SEPFUT": "full", "GOLD": "full"}
        scene.router.want([GOLD], "ltp")
        scene.router.unwant([SBIN.key, NIFTY_FUT.key, InstrumentKey("BSE", "CM", 1)])
        assert (scene.wanted("odin"), scene.wanted("kite")) == ({"INFY": "ltp"}, {"GOLD": "ltp"})


async def test_what_no_feed_carries_is_asked_of_nobody() -> None:
    scene = Scene("kite", default="none", routes={"MCX": "kite"})
    async with scene.running():
        scene.router.want([SBIN, GOLD])
        assert scene.wanted("kite") == {"GOLD": "quote"}
        scene.router.unwant([SBIN.key])
    assert scene.router.status == FeedStatus("none", "stopped", is_stale=False, last_tick_ms=None)
    assert [status.name for status in scene.router.statuses] == ["kite"]


@pytest.mark.parametrize(("names", "source"), [(["odin"], ""), (["odin", "kite"], "odin")])
async def test_the_source_is_named_where_there_are_several(names: list[str], source: str) -> None:
    scene = Scene(*names)
    async with scene.running():
        scene.router.want([SBIN])
        scene.feeds["odin"].tick()
    assert scene.ticks == [("SBIN", source)]


async def test_without_a_standby_a_broken_feed_is_waited_for() -> None:
    scene = Scene("odin", "kite", routes={"MCX": "kite"})
    async with scene.running():
        scene.router.want([SBIN])
        await scene.stream("odin", SBIN, 5)
        last_ms = scene.now_ms() - 500
        await scene.feeds["odin"].end(BROKEN)
        assert scene.wanted("kite") == {}
        assert scene.router.status.name == "odin"
        await scene.heal("odin")
        scene.feeds["odin"].tick()
        assert scene.gaps == [FeedGap("odin", last_ms, scene.now_ms())]
    assert scene.metrics.feed_takeovers == 0


# ---------------------------------------------------------------------- taking over


async def test_the_standby_takes_over_from_a_feed_that_breaks_off() -> None:
    async with covered() as scene:
        assert scene.wanted("kite") == scene.wanted("odin") == {"SBIN": "quote"}
        assert scene.metrics.feed_takeovers == 1
        scene.feeds["kite"].tick()
        assert scene.ticks[-1] == ("SBIN", "kite")


async def test_the_standby_takes_over_from_a_feed_that_is_silent() -> None:
    scene = Scene("odin", "kite", standby="kite")
    async with scene.running():
        await scene.feeds["odin"].link()
        scene.router.want([SBIN], "full")
        await scene.stream("odin", SBIN, 40)
        assert scene.wanted("kite") == {}
        await scene.time.advance(20)
        assert scene.wanted("kite") == {"SBIN": "full"}
        assert scene.shown[-1].name == "kite", "clients are told who carries it now"


@pytest.mark.parametrize("error", [REFUSED, BROKEN, None])
async def test_the_standby_takes_over_what_is_first_wanted_of_a_feed_that_is_down(
    error: Exception | None,
) -> None:
    scene = Scene("odin", "kite", standby="kite", routes={"MCX": "kite"})
    async with scene.running():
        await scene.feeds["kite"].link()
        scene.router.want([GOLD])
        await scene.feeds["odin"].end(error)
        assert scene.wanted("kite") == {"GOLD": "quote"}, "nothing is wanted of odin yet"
        assert scene.metrics.feed_takeovers == 0
        told = len(scene.statuses)
        scene.router.want([SBIN], "ltp")
        assert scene.wanted("kite") == {"SBIN": "ltp", "GOLD": "quote"}
        assert len(scene.statuses) > told
        assert scene.shown[-1].name == "kite"


async def test_what_is_wanted_and_not_meanwhile_reaches_both() -> None:
    async with covered() as scene:
        scene.router.want([INFY, GOLD], "full")
        scene.router.want([SBIN], "ltp")
        assert scene.wanted("odin") == {"SBIN": "ltp", "INFY": "full"}
        assert scene.wanted("kite") == {"SBIN": "ltp", "INFY": "full", "GOLD": "full"}
        scene.router.unwant([SBIN.key])
        assert scene.wanted("odin") == {"INFY": "full"}
        assert scene.wanted("kite") == {"INFY": "full", "GOLD": "full"}
        assert scene.metrics.feed_takeovers == 1


async def test_a_feed_of_which_nothing_is_wanted_is_not_stood_in_for() -> None:
    async with covered() as scene:
        scene.router.unwant([SBIN.key])
        assert (scene.wanted("kite"), scene.router.status.name) == ({}, "odin")
        await scene.heal("odin")
        scene.router.want([SBIN])
        scene.feeds["odin"].tick()
        assert scene.ticks[-1] == ("SBIN", "odin")
        assert scene.wanted("kite") == {}


async def test_nobody_stands_in_for_the_standby_itself() -> None:
    scene = Scene("odin", "kite", standby="kite", routes={"MCX": "kite"})
    async with scene.running():
        scene.router.want([GOLD, SBIN])
        await scene.feeds["kite"].end(REFUSED)
        scene.router.want([GOLD], "full")
        assert scene.wanted("odin") == {"SBIN": "quote"}
        scene.feeds["odin"].tick()
    assert (scene.ticks, scene.metrics.feed_takeovers) == ([("SBIN", "odin")], 0)


# ---------------------------------------------------------------------- muting


async def test_the_feed_that_failed_is_not_listened_to_for_what_the_standby_brings() -> None:
    async with covered(BROKEN, INFY) as scene:
        await scene.heal("odin")
        scene.feeds["kite"].tick(SBIN)
        scene.ticks.clear()
        scene.feeds["odin"].tick(SBIN)
        assert scene.ticks == []
        scene.feeds["odin"].tick(INFY)
        assert scene.ticks == [("INFY", "odin")], "of which the standby has brought nothing"


async def test_what_the_standby_brings_unasked_is_not_remembered() -> None:
    async with covered() as scene:
        scene.feeds["kite"].tick(GOLD)
        scene.feeds["kite"].tick(SBIN)
        assert scene.router._brought == {SBIN.key}


async def test_a_standby_that_fails_too_silences_nobody() -> None:
    async with covered() as scene:
        scene.feeds["kite"].tick()
        await scene.heal("odin")
        await scene.feeds["kite"].end(BROKEN)
        scene.ticks.clear()
        scene.feeds["odin"].tick()
        assert scene.ticks == [("SBIN", "odin")]
        assert scene.router.status.name == "odin"
        await scene.heal("kite")
        scene.feeds["kite"].tick()
        scene.feeds["odin"].tick()
        assert scene.ticks == [("SBIN", "odin"), ("SBIN", "kite")], "it stands in again"


async def test_a_standby_that_is_refused_silences_nobody() -> None:
    scene = Scene("odin", "kite", standby="kite")
    async with scene.running():
        await scene.feeds["kite"].end(REFUSED)
        scene.router.want([SBIN])
        await scene.stream("odin", SBIN, 5)
        await scene.feeds["odin"].end(BROKEN)
        assert scene.router.status.name == "odin"
        await scene.heal("odin")
        scene.ticks.clear()
        scene.feeds["odin"].tick()
        assert scene.ticks == [("SBIN", "odin")]


async def test_what_is_wanted_anew_is_heard_from_whoever_brings_it_first() -> None:
    async with covered(BROKEN, INFY) as scene:
        await scene.heal("odin")
        scene.feeds["kite"].tick(SBIN)
        scene.router.unwant([SBIN.key])
        scene.router.want([SBIN])
        scene.ticks.clear()
        scene.feeds["odin"].tick(SBIN)
        assert scene.ticks == [("SBIN", "odin")]


# ---------------------------------------------------------------------- giving back


async def test_it_gives_back_after_a_minute_of_good_data() -> None:
    async with covered() as scene:
        await scene.heal("odin")
        scene.feeds["kite"].tick()
        await scene.stream("odin", SBIN, GOOD_DATA_S - 1)
        assert scene.router.status.name == "kite"
        told = len(scene.statuses)
        await scene.time.advance(1)
        assert scene.wanted("kite") == {}
        assert scene.wanted("odin") == {"SBIN": "quote"}
        assert scene.router.status.name == "odin"
        assert "odin" in {status.name for status in scene.shown[told:]}, "clients are told"
        scene.feeds["odin"].tick()
        assert scene.ticks[-1] == ("SBIN", "odin")


@pytest.mark.parametrize("error", [BROKEN, REFUSED])
async def test_a_relapse_begins_the_minute_anew(error: Exception) -> None:
    async with covered() as scene:
        scene.feeds["kite"].tick()
        await scene.heal("odin")
        await scene.stream("odin", SBIN, GOOD_DATA_S - 1)
        await scene.feeds["odin"].end(error)
        scene.has_new_credentials = True
        await scene.time.advance(40)
        assert scene.wanted("kite") == {"SBIN": "quote"}
        await scene.feeds["odin"].link()
        await scene.stream("odin", SBIN, GOOD_DATA_S - 1)
        assert scene.wanted("kite") == {"SBIN": "quote"}
        await scene.time.advance(1)
        assert scene.wanted("kite") == {}
        assert scene.metrics.feed_takeovers == 1, "it was the same one all along"


async def test_a_feed_that_is_connected_and_says_nothing_is_not_well() -> None:
    scene = Scene("odin", "kite", standby="kite")
    async with scene.running():
        await scene.feeds["odin"].link()
        scene.router.want([SBIN])
        await scene.time.advance(20)
        assert scene.router.status.name == "kite"
        for _ in range(100):
            scene.feeds["kite"].tick()
            await scene.time.advance(5)
            await scene.feeds["odin"].link()
            assert scene.router.status.name == "kite"


async def test_giving_back_leaves_the_standby_what_is_its_own() -> None:
    async with covered() as scene:
        scene.router.want([GOLD], "full")
        await scene.heal("odin")
        await scene.stream("odin", SBIN, GOOD_DATA_S)
        assert scene.wanted("kite") == {"GOLD": "full"}
        scene.feeds["kite"].tick(GOLD)
        scene.router.unwant([SBIN.key])
        assert scene.wanted("kite") == {"GOLD": "full"}
    assert scene.ticks[-1] == ("GOLD", "kite")


async def test_after_it_was_given_back_the_next_failure_is_stood_in_for_again() -> None:
    async with covered() as scene:
        scene.feeds["kite"].tick()
        await scene.heal("odin")
        await scene.stream("odin", SBIN, GOOD_DATA_S)
        await scene.feeds["odin"].end(BROKEN)
        assert scene.wanted("kite") == {"SBIN": "quote"}
        await scene.heal("odin")
        scene.ticks.clear()
        scene.feeds["odin"].tick()
        assert scene.ticks == [("SBIN", "odin")], "what the standby brought then is past"
    assert scene.metrics.feed_takeovers == 2


async def test_closing_cancels_all_timers_and_the_end_of_feeds_is_no_failure() -> None:
    async with covered() as scene:
        await scene.heal("odin")
        scene.router.close()
    assert scene.live_timers == []
    assert {status.state for status in scene.router.statuses} == {"stopped"}
    assert scene.metrics.feed_takeovers == 1
    scene = Scene("odin", "kite", standby="kite")
    async with scene.running():
        scene.router.want([SBIN])
    assert (scene.metrics.feed_takeovers, scene.wanted("kite")) == (0, {})


# ---------------------------------------------------------------------- gaps


async def test_the_gap_goes_from_the_last_tick_to_the_first_of_the_standby_once() -> None:
    async with covered() as scene:
        last_ms = scene.now_ms() - 500
        await scene.time.advance(3)
        assert scene.gaps == []
        scene.feeds["kite"].tick()
        told = [FeedGap("odin", last_ms, scene.now_ms())]
        assert scene.gaps == told
        scene.feeds["kite"].tick()
        await scene.feeds["odin"].link()
        scene.feeds["odin"].tick()
        await scene.time.advance(2 * GOOD_DATA_S)
        assert scene.gaps == told


async def test_the_gap_of_a_silent_feed_begins_with_its_last_tick() -> None:
    scene = Scene("odin", "kite", standby="kite")
    async with scene.running():
        await scene.feeds["odin"].link()
        scene.router.want([SBIN])
        await scene.stream("odin", SBIN, 40)
        last_ms = scene.now_ms() - 500
        await scene.time.advance(20)
        scene.feeds["kite"].tick()
        assert scene.gaps == [FeedGap("odin", last_ms, scene.now_ms())]


async def test_the_gap_ends_with_the_feed_s_own_tick_where_that_is_first() -> None:
    async with covered() as scene:
        last_ms = scene.now_ms() - 500
        await scene.heal("odin")
        scene.feeds["odin"].tick()
        told = [FeedGap("odin", last_ms, scene.now_ms())]
        assert scene.gaps == told
        await scene.time.advance(1)
        scene.feeds["kite"].tick()
        assert scene.gaps == told


async def test_what_the_standby_brings_of_its_own_ends_no_gap() -> None:
    async with covered() as scene:
        scene.router.want([GOLD])
        scene.feeds["kite"].tick(GOLD)
        assert scene.gaps == []
        scene.feeds["kite"].tick(SBIN)
        assert [gap.feed for gap in scene.gaps] == ["odin"]


async def test_a_standby_that_breaks_off_too_makes_a_gap_of_its_own_length() -> None:
    async with covered() as scene:
        scene.feeds["kite"].tick()
        [first] = scene.gaps
        second_from_ms = scene.now_ms()
        await scene.feeds["kite"].end(BROKEN)
        await scene.heal("kite")
        scene.feeds["kite"].tick()
        assert scene.gaps == [first, FeedGap("odin", second_from_ms, scene.now_ms())]


async def test_a_feed_that_is_back_before_a_standby_that_broke_off_has_missed_the_rest() -> None:
    async with covered() as scene:
        scene.feeds["kite"].tick()
        [first] = scene.gaps
        await scene.stream("kite", SBIN, 0.5)
        last_ms = scene.now_ms()
        scene.feeds["kite"].tick()
        await scene.feeds["kite"].end(REFUSED)
        await scene.heal("odin")
        scene.feeds["odin"].tick()
        assert scene.gaps == [first, FeedGap("odin", last_ms, scene.now_ms())]


async def test_a_feed_that_comes_and_goes_beside_a_dead_standby_tells_each_gap() -> None:
    async with covered() as scene:
        await scene.feeds["kite"].end(REFUSED)
        for count in (1, 2):
            await scene.time.advance(4)
            scene.feeds["odin"].tick()
            last_ms = scene.now_ms()
            assert len(scene.gaps) == count
            await scene.feeds["odin"].end(BROKEN)
        await scene.time.advance(4)
        scene.feeds["odin"].tick()
        assert scene.gaps[2:] == [FeedGap("odin", last_ms, scene.now_ms())]


async def test_a_standby_that_brings_only_its_own_bridges_nothing() -> None:
    async with covered() as scene:
        scene.router.want([GOLD])
        await scene.heal("odin")
        scene.feeds["odin"].tick()
        last_ms = scene.now_ms()
        scene.feeds["kite"].tick(GOLD)
        await scene.feeds["odin"].end(BROKEN)
        await scene.heal("odin")
        scene.feeds["odin"].tick()
        assert scene.gaps[1:] == [FeedGap("odin", last_ms, scene.now_ms())]


async def test_out_of_hours_no_gap_is_told() -> None:
    scene = Scene("odin", "kite", standby="kite")
    scene.is_expected = False
    async with scene.running():
        scene.router.want([SBIN])
        await scene.stream("odin", SBIN, 5)
        await scene.feeds["odin"].end(BROKEN)
        scene.feeds["kite"].tick()
        await scene.heal("odin")
        scene.feeds["odin"].tick()
        await scene.time.advance(2 * GOOD_DATA_S)
        assert scene.gaps == []


@pytest.mark.parametrize("first", ["odin", "kite"])
async def test_what_was_down_before_the_opening_has_missed_what_came_since(first: str) -> None:
    scene = Scene("odin", "kite", standby="kite")
    scene.is_expected = False
    async with scene.running():
        scene.router.want([SBIN])
        await scene.feeds["odin"].end(REFUSED)
        await scene.feeds["kite"].end(REFUSED)
        await scene.time.advance(10)
        scene.is_expected = True
        await scene.time.advance(1)
        opening_ms = scene.now_ms()
        scene.has_new_credentials = True
        await scene.time.advance(60)
        scene.feeds[first].tick()
        [gap] = scene.gaps
        assert (gap.feed, gap.to_ms) == ("odin", scene.now_ms())
        assert abs(gap.from_ms - opening_ms) <= 1000, "as precise as the watchdog"


async def test_the_standby_s_own_gap_is_its_own() -> None:
    scene = Scene("odin", "kite", standby="kite", routes={"MCX": "kite"})
    async with scene.running():
        scene.router.want([GOLD, SBIN])
        await scene.stream("kite", GOLD, 5)
        last_ms = scene.now_ms() - 500
        await scene.feeds["kite"].end(BROKEN)
        await scene.heal("kite")
        scene.feeds["kite"].tick(GOLD)
        assert scene.gaps == [FeedGap("kite", last_ms, scene.now_ms())]
