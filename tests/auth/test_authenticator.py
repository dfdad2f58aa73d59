"""Keys, tickets and failures, by a clock of the test's own."""

import pytest

from odin.auth.authenticator import (
    FAILURE_WINDOW_S,
    MAX_ADDRESSES,
    MAX_FAILURES,
    MAX_TICKETS,
    TICKET_LIFE_S,
    Authenticator,
)
from odin.auth.keys import create
from odin.errors import ClientError

HERE = "192.0.2.1"
THERE = "192.0.2.2"


class Bench:
    """An authenticator that knows one key."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.auth = Authenticator(lambda: self.now)
        self.key, self.text = create("a", ["stream"], 0)
        self.auth.keys.replace([self.key])

    def code(self, text: str, address: str = HERE) -> str:
        """Return why a key is refused, "" where it is not."""
        try:
            self.auth.by_key(text, address)
        except ClientError as error:
            return error.code
        return ""

    def ticket_code(self, ticket: str, address: str = HERE) -> str:
        try:
            self.auth.by_ticket(ticket, address)
        except ClientError as error:
            return error.code
        return ""


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_key_is_recognised(bench: Bench) -> None:
    assert bench.auth.by_key(bench.text, HERE) == bench.key


def test_unknown_wrong_and_revoked_keys_have_one_answer(bench: Bench) -> None:
    other, text = create("b", ["stream"], 0)
    assert bench.code(text) == "authentication_failed"
    assert bench.code(bench.text[:-2] + "AA") == "authentication_failed"
    bench.auth.keys.replace([other, bench.key._replace(revoked_ms=1)])
    assert bench.code(bench.text) == "authentication_failed"
    assert bench.code(text) == ""


def test_a_ticket_is_good_once(bench: Bench) -> None:
    """It is spent by what it was brought for, not by a look at it."""
    ticket, other = bench.auth.issue_ticket(bench.key), bench.auth.issue_ticket(bench.key)
    assert bench.auth.by_ticket(ticket, HERE) == bench.key
    assert bench.auth.by_ticket(ticket, HERE) == bench.key
    bench.auth.spend_ticket("nonsense")
    bench.auth.spend_ticket(ticket)
    assert bench.auth.by_ticket(other, HERE) == bench.key
    assert bench.ticket_code(ticket) == "authentication_failed"


def test_a_ticket_lives_half_a_minute(bench: Bench) -> None:
    first, second = bench.auth.issue_ticket(bench.key), bench.auth.issue_ticket(bench.key)
    bench.now += TICKET_LIFE_S - 0.01
    assert bench.ticket_code(first) == ""
    bench.now += 0.01
    assert bench.ticket_code(second) == "authentication_failed"


def test_the_tickets_of_a_revoked_key_are_void(bench: Bench) -> None:
    ticket = bench.auth.issue_ticket(bench.key)
    bench.auth.keys.replace([])
    assert bench.ticket_code(ticket) == "authentication_failed"


def test_tickets_fill_no_memory(bench: Bench) -> None:
    first = bench.auth.issue_ticket(bench.key)
    newest = [bench.auth.issue_ticket(bench.key) for _ in range(MAX_TICKETS)][-1]
    assert len(bench.auth._tickets[bench.key.id]) == MAX_TICKETS
    assert bench.ticket_code(first) == "authentication_failed"
    assert bench.ticket_code(newest) == ""
    bench.now += TICKET_LIFE_S
    bench.auth.issue_ticket(bench.key)
    assert len(bench.auth._tickets[bench.key.id]) == 1


def test_ten_failures_in_a_minute_stop_an_address(bench: Bench) -> None:
    for _ in range(MAX_FAILURES):
        assert bench.code("wrong") == "authentication_failed"
    assert bench.code("wrong") == "too_many_failures"
    assert bench.code(bench.text) == "too_many_failures"
    assert bench.ticket_code(bench.auth.issue_ticket(bench.key)) == "too_many_failures"
    assert bench.code(bench.text, THERE) == ""
    bench.now += FAILURE_WINDOW_S
    assert bench.code(bench.text) == ""


def test_failures_are_counted_over_a_sliding_minute(bench: Bench) -> None:
    for _ in range(MAX_FAILURES):
        bench.code("wrong")
        bench.now += 6.0
    assert bench.code("wrong") == "authentication_failed"
    assert bench.code("wrong") == "too_many_failures"
    bench.now += 6.0
    assert bench.code("wrong") == "authentication_failed"


def test_one_key_voids_no_tickets_of_another(bench: Bench) -> None:
    other, text = create("other", ["stream"], 0)
    bench.auth.keys.replace([bench.key, other])
    ticket = bench.auth.issue_ticket(bench.key)
    for _ in range(MAX_TICKETS + 1):
        bench.auth.issue_ticket(other)
    assert bench.auth.by_key(text, HERE) == other
    assert bench.auth.by_ticket(ticket, HERE) == bench.key


def test_wrong_tickets_are_failures_too(bench: Bench) -> None:
    for _ in range(MAX_FAILURES):
        assert bench.ticket_code("nonsense") == "authentication_failed"
    assert bench.ticket_code("nonsense") == "too_many_failures"


def test_addresses_that_failed_fill_no_memory(bench: Bench) -> None:
    for number in range(MAX_ADDRESSES + 50):
        bench.code("wrong", f"addr-{number}")
    assert len(bench.auth._failures) == MAX_ADDRESSES
