import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from random import Random
from statistics import pstdev

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from odin.clock import ManualClock
from odin.feeds.base import Feed
from odin.feeds.simulator import CHEAPEST, DEAREST, DEPTH_LEVELS, SLICE_TICKS, Simulator, Walk
from odin.model import Instrument, InstrumentKey, Tick
from tests.feeds.fake_time import FakeTime, settle

OPENING_MS = 1_756_957_500_000  # 2025-09-04 09:15:00 IST
DAY_MS = 86_400_000


def instrument(token: int, close: float | None = 1372.6, **values: object) -> Instrument:
    return Instrument(
        InstrumentKey("NSE", "CM", token),
        f"S{token}",
        reference_close=close,
        **values,  # type: ignore[arg-type]
    )


class Market:
    """A simulator on fake time; market time follows it."""

    def __init__(self, *, seed: int = 7, rate_hz: float = 1.0, **values: object) -> None:
        self.time = FakeTime()
        self.clock = ManualClock()
        self.clock.set_ms(OPENING_MS)
        self.is_streaming = True
        self.ticks: list[Tick] = []
        self.times: list[float] = []
        self.simulator = Simulator(
            seed=seed,
            rate_hz=rate_hz,
            clock=self.clock,
            is_streaming=lambda: self.is_streaming,
            monotonic=self.time.monotonic,
            sleep=self.time.sleep,
            **values,  # type: ignore[arg-type]
        )

    def emit(self, tick: Tick) -> None:
        self.ticks.append(tick)
        self.times.append(self.time.now_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.simulator.run(self.emit))
        await settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def advance(self, seconds: float) -> None:
        await self.time.advance(seconds)
        self.clock.advance_ms(round(seconds * 1000))

    def of(self, wanted: Instrument) -> list[Tick]:
        return [tick for tick in self.ticks if tick.key == wanted.key]


def walk_of(ticks: list[Tick]) -> list[tuple[object, ...]]:
    """Ticks without their times."""
    return [tick[2:] for tick in ticks]


def test_it_is_a_feed_and_says_that_it_is_simulated() -> None:
    feed: Feed = Market().simulator
    assert (feed.name, feed.is_simulated) == ("simulator", True)


async def test_the_same_seed_gives_the_same_ticks_whatever_else_is_wanted() -> None:
    alone, crowded, other_seed = Market(seed=7), Market(seed=7), Market(seed=8)
    subject = instrument(2885)
    for market, company in ((alone, 0), (crowded, 20), (other_seed, 0)):
        async with market.running():
            market.simulator.want([instrument(token) for token in range(company)])
            market.simulator.want([subject])
            await market.advance(30)
    common = min(len(alone.of(subject)), len(crowded.of(subject)))
    assert common >= 29
    assert walk_of(alone.of(subject))[:common] == walk_of(crowded.of(subject))[:common]
    assert walk_of(alone.of(subject)) != walk_of(other_seed.of(subject))


async def test_the_rate_does_not_change_the_sequence() -> None:
    slow, fast = Market(rate_hz=1), Market(rate_hz=50)
    for market in (slow, fast):
        async with market.running():
            market.simulator.want([instrument(1)])
            await market.advance(10)
    assert walk_of(fast.ticks)[: len(slow.ticks)] == walk_of(slow.ticks)


async def test_coming_back_on_the_same_day_goes_on_where_it_was() -> None:
    market, steady = Market(), Market()
    subject = instrument(1)
    async with market.running():
        market.simulator.want([subject])
        await market.advance(5)
        before = len(market.ticks)
        market.simulator.unwant([subject.key])
        await market.advance(60)
        assert len(market.ticks) == before
        market.simulator.want([subject])
        await market.advance(5)
    async with steady.running():
        steady.simulator.want([subject])
        await steady.advance(20)
    assert len(market.ticks) > before
    assert walk_of(market.ticks) == walk_of(steady.ticks)[: len(market.ticks)]


