import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from odin.feeds.demand import Demand, Want
from odin.model import MODES, Instrument, InstrumentKey, Mode
from tests.feeds.fake_time import FakeTime

SBIN = Instrument(InstrumentKey("NSE", "CM", 3045), "SBIN")
INFY = Instrument(InstrumentKey("NSE", "CM", 1594), "INFY")
TCS = Instrument(InstrumentKey("NSE", "CM", 11536), "TCS")
BY_KEY = {instrument.key: instrument for instrument in (SBIN, INFY, TCS)}


class Upstream:
    """What Demand talks to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.modes: dict[InstrumentKey, Mode] = {}

    @property
    def wanted(self) -> set[InstrumentKey]:
        return set(self.modes)

    def want(self, instruments: Sequence[Instrument], mode: Mode) -> None:
        self.calls.append((mode, [instrument.symbol for instrument in instruments]))
        self.modes.update((instrument.key, mode) for instrument in instruments)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        self.calls.append(("unwant", [BY_KEY[key].symbol for key in keys]))
        for key in keys:
            del self.modes[key]


def wants(*instruments: Instrument, mode: Mode = "quote") -> list[Want]:
    return [Want(instrument.key, mode) for instrument in instruments]


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
    demand.add(wants(SBIN, INFY))
    demand.add(wants(SBIN))
    assert upstream.calls == [("quote", ["SBIN", "INFY"])]
    demand.remove(wants(SBIN))
    await time.advance(100)
    assert len(upstream.calls) == 1
    demand.remove(wants(SBIN))
    await time.advance(29.9)
    assert demand.wanted == {SBIN.key, INFY.key}
    assert len(upstream.calls) == 1
    await time.advance(0.2)
    assert upstream.calls[1:] == [("unwant", ["SBIN"])]
    assert demand.wanted == {INFY.key}


async def test_a_subscriber_who_comes_back_in_time_is_not_noticed_upstream() -> None:
    demand, upstream, time, _ = _demand(linger_s=30)
    demand.add(wants(SBIN, INFY))
    demand.remove(wants(SBIN, INFY))
    await time.advance(20)
    demand.add(wants(SBIN))
    await time.advance(20)
    assert upstream.calls == [("quote", ["SBIN", "INFY"]), ("unwant", ["INFY"])]
    demand.remove(wants(SBIN))
    await time.advance(29)
    assert upstream.wanted == {SBIN.key}
    await time.advance(2)
    assert upstream.wanted == set()


async def test_a_timer_nobody_needs_is_cancelled() -> None:
    demand, _, time, _ = _demand()
    demand.add(wants(SBIN))
    demand.remove(wants(SBIN))
    demand.add(wants(SBIN))
    assert [timer.is_cancelled for timer in time.timers] == [True]


def test_without_linger_the_last_one_unwants_at_once() -> None:
    demand, upstream, time, _ = _demand(linger_s=0)
    demand.add(wants(SBIN))
    demand.remove(wants(SBIN))
    assert upstream.calls == [("quote", ["SBIN"]), ("unwant", ["SBIN"])]
    assert time.timers == []


def test_a_removal_too_many_is_ignored() -> None:
    demand, upstream, _, _ = _demand(linger_s=0)
    demand.remove(wants(SBIN))
    demand.add(wants(SBIN))
    assert upstream.calls == [("quote", ["SBIN"])]


def test_refresh_asks_for_what_a_new_master_added_or_changed() -> None:
    demand, upstream, _, master = _demand()
    del master[SBIN.key]
    demand.add(wants(SBIN, INFY))
    assert upstream.calls == [("quote", ["INFY"])]
    assert demand.wanted == {SBIN.key, INFY.key}
    demand.refresh()
    assert len(upstream.calls) == 1
    master[SBIN.key] = SBIN
    demand.refresh()
    assert upstream.calls[1:] == [("quote", ["SBIN"])]
    master[INFY.key] = Instrument(INFY.key, "INFOSYS")
    demand.refresh()
    assert upstream.calls[2:] == [("quote", ["INFOSYS"])]


def test_what_was_never_asked_for_is_not_taken_back() -> None:
    demand, upstream, _, master = _demand(linger_s=0)
    master.clear()
    demand.add(wants(SBIN))
    demand.remove(wants(SBIN))
    assert upstream.calls == []


async def test_close_cancels_the_timers() -> None:
    demand, upstream, time, _ = _demand()
    demand.add(wants(SBIN))
    demand.remove(wants(SBIN))
    demand.close()
    await time.advance(1000)
    assert upstream.calls == [("quote", ["SBIN"])]


async def test_the_event_loops_timers_are_used_by_default() -> None:
    upstream = Upstream()
    demand = Demand(BY_KEY.get, upstream.want, upstream.unwant, linger_s=3600)
    demand.add(wants(SBIN))
    demand.remove(wants(SBIN))
    assert upstream.wanted == {SBIN.key}
    demand.close()


async def test_the_fullest_mode_wins_and_upstream_hears_of_each_step_up_once() -> None:
    demand, upstream, _, _ = _demand()
    demand.add(wants(SBIN, INFY, mode="ltp"))
    demand.add(wants(SBIN, mode="full"))
    demand.add(wants(SBIN))
    demand.add(wants(SBIN, mode="full"))
    assert upstream.calls == [("ltp", ["SBIN", "INFY"]), ("full", ["SBIN"])]


async def test_the_mode_steps_down_after_the_linger_to_what_is_still_asked_for() -> None:
    demand, upstream, time, _ = _demand(linger_s=30)
    demand.add([*wants(SBIN, mode="ltp"), *wants(SBIN, INFY, mode="full"), *wants(SBIN)])
    assert upstream.calls == [("full", ["SBIN", "INFY"])]
    demand.remove([*wants(SBIN, INFY, mode="full")])
    await time.advance(29)
    assert len(upstream.calls) == 1
    await time.advance(2)
    assert upstream.calls[1:] == [("unwant", ["INFY"]), ("quote", ["SBIN"])]
    demand.remove(wants(SBIN))
    await time.advance(31)
    assert upstream.calls[3:] == [("ltp", ["SBIN"])]
    assert demand.wanted == {SBIN.key}


async def test_a_fuller_mode_that_comes_back_in_time_is_not_noticed_upstream() -> None:
    demand, upstream, time, _ = _demand(linger_s=30)
    demand.add([*wants(SBIN), *wants(SBIN, mode="full")])
    demand.remove(wants(SBIN, mode="full"))
    await time.advance(20)
    demand.add(wants(SBIN, mode="full"))
    await time.advance(60)
    assert upstream.calls == [("full", ["SBIN"])]


async def test_changing_the_mode_downwards_lingers_in_the_fuller_one() -> None:
    demand, upstream, time, _ = _demand(linger_s=30)
    demand.add(wants(SBIN, mode="full"))
    demand.add(wants(SBIN, mode="ltp"))
    demand.remove(wants(SBIN, mode="full"))
    assert upstream.modes == {SBIN.key: "full"}
    await time.advance(31)
    assert upstream.calls == [("full", ["SBIN"]), ("ltp", ["SBIN"])]


def test_a_batch_is_told_once_for_each_mode() -> None:
    demand, upstream, _, _ = _demand()
    demand.add([*wants(SBIN, mode="full"), *wants(INFY), *wants(TCS, mode="full")])
    assert upstream.calls == [("full", ["SBIN", "TCS"]), ("quote", ["INFY"])]


def test_refresh_asks_in_the_fullest_mode() -> None:
    demand, upstream, _, master = _demand()
    del master[SBIN.key]
    demand.add([*wants(SBIN, mode="ltp"), *wants(SBIN, mode="full")])
    assert upstream.calls == []
    master[SBIN.key] = SBIN
    demand.refresh()
    assert upstream.calls == [("full", ["SBIN"])]


EACH_WANT = st.builds(Want, st.sampled_from(sorted(BY_KEY)), st.sampled_from(MODES))


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove", "wait"]), st.lists(EACH_WANT, max_size=4)),
        max_size=40,
    )
)
def test_upstream_always_wants_what_has_a_subscriber_in_the_fullest_mode_asked(
    steps: list[tuple[str, list[Want]]],
) -> None:
    """Against a plain model: counts, and the moment each want lost its last subscriber."""

    async def play() -> None:
        demand, upstream, time, _ = _demand(linger_s=30)
        counts: dict[Want, int] = {}
        left_s: dict[Want, float] = {}
        for step, batch in steps:
            if step == "wait":
                await time.advance(12)
            elif step == "add":
                demand.add(batch)
                for want in batch:
                    counts[want] = counts.get(want, 0) + 1
                    left_s.pop(want, None)
            else:
                demand.remove(batch)
                for want in batch:
                    if counts.get(want):
                        counts[want] -= 1
                        if not counts[want]:
                            left_s[want] = time.now_s
            left_s = {want: at_s for want, at_s in left_s.items() if time.now_s - at_s < 30}
            held = {want for want, count in counts.items() if count} | left_s.keys()
            expected = {
                key: max((want.mode for want in held if want.key == key), key=MODES.index)
                for key in {want.key for want in held}
            }
            assert upstream.modes == expected
            assert demand.wanted == expected.keys()

    asyncio.run(play())
