from hypothesis import given
from hypothesis import strategies as st

from odin.feeds.odinfeed.requests import BestFive, Request, Scrip, Touchline
from odin.feeds.odinfeed.subscriptions import BATCH_SCRIPS, Subscriptions
from odin.model import MODES, Mode

ONE, TWO = Scrip(1, 22), Scrip(3, 500325)
SCRIPS = [Scrip(1, token) for token in range(120)]


def drain(subscriptions: Subscriptions) -> list[Request]:
    """All that there is to tell the server."""
    found: list[Request] = []
    while requests := subscriptions.next_requests():
        found += requests
    return found


class Told:
    """A server that believes what it is told."""

    def __init__(self) -> None:
        self.lines: dict[Scrip, bool] = {}
        self.books: set[Scrip] = set()

    def take(self, requests: list[Request]) -> None:
        for request in requests:
            match request:
                case Touchline(scrips, True, _, is_ltp_change_only):
                    assert not self.lines.keys() & set(scrips), "subscribed twice"
                    self.lines.update(dict.fromkeys(scrips, is_ltp_change_only))
                case Touchline(scrips):
                    for scrip in scrips:
                        del self.lines[scrip]
                case BestFive(scrip, True):
                    assert scrip not in self.books, "subscribed twice"
                    self.books.add(scrip)
                case BestFive(scrip):
                    self.books.remove(scrip)

    def modes(self) -> dict[Scrip, Mode]:
        return {
            scrip: "ltp" if is_ltp else "full" if scrip in self.books else "quote"
            for scrip, is_ltp in self.lines.items()
        }


def test_each_mode_asks_for_what_it_needs() -> None:
    subscriptions = Subscriptions(is_binary=False)
    subscriptions.want(ONE, "ltp")
    assert drain(subscriptions) == [Touchline((ONE,), is_ltp_change_only=True)]
    subscriptions.want(ONE, "quote")
    assert drain(subscriptions) == [Touchline((ONE,), is_on=False), Touchline((ONE,))]
    subscriptions.want(ONE, "full")
    assert drain(subscriptions) == [BestFive(ONE)]
    subscriptions.want(ONE, "ltp")
    assert drain(subscriptions) == [
        Touchline((ONE,), is_on=False),
        Touchline((ONE,), is_ltp_change_only=True),
        BestFive(ONE, is_on=False),
    ]
    subscriptions.unwant(ONE)
    assert drain(subscriptions) == [Touchline((ONE,), is_on=False)]
    subscriptions.unwant(ONE)
    assert drain(subscriptions) == []


def test_binary_is_asked_for() -> None:
    subscriptions = Subscriptions(is_binary=True)
    subscriptions.want(ONE, "quote")
    assert drain(subscriptions) == [Touchline((ONE,), is_binary=True)]


def test_batches_are_of_fifty_and_order_books_come_last() -> None:
    subscriptions = Subscriptions(is_binary=False)
    for scrip in SCRIPS:
        subscriptions.want(scrip, "full")
    requests = drain(subscriptions)
    assert [len(r.scrips) for r in requests if isinstance(r, Touchline)] == [BATCH_SCRIPS] * 2 + [
        20
    ]
    assert requests[3:] == [BestFive(scrip) for scrip in SCRIPS]


def test_what_changes_and_changes_back_is_not_told() -> None:
    subscriptions = Subscriptions(is_binary=False)
    subscriptions.want(ONE, "quote")
    subscriptions.unwant(ONE)
    subscriptions.want(TWO, "full")
    subscriptions.want(TWO, "quote")
    assert drain(subscriptions) == [Touchline((TWO,))]
    subscriptions.unwant(TWO)
    subscriptions.want(TWO, "quote")
    assert drain(subscriptions) == []


def test_a_touchline_does_not_wait_for_order_books() -> None:
    subscriptions = Subscriptions(is_binary=False)
    for scrip in SCRIPS[:10]:
        subscriptions.want(scrip, "full")
    assert len(subscriptions.next_requests()) == 1
    assert subscriptions.next_requests() == [BestFive(SCRIPS[0])]
    subscriptions.want(TWO, "quote")
    assert subscriptions.next_requests() == [Touchline((TWO,))]


def test_a_new_connection_is_told_everything_again() -> None:
    subscriptions = Subscriptions(is_binary=False)
    subscriptions.want(ONE, "full")
    subscriptions.want(TWO, "ltp")
    first = drain(subscriptions)
    subscriptions.restart()
    assert drain(subscriptions) == first
    subscriptions.unwant(ONE)
    subscriptions.restart()
    assert drain(subscriptions) == [Touchline((TWO,), is_ltp_change_only=True)]


steps = st.tuples(
    st.sampled_from(SCRIPS[:4]),
    st.sampled_from([*MODES, None]),
    st.sampled_from(["", "some", "new"]),
)


@given(st.lists(steps))
def test_the_server_always_ends_up_with_what_is_wanted(
    changes: list[tuple[Scrip, Mode | None, str]],
) -> None:
    subscriptions = Subscriptions(is_binary=False)
    server = Told()
    wanted: dict[Scrip, Mode] = {}
    for scrip, mode, event in changes:
        if mode is None:
            subscriptions.unwant(scrip)
            wanted.pop(scrip, None)
        else:
            subscriptions.want(scrip, mode)
            wanted[scrip] = mode
        if event == "some":
            server.take(subscriptions.next_requests())
        elif event == "new":
            subscriptions.restart()
            server = Told()
    server.take(drain(subscriptions))
    assert server.modes() == wanted
    assert server.books == {scrip for scrip, mode in wanted.items() if mode == "full"}
