"""The commands as a user runs them: demo, signals, a new master under a running server."""

import asyncio
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from tests.support.process import odin, run_odin
from tests.support.server import Client
from tests.support.shared import shared


async def test_demo_streams_within_ten_seconds_at_any_hour(tmp_path: Path) -> None:
    started = time.monotonic()
    async with odin("demo", "--port", "0", "--db", tmp_path / "odin.db") as server:
        async with Client(server.ws, "me") as client:
            assert client.welcome["data"]["simulated"] is True
            assert client.welcome["data"]["market_open"] is True
            await client.subscribe("SBIN", "2885")
            first = await client.quote()
            assert first["data"]["ltp"] > 0
            assert first["data"]["percent_change"] is not None
        assert time.monotonic() - started < 10
        assert await server.stop() == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 1001), (signal.SIGINT, 1001), (signal.SIGUSR1, 1012)],
)
async def test_a_signal_closes_every_client_and_exits_with_0(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    async with odin("demo", "--port", "0", "--db", tmp_path / "odin.db") as server:
        async with Client(server.ws, "me") as client:
            await client.subscribe("SBIN")
            stopping = asyncio.ensure_future(server.stop(number))
            assert await client.closed() == code
            assert await stopping == 0


async def test_an_address_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    async with odin("demo", "--port", "0", "--db", tmp_path / "one.db") as server:
        port = server.http.rsplit(":", 1)[1]
        code, printed = await run_odin("demo", "--port", port, "--db", tmp_path / "two.db")
        assert code == 1
        assert "cannot listen on 127.0.0.1" in printed
        assert "Traceback" not in printed


async def test_two_servers_cannot_share_a_database(tmp_path: Path) -> None:
    options = ("demo", "--port", "0", "--db", tmp_path / "odin.db")
    async with odin(*options) as server:
        code, printed = await run_odin(*options)
        assert code == 1
        assert "another server uses the database" in printed
        assert "Traceback" not in printed
        server.kill()
        await server.process.wait()
    async with odin(*options) as server:
        assert await server.stop() == 0


async def test_settings_that_cannot_be_used_exit_with_78(tmp_path: Path) -> None:
    (tmp_path / "odin.toml").write_text('[server]\nprot = 1\n[market]\ngate = "never"\n')
    code, printed = await run_odin("serve", "--config", tmp_path / "odin.toml")
    assert code == 78
    assert "server.port" in printed
    assert "gate" in printed


async def test_the_status_page_and_health_answer_while_it_runs(tmp_path: Path) -> None:
    async with (
        odin("demo", "--port", "0", "--db", tmp_path / "odin.db") as server,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(server.http + "/") as response:
            assert response.status == 200
            assert "Odin Streamer" in await response.text()
        async with session.get(server.http + "/health") as response:
            assert (await response.json())["simulated"] is True


@pytest.mark.shared
async def test_a_running_server_takes_a_real_master_without_a_restart(tmp_path: Path) -> None:
    master = shared("data/instruments/dhan_scrip_master_2026-07-01.csv")
    database = tmp_path / "odin.db"
    async with (
        odin("demo", "--port", "0", "--db", database) as server,
        Client(server.ws, "me") as client,
    ):
        await client.subscribe("SBIN", "TCS")
        assert (await client.subscribe("20MICRONS"))["status"] == "error"
        code, printed = await run_odin("instruments", "import", master, "--db", database)
        assert code == 0, printed
        async with asyncio.timeout(10):
            while (await client.subscribe("20MICRONS"))["status"] == "error":
                await asyncio.sleep(0.2)
        data = (await client.ask("get_subscriptions"))["data"]
        assert data["subscribed_symbols"] == ["SBIN", "TCS", "20MICRONS"]
        assert data["unavailable_stocks"] == []
        assert (await client.quote("20MICRONS"))["data"]["ltp"] > 0


async def test_what_a_private_test_needs(tmp_path: Path) -> None:
    """Port and database of its own, a market that is open at any hour, ticks at a rate, and the
    instants at which a quote was born and sent."""
    options = ("serve", "--port", "0", "--db", tmp_path / "odin.db", "--gate", "always")
    async with odin(*options, ODIN_SIMULATOR__RATE_HZ="50") as server:
        assert (tmp_path / "odin.db").exists()
        async with Client(server.ws, "me") as client:
            assert client.welcome["data"]["market_open"] is True
            await client.subscribe("SBIN")
            began_ms = time.time_ns() // 1_000_000
            quotes = [await client.quote("SBIN") for _ in range(52)]
            ended_ms = time.time_ns() // 1_000_000
        assert ended_ms - began_ms >= 500, "50 a second, so 52 take about one"
        for quote in quotes[2:]:
            assert began_ms - 1000 <= quote["data"]["timestamp"] <= quote["timestamp"] <= ended_ms
        assert await server.stop() == 0
