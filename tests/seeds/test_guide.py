"""Every example and promise of the integration guide, one test each, against a real server.

The numbers are the sections of the guide.
"""

import asyncio
import os
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from odin.model import YearSummary
from tests.support.server import (
    BELL_CLOSE_MS,
    CLOSED_MS,
    OPEN_MS,
    RELIANCE,
    SBIN,
    Client,
    Server,
    running,
)
from tests.support.shared import shared


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


# ---------------------------------------------------------------------- connection, client id


async def test_1_connect_with_a_client_id(server: Server) -> None:
    async with Client(server.ws, "trading_app_123") as client:
        assert client.welcome["type"] == "welcome"
        assert client.welcome["status"] == "connected"
        assert client.welcome["client_id"] == "trading_app_123"
        data = client.welcome["data"]
        assert data["message"] == "Connected to Odin Streamer Enhanced WebSocket"
        assert data["client_id"] == "trading_app_123"
        assert data["market_hours"] == "09:15 - 15:30 IST"
        assert data["market_open"] is True
        assert data["current_time"] == "13:09:50"
        assert data["subscribed_stocks"] == 0
        assert {"features", "instructions", "limits", "feed"} <= data.keys()


async def test_2_a_client_id_is_generated_when_none_is_given(server: Server) -> None:
    async with Client(server.ws) as one, Client(server.ws) as two, Client(server.ws, "") as three:
        ids = {c.welcome["client_id"] for c in (one, two, three)}
        assert len(ids) == 3
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", text) for text in ids), "128 random bits"


@pytest.mark.parametrize("client_id", ["user_123", "app_v2_client_456"])
async def test_2_custom_client_ids_keep_their_subscriptions(server: Server, client_id: str) -> None:
    async with Client(server.ws, client_id) as client:
        await client.subscribe("SBIN", "2885")
    async with Client(server.ws, client_id) as client:
        assert client.welcome["data"]["subscribed_stocks"] == 2


# ---------------------------------------------------------------------- message format


