"""kill -9 in a storm of requests: what was acknowledged is there after the restart."""

import asyncio
import random
from pathlib import Path

from tests.support.process import odin
from tests.support.server import Client

STOCKS = [
    "SBIN", "RELIANCE", "TCS", "INFY", "HDFCBANK", "BHARTIARTL", "ICICIBANK", "HINDUNILVR",
    "ITC", "KOTAKBANK",
]  # fmt: skip
CLIENTS = 20
ROUNDS = 3


class Life:
    """One client's storm: what it knows to be on disk, and the one change it does not know of."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.random = random.Random(client_id)
        self.held: list[str] = []
        self.unknown: list[str] | None = None
        self.acknowledged = 0

    async def storm(self, url: str) -> None:
        """Change subscriptions until the server is gone."""
        try:
            async with Client(url, self.client_id) as client:
                await self.check(client)
                while True:
                    stocks = self.random.sample(STOCKS, 3)
                    action = self.random.choice(["subscribe", "unsubscribe"])
                    self.unknown = self.after(action, stocks)
                    answer = await client.ask(action, stocks=stocks)
                    assert answer["type"] == "subscription_response", answer
                    self.held, self.unknown = self.unknown, None
                    self.acknowledged += 1
        except (OSError, ConnectionError):
            return

    def after(self, action: str, stocks: list[str]) -> list[str]:
        if action == "subscribe":
            return self.held + [s for s in stocks if s not in self.held]
        return [s for s in self.held if s not in stocks]

    async def check(self, client: Client) -> None:
        """The list is what was acknowledged last, or that with the one change that was on its
        way, whole."""
        data = (await client.ask("get_subscriptions"))["data"]
        allowed = [self.held] if self.unknown is None else [self.held, self.unknown]
        assert data["subscribed_symbols"] in allowed
        self.held, self.unknown = data["subscribed_symbols"], None


async def test_every_acknowledged_change_survives_kill_9(tmp_path: Path) -> None:
    lives = [Life(f"client{number}") for number in range(CLIENTS)]
    options = ("serve", "--port", "0", "--db", tmp_path / "odin.db")
    for _ in range(ROUNDS):
        before = sum(life.acknowledged for life in lives)
        async with odin(*options, ODIN_LIMITS__REQUESTS_PER_S="100000") as server:
            storms = [asyncio.ensure_future(life.storm(server.ws)) for life in lives]
            async with asyncio.timeout(20):
                while sum(life.acknowledged for life in lives) < before + 300:
                    await asyncio.sleep(0.01)
            server.kill()
            await asyncio.gather(*storms)
    async with odin(*options) as server:
        for life in lives:
            async with Client(server.ws, life.client_id) as client:
                await life.check(client)
    assert all(life.acknowledged for life in lives)
