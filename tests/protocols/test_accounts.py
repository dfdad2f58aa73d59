"""What an API key or an address may use over all its connections."""

import pytest

from odin.errors import ClientError
from odin.protocols.accounts import DAY_S, FORGET_AFTER, Accounts, TokenBucket
from odin.settings import LimitSettings

LIMITS = LimitSettings(
    new_clients_per_day=3,
    requests_per_s_per_key=2.0,
    request_burst_per_key=4,
    subscriptions_per_key=10,
)
ONE, OTHER = "10.0.0.1", "10.0.0.2"


class Bench:
    """Accounts by a clock of the test's own."""

    def __init__(self, limits: LimitSettings = LIMITS) -> None:
        self.now = 1000.0
        self.accounts = Accounts(limits, lambda: self.now)

    def asks(self, owner: str, count: int) -> int:
        """Return how many of so many requests are let through."""
        let_through = 0
        for _ in range(count):
            try:
                self.accounts.ask(owner)
            except ClientError as error:
                assert error.code == "rate_limited"
                assert "the limit is 2 a second" in error.message
            else:
                let_through += 1
        return let_through


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_bucket_that_was_left_alone_is_full_again() -> None:
    bucket = TokenBucket(rate=1.0, burst=2, now=0.0)
    assert bucket.is_full(0.0)
    bucket.take(0.0)
    assert not bucket.is_full(0.5)
    assert bucket.is_full(1.0)


def test_requests_have_a_burst_and_a_rate_each_owner_for_itself(bench: Bench) -> None:
    assert bench.asks(ONE, 6) == 4
    assert bench.asks(OTHER, 1) == 1
    bench.now += 1
    assert bench.asks(ONE, 3) == 2


def test_subscriptions_of_one_owner_have_a_sum(bench: Bench) -> None:
    of = bench.accounts.of
    of(ONE).hold(4)
    of(ONE).hold(6)
    with pytest.raises(ClientError) as refused:
        of(ONE).hold(1)
    assert refused.value.code == "subscription_limit"
    assert refused.value.message.startswith("11 subscriptions would pass the limit of 10;")
    of(OTHER).hold(10)
    of(ONE).release(4)
    of(ONE).hold(4)


def test_nothing_more_may_be_held_at_any_time(bench: Bench) -> None:
    """A client without subscriptions connects even where the others hold all there is."""
    bench.accounts.of(ONE).hold(10)
    bench.accounts.of(ONE).hold(0)


def test_what_fails_is_not_held(bench: Bench) -> None:
    account = bench.accounts.of(ONE)
    with pytest.raises(KeyError), account.holding(10):
        raise KeyError
    with account.holding(10):
        pass
    with pytest.raises(ClientError), account.holding(1):
        raise AssertionError("never entered")
    account.release(10)
    account.hold(10)


def test_so_many_new_clients_a_day(bench: Bench) -> None:
    for _ in range(3):
        bench.accounts.bring_client(ONE)
    with pytest.raises(ClientError) as refused:
        bench.accounts.bring_client(ONE)
    assert refused.value.code == "too_many_clients"
    bench.accounts.bring_client(OTHER)
    bench.now += DAY_S / 3
    bench.accounts.bring_client(ONE)


def test_exempt_addresses_are_not_counted(bench: Bench) -> None:
    assert bench.asks("127.0.0.1", 1000) == 1000
    for _ in range(10):
        bench.accounts.bring_client("127.0.0.1")
        bench.accounts.of("127.0.0.1").hold(1000)


def test_owners_who_use_nothing_are_forgotten_and_others_never(bench: Bench) -> None:
    bench.accounts.of(ONE).hold(10)
    for number in range(5000):
        bench.now += DAY_S
        bench.accounts.ask(f"key{number}")
        bench.accounts.bring_client(f"key{number}")
    assert len(bench.accounts._accounts) <= FORGET_AFTER
    with pytest.raises(ClientError):
        bench.accounts.of(ONE).hold(1)
    assert bench.asks("127.0.0.1", 100) == 100


def test_many_busy_owners_are_not_looked_through_for_each_new_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    forget = bench.accounts._forget_idle

    def counted(now: float) -> None:
        nonlocal looks
        looks += 1
        forget(now)

    monkeypatch.setattr(bench.accounts, "_forget_idle", counted)
    for number in range(10 * FORGET_AFTER):
        bench.accounts.of(f"key{number}").hold(1)
    assert 0 < looks <= 5


def test_the_defaults_are_generous() -> None:
    bench = Bench(LimitSettings())
    for _ in range(1000):
        bench.accounts.bring_client(ONE)
    with pytest.raises(ClientError):
        bench.accounts.bring_client(ONE)
    for _ in range(600):
        bench.accounts.ask(ONE)
    with pytest.raises(ClientError, match="the limit is 200 a second"):
        bench.accounts.ask(ONE)
    bench.accounts.of(ONE).hold(100_000)
    with pytest.raises(ClientError):
        bench.accounts.of(ONE).hold(1)