async def test_3_a_request_with_type_and_timestamp(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.send(
            {
                "type": "request",
                "action": "subscribe",
                "stocks": ["SBIN", "2885"],
                "timestamp": 1756971590827,
            }
        )
        answer = await client.receive()
        assert answer["type"] == "subscription_response"
        assert answer["status"] == "success"
        assert answer["client_id"] == "me"
        assert answer["timestamp"] == OPEN_MS
        assert answer["request_timestamp"] == 1756971590827


# ---------------------------------------------------------------------- subscribing


async def test_4_1_subscribe_by_symbol(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        stocks = ["SBIN", "RELIANCE", "TCS", "INFY", "HDFCBANK"]
        await client.send({"action": "subscribe", "stocks": stocks})
        answer = await client.receive()
        assert answer["type"] == "subscription_response"
        assert answer["status"] == "success"
        data = answer["data"]
        assert list(data)[:4] == [
            "action",
            "subscribed_stocks",
            "failed_stocks",
            "total_subscribed",
        ]
        assert data["action"] == "subscribe"
        assert data["subscribed_stocks"] == stocks
        assert data["failed_stocks"] == []
        assert data["total_subscribed"] == 5


async def test_4_2_subscribe_by_token(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        tokens = ["3045", "2885", "11536", "1594", "1333"]
        await client.send({"action": "subscribe", "stocks": tokens})
        data = (await client.receive())["data"]
        assert data["subscribed_stocks"] == [
            "SBIN (NSE)",
            "RELIANCE (NSE)",
            "TCS (NSE)",
            "INFY (NSE)",
            "HDFCBANK (NSE)",
        ]
        assert data["failed_stocks"] == []
        assert data["total_subscribed"] == 5


async def test_4_3_subscribe_by_both(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        data = (await client.subscribe("SBIN", "2885", "TCS", "1594"))["data"]
        assert data["subscribed_stocks"] == ["SBIN", "RELIANCE (NSE)", "TCS", "INFY (NSE)"]
        assert data["total_subscribed"] == 4


async def test_4_4_unsubscribe_by_both(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN", "2885", "TCS")
        await client.send({"action": "unsubscribe", "stocks": ["SBIN", "2885"]})
        answer = await client.receive()
        assert answer["type"] == "subscription_response"
        assert answer["status"] == "success"
        data = answer["data"]
        assert data["action"] == "unsubscribe"
        assert data["unsubscribed_stocks"] == ["SBIN", "RELIANCE (NSE)"]
        assert data["failed_stocks"] == []
        assert data["total_subscribed"] == 1


async def test_4_5_get_subscriptions(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN", "RELIANCE", "TCS")
        await client.send({"action": "get_subscriptions"})
        answer = await client.receive()
        assert answer["type"] == "subscriptions"
        assert answer["status"] == "success"
        data = answer["data"]
        assert list(data)[:2] == ["subscribed_tokens", "subscribed_symbols"]
        assert data["subscribed_tokens"] == ["3045", "2885", "11536"]
        assert data["subscribed_symbols"] == ["SBIN", "RELIANCE", "TCS"]
        assert data["total_subscribed"] == 3


async def test_4_6_market_status(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.send({"action": "market_status"})
        answer = await client.receive()
        assert answer["type"] == "market_status"
        assert answer["status"] == "success"
        data = answer["data"]
        assert data["market_open"] is True
        assert data["market_hours"] == "09:15 - 15:30 IST"
        assert data["timezone"] == "Asia/Kolkata"
        assert data["current_time"] == "13:09:50"
        assert data["next_open"] == "2025-09-05 09:15:00"


async def test_4_7_ping(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.send({"action": "ping"})
        assert await client.receive() == {
            "type": "pong",
            "status": "alive",
            "client_id": "me",
            "timestamp": OPEN_MS,
        }


# ---------------------------------------------------------------------- streaming


async def test_5_market_data_is_the_guides_example(server: Server) -> None:
    summary = YearSummary(
        1551.0, "2025-09-02", 1115.55, "2025-09-02", 8053013, 1372.6, "2025-09-03"
    )
    server.node.board.load_history({RELIANCE: summary}, "2025-09-04")
    async with Client(server.ws, "me") as client:
        await client.subscribe("RELIANCE")
        server.clock.set_ns(1756971591651469068)
        server.tick(
            RELIANCE, 1365.5, exchange_ms=1756971590198, volume=8053013,
            open=1371.8, high=1374.0, low=1360.3, prev_close=1372.6,
        )  # fmt: skip
        message = await client.receive()
    assert message == {
        "type": "market_data",
        "symbol": "RELIANCE",
        "token": "2885",
        "exchange": "NSE",
        "data": {
            "symbol": "RELIANCE",
            "token": "2885",
            "exchange": "NSE",
            "ltp": 1365.5,
            "open": 1371.8,
            "high": 1374.0,
            "low": 1360.3,
            "close": 1372.6,
            "prev_close": 1372.6,
            "volume": 8053013,
            "percent_change": -0.5172665015299366,
            "week_52_high": 1551.0,
            "week_52_low": 1115.55,
            "week_52_high_date": "2025-09-02",
            "week_52_low_date": "2025-09-02",
            "day_high": 1374.0,
            "day_low": 1360.3,
            "avg_volume_5d": 8053013,
            "timestamp": 1756971590198,
            "last_updated": "2025-09-04T13:09:51.651469068+05:30",
            "is_new_week_52_high": False,
            "is_new_week_52_low": False,
        },
        "timestamp": 1756971591651,
    }
    assert list(message) == ["type", "symbol", "token", "exchange", "data", "timestamp"]


async def test_5_nothing_streams_outside_market_hours(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.clock.set_ms(CLOSED_MS)
        server.tick(SBIN, 800.0)
        seen = await client.nothing_but_pong()
        assert [m for m in seen if m["type"] == "market_data"] == []


async def test_5_the_last_tick_before_the_bell_streams_and_the_one_at_it_does_not(
    server: Server,
) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.clock.set_ms(BELL_CLOSE_MS - 1)
        server.tick(SBIN, 800.0)
        assert (await client.quote())["data"]["ltp"] == 800.0
        server.clock.set_ms(BELL_CLOSE_MS)
        server.tick(SBIN, 801.0)
        seen = await client.nothing_but_pong()
        assert [m["type"] for m in seen] == ["market_status"]


async def test_5_opening_and_closing_are_announced_once_each(server: Server) -> None:
    async with Client(server.ws, "one") as one, Client(server.ws, "two") as two:
        server.clock.set_ms(BELL_CLOSE_MS)
        for client in (one, two):
            push = await client.receive()
            assert push["type"] == "market_status"
            assert push["data"]["market_open"] is False
            assert push["data"]["next_open"] == "2025-09-05 09:15:00"
        server.clock.set_ms(1757043900000)
        for client in (one, two):
            push = await client.receive()
            assert push["data"]["market_open"] is True
            assert push["data"]["current_time"] == "09:15:00"
            assert await client.nothing_but_pong() == []


# ---------------------------------------------------------------------- errors


async def test_6_an_empty_request_is_the_guides_error(server: Server) -> None:
    async with Client(server.ws, "your_client_id") as client:
        for request in (
            {"action": "subscribe", "stocks": []},
            {"action": "subscribe"},
            {"action": "subscribe", "stocks": None},
        ):
            await client.send(request)
            error = await client.receive()
            assert error.pop("code") == "no_stocks_subscribe"
            assert error == {
                "type": "error",
                "status": "error",
                "message": "No stocks provided for subscription",
                "client_id": "your_client_id",
                "timestamp": OPEN_MS,
            }


async def test_6_an_invalid_stock_is_named_and_the_others_are_subscribed(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        data = (await client.subscribe("SBIN", "INVALID_SYMBOL", "99999999"))["data"]
        assert data["subscribed_stocks"] == ["SBIN"]
        assert data["failed_stocks"] == ["INVALID_SYMBOL", "99999999"]
        assert data["total_subscribed"] == 1
        codes = [detail["code"] for detail in data["failed_details"]]
        assert codes == ["unknown_symbol", "unknown_token"]


async def test_6_subscribing_while_closed_succeeds_and_says_so(server: Server) -> None:
    server.clock.set_ms(CLOSED_MS)
    async with Client(server.ws, "me") as client:
        answer = await client.subscribe("SBIN")
        assert answer["status"] == "success"
        assert answer["data"]["market_open"] is False
        assert answer["data"]["next_open"] == "2025-09-08 09:15:00"


# ---------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("symbol", "token"),
    [
        ("SBIN", "3045"),
        ("RELIANCE", "2885"),
        ("TCS", "11536"),
        ("INFY", "1594"),
        ("HDFCBANK", "1333"),
        ("BHARTIARTL", "10604"),
        ("ICICIBANK", "4963"),
        ("HINDUNILVR", "356"),
        ("ITC", "424"),
        ("KOTAKBANK", "492"),
    ],
)
async def test_8_the_popular_tokens_name_their_stocks(
    server: Server, symbol: str, token: str
) -> None:
    async with Client(server.ws, "me") as client:
        data = (await client.subscribe(symbol, token))["data"]
        assert data["subscribed_stocks"] == [symbol]
        assert data["total_subscribed"] == 1


# ---------------------------------------------------------------------- the guide's programs

PORT = 8080


def guide_programs() -> dict[str, str]:
    """Cut the three client programs out of the guide."""
    text = shared("seeds/001_*.txt").read_text("utf-8")
    section = text[text.index("**Code Examples**", text.index("### **Market Hours Control**")) :]
    blocks = re.findall(r"### \*\*(\S+) Client\*\*\n```\w+\n(.*?)```", section, re.DOTALL)
    programs = dict(blocks)
    assert set(programs) == {"JavaScript", "Python", "Node.js"}
    return programs


async def first_lines(wanted: str, *command: str, **environ: str) -> str:
    """Run a program until it has printed what is wanted, then end it; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environ},
    )
    printed = ""
    try:
        async with asyncio.timeout(20):
            assert process.stdout is not None
            while wanted not in printed:
                line = await process.stdout.readline()
                assert line, f"the program ended: {printed}"
                printed += line.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    return printed


@pytest.fixture
async def guide_server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server on the port the guide's programs connect to, with one stock that ticks."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT}, which the guide's programs name, is in use")
    async with running(tmp_path, server={"port": PORT}) as started:
        ticking = asyncio.ensure_future(tick_for_ever(started))
        yield started
        ticking.cancel()


async def tick_for_ever(server: Server) -> None:
    while True:
        server.clock.advance_ms(50)
        server.tick(RELIANCE, 1365.5, prev_close=1372.6)
        await asyncio.sleep(0.05)


def node_or_skip(*modules: str) -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    for module in modules:
        if not (NODE_MODULES / module).is_dir():
            pytest.skip(f"the Node package {module} is not installed in clients/js")
    return node


NODE_MODULES = Path(__file__).resolve().parents[2] / "clients" / "js" / "node_modules"


async def held(server: Server, client_id: str) -> None:
    """Subscribe RELIANCE for a program that itself subscribes before it is connected."""
    async with Client(server.ws, client_id) as client:
        await client.subscribe("RELIANCE")


async def test_7_the_python_program_runs_unmodified(guide_server: Server, tmp_path: Path) -> None:
    program = tmp_path / "client.py"
    program.write_text(guide_programs()["Python"], "utf-8")
    await held(guide_server, "python_client_123")
    printed = await first_lines(
        "(-0.52%)", sys.executable, "-u", "-X", "utf8", str(program), PYTHONIOENCODING="utf-8"
    )
    assert "Connected to Odin Streamer as python_client_123" in printed
    assert "Welcome: {'message': 'Connected to Odin Streamer Enhanced WebSocket'" in printed
    assert re.search(r"RELIANCE: .*1365\.5 \(-0\.52%\)", printed)


async def test_7_the_javascript_program_runs_unmodified(
    guide_server: Server, tmp_path: Path
) -> None:
    node = node_or_skip()
    program = tmp_path / "client.js"
    program.write_text(guide_programs()["JavaScript"], "utf-8")
    await held(guide_server, "trading_app_123")
    printed = await first_lines("(-0.52%)", node, "--experimental-websocket", str(program))
    assert "Connected to Odin Streamer" in printed
    assert re.search(r"RELIANCE: .*1365\.5 \(-0\.52%\)", printed)


async def test_7_the_node_program_runs_unmodified(guide_server: Server, tmp_path: Path) -> None:
    node = node_or_skip("ws")
    program = tmp_path / "client.cjs"
    program.write_text(guide_programs()["Node.js"], "utf-8")
    printed = await first_lines("(-0.52%)", node, str(program), NODE_PATH=str(NODE_MODULES))
    assert "Welcome: Connected to Odin Streamer Enhanced WebSocket" in printed
    assert "Subscribed to: [ 'SBIN', 'RELIANCE', 'TCS' ]" in printed
    assert re.search(r"RELIANCE: .*1365\.5 \(-0\.52%\)", printed)


# ---------------------------------------------------------------------- troubleshooting


async def test_9_connection_refused_means_not_running(server: Server) -> None:
    await server.runner.cleanup()
    with pytest.raises(aiohttp.ClientConnectorError):
        async with Client(server.ws):
            pass


async def test_9_a_dropped_connection_finds_its_subscriptions_again(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN", "2885", "TCS")
        transport = client.ws._response.connection
        assert transport is not None
        assert transport.transport is not None
        transport.transport.abort()
    async with Client(server.ws, "me") as client:
        data = (await client.ask("get_subscriptions"))["data"]
        assert data["subscribed_symbols"] == ["SBIN", "RELIANCE", "TCS"]
        server.tick(SBIN, 800.0)
        assert (await client.quote())["symbol"] == "SBIN"
