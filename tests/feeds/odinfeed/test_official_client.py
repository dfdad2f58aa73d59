"""An independent reader of the protocol: the broker's own Python client talks to our server.

It runs in a process of its own, as it prints every request, the key among them.
"""

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from odin.feeds.odinfeed.requests import BestFive, Login, LtpTouchline, Pause, Scrip, Touchline
from odin.model import InstrumentKey
from tests.support.odin_server import OdinServer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("odin_market_feed") is None,
    reason="the package odin-market-feed is not installed (extra test-feeds)",
)

ACC, RELIANCE = InstrumentKey("NSE", "CM", 22), InstrumentKey("NSE", "CM", 2885)
ACC_SCRIP, RELIANCE_SCRIP = Scrip(1, 22), Scrip(1, 2885)
AT_MS = 1_346_752_748_000

PROGRAM = """
import asyncio, json, sys
from odin_market_feed import ODINMarketFeedClient

async def main():
    client = ODINMarketFeedClient()
    client.on_message = lambda text: print("MESSAGE", text, flush=True)
    client.on_error = lambda text: print("ERROR", text, flush=True)
    await client.connect("127.0.0.1", int(sys.argv[1]), "ME", False, "KEY")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, *arguments = json.loads(line)
        await getattr(client, name)(*arguments)
    await client.disconnect()

asyncio.run(main())
"""


class Official:
    """The client's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin, self.stdout = process.stdin, process.stdout

    def call(self, name: str, *arguments: object) -> None:
        self.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")

    async def message(self) -> dict[str, str]:
        """The next message, by tag."""
        while line := await asyncio.wait_for(self.stdout.readline(), 10):
            kind, _, text = line.decode().rstrip("\n").partition(" ")
            assert kind != "ERROR", text
            if kind == "MESSAGE":
                return dict(pair.split("=", 1) for pair in text.split("|") if pair)
        raise EOFError


@asynccontextmanager
async def official(server: OdinServer) -> AsyncIterator[Official]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(server.port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    client = Official(process)
    try:
        yield client
        client.stdin.close()
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await client.stdout.read()


async def test_it_logs_in_and_reads_text_and_binary() -> None:
    async with OdinServer(credentials=("ME", "KEY")) as server, official(server) as client:
        accepted = await client.message()
        assert (accepted["64"], accepted["70"]) == ("102", "10000")
        assert server.requests == [Login("ME", "KEY", "token")]

        client.call("subscribe_touchline", ["1_22"], "0", False)
        client.call("subscribe_touchline", ["1_2885"], "1", True)
        await server.wait_wanted({ACC, RELIANCE})
        assert server.requests[1:] == [
            Touchline((ACC_SCRIP,)),
            Touchline((RELIANCE_SCRIP,), is_binary=True, is_ltp_change_only=True),
        ]
        server.send_quotes({ACC: 1300.35, RELIANCE: 2500.05}, AT_MS)
        text, record = await client.message(), await client.message()
        for message, token, ltp in ((text, "22", "130035"), (record, "2885", "250005")):
            assert (message["64"], message["1"], message["7"]) == ("209", "1", token)
            assert (message["8"], message["74"]) == (ltp, "2012-09-04 152908")
            assert (message["75"], message["77"], message["78"], message["76"]) == (ltp,) * 4
            assert message["399"] == "100"
        assert (text["79"], "79" in record) == ("1", False)
        assert server.nonsense == 0


async def test_its_other_requests_are_understood() -> None:
    async with OdinServer() as server, official(server) as client:
        await client.message()
        client.call("subscribe_best_five", "22", 1)
        await server.wait_for(lambda: server.requests[-1] == BestFive(ACC_SCRIP))
        server.tick(ACC, 1300.35, AT_MS)
        assert (await client.message())["64"] == "128"
        client.call("unsubscribe_best_five", "22", 1)
        client.call("subscribe_ltp_touchline", ["1_22"])
        client.call("subscribe_pause_resume", True)
        client.call("subscribe_pause_resume", False)
        client.call("unsubscribe_ltp_touchline", ["1_22"])
        client.call("unsubscribe_touchline", ["1_22"])
        await server.wait_for(lambda: len(server.requests) == 8)
        assert server.requests[2:] == [
            BestFive(ACC_SCRIP, is_on=False),
            LtpTouchline((ACC_SCRIP,)),
            Pause(True),
            Pause(False),
            LtpTouchline((ACC_SCRIP,), is_on=False),
            Touchline((ACC_SCRIP,), is_on=False),
        ]
        assert server.nonsense == 0


async def test_a_refusal_reaches_it() -> None:
    async with OdinServer(credentials=("ME", "other")) as server, official(server) as client:
        assert (await client.message())["70"] == "10001"
