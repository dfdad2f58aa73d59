"""A venue that cuts, vanishes, falls silent, talks garbage and refuses, and `odin serve` beside it:
both are real, and between them is a real socket."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import orjson
import pytest

from odin.feeds.supervisor import MISSED_TICKS
from tests.chaos.conftest import Figures
from tests.chaos.crowd import FORCED, STOCKS, Member, depart, join, metrics, rss_mib, until
from tests.support.kite_server import KiteServer
from tests.support.odin_server import OdinServer
from tests.support.process import Process, odin

Venue = KiteServer | OdinServer
VENUES: dict[str, Callable[[], Venue]] = {"kite": KiteServer, "odin": OdinServer}
GOOD = "api_key=good\nuser=U1\naccess_token=good\n"
TICK_S = 0.04
STALE_AFTER_S = 0.3
HURRIED = """
from odin.feeds import supervisor
supervisor.BACKOFF_FIRST_S, supervisor.BACKOFF_LIMIT_S = 0.05, 0.5
supervisor.CREDENTIALS_CHECK_S = 0.1
from odin.cli import main
main()
"""
"""The program, with pauses between its attempts that a test can wait for."""


class Market:
    """One price for everything the server wants, which only climbs: 1000.00, 1000.05 and so on."""

    def __init__(self, venue: Venue) -> None:
        self.venue = venue
        self.price = 1000.0

    async def run(self) -> None:
        while True:
            self.price = round(self.price + 0.05, 2)
            self.venue.send_quotes(dict.fromkeys(self.venue.wanted, self.price))
            await asyncio.sleep(TICK_S)


class Reader:
    """A client of the server: the newest price it has, and what it was told of the feed."""

    def __init__(self) -> None:
        self.prices: list[float] = []
        self.states: list[str] = []
        self.stale = 0
        self.gaps = 0

    def __call__(self, payload: bytes) -> None:
        message = orjson.loads(payload)
        match message["type"]:
            case "market_data":
                self.prices.append(message["data"]["ltp"])
            case "market_status":
                feed = message["data"]["feed"]
                self.states.append(feed["state"])
                self.stale += feed["stale"]
            case "feed_gap":
                self.gaps += 1


async def feed_state(server: Process) -> str:
    async with aiohttp.ClientSession() as session, session.get(server.http + "/health") as answer:
        return str((await answer.json())["feed"]["state"])


class Faults:
    """What can happen to a feed; each returns when it is over, on the side of the venue."""

    def __init__(self, venue: Venue, server: Process, credentials: Path) -> None:
        self.venue = venue
        self.server = server
        self.credentials = credentials

    async def cut(self) -> None:
        self.venue.cut_in_mid_frame()

    async def dropped(self) -> None:
        self.venue.drop()

    async def garbage(self) -> None:
        for _ in range(50):
            self.venue.send_garbage()

    async def silent(self) -> None:
        """Connected, and nothing comes until the server has given this connection up.

        Silence means something where it is known how often ticks come.
        """
        before = (await metrics(self.server))["odin_ticks_total"]

        async def has_a_pace() -> bool:
            return (await metrics(self.server))["odin_ticks_total"] > before + 10 * MISSED_TICKS

        await until(has_a_pace)
        self.venue.stay_silent(True)
        connection = self.venue.connections[0]
        await until(lambda: connection not in self.venue.connections)
        self.venue.stay_silent(False)

    async def gone(self) -> None:
        """Nobody listens, and the server has tried in vain."""
        port = int(self.venue.url.rpartition(":")[2])
        before = (await metrics(self.server))["odin_feed_restarts_total"]
        await self.venue.stop()

        async def has_tried_again() -> bool:
            return (await metrics(self.server))["odin_feed_restarts_total"] > before + 1

        await until(has_tried_again, 60)
        await self.venue.start(port)

    async def refused(self) -> None:
        """The token is dead until somebody brings a new one."""
        self.venue.refuse_credentials(True)
        self.venue.drop()

        async def is_rejected() -> bool:
            return await feed_state(self.server) == "rejected"

        await until(is_rejected, 60)
        self.venue.refuse_credentials(False)
        self.credentials.write_text(self.credentials.read_text().replace("good", "goods"))

    def all(self) -> list[Callable[[], Awaitable[None]]]:
        return [self.cut, self.dropped, self.garbage, self.silent, self.gone, self.refused]


async def ask_always(member: Member, waits_s: list[float]) -> None:
    """Have the server answer pings, one after the other, and note how long each took."""
    while True:
        started = time.monotonic()
        await member.ask("ping")
        waits_s.append(time.monotonic() - started)
        await asyncio.sleep(0.02)


async def venue_of_faults(
    path: Path,
    figures: Figures,
    name: str,
    *,
    clients: int,
    rounds: int,
    recovery_s: float,
    program: tuple[str, ...],
) -> None:
    """Let everything happen to a feed, one after the other; after each all have data again."""
    venue = VENUES[name]()
    await venue.start()
    credentials = path / "credentials"
    credentials.write_text(GOOD)
    environ = {
        "ODIN_FEED__KIND": name,
        "ODIN_FEED__STALE_AFTER_S": str(STALE_AFTER_S),
        f"ODIN_{name.upper()}__URL": venue.url,
        f"ODIN_{name.upper()}__CREDENTIALS": f"file:{credentials}",
        **FORCED,
    }
    options = ("serve", "--port", "0", "--db", path / "odin.db")
    market = Market(venue)
    ticking = asyncio.ensure_future(market.run())
    try:
        async with odin(*options, program=program, **environ) as server:
            readers = [Reader() for _ in range(clients)]
            members = [
                await join(server.ws, f"client{number}", reader)
                for number, reader in enumerate(readers)
            ]
            for member in members:
                await member.ask("subscribe", stocks=STOCKS)
            waits_s: list[float] = []
            other = await join(server.ws, "other")
            asking = asyncio.ensure_future(ask_always(other, waits_s))
            faults = Faults(venue, server, credentials)
            took_s: dict[str, float] = {}
            for fault in [None, *faults.all() * rounds]:
                if fault is not None:
                    await fault()
                since, started = market.price, time.monotonic()
                await until(
                    lambda since=since: all(r.prices and r.prices[-1] > since for r in readers),  # type: ignore[misc]
                    recovery_s,
                )
                if fault is not None:
                    name_of = fault.__name__  # type: ignore[attr-defined]
                    took_s[name_of] = max(took_s.get(name_of, 0), time.monotonic() - started)
            assert not asking.done()
            asking.cancel()
            found = await metrics(server)
            figures(
                clients=clients,
                **{f"{what}_s": value for what, value in took_s.items()},
                restarts=int(found["odin_feed_restarts_total"]),
                malformed=int(found["odin_feed_malformed_total"]),
                stale=int(found["odin_feed_stale_periods_total"]),
                gaps=min(reader.gaps for reader in readers),
                worst_ping_ms=max(waits_s) * 1000,
                rss_mib=rss_mib(server),
            )
            assert not any(member.ended.done() for member in [*members, other])
            assert found["odin_feed_restarts_total"] >= 4 * rounds
            assert found["odin_feed_malformed_total"] >= 50 * rounds
            assert found["odin_feed_stale_periods_total"] >= rounds
            assert found["odin_faults_total"] == 0
            for reader in readers:
                assert {"backoff", "rejected"} <= set(reader.states)
                assert reader.stale
                assert reader.states[-1] == "streaming", "the last they heard is that it is well"
                assert reader.gaps >= 3 * rounds
                assert reader.prices[0] > 1000
                assert reader.prices[-1] <= market.price
            sent = {round(1000 + 0.05 * n, 2) for n in range(round((market.price - 999) / 0.05))}
            prices = {price for reader in readers for price in reader.prices}
            assert prices <= sent, "garbage became a price"
            await depart([*members, other])
            assert await server.stop() == 0
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
        await venue.stop()


@pytest.mark.parametrize("name", sorted(VENUES))
async def test_whatever_happens_to_a_feed_clients_are_told_and_get_data_again(
    tmp_path: Path, figures: Figures, name: str
) -> None:
    program = ("-c", HURRIED)
    await venue_of_faults(
        tmp_path, figures, name, clients=20, rounds=1, recovery_s=15, program=program
    )


@pytest.mark.chaos_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(VENUES))
async def test_long_whatever_happens_to_a_feed(tmp_path: Path, figures: Figures, name: str) -> None:
    """With the pauses that the program makes, which become longer with every fault."""
    program = ("-m", "odin")
    await venue_of_faults(
        tmp_path, figures, name, clients=100, rounds=1, recovery_s=120, program=program
    )
