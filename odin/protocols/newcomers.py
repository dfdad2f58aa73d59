"""How many new client_ids one address or API key may bring, so that random ids fill no disk."""

from time import monotonic

from odin.errors import ClientError
from odin.protocols.admission import TokenBucket
from odin.settings import LimitSettings

DAY_S = 86_400.0
_FORGET_AFTER = 1024


class Newcomers:
    """Counts the client_ids that subscribe for the first time, by who brought them."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limit = limits.new_clients_per_day
        self._exempt = frozenset(limits.exempt_addresses)
        self._buckets: dict[str, TokenBucket] = {}

    def admit(self, owner: str, now: float | None = None) -> None:
        """Count one more. Raises ClientError too_many_clients where it is one too many.

        owner: id of an API key or, without authentication, an address. now: monotonic seconds.
        """
        if owner in self._exempt:
            return
        now = monotonic() if now is None else now
        bucket = self._buckets.get(owner)
        if bucket is None:
            if len(self._buckets) >= _FORGET_AFTER:
                self._buckets = {o: b for o, b in self._buckets.items() if not b.is_full(now)}
            bucket = self._buckets[owner] = TokenBucket(self._limit / DAY_S, self._limit, now)
        if not bucket.take(now):
            raise ClientError("too_many_clients")