async def test_unwanting_and_wanting_again_is_one_new_start_not_five() -> None:
    market = Market()
    subject = instrument(1)
    async with market.running():
        market.simulator.want([subject])
        await market.advance(2.5)
        for _ in range(5):
            market.simulator.unwant([subject.key])
            market.simulator.want([subject])
            market.simulator.want([subject])
        before = len(market.ticks)
        await market.advance(0.05)
        assert len(market.ticks) - before == 1
        await market.advance(10)
        assert len(market.ticks) - before in {11, 12}


async def test_the_first_tick_of_a_new_instrument_comes_at_once() -> None:
    market = Market(rate_hz=0.01)
    async with market.running():
        market.simulator.want([instrument(1)])
        await market.advance(0.05)
        assert len(market.ticks) == 1
        await market.advance(7)
        market.simulator.want([instrument(2), instrument(3)])
        await market.advance(0.05)
        assert [tick.key.token for tick in market.ticks] == [1, 2, 3]


async def test_nothing_is_emitted_while_the_market_does_not_stream() -> None:
    market = Market()
    market.is_streaming = False
    async with market.running():
        market.simulator.want([instrument(token) for token in range(5)])
        await market.advance(60)
        assert market.ticks == []
        market.is_streaming = True
        await market.advance(10)
        assert len(market.ticks) == pytest.approx(50, abs=2)
        market.is_streaming = False
        emitted = len(market.ticks)
        await market.advance(60)
        assert len(market.ticks) == emitted


async def test_the_opening_and_every_second_are_spread_over_the_instruments() -> None:
    market = Market(rate_hz=1)
    market.is_streaming = False
    async with market.running():
        market.simulator.want([instrument(token) for token in range(100)])
        await market.advance(1)
        market.is_streaming = True
        await market.advance(10)
    per_slot: dict[int, int] = {}
    for at_s in market.times:
        slot = int(at_s / 0.1)
        per_slot[slot] = per_slot.get(slot, 0) + 1
    assert max(per_slot.values()) <= 15
    counts = [len(market.of(instrument(token))) for token in range(100)]
    assert set(counts) <= {9, 10}


@pytest.mark.parametrize(("count", "rate_hz"), [(1, 1000.0), (50, 50.0), (1, 3.0)])
async def test_the_rate_is_kept(count: int, rate_hz: float) -> None:
    market = Market(rate_hz=rate_hz)
    async with market.running():
        market.simulator.want([instrument(token) for token in range(count)])
        await market.advance(4)
    assert len(market.ticks) == pytest.approx(4 * count * rate_hz, rel=0.02, abs=count + 1)


async def test_a_crowd_is_served_in_slices() -> None:
    market = Market()
    async with market.running():
        market.simulator.want([instrument(token) for token in range(1000)])
        seen = []
        while len(market.ticks) < 1000:
            seen.append(len(market.ticks))
            await asyncio.sleep(0)
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps) <= SLICE_TICKS


async def test_a_stall_is_not_made_up_for_in_a_burst() -> None:
    market = Market(rate_hz=100)
    async with market.running():
        market.simulator.want([instrument(1)])
        await market.advance(1)
        before = len(market.ticks)
        market.time.now_s += 30
        await market.advance(0.01)
    assert len(market.ticks) - before <= 30


async def test_each_market_day_starts_afresh() -> None:
    market = Market(rate_hz=10)
    subject = instrument(1)
    async with market.running():
        market.simulator.want([subject])
        await market.advance(20)
        first = market.ticks[:]
        market.clock.set_ms(OPENING_MS + DAY_MS)
        await market.advance(20)
    second = market.ticks[len(first) :]
    assert second[0].volume is not None
    assert first[-1].volume is not None
    assert second[0].volume < first[-1].volume
    assert second[0].open == second[0].high == second[0].low == second[0].ltp
    assert second[0].exchange_ms >= OPENING_MS + DAY_MS
    assert walk_of(first)[:100] != walk_of(second)[:100]


