"""Judges credentials: keys and tickets, and addresses that were wrong too often. Pure: no I/O."""

import secrets
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from odin.auth.keys import KeyIndex
from odin.errors import ClientError
from odin.model import ApiKey

TICKET_LIFE_S: Final = 30
MAX_TICKETS: Final = 1_000
"""Tickets of one key that wait to be used; its oldest gives way, so that asking fills no memory
and voids no other key's."""
MAX_FAILURES: Final = 10
FAILURE_WINDOW_S: Final = 60.0
MAX_ADDRESSES: Final = 10_000


class Authenticator:
    """Recognises who sends credentials.

    Raises ClientError authentication_failed for a wrong, unknown, revoked or used credential alike,
    and too_many_failures, whatever was sent, for an address with MAX_FAILURES in the last minute.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self.keys = KeyIndex()
        self._now = now
        self._tickets: dict[str, dict[str, float]] = {}
        """End of life by ticket, the oldest first, of each key by its id."""
        self._failures: dict[str, deque[float]] = {}

    def by_key(self, text: str, address: str) -> ApiKey:
        """Return the key that a text is."""
        self.check_failures(address)
        return self._known(self.keys.find(text), address)

    def by_ticket(self, ticket: str, address: str) -> ApiKey:
        """Return the key a ticket was issued for; the ticket is good until it is spent."""
        self.check_failures(address)
        for key_id, tickets in self._tickets.items():
            if self._now() < tickets.get(ticket, 0.0):
                return self._known(self.keys.get(key_id), address)
        return self._known(None, address)

    def spend_ticket(self, ticket: str) -> None:
        """Make a ticket void; another text is none."""
        for tickets in self._tickets.values():
            tickets.pop(ticket, None)

    def issue_ticket(self, key: ApiKey) -> str:
        """Return a ticket that stands for the key, once and for TICKET_LIFE_S."""
        now = self._now()
        tickets = self._tickets.setdefault(key.id, {})
        while tickets:
            oldest = next(iter(tickets))
            if tickets[oldest] > now and len(tickets) < MAX_TICKETS:
                break
            del tickets[oldest]
        ticket = f"odin_ticket_{secrets.token_urlsafe(32)}"
        tickets[ticket] = now + TICKET_LIFE_S
        return ticket

    def check_failures(self, address: str) -> None:
        """Raise ClientError too_many_failures for an address that was wrong too often."""
        failed = self._failures.get(address)
        if failed and len(failed) >= MAX_FAILURES and self._now() - failed[0] < FAILURE_WINDOW_S:
            raise ClientError("too_many_failures")

    def _known(self, key: ApiKey | None, address: str) -> ApiKey:
        if key is None:
            self._note_failure(address)
            raise ClientError("authentication_failed")
        return key

    def _note_failure(self, address: str) -> None:
        # Taken out and put back: the address that failed last is the last to be forgotten.
        failed = self._failures.pop(address, None) or deque(maxlen=MAX_FAILURES)
        failed.append(self._now())
        if len(self._failures) >= MAX_ADDRESSES:
            del self._failures[next(iter(self._failures))]
        self._failures[address] = failed
