import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from odin.clock import Clock
from odin.feeds.base import Feed
from odin.feeds.recording_formats import encode_tick_line
from odin.feeds.recordings import Recording
from odin.feeds.replay import Replay, ReplayClock
from odin.model import Instrument, InstrumentKey, Tick
from tests.feeds.fake_time import FakeTime, settle
from tests.support.shared import shared

SBIN = Instrument(InstrumentKey("NSE", "CM", 3045), "SBIN")
START_MS = 1_475_207_100_000  # 2016-09-30 09:15:00 IST
CLOSE_MS = START_MS + 375 * 60_000
DAY_MS = 86_400_000


def session_end(at_ms: int) -> int:
    """15:30 of the day of the instant, or the instant itself when that is past."""
    return max(at_ms, CLOSE_MS + (at_ms - START_MS) // DAY_MS * DAY_MS)


class Scene:
    """A replay on fake time, and what it emitted when by its own clock and by the wall."""

    def __init__(self, folder: Path, offsets_ms: list[int], **values: object) -> None:
        path = folder / "own.jsonl"
        ticks = [Tick(SBIN.key, START_MS + offset, 800.0, n) for n, offset in enumerate(offsets_ms)]
        path.write_bytes(b"".join(map(encode_tick_line, ticks)))
        recording = Recording.load([path], resolve=lambda name: SBIN)
        self.time = FakeTime(0.0)
        self.replay = Replay(
            recording,
            monotonic_ns=self.time.monotonic_ns,
            sleep=self.time.sleep,
            **values,  # type: ignore[arg-type]
        )
        self.ticks: list[Tick] = []
        self.clock_ms: list[int] = []
        self.wall_s: list[float] = []
        self.on_tick: Callable[[Tick], None] = lambda tick: None

    def emit(self, tick: Tick) -> None:
        self.ticks.append(tick)
        self.clock_ms.append(self.replay.clock.now_ms() - START_MS)
        self.wall_s.append(round(self.time.now_s, 3))
        self.on_tick(tick)

    @property
    def offsets_ms(self) -> list[int]:
        return [tick.exchange_ms - START_MS for tick in self.ticks]

    def start(self) -> "asyncio.Task[None]":
        return asyncio.create_task(self.replay.run(self.emit))


def test_a_replay_is_a_feed_and_its_clock_a_clock(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [0])
    feed: Feed = scene.replay
    clock: Clock = scene.replay.clock
    assert (feed.name, feed.is_simulated, clock.is_simulated) == ("replay", True, True)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_is_more_than_nothing(tmp_path: Path, speed: float) -> None:
    with pytest.raises(ValueError, match="the speed was"):
        Scene(tmp_path, [0], speed=speed)


@pytest.mark.parametrize("speed", [1.0, None])
async def test_it_stands_at_the_start_until_something_is_wanted(
    tmp_path: Path, speed: float | None
) -> None:
    scene = Scene(tmp_path, [0, 1000], speed=speed)
    task = scene.start()
    await scene.time.advance(500)
    scene.replay.want([])
    await scene.time.advance(500)
    assert scene.ticks == []
    assert scene.replay.clock.now_ms() == START_MS
    scene.replay.want([SBIN])
    assert scene.ticks == []
    await scene.time.advance(0)
    assert scene.offsets_ms[:1] == [0]
    await scene.time.advance(1)
    await asyncio.wait_for(task, 5)
    assert scene.offsets_ms == [0, 1000]


async def test_want_before_run_starts_it_and_unwant_does_not_stop_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [0, 1000, 2000], speed=None)
    scene.replay.want([SBIN])
    scene.replay.unwant([SBIN.key])
    await asyncio.wait_for(scene.start(), 5)
    assert scene.offsets_ms == [0, 1000, 2000]


async def test_speed_one_is_real_time(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [0, 250, 250, 4000], speed=1.0)
    task = scene.start()
    scene.replay.want([SBIN])
    await scene.time.advance(10)
    await task
    assert scene.wall_s == [0.0, 0.25, 0.25, 4.0]
    assert scene.clock_ms == scene.offsets_ms