async def test_the_day_turns_at_midnight_in_india() -> None:
    market = Market(rate_hz=10)
    midnight_ms = OPENING_MS - (9 * 60 + 15) * 60_000 + DAY_MS
    async with market.running():
        market.simulator.want([instrument(1)])
        market.clock.set_ms(midnight_ms - 1)
        await market.advance(0)
        await market.time.advance(2)
        before = len(market.ticks)
        assert len({tick.open for tick in market.ticks}) == 1
        market.clock.set_ms(midnight_ms)
        await market.time.advance(1)
    assert market.ticks[before].volume < market.ticks[before - 1].volume  # type: ignore[operator]


async def test_ticks_carry_market_time() -> None:
    market = Market()
    async with market.running():
        market.simulator.want([instrument(1)])
        await settle()
        market.clock.set_ms(OPENING_MS + 777_000)
        await market.time.advance(1.1)
    assert [tick.exchange_ms for tick in market.ticks] == [OPENING_MS, OPENING_MS + 777_000]


async def test_where_the_previous_close_comes_from() -> None:
    closes = {1: 500.0, 2: float("nan"), 3: -4.0}
    market = Market(prev_close=lambda key: closes.get(key.token))
    async with market.running():
        market.simulator.want([instrument(token, 250.0) for token in range(1, 5)])
        market.simulator.want([instrument(token, None) for token in range(10, 40)])
        await market.advance(0.05)
    by_token = {tick.key.token: tick.prev_close for tick in market.ticks}
    assert [by_token[token] for token in (1, 2, 3, 4)] == [500.0, 250.0, 250.0, 250.0]
    made_up = [by_token[token] for token in range(10, 40)]
    assert all(close is not None and CHEAPEST <= close <= DEAREST for close in made_up)
    assert len(set(made_up)) > 20


def test_prices_look_like_prices() -> None:
    walk = Walk(instrument(2885), Random(1), 1372.6)
    texts = {repr(walk.step(0).ltp) for _ in range(5000)}
    assert len(texts) > 50
    assert max(len(text) for text in texts) == len("1372.55")


def test_an_index_has_no_volume() -> None:
    walk = Walk(instrument(13, kind="index"), Random(1), 25_000.0)
    assert {walk.step(0).volume for _ in range(100)} == {0}


def test_volumes_are_whole_lots() -> None:
    walk = Walk(instrument(5, lot_size=175), Random(1), 3000.0)
    assert all((walk.step(0).volume or 1) % 175 == 0 for _ in range(100))


def test_it_drifts_back_around_the_previous_close() -> None:
    """A free walk of these steps would end a day 2.6 % away, this one stays within about 0.9 %."""
    closes = []
    for seed in range(20):
        walk = Walk(instrument(1), Random(seed), 1000.0)
        for _ in range(22_500):
            tick = walk.step(0)
        closes.append(tick.ltp)
    assert 4 < pstdev(closes, 1000.0) < 15


@given(
    seed=st.integers(0, 2**32),
    prev_close=st.floats(0.01, 150_000),
    tick_size=st.sampled_from([0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0]),
    jumps=st.integers(1, 60),
)
@example(seed=1, prev_close=100.0, tick_size=0.05, jumps=60)
@example(seed=1, prev_close=0.01, tick_size=5.0, jumps=60)
@example(seed=1, prev_close=150_000.0, tick_size=0.0025, jumps=60)
def test_every_tick_is_on_the_grid_in_the_band_and_consistent(
    seed: int, prev_close: float, tick_size: float, jumps: int
) -> None:
    walk = Walk(instrument(1, tick_size=tick_size), Random(seed), prev_close)
    walk._step_width *= 1000  # so that the band is reached
    ticks = [walk.step(number) for number in range(jumps)]
    grid = Decimal(str(tick_size))
    has_price_in_band = (prev_close * 1.2) // tick_size * tick_size >= prev_close * 0.8
    for tick in ticks:
        assert tick.ltp > 0
        assert Decimal(repr(tick.ltp)) % grid == 0
        if has_price_in_band and tick_size < prev_close * 0.1:
            assert prev_close * 0.8 - 1e-9 <= tick.ltp <= prev_close * 1.2 + 1e-9
        assert tick.prev_close == prev_close
        assert tick.open == ticks[0].ltp
    for number, tick in enumerate(ticks, 1):
        seen = [earlier.ltp for earlier in ticks[:number]]
        assert (tick.high, tick.low) == (max(seen), min(seen))
    volumes = [tick.volume or 0 for tick in ticks]
    assert volumes == sorted(volumes)
    assert volumes[0] > 0


