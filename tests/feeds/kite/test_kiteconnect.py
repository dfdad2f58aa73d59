"""Our packets and our ticker, judged by the client package that Kite publishes."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from odin.feeds.kite.text import (
    Text,
)
from odin.feeds.kite.wire import (
    DIVISORS,
    SEGMENTS,
    Entry,
    FullPacket,
    IndexFullPacket,
    IndexQuotePacket,
    LtpPacket,
    Packet,
    QuotePacket,
    divisor,
    encode_message,
)
from tests.feeds.kite.test_feed import N_TOKEN, NIFTY, R_TOKEN, RELIANCE, S_TOKEN, SBIN
from tests.support.kite_server import KiteServer

pytestmark = pytest.mark.skipif(
    find_spec("kiteconnect") is None,
    reason="kiteconnect is not installed (extra test-feeds)",
)

CLIENT = Path(__file__).with_name("kiteconnect_client.py")
NOW_S = 1_756_971_588
TIMEOUT_S = 30.0


@asynccontextmanager
async def client(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the package; kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "ignore",
        str(CLIENT),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def some_packets(chance: random.Random) -> list[Packet]:
    """Return one packet of each layout for each segment, with numbers of every size."""

    def number(bits: int) -> int:
        return chance.getrandbits(chance.randint(1, bits))

    def side() -> tuple[Entry, ...]:
        return tuple(Entry(number(32), number(31), number(16)) for _ in range(5))

    packets: list[Packet] = []
    for segment in [*SEGMENTS, 9]:
        token = number(24) << 8 | segment
        prices = [number(31) for _ in range(6)]
        quote = QuotePacket(
            token, *prices[:1], number(32), *prices[1:2], number(32), 5, 6, *prices[2:]
        )
        index = IndexQuotePacket(token, *prices[:5], -7)
        packets += [
            LtpPacket(token, number(31)),
            quote,
            FullPacket(quote, NOW_S, number(32), 8, 9, NOW_S + 1, side(), side()),
            index,
            IndexFullPacket(index, NOW_S + 2),
        ]
    return packets


def as_the_package_has_it(packet: Packet) -> dict[str, Any]:
    """Return the dict that its documentation promises for a packet."""
    match packet:
        case FullPacket(quote) | IndexFullPacket(quote):
            mode = "full"
        case LtpPacket():
            quote, mode = packet, "ltp"
        case _:
            quote, mode = packet, "quote"
    unit = divisor(quote.instrument_token)
    known: dict[str, Any] = {
        "tradable": quote.instrument_token & 0xFF != 9,
        "mode": mode,
        "instrument_token": quote.instrument_token,
        "last_price": quote.last / unit,
    }
    if isinstance(quote, LtpPacket):
        return known
    close = quote.close / unit
    known["ohlc"] = {name: getattr(quote, name) / unit for name in ("open", "high", "low", "close")}
    known["change"] = (quote.last / unit - close) * 100 / close if close else 0
    if isinstance(quote, QuotePacket):
        known |= {
            "last_traded_quantity": quote.last_quantity,
            "average_traded_price": quote.average / unit,
            "volume_traded": quote.volume,
            "total_buy_quantity": quote.total_buy,
            "total_sell_quantity": quote.total_sell,
        }
    if isinstance(packet, IndexFullPacket):
        known["exchange_timestamp"] = packet.exchange_s
    if isinstance(packet, FullPacket):
        known |= {
            "last_trade_time": packet.last_trade_s,
            "oi": packet.oi,
            "oi_day_high": packet.oi_high,
            "oi_day_low": packet.oi_low,
            "exchange_timestamp": packet.exchange_s,
            "depth": {
                side: [entry._asdict() | {"price": entry.price / unit} for entry in entries]
                for side, entries in (("buy", packet.buy), ("sell", packet.sell))
            },
        }
    return known


async def test_its_parser_reads_our_packets() -> None:
    chance = random.Random(1)
    messages = [some_packets(chance) for _ in range(20)]
    assert DIVISORS.keys() < SEGMENTS.keys()  # every divisor is among them
    lines = b"".join(encode_message(packets).hex().encode() + b"\n" for packets in messages)
    async with client("parse") as process:
        output, _ = await process.communicate(lines)
    found = [json.loads(line) for line in output.splitlines()]
    assert found == [[as_the_package_has_it(packet) for packet in them] for them in messages]


async def test_its_client_streams_from_our_ticker() -> None:
    modes = {R_TOKEN: "quote", S_TOKEN: "full", N_TOKEN: "ltp"}
    async with KiteServer(credentials=("key", "token"), heartbeat_s=0.05) as server:
        pairs = [f"{token}={mode}" for token, mode in modes.items()]
        async with client("stream", server.url, "3", *pairs) as process:
            await server.wait_subscribed(modes)  # type: ignore[arg-type]
            assert server.nonsense == 0
            assert server.headers["X-Kite-Version"] == "3"
            server.say(Text("error", "nothing to worry about"))
            prices = {RELIANCE.key: 1365.55, SBIN.key: 812.35, NIFTY: 24734.1}
            assert server.send_quotes(prices, NOW_S * 1000) == 3
            output, _ = await process.communicate()
    said = [json.loads(line) for line in output.splitlines()]
    assert said.pop(0) == {"error": [0, "nothing to worry about"]}
    assert {tick["instrument_token"]: tick["mode"] for tick in said} == modes
    assert [tick["last_price"] for tick in said] == [1365.55, 812.35, 24734.1]
    full = said[1]
    assert full["exchange_timestamp"] == NOW_S
    assert full["depth"]["sell"][0] == {"quantity": 20, "price": 812.4, "orders": 1}


async def test_its_client_is_refused_by_our_ticker() -> None:
    async with KiteServer(credentials=("key", "another")) as server:
        async with client("stream", server.url, "1", f"{R_TOKEN}=ltp") as process:
            output, _ = await process.communicate()
        assert server.refusals == 1
    [said] = [json.loads(line) for line in output.splitlines()]
    assert "403" in said["error"][1]