async def test_a_tick_is_due_when_the_recording_says_whatever_the_exchange_s_clock_said() -> None:
    """A capture goes by arrival: the last state of a quiet stock is hours old when it comes."""

    class Captured:
        start_ms = START_MS

        def timeline(self) -> Iterator[tuple[int, Tick]]:
            for due_ms, exchange_ms in ((500, -3_600_000), (500, 400), (2000, 5000)):
                yield START_MS + due_ms, Tick(SBIN.key, START_MS + exchange_ms, 800.0)

    time = FakeTime(0.0)
    replay = Replay(Captured(), monotonic_ns=time.monotonic_ns, sleep=time.sleep)
    replay.want([SBIN])
    seen: list[tuple[float, int, int]] = []

    def emit(tick: Tick) -> None:
        clock_ms = replay.clock.now_ms() - START_MS
        seen.append((round(time.now_s, 3), clock_ms, tick.exchange_ms - START_MS))

    task = asyncio.create_task(replay.run(emit))
    await time.advance(3)
    await task
    assert seen == [(0.5, 500, -3_600_000), (0.5, 500, 400), (2.0, 2000, 5000)]


async def test_speed_sixty_takes_a_sixtieth(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [0, 60_000, 300_000], speed=60.0)
    task = scene.start()
    scene.replay.want([SBIN])
    await scene.time.advance(2)
    assert scene.replay.clock.now_ms() - START_MS == 120_000
    await scene.time.advance(10)
    await task
    assert scene.wall_s == [0.0, 1.0, 5.0]
    assert scene.clock_ms == scene.offsets_ms


async def test_the_clock_never_passes_a_tick_that_is_not_out(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [0, 1000, 2000, 3000], speed=1.0)
    task = scene.start()
    scene.replay.want([SBIN])
    await scene.time.advance(0.5)
    scene.time.now_s += 60  # the machine is busy with something else
    assert scene.replay.clock.now_ms() - START_MS == 1000
    await scene.time.advance(1)
    await task
    assert scene.clock_ms == scene.offsets_ms == [0, 1000, 2000, 3000]


async def test_at_full_speed_every_tick_sets_the_clock(tmp_path: Path) -> None:
    scene = Scene(tmp_path, list(range(0, 500_000, 1000)), speed=None)
    scene.replay.want([SBIN])
    await asyncio.wait_for(scene.start(), 5)
    assert scene.clock_ms == scene.offsets_ms
    assert len(scene.ticks) == 500
    assert set(scene.wall_s) == {0.0}


async def test_at_full_speed_the_loop_gets_its_turns(tmp_path: Path) -> None:
    scene = Scene(tmp_path, list(range(1000)), speed=None, slice_ticks=100)
    scene.replay.want([SBIN])
    task = scene.start()
    seen = []
    while not task.done():
        seen.append(len(scene.ticks))
        await asyncio.sleep(0)
    assert max(after - before for before, after in pairwise([*seen, len(scene.ticks)])) == 100


async def test_at_full_speed_it_waits_for_who_is_not_ready(tmp_path: Path) -> None:
    is_ready = False
    scene = Scene(
        tmp_path, list(range(1000)), speed=None, slice_ticks=100, is_ready=lambda: is_ready
    )
    scene.replay.want([SBIN])
    task = scene.start()
    await scene.time.advance(5)
    assert len(scene.ticks) == 100
    is_ready = True
    await scene.time.advance(5)
    await task
    assert len(scene.ticks) == 1000


async def test_a_night_takes_a_second_and_the_clock_runs_through_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [0, 1000, DAY_MS, DAY_MS + 1000], speed=1.0, end_at_ms=session_end)
    task = scene.start()
    scene.replay.want([SBIN])
    await scene.time.advance(1.5)
    middle_ms = scene.replay.clock.now_ms() - START_MS
    assert 0.4 * DAY_MS < middle_ms < 0.6 * DAY_MS
    await scene.time.advance(1.5)
    assert scene.wall_s == [0.0, 1.0, 2.0, 3.0]
    assert scene.clock_ms == scene.offsets_ms
    await scene.time.advance(2)
    await task
    assert scene.replay.clock.now_ms() == CLOSE_MS + DAY_MS


