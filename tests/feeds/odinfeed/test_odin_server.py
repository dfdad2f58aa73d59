"""The server that stands in for a broker, where no other test shows what it can do."""

import asyncio
import sys

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

from odin.feeds.odinfeed.framing import Dialect, encode_frame
from odin.feeds.odinfeed.requests import (
    KeepAlive,
    Login,
    LtpTouchline,
    Pause,
    Request,
    Scrip,
    Touchline,
    encode_request,
)
from odin.feeds.odinfeed.wire import OdinDecoder
from odin.model import InstrumentKey, Tick
from odin.settings import OdinFeedSettings
from tests.support.odin_server import INDICES, OdinServer
from tests.support.process import REPO

ACC = InstrumentKey("NSE", "CM", 22)
LINE = Touchline((Scrip(1, 22),))
AT_MS = 1_346_752_748_000


async def ask(ws: ClientWebSocketResponse, *requests: Request, dialect: Dialect = "plain") -> None:
    for request in requests:
        await ws.send_bytes(encode_frame(encode_request(request, "12:00:00"), dialect))


async def ticks(ws: ClientWebSocketResponse, count: int) -> list[Tick]:
    decoder = OdinDecoder(OdinFeedSettings(), INDICES)
    found: list[Tick] = []
    while len(found) < count:
        found += filter(None, decoder.ticks(await ws.receive_bytes(timeout=5), AT_MS))
    return found


@pytest.mark.parametrize("dialect", ["plain", "padded"])
async def test_it_understands_both_dialects(dialect: Dialect) -> None:
    async with OdinServer() as server, ClientSession() as session:
        async with session.ws_connect(server.url) as ws:
            await ask(ws, Login("ME", "KEY"), LINE, KeepAlive(), dialect=dialect)
            await server.wait_for(lambda: len(server.requests) == 3)
            assert server.nonsense == 0


async def test_the_ltp_touchline_comes_with_changes_only() -> None:
    async with OdinServer() as server, ClientSession() as session:
        async with session.ws_connect(server.url) as ws:
            await ask(ws, Login("ME", "KEY"), LtpTouchline(LINE.scrips))
            await server.wait_wanted({ACC})
            sent = [server.tick(ACC, price, AT_MS) for price in (100, 100, 101)]
            assert sent == [1, 0, 1]
            assert [tick.ltp for tick in await ticks(ws, 2)] == [100, 101]


async def test_a_pause_holds_back() -> None:
    async with OdinServer() as server, ClientSession() as session:
        async with session.ws_connect(server.url) as ws:
            await ask(ws, Login("ME", "KEY"), LINE, Pause(True))
            await server.wait_for(lambda: len(server.requests) == 3)
            assert server.tick(ACC, 100, AT_MS) == 0
            await ask(ws, Pause(False))
            await server.wait_for(lambda: len(server.requests) == 4)
            assert server.tick(ACC, 101, AT_MS) == 1
            assert [tick.ltp for tick in await ticks(ws, 1)] == [101]


async def test_what_comes_before_the_login_is_nonsense() -> None:
    async with OdinServer() as server, ClientSession() as session:
        async with session.ws_connect(server.url) as ws:
            await ask(ws, LINE)
            await ws.send_str("text")
            await ws.send_bytes(encode_frame(b"63=FT3.0|64=4242"))
            await server.wait_for(lambda: len(server.requests) == 1)
            await ask(ws, Login("ME", "KEY"))
            await server.wait_for(lambda: len(server.requests) == 2)
            assert server.nonsense == 3
            assert server.wanted == set()


async def test_it_runs_from_the_shell() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.odin_server", "--port", "0", "--rate", "100"),
        stdout=asyncio.subprocess.PIPE,
        cwd=REPO,
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        assert line.startswith("odin.url = 'ws://127.0.0.1:")
        async with ClientSession() as session:
            async with session.ws_connect(line.split("'")[1]) as ws:
                await ask(ws, Login("ME", "KEY"), LINE)
                assert [tick.key for tick in await ticks(ws, 3)] == [ACC] * 3
    finally:
        process.terminate()
        await process.wait()
        await process.stdout.read()
