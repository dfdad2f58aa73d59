"""Modes of subscriptions, against a real server: what is sent, kept, and refused."""

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson
import pytest
from aiohttp import WSMsgType

from odin.errors import StoreUnavailable
from odin.model import MODES, Depth, Detail, FeedGap, Level
from odin.protocols.enhanced.encodings import DELTAS, ENCODINGS, encode_quote
from odin.protocols.enhanced.modes import full_quote
from odin.topics import Encoding
from tests.protocols.enhanced.test_encodings import RELIANCE as QUOTE
from tests.support.process import odin
from tests.support.server import (
    CLOSED_MS,
    OPEN_MS,
    RELIANCE,
    SBIN,
    TCS,
    Client,
    Server,
    running,
)

DETAIL = Detail(799.5, 100, 200, 7, Depth((Level(799.95, 10, 2),), (Level(800.05, 20, 3),)))
SHOWN = msgspec.to_builtins(DETAIL) | {
    "depth": {
        "buy": [{"price": 799.95, "quantity": 10, "orders": 2}],
        "sell": [{"price": 800.05, "quantity": 20, "orders": 3}],
    }
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


async def subscribe(client: Client, mode: object, *stocks: str) -> dict[str, Any]:
    return await client.ask("subscribe", stocks=list(stocks), mode=mode)


async def modes_of(client: Client) -> dict[str, str]:
    data = (await client.ask("get_subscriptions"))["data"]
    return dict(zip(data["subscribed_symbols"], data["subscribed_modes"], strict=True))


def kept(path: Path) -> list[tuple[str, str]]:
    query = "SELECT symbol, mode FROM subscriptions ORDER BY position"
    with closing(sqlite3.connect(path / "odin.db")) as connection:
        return connection.execute(query).fetchall()


# ---------------------------------------------------------------------- what is sent


async def test_each_mode_gets_its_message_of_the_same_tick(server: Server) -> None:
    clients = {mode: Client(server.ws, mode) for mode in MODES}
    for mode, client in clients.items():
        await client.__aenter__()
        await subscribe(client, mode, "SBIN")
    server.tick(SBIN, 800.0, prev_close=805.0, detail=DETAIL)
    ltp, quote, full = [await client.quote() for client in clients.values()]
    assert ltp["data"].keys() == {"ltp", "percent_change", "timestamp"}
    assert ltp["data"].items() <= quote["data"].items()
    assert full["data"] == quote["data"] | SHOWN
    assert [message.get("mode") for message in (ltp, quote, full)] == ["ltp", None, "full"]
    assert list(full)[-1] == list(ltp)[-1] == "mode"
    for client in clients.values():
        await client.__aexit__(None, None, None)


async def test_full_leaves_out_what_the_feed_does_not_tell(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await subscribe(client, "full", "SBIN")
        server.tick(SBIN, 800.0)
        assert (await client.quote())["data"].keys().isdisjoint(SHOWN)
        server.tick(SBIN, 800.0, detail=Detail(oi=7))
        data = (await client.quote())["data"]
        assert data.keys() & SHOWN.keys() == {"oi"}


@pytest.mark.parametrize("mode", MODES)
async def test_the_last_known_values_come_in_the_subscriptions_mode(
    server: Server, mode: str
) -> None:
    async with Client(server.ws, "other") as other, Client(server.ws, "me") as client:
        await subscribe(other, "full", "SBIN")
        server.tick(SBIN, 800.0, detail=DETAIL)
        await subscribe(client, mode, "SBIN")
        message = await client.quote()
    assert message["snapshot"] is True
    assert message.get("mode", "quote") == mode
    assert ("depth" in message["data"]) == (mode == "full")
    async with Client(server.ws, "me") as client:
        again = await client.quote()
    assert again["data"] == message["data"]


async def test_an_order_book_of_before_is_not_shown_with_a_later_quote(tmp_path: Path) -> None:
    """The feed goes on without one while nobody wants it."""
    async with (
        running(tmp_path, feed={"linger_s": 0.0}) as server,
        Client(server.ws, "other") as other,
        Client(server.ws, "me") as client,
    ):
        await other.subscribe("SBIN")
        await subscribe(client, "full", "SBIN")
        server.tick(SBIN, 800.0, detail=DETAIL)
        assert "depth" in (await client.quote())["data"]
        await subscribe(client, "ltp", "SBIN")
        server.tick(SBIN, 801.0, detail=DETAIL)  # was on its way
        server.tick(SBIN, 802.0)
        await subscribe(client, "full", "SBIN")
        message = await client.until(lambda m: m.get("mode") == "full")
        assert message["data"]["ltp"] == 802.0
        assert message["data"].keys().isdisjoint(SHOWN)
        server.tick(SBIN, 803.0, detail=DETAIL)
        assert (await client.quote())["data"].items() >= SHOWN.items()


async def test_the_answer_to_snapshot_has_quotes_in_every_mode(server: Server) -> None:
    server.tick(SBIN, 800.0, detail=DETAIL)
    async with Client(server.ws, "me") as client:
        await subscribe(client, "ltp", "SBIN")
        (quote,) = (await client.ask("snapshot"))["data"]["quotes"]
    assert len(quote) == 22


async def read_quotes(
    ws: aiohttp.ClientWebSocketResponse, encoding: Encoding, count: int
) -> list[tuple[str, bool]]:
    """Return the mode of so many quotes, and whether each is whole. Other messages before the
    first one are passed over."""
    seen: list[tuple[str, bool]] = []
    while len(seen) < count:
        frame = await ws.receive(timeout=5)
        if encoding == "binary" and frame.type is WSMsgType.BINARY:
            seen.append((("", "quote", "ltp", "full")[frame.data[0]], True))
            continue
        decode = orjson.loads if frame.type is WSMsgType.TEXT else msgspec.msgpack.decode
        message = decode(frame.data)
        if message["type"] == "market_data":
            seen.append((message.get("mode", "quote"), "delta" not in message))
    return seen


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_change_of_mode_begins_with_a_whole_message(
    server: Server, encoding: Encoding
) -> None:
    is_whole = encoding not in DELTAS
    server.tick(SBIN, 800.0)
    async with (
        Client(f"{server.ws}?client_id=other&format={encoding}") as other,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.ws}?client_id=me&format={encoding}") as ws,
    ):
        await other.send({"action": "subscribe", "stocks": ["SBIN"], "mode": "full"})
        for mode in ("quote", "full", "ltp", "quote"):
            await ws.send_json({"action": "subscribe", "stocks": ["SBIN"], "mode": mode})
            snapshot = await read_quotes(ws, encoding, 1)
            for ltp in (801.0, 802.0):
                server.tick(SBIN, ltp)
            live = await read_quotes(ws, encoding, 2)
            assert [*snapshot, *live] == [(mode, True), (mode, True), (mode, is_whole)]


async def test_a_tick_reaches_a_client_once_after_its_mode_changed(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await subscribe(client, "full", "SBIN")
        await subscribe(client, "ltp", "SBIN")
        server.tick(SBIN, 800.0)
        quotes = [m for m in await client.nothing_but_pong() if m["type"] == "market_data"]
        assert [m["mode"] for m in quotes] == ["ltp"]


async def test_a_gap_is_told_to_everybody(server: Server) -> None:
    async with Client(server.ws, "a") as one, Client(server.ws, "b") as other:
        server.node.enhanced.push_gap(FeedGap("kite", OPEN_MS - 5000, OPEN_MS))
        for client in (one, other):
            message = await client.until(lambda m: m["type"] == "feed_gap")
            assert (message["data"]["from"], message["data"]["to"]) == (OPEN_MS - 5000, OPEN_MS)


LEVEL = Level(799.95, 10, 2)
IMPOSSIBLE_LEVELS = [
    *(msgspec.structs.replace(LEVEL, price=p) for p in (0.0, -1.0, 1e9, math.nan, math.inf)),
    *(msgspec.structs.replace(LEVEL, quantity=n) for n in (-1, 2**53, 1.5, True)),
    *(msgspec.structs.replace(LEVEL, orders=n) for n in (-1, 2**32, math.nan)),
]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("avg_price", price) for price in (0.0, -1.0, 1e9, math.nan, math.inf)),
        *(("total_buy_qty", count) for count in (-1, 2**53, 2**64)),
        *(("total_sell_qty", count) for count in (-1, 2**53)),
        *(("oi", count) for count in (-1, 2**53, 7.0, math.nan)),
        *(("depth", Depth((LEVEL, level), ())) for level in IMPOSSIBLE_LEVELS),
        *(("depth", Depth((), (level,))) for level in IMPOSSIBLE_LEVELS),
    ],
)
def test_an_impossible_part_is_left_out_by_itself_and_breaks_no_encoding(
    field: str, value: object
) -> None:
    broken = full_quote(QUOTE, msgspec.structs.replace(DETAIL, **{field: value}))
    assert broken == full_quote(QUOTE, msgspec.structs.replace(DETAIL, **{field: None}))
    for encoding in ENCODINGS:
        assert encode_quote(encoding, SBIN, broken, 1, "full")


