"""The cards of docs/writing-a-feed.md: every feed, in a whole running node, against a server that
speaks its venue's protocol over a real socket."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from odin.clock import WallClock
from odin.feeds.demand import Want
from odin.feeds.odinfeed.requests import Touchline
from odin.model import Instrument, InstrumentKey
from odin.node import ReplayOptions
from tests.support.kite_server import KiteServer
from tests.support.odin_server import OdinServer
from tests.support.server import SBIN, TCS, Client, Server, running

GOOD = "api_key=good\nuser=U1\naccess_token=good\n"
RENEWED = "api_key=renewed\nuser=U1\naccess_token=renewed\n"
UNHURRIED = {
    "message_bytes": 1_048_576,
    "requests_per_s": 1e6,
    "request_burst": 1_000_000,
    "requests_per_s_per_key": 1e6,
    "request_burst_per_key": 1_000_000,
}
VENUES: dict[str, Callable[[], KiteServer | OdinServer]] = {"kite": KiteServer, "odin": OdinServer}


class Scene:
    """A venue, and a server whose feed is connected to it."""

    def __init__(self, name: str, venue: KiteServer | OdinServer, path: Path) -> None:
        self.name = name
        self.venue = venue
        self.path = path
        self.credentials = path / "credentials"
        self.server: Server

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        return {
            "feed": {"kind": self.name, "stale_after_s": 0.4, "linger_s": 0},
            self.name: {"url": self.venue.url, "credentials": f"file:{self.credentials}"},
            "market": {"gate": "always"},
            "limits": UNHURRIED,
        }

    @property
    def state(self) -> str:
        return self.server.node.feed_status.state

    def now_ms(self) -> int:
        return WallClock().now_ms()

    async def streaming(
        self, client: Client, key: InstrumentKey = SBIN, ltp: float = 800.0
    ) -> None:
        """Wait until a tick of the venue reaches the client."""
        await eventually(lambda: key in self.venue.wanted)
        self.venue.tick(key, ltp, self.now_ms())
        quote = await client.until(lambda m: is_quote(m, key) and m["data"]["ltp"] == ltp)
        assert quote["token"] == str(key.token)


def is_quote(message: dict[str, Any], key: InstrumentKey) -> bool:
    return message["type"] == "market_data" and message["token"] == str(key.token)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odin.feeds.supervisor.BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr("odin.feeds.supervisor.CREDENTIALS_CHECK_S", 0.02)


@pytest.fixture(params=sorted(VENUES))
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    venue = VENUES[request.param]()
    await venue.start()
    try:
        scene = Scene(request.param, venue, tmp_path)
        scene.credentials.write_text(GOOD)
        async with started(scene):
            yield scene
    finally:
        await venue.stop()


@contextlib.asynccontextmanager
async def started(scene: Scene, **feed: Any) -> AsyncIterator[Server]:
    sections = scene.settings
    sections["feed"] |= feed
    async with running(scene.path, clock=WallClock(), **sections) as server:
        scene.server = server
        yield server


async def eventually(condition: Callable[[], object], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


async def health(server: Server) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{server.http}/health") as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def test_f01_ticks_of_a_subscribed_instrument_reach_the_client(scene: Scene) -> None:
    async with Client(scene.server.ws, "C1") as client:
        await client.subscribe("SBIN")
        await scene.streaming(client)
        assert scene.state == "streaming"
        status = await client.ask("market_status")
        assert status["data"]["feed"] == {
            "name": scene.name,
            "state": "streaming",
            "stale": False,
        }


async def test_f02_refused_credentials_are_told_not_hammered_and_renewed(scene: Scene) -> None:
    scene.venue.refuse_credentials(True)
    scene.venue.drop()
    await eventually(lambda: scene.state == "rejected")
    connects = scene.venue.connects
    degraded = (await health(scene.server))["degraded"]
    assert any(scene.name in text and "rejected" in text for text in degraded)
    await asyncio.sleep(0.3)  # many times the pause between two looks at the credentials
    assert scene.venue.connects == connects
    scene.venue.refuse_credentials(False)
    scene.credentials.write_text(RENEWED)
    async with Client(scene.server.ws, "C1") as client:
        await client.subscribe("SBIN")
        await scene.streaming(client)
    assert (await health(scene.server))["degraded"] == []


async def test_f03_many_instruments_are_asked_for_in_batches(scene: Scene) -> None:
    keys = [InstrumentKey("NSE", "CM", 100_000 + n) for n in range(500)]
    registry = scene.server.node.registry
    registry.replace([*registry, *(Instrument(key, f"STOCK{key.token}") for key in keys)])
    async with Client(scene.server.ws, "C1") as client:
        answer = await client.subscribe(*(f"{key.exchange}:{key.token}" for key in keys))
        assert len(answer["data"]["subscribed_stocks"]) == len(keys)
        await scene.venue.wait_wanted(set(keys))
    if isinstance(scene.venue, KiteServer):
        assert 1 < scene.venue.largest_batch <= 200
    else:
        batches = [r for r in scene.venue.requests if isinstance(r, Touchline)]
        assert 1 < max(len(batch.scrips) for batch in batches) <= 50


async def test_f04_a_cut_in_the_middle_of_a_message_costs_nothing_but_a_reconnect(
    scene: Scene,
) -> None:
    async with Client(scene.server.ws, "C1") as client:
        await client.subscribe("SBIN")
        await scene.streaming(client)
        connects = scene.venue.connects
        scene.venue.cut_in_mid_frame()
        await eventually(lambda: scene.venue.connects > connects)
        await scene.streaming(client, ltp=801.0)
        prices = {m["data"]["ltp"] for m in client.seen if is_quote(m, SBIN)}
        assert prices == {800.0, 801.0}


async def test_f05_connected_and_silent_is_told_and_reconnected(scene: Scene) -> None:
    async with Client(scene.server.ws, "C1") as client:
        scene.venue.stay_silent(True)
        await client.subscribe("SBIN")
        stale = await client.until(lambda m: m["type"] == "market_status")
        while not stale["data"]["feed"]["stale"]:
            stale = await client.until(lambda m: m["type"] == "market_status")
        connects = scene.venue.connects
        await eventually(lambda: scene.venue.connects > connects)
        scene.venue.stay_silent(False)
        await scene.streaming(client)
        assert scene.server.node.metrics.feed_stale_periods >= 1


async def test_f06_garbage_is_counted_and_passed_over(scene: Scene) -> None:
    async with Client(scene.server.ws, "C1") as client:
        await client.subscribe("SBIN")
        await scene.streaming(client)
        scene.venue.send_garbage()
        await scene.streaming(client, ltp=802.0)
    assert scene.server.node.metrics.feed_malformed >= 1
    assert scene.server.node.metrics.faults == 0


async def test_f07_after_a_reconnect_everything_is_asked_for_again_and_the_gap_told(
    scene: Scene,
) -> None:
    async with Client(scene.server.ws, "C1") as client:
        await client.subscribe("SBIN", "TCS")
        await scene.venue.wait_wanted({SBIN, TCS})
        await scene.streaming(client)
        before_ms = scene.now_ms()
        scene.venue.drop()
        await eventually(lambda: not scene.venue.wanted)
        await scene.venue.wait_wanted({SBIN, TCS})
        scene.venue.tick(TCS, 3100.0, scene.now_ms())
        gap = await client.until(lambda m: m["type"] == "feed_gap")
        assert gap["data"]["feed"] == scene.name
        assert before_ms - 1000 <= gap["data"]["from"] <= gap["data"]["to"]
        assert before_ms <= gap["data"]["to"]


async def test_f08_a_clock_that_is_off_stops_nothing(scene: Scene) -> None:
    async with Client(scene.server.ws, "C1") as client:
        await client.ask("subscribe", stocks=["SBIN", "TCS"], mode="full")  # brings times for sure
        await scene.venue.wait_wanted({SBIN, TCS})
        for key, skew_ms in ((SBIN, 120_000), (TCS, -120_000)):
            scene.venue.tick(key, 700.0, scene.now_ms() + skew_ms)
            await client.until(lambda m, key=key: is_quote(m, key))  # type: ignore[misc]
        scene.venue.tick(SBIN, 1.0, scene.now_ms() + 400 * 86_400_000)
        scene.venue.tick(SBIN, 701.0, scene.now_ms() + 121_000)
        await client.until(lambda m: is_quote(m, SBIN) and m["data"]["ltp"] == 701.0)


async def test_f09_a_token_that_dies_at_night_needs_no_restart(scene: Scene) -> None:
    async with Client(scene.server.ws, "C1") as client:
        await client.subscribe("SBIN")
        await scene.streaming(client)
        scene.venue.refuse_credentials(True)
        scene.venue.drop()
        await eventually(lambda: scene.state == "rejected")
        told = await client.until(
            lambda m: m["type"] == "market_status" and m["data"]["feed"]["state"] == "rejected"
        )
        assert told["data"]["streaming_data"] is False
        scene.venue.refuse_credentials(False)
        scene.credentials.write_text(RENEWED)
        await scene.streaming(client, ltp=803.0)


async def test_f10_a_burst_is_applied_whole_and_the_server_keeps_serving(scene: Scene) -> None:
    count = 50_000
    async with Client(scene.server.ws, "C1") as client, Client(scene.server.ws, "C2") as other:
        await client.subscribe("SBIN")
        await scene.streaming(client)
        metrics = scene.server.node.metrics
        before = metrics.ticks
        scene.venue.burst(count)
        answered = 0
        async with asyncio.timeout(50):
            while metrics.ticks < before + count:
                await other.ask("ping")
                answered += 1
        assert metrics.ticks == before + count
        assert answered >= 10
        assert metrics.ticks_out_of_order == metrics.ticks_invalid == 0


async def test_f11_a_capture_gives_the_same_quotes_again(scene: Scene) -> None:
    venue, path = scene.venue, scene.path / "second"
    path.mkdir()
    captures = path / "captures"
    sections = scene.settings
    sections["feed"]["capture_dir"] = str(captures)
    async with running(path, clock=WallClock(), **sections) as server:
        async with Client(server.ws, "C1") as client:
            await client.ask("subscribe", stocks=["SBIN", "TCS"], mode="full")
            await venue.wait_wanted({SBIN, TCS})
            for n in range(500):
                venue.tick((SBIN, TCS)[n % 2], 700 + n / 20, scene.now_ms())
                if n == 250:
                    venue.cut_in_mid_frame()
                    await eventually(lambda: not venue.wanted)
                    await venue.wait_wanted({SBIN, TCS})
            await eventually(lambda: shows(server, SBIN, 700 + 498 / 20))
            await eventually(lambda: shows(server, TCS, 700 + 499 / 20))
        live = quotes_of(server)
    replay = ReplayOptions(paths=(str(captures),), speed=None)
    async with running(path, replay=replay, **scene.settings) as again:
        async with Client(again.ws, "C2") as client:
            await client.subscribe("SBIN")
            await eventually(lambda: again.node.feed_status.state == "stopped")
        assert quotes_of(again) == live
    assert len(live) == 2


def shows(server: Server, key: InstrumentKey, ltp: float) -> bool:
    quote = server.node.board.quote(key)
    return quote is not None and quote.ltp == ltp


def quotes_of(server: Server) -> list[dict[str, Any]]:
    """Return the newest quotes, in full, without the time at which they were applied."""
    board = server.node.board
    return [
        msgspec.structs.asdict(quote) | {"last_updated": "", "detail": board.detail(key)}
        for key in (SBIN, TCS)
        if (quote := board.quote(key)) is not None
    ]


# ---------------------------------------------------------------------- without a connection


def bars(path: Path, minutes: int, garbage: str = "") -> Path:
    """Write a day of minute bars of SBIN, with some lines that are none."""
    rows = ["Date,Open,High,Low,Close,Volume"]
    for minute in range(minutes):
        at = f"2025-09-04 {9 + (15 + minute) // 60:02}:{(15 + minute) % 60:02}:00"
        rows.append(f"{at},{800 + minute},{805 + minute},{795 + minute},{801 + minute},10")
        rows += [garbage] * bool(garbage)
    file = path / "SBIN.csv"
    file.write_text("\n".join(rows))
    return file


@pytest.mark.parametrize("name", ["simulator", "replay"])
async def test_f01_ticks_without_a_connection_reach_the_client(name: str, tmp_path: Path) -> None:
    replay = ReplayOptions((str(bars(tmp_path, 30)),), speed=None) if name == "replay" else None
    sections = {"feed": {"kind": "simulator"}, "market": {"gate": "always"}}
    clock = None if replay else WallClock()
    async with (
        running(tmp_path, replay=replay, clock=clock, **sections) as server,
        Client(server.ws, "C1") as client,
    ):
        await client.subscribe("SBIN")
        quote = await client.quote("SBIN")
        assert quote["data"]["ltp"] > 0
        status = await client.ask("market_status")
        assert status["data"]["feed"]["name"] == name
        assert status["data"]["simulated"] is True


async def test_f03_and_f10_the_simulator_carries_many_and_lets_the_server_serve(
    tmp_path: Path,
) -> None:
    sections = {
        "feed": {"kind": "simulator"},
        "simulator": {"rate_hz": 100.0},
        "market": {"gate": "always"},
        "limits": UNHURRIED,
    }
    async with running(tmp_path, clock=WallClock(), **sections) as server:
        registry = server.node.registry
        keys = [InstrumentKey("NSE", "CM", 100_000 + n) for n in range(500)]
        registry.replace([*registry, *(Instrument(key, f"STOCK{key.token}") for key in keys)])
        server.node.demand.add([Want(key) for key in keys])
        board = server.node.board
        await eventually(lambda: all(board.quote(key) is not None for key in keys))
        async with Client(server.ws, "C1") as client:
            answered = 0
            async with asyncio.timeout(40):
                while server.node.metrics.ticks < 50_000:
                    await client.ask("ping")
                    answered += 1
        assert answered >= 10


async def test_f06_and_f10_the_replay_passes_garbage_over_and_lets_the_server_serve(
    tmp_path: Path,
) -> None:
    file = bars(tmp_path, 300, garbage="2025-09-04 25:61,nonsense,,NaN\x00")
    async with running(tmp_path, replay=ReplayOptions((str(file),), speed=None)) as server:
        server.node.demand.add([Want(SBIN)])
        async with Client(server.ws, "C1") as client:
            await eventually(lambda: server.node.feed_status.state == "stopped")
            await client.ask("ping")
        quote = server.node.board.quote(SBIN)
        assert quote is not None
        assert (quote.ltp, quote.volume) == (801.0 + 299, 3000)
        assert server.node.metrics.ticks == 4 * 300


def test_every_card_of_the_page_has_its_test() -> None:
    page = (Path(__file__).parents[2] / "docs" / "writing-a-feed.md").read_text()
    cards = re.findall(r"^\| F-(\d\d) \|", page, re.MULTILINE)
    tested = " ".join(name for name in globals() if name.startswith("test_f"))
    assert cards == [f"{number:02}" for number in range(1, 12)]
    assert [card for card in cards if f"_f{card}_" not in tested] == []