@pytest.mark.parametrize("tick_size", [0.0, -0.05, float("nan"), float("inf")])
def test_an_impossible_tick_size_is_replaced(tick_size: float) -> None:
    walk = Walk(instrument(1, tick_size=tick_size), Random(3), 100.0)
    assert all(Decimal(repr(walk.step(0).ltp)) % Decimal("0.05") == 0 for _ in range(50))


# ---------------------------------------------------------------------- the full mode


async def test_the_full_mode_adds_details_and_changes_nothing_else() -> None:
    plain, full = Market(), Market()
    subject, other = instrument(1), instrument(2)
    for market in (plain, full):
        async with market.running():
            market.simulator.want([subject, other])
            await market.advance(3)
            if market is full:
                market.simulator.want([subject], "full")
            await market.advance(10)
    assert [tick._replace(detail=None) for tick in full.ticks] == plain.ticks
    assert all(tick.detail is None for tick in full.of(other))
    details = [tick.detail is not None for tick in full.of(subject)]
    assert details == sorted(details), "from the moment it was wanted on"
    assert 0 < sum(details) < len(details)


async def test_details_depend_on_the_tick_alone() -> None:
    early, late = Market(rate_hz=1), Market(rate_hz=50)
    for market in (early, late):
        async with market.running():
            market.simulator.want([instrument(1)], "full" if market is early else "quote")
            await market.advance(0.1)
            market.simulator.want([instrument(1)], "full")
            await market.advance(10)
    both = zip(early.ticks, late.ticks, strict=False)
    shared = [(one, other) for one, other in both if other.detail is not None]
    assert len(shared) >= 5
    for one, other in shared:
        assert one.detail == other.detail


async def test_less_than_full_is_wanted_again_without_details() -> None:
    market = Market()
    subject = instrument(1)
    async with market.running():
        for mode in ("full", "ltp", "full", "quote"):
            market.simulator.want([subject], mode)  # type: ignore[arg-type]
            await market.advance(1.1)
            assert (market.ticks[-1].detail is not None) == (mode == "full")
        market.simulator.want([subject], "full")
        market.simulator.unwant([subject.key])
        market.simulator.want([subject])
        await market.advance(1.1)
        assert market.ticks[-1].detail is None


@given(
    st.integers(0, 2**32),
    st.floats(0.05, 50_000),
    st.sampled_from([0.0025, 0.01, 0.05, 1.0]),
    st.integers(1, 1200),
)
def test_an_order_book_is_plausible(seed: int, close: float, tick_size: float, lot: int) -> None:
    walk = Walk(instrument(1, close, tick_size=tick_size, lot_size=lot), Random(seed), close)
    step = Decimal(repr(tick_size))
    for n in range(20):
        tick = walk.step(n)
        detail = walk.detail()
        assert detail == walk.detail(), "it depends on the tick alone"
        assert detail.depth is not None
        assert tick.low is not None
        assert tick.high is not None
        assert detail.avg_price is not None
        assert tick.low <= detail.avg_price <= tick.high
        buy, sell = detail.depth.buy, detail.depth.sell
        assert 1 <= len(buy) <= len(sell) == DEPTH_LEVELS
        bids, asks = [level.price for level in buy], [level.price for level in sell]
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] == tick.ltp < asks[0]
        for side, total in ((buy, detail.total_buy_qty), (sell, detail.total_sell_qty)):
            for level in side:
                assert level.price > 0
                assert Decimal(repr(level.price)) % step == 0
                assert level.quantity % lot == 0
                assert 0 < level.orders <= level.quantity // lot
            assert total is not None
            assert total > sum(level.quantity for level in side)


def test_nobody_trades_an_index() -> None:
    walk = Walk(instrument(1, kind="index"), Random(1), 24_700.0)
    walk.step(1)
    detail = walk.detail()
    assert (detail.depth, detail.avg_price, detail.total_buy_qty) == (None, None, None)
