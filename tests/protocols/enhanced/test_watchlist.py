"""What one client holds."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from odin.market.instruments import InstrumentRegistry
from odin.model import MODES, Instrument, InstrumentKey, Mode, Subscription
from odin.protocols.enhanced.watchlist import Watchlist

SBIN = Instrument(InstrumentKey("NSE", "CM", 3045), "SBIN", "EQ")
TCS = Instrument(InstrumentKey("NSE", "CM", 11536), "TCS", "EQ")
GONE = InstrumentKey("NSE", "CM", 7)


def registry() -> InstrumentRegistry:
    listed = InstrumentRegistry()
    listed.replace([SBIN, TCS])
    return listed


def held(*items: Subscription) -> Watchlist:
    made = Watchlist(registry())
    made.load(items)
    return made


def test_what_was_stored_is_held_in_its_order_and_modes() -> None:
    watchlist = held(
        Subscription(TCS.key, "TCS", 1, "full"),
        Subscription(SBIN.key, "SBIN OLD", 2),
        Subscription(GONE, "GONE", 3, "ltp"),
    )
    assert list(watchlist) == [TCS.key, SBIN.key, GONE]
    assert [watchlist.mode(key) for key in watchlist] == ["full", "quote", "ltp"]
    assert [watchlist.name(key) for key in watchlist] == ["TCS", "SBIN", "GONE"]


def test_keys_and_symbols_are_the_registrys_own() -> None:
    watchlist = held(Subscription(InstrumentKey("NSE", "CM", 3045), "SBIN", 1))
    (key,) = watchlist
    assert key is not InstrumentKey("NSE", "CM", 3045)
    assert watchlist.name(key) is SBIN.symbol


def test_the_fields_are_aligned_and_name_what_is_gone_or_stale() -> None:
    watchlist = held(Subscription(GONE, "GONE", 1), Subscription(SBIN.key, "SBIN", 2, "full"))
    assert watchlist.fields(lambda key: key == SBIN.key) == {
        "subscribed_tokens": ["7", "3045"],
        "subscribed_symbols": ["GONE", "SBIN"],
        "subscribed_exchanges": ["NSE", "NSE"],
        "subscribed_segments": ["CM", "CM"],
        "subscribed_modes": ["quote", "full"],
        "total_subscribed": 2,
        "unavailable_stocks": ["GONE"],
        "stale_stocks": ["SBIN"],
    }


def test_what_left_the_master_is_found_among_the_held_alone() -> None:
    watchlist = held(Subscription(GONE, "GONE", 1))
    for name in ("gone", " GONE ", 7, "7"):
        found, failed = watchlist.resolve([name], among_held=True)
        assert (list(found), failed) == ([GONE], [])
        found, failed = watchlist.resolve([name])
        assert (found, [item.stock for item in failed]) == ({}, [str(name)])


keys = st.sampled_from([SBIN.key, TCS.key, GONE])


class WatchlistMachine(RuleBasedStateMachine):
    """Against a dict from key to mode."""

    def __init__(self) -> None:
        super().__init__()
        self.watchlist = Watchlist(registry())
        self.model: dict[InstrumentKey, Mode] = {}

    @rule(key=keys, mode=st.sampled_from(MODES))
    def subscribe(self, key: InstrumentKey, mode: Mode) -> None:
        if key in self.watchlist:
            self.watchlist.change([key], mode)
        else:
            self.watchlist.add({key: "X"}, mode)
        self.model[key] = mode

    @rule(gone=st.sets(keys))
    def unsubscribe(self, gone: set[InstrumentKey]) -> None:
        removed = [key for key in gone if key in self.watchlist]
        self.watchlist.remove(removed)
        for key in removed:
            del self.model[key]

    @rule()
    def store(self) -> None:
        items = [Subscription(key, "X", 1, mode) for key, mode in self.model.items()]
        self.watchlist.load(items)

    @invariant()
    def both_agree(self) -> None:
        assert {key: self.watchlist.mode(key) for key in self.watchlist} == self.model
        assert list(self.watchlist) == list(self.model)
        assert len(self.watchlist) == len(self.model)
        assert all(self.watchlist.mode(key) == "quote" for key in {GONE} - self.model.keys())


WatchlistMachine.TestCase.settings = settings(max_examples=50, deadline=None)
TestWatchlist = WatchlistMachine.TestCase
