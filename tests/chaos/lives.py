"""Clients that know exactly what the server has promised them."""

import random
from collections.abc import Callable

from tests.chaos.crowd import STOCKS, join


class Life:
    """One client_id: a storm of changes, and what the server may hold of them.

    held: every state it has been through since the last check, oldest first; the first
        `acknowledged` changes of them were acknowledged, so that only the last states are allowed.
    mark: says where in the disk's log the server is, for the power cuts.
    """

    def __init__(self, client_id: str, mark: Callable[[], int] = int) -> None:
        self.client_id = client_id
        self.random = random.Random(client_id)
        self.states: list[list[str]] = [[]]
        self.marks: list[int] = [0]
        """Where the disk's log was when each of the states was known to be acknowledged."""
        self.acknowledged = 0
        self.missing = 0
        """Acknowledged changes that the server no longer had when it was asked."""
        self.refused = 0
        self._mark = mark

    @property
    def total(self) -> int:
        """Changes acknowledged so far, and not undone by a check."""
        return len(self.marks) - 1

    async def storm(self, url: str) -> None:
        """Change subscriptions until the server is gone."""
        try:
            member = await join(url, self.client_id)
        except OSError:
            return
        try:
            await self._check(member.ask("get_subscriptions"))
            while True:
                stocks = self.random.sample(STOCKS, 3)
                action = self.random.choice(["subscribe", "unsubscribe"])
                self.states.append(self._after(action, stocks))
                answer = await member.ask(action, stocks=stocks)
                if answer["type"] == "error":
                    assert answer["code"] == "store_unavailable", answer
                    self.states.pop()
                    self.refused += 1
                    continue
                self.marks.append(self._mark())
                self.acknowledged += 1
        except ConnectionError:
            return
        finally:
            member.leave()
            await member.ended

    async def check(self, url: str) -> None:
        """Ask the server what it has, and count what is `missing` of what it acknowledged.

        Fails for a change that is there in part: the one that was on its way too is whole or not
        there at all.
        """
        member = await join(url, self.client_id)
        try:
            await self._check(member.ask("get_subscriptions"))
        finally:
            member.leave()
            await member.ended

    async def _check(self, asked: "object") -> None:
        answer = await asked  # type: ignore[misc]
        held, now = answer["data"]["subscribed_symbols"], self._mark()
        self.missing += self.lost(held, now)
        self.states, self.marks = [held], [now]

    def lost(self, held: list[str], mark: int) -> int:
        """Return how many acknowledged changes are missing where this is held after a power cut.

        mark: where the disk's log ended. Fails for a state that it has never been in.
        """
        promised = max(n for n, at in enumerate(self.marks) if at <= mark)
        assert held in self.states, f"{self.client_id}: {held} is a change in part"
        latest = max(n for n, state in enumerate(self.states) if state == held)
        return max(0, promised - latest)

    def _after(self, action: str, stocks: list[str]) -> list[str]:
        held = self.states[-1]
        if action == "subscribe":
            return held + [stock for stock in stocks if stock not in held]
        return [stock for stock in held if stock not in stocks]