async def test_a_gap_that_is_short_at_this_speed_is_not_hurried(tmp_path: Path) -> None:
    gap_ms = 20 * 60_000
    scene = Scene(tmp_path, [0, gap_ms], speed=10_000.0)
    task = scene.start()
    scene.replay.want([SBIN])
    await scene.time.advance(5)
    await task
    assert scene.wall_s[1] == pytest.approx(gap_ms / 1000 / 10_000, abs=0.001)


async def test_ten_minutes_without_trades_are_played_as_they_were(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [0, 600_000], speed=1.0)
    task = scene.start()
    scene.replay.want([SBIN])
    await scene.time.advance(600)
    await task
    assert scene.wall_s == [0.0, 600.0]


async def test_at_full_speed_each_day_is_seen_to_close(tmp_path: Path) -> None:
    scene = Scene(
        tmp_path,
        [0, 3_600_000, DAY_MS, DAY_MS + 1000],
        speed=None,
        end_at_ms=session_end,
        gap_pause_s=1.0,
    )
    task = scene.start()
    scene.replay.want([SBIN])
    await scene.time.advance(0.5)
    assert scene.offsets_ms == [0, 3_600_000]
    assert scene.replay.clock.now_ms() == CLOSE_MS
    await scene.time.advance(0.6)
    assert scene.offsets_ms == [0, 3_600_000, DAY_MS, DAY_MS + 1000]
    assert scene.replay.clock.now_ms() == CLOSE_MS + DAY_MS
    assert not task.done()
    await scene.time.advance(1)
    await task
    assert scene.wall_s == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("speed", [1.0, None])
async def test_after_the_end_the_clock_stands(tmp_path: Path, speed: float | None) -> None:
    scene = Scene(tmp_path, [0, 1000], speed=speed)
    task = scene.start()
    scene.replay.want([SBIN])
    await scene.time.advance(2)
    await task
    await scene.time.advance(1000)
    assert scene.replay.clock.now_ms() == START_MS + 1000


async def test_after_a_fault_of_the_receiver_it_goes_on_where_it_was(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [0, 1000, 2000], speed=None)

    def fail(tick: Tick) -> None:
        scene.on_tick = lambda tick: None
        raise RuntimeError("a bug")

    scene.on_tick = fail
    scene.replay.want([SBIN])
    with pytest.raises(RuntimeError, match="a bug"):
        await scene.start()
    await scene.start()
    assert scene.offsets_ms == [0, 1000, 2000]


def test_the_clock_by_itself() -> None:
    time = FakeTime(50.0)
    clock = ReplayClock(1_000, monotonic_ns=time.monotonic_ns)
    time.now_s += 10
    assert (clock.now_ms(), clock.wait_s()) == (1_000, 0.0)
    clock.extend(5_000)
    clock.run(2.0)
    assert clock.now_ms() == 5_000  # without a speed it stood at its limit
    clock.extend(9_000)
    assert clock.wait_s() == 2.0
    time.now_s += 1
    assert clock.now_ns() == 7_000_000_000
    clock.extend(8_000)
    assert clock.wait_s() == 1.0, "a limit never goes back"
    time.now_s += 60
    assert clock.now_ms() == 9_000
    assert clock.wait_s() < 0


async def test_a_real_day_at_full_speed_is_whole() -> None:
    recording = Recording.load(
        [shared("data/bars/nse_1min_2016-09-30_179sym.tar.gz")], resolve=lambda name: None
    )
    replay = Replay(recording, speed=None, gap_pause_s=0)
    ticks: list[Tick] = []
    replay.want(recording.instruments[:1])
    await asyncio.wait_for(replay.run(ticks.append), 30)
    await settle()
    assert len(ticks) == recording.tick_count
    assert replay.clock.now_ms() == recording.end_ms