# ---------------------------------------------------------------------- what is kept


async def test_a_mode_is_the_stocks_own_and_changes_alone(server: Server, tmp_path: Path) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN", "RELIANCE")
        await subscribe(client, "full", "TCS")
        answer = await subscribe(client, "ltp", "SBIN", "INFY")
        assert answer["data"]["subscribed_stocks"] == ["SBIN", "INFY"]
        assert answer["data"]["already_subscribed"] == ["SBIN"]
        expected = {"SBIN": "ltp", "RELIANCE": "quote", "TCS": "full", "INFY": "ltp"}
        assert await modes_of(client) == expected
        assert kept(tmp_path) == list(expected.items()), "and in their places"


async def test_without_a_mode_held_stocks_stay_as_they_are(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await subscribe(client, "full", "SBIN")
        await client.subscribe("SBIN", "TCS")
        await subscribe(client, None, "SBIN")
        assert await modes_of(client) == {"SBIN": "full", "TCS": "quote"}


async def test_unsubscribing_forgets_the_mode(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await subscribe(client, "full", "SBIN")
        await client.ask("unsubscribe", stocks=["SBIN"])
        server.tick(SBIN, 800.0)
        assert await client.nothing_but_pong() == []
        await client.subscribe("SBIN")
        assert await modes_of(client) == {"SBIN": "quote"}


async def test_modes_survive_reconnects_take_overs_and_restarts(tmp_path: Path) -> None:
    expected = {"SBIN": "ltp", "TCS": "full", "RELIANCE": "quote"}
    async with running(tmp_path) as server, Client(server.ws, "me") as old:
        await subscribe(old, "ltp", "SBIN", "TCS")
        await subscribe(old, "full", "TCS")
        await old.subscribe("RELIANCE")
        async with Client(server.ws, "me") as new:
            assert await modes_of(new) == expected
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        assert await modes_of(client) == expected
        for key in (SBIN, TCS, RELIANCE):
            server.tick(key, 800.0)
        sent = [(await client.quote()) for _ in range(3)]
        assert {m["symbol"]: m.get("mode", "quote") for m in sent} == expected


async def test_acknowledged_modes_survive_kill_9(tmp_path: Path) -> None:
    options = ("serve", "--port", "0", "--db", tmp_path / "odin.db")
    acknowledged: str | None = None
    on_its_way: str | None = None

    async def storm(client: Client) -> None:
        nonlocal acknowledged, on_its_way
        while True:
            for mode in MODES:
                on_its_way = mode
                await subscribe(client, mode, "SBIN", "TCS")
                acknowledged = mode

    for _ in range(3):
        async with odin(*options, ODIN_LIMITS__REQUESTS_PER_S="100000") as process:
            client = Client(process.ws, "me")
            await client.__aenter__()
            if acknowledged is not None:
                modes = set((await modes_of(client)).values())
                assert modes in ({acknowledged}, {on_its_way}), "whole, and not older"
            storming = asyncio.ensure_future(storm(client))
            async with asyncio.timeout(20):
                before = len(client.seen)
                while len(client.seen) < before + 50:
                    await asyncio.sleep(0.005)
            process.kill()
            with pytest.raises((ConnectionError, OSError)):
                await storming
            await client.__aexit__(None, None, None)
    assert acknowledged is not None


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("mode", ["depth", "FULL", "", 1, True, ["full"], {"mode": "full"}])
async def test_an_unknown_mode_changes_nothing(server: Server, mode: object) -> None:
    async with Client(server.ws, "me") as client:
        await subscribe(client, "ltp", "SBIN")
        error = await subscribe(client, mode, "SBIN", "TCS")
        assert (error["type"], error["code"]) == ("error", "invalid_mode")
        assert error["message"] == "mode must be ltp, quote or full; nothing was changed"
        assert await modes_of(client) == {"SBIN": "ltp"}


async def test_other_requests_pass_a_mode_over(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        assert (await client.ask("ping", mode=5))["type"] == "pong"


async def test_a_change_that_cannot_be_saved_is_no_change(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")

        async def fail(*_args: object, **_options: object) -> None:
            raise StoreUnavailable("full")

        with monkeypatch.context() as patched:
            patched.setattr(server.node.store, "apply_changes", fail)
            error = await subscribe(client, "full", "SBIN", "TCS")
        assert error["code"] == "store_unavailable"
        assert await modes_of(client) == {"SBIN": "quote"}
        assert kept(tmp_path) == [("SBIN", "quote")]
        server.tick(SBIN, 800.0)
        assert "mode" not in await client.quote()


async def test_a_mode_does_not_open_the_market(server: Server) -> None:
    server.tick(SBIN, 800.0, detail=DETAIL)
    server.clock.set_ms(CLOSED_MS)
    async with Client(server.ws, "me") as client:
        await subscribe(client, "full", "SBIN")
        server.tick(SBIN, 801.0, detail=DETAIL)
        assert [m for m in await client.nothing_but_pong() if m["type"] == "market_data"] == []
