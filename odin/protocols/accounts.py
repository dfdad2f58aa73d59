"""What each owner uses of the limits that all its connections share.

An owner is an API key or, without authentication, an address: every way to make a client_id count
afresh ends here. Who used nothing lately and holds nothing is forgotten.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

from odin.errors import ClientError
from odin.settings import LimitSettings

DAY_S = 86_400.0
FORGET_AFTER = 1024
"""Owners that are remembered before there is a look for those that can be forgotten."""


class TokenBucket:
    """Allows `burst` at once and `rate` a second on average. Times are monotonic seconds."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._updated = now

    def take(self, now: float) -> bool:
        """Take one token; False where there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def is_full(self, now: float, share: float = 1.0) -> bool:
        """Whether it holds at least this share of its burst: little was taken lately."""
        return self._tokens + (now - self._updated) * self._rate >= self._burst * share


class Account:
    """What one owner has used. Nothing is changed by what is refused."""

    __slots__ = ("_held", "_limits", "_newcomers", "_requests")

    def __init__(self, limits: LimitSettings, now: float, *, is_exempt: bool = False) -> None:
        self._limits = None if is_exempt else limits
        self._held = 0
        a_day = limits.new_clients_per_day
        self._newcomers = TokenBucket(a_day / DAY_S, inf if is_exempt else a_day, now)
        burst = inf if is_exempt else limits.request_burst_per_key
        self._requests = TokenBucket(limits.requests_per_s_per_key, burst, now)

    def may_ask(self, now: float) -> bool:
        """Count a request; False where it is one too many."""
        return self._requests.take(now)

    def bring_client(self, now: float) -> None:
        """Count a client_id that is new. Raises ClientError too_many_clients."""
        if not self._newcomers.take(now):
            raise ClientError("too_many_clients")

    def hold(self, count: int) -> None:
        """Count subscriptions of a connected client_id. Raises ClientError subscription_limit."""
        held = self._held + count
        if count and self._limits is not None and held > self._limits.subscriptions_per_key:
            limit = self._limits.subscriptions_per_key
            raise ClientError("subscription_limit", count=held, limit=limit)
        self._held = held

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Hold subscriptions, unless what they are held for fails."""
        self.hold(count)
        try:
            yield
        except BaseException:
            self.release(count)
            raise

    def release(self, count: int) -> None:
        """Count subscriptions that were held as gone."""
        self._held -= count

    def is_idle(self, now: float) -> bool:
        """Whether an account that is new would be no different."""
        return not self._held and self._requests.is_full(now) and self._newcomers.is_full(now)


class Accounts:
    """The account of every owner. Times are monotonic seconds."""

    def __init__(self, limits: LimitSettings, now: Callable[[], float] = monotonic) -> None:
        self._limits = limits
        self._now = now
        self._exempt = Account(limits, now(), is_exempt=True)
        self._accounts = dict.fromkeys(limits.exempt_addresses, self._exempt)
        self._forget_at = FORGET_AFTER

    def ask(self, owner: str) -> None:
        """Count a request. Raises ClientError rate_limited."""
        if not self.of(owner).may_ask(self._now()):
            limit = f"{self._limits.requests_per_s_per_key:g}"
            raise ClientError("rate_limited", limit=limit)

    def bring_client(self, owner: str) -> None:
        """Count a client_id that is new. Raises ClientError too_many_clients."""
        self.of(owner).bring_client(self._now())

    def of(self, owner: str) -> Account:
        """Return the account of an owner: the id of a key or an address. It is not to be kept."""
        account = self._accounts.get(owner)
        if account is None:
            now = self._now()
            if len(self._accounts) >= self._forget_at:
                self._forget_idle(now)
            account = self._accounts[owner] = Account(self._limits, now)
        return account

    def _forget_idle(self, now: float) -> None:
        self._accounts = {
            owner: account
            for owner, account in self._accounts.items()
            if account is self._exempt or not account.is_idle(now)
        }
        # Where all are busy, every new one would have all of them looked at.
        self._forget_at = max(FORGET_AFTER, 2 * len(self._accounts))
