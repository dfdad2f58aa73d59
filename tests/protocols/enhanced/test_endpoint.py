"""What the endpoint does beyond the guide's examples, against a real server.

The tests whose names begin with `fault_` number the weaknesses of the first implementation of
this protocol that must never come back.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType

from odin.errors import StoreUnavailable
from odin.model import Instrument, InstrumentKey, Subscription, YearSummary
from odin.protocols.enhanced.binary import decode_binary
from odin.protocols.enhanced.encodings import ENCODINGS
from odin.store.sqlite import SqliteStore
from tests.support.server import (
    BELL_CLOSE_MS,
    CLOSED_MS,
    INFY,
    OPEN_MS,
    RELIANCE,
    SBIN,
    TCS,
    Client,
    Server,
    running,
    start_server,
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path / "odin.db")) as connection:
        return connection.execute(query).fetchall()


# ---------------------------------------------------------------------- faults of the first one


async def test_fault_1_a_thousand_reconnects_over_a_live_connection(server: Server) -> None:
    """Subscriptions stay whole, and exactly one route is live."""
    stocks = ["SBIN", "RELIANCE", "TCS"]
    async with Client(server.ws, "me") as client:
        await client.subscribe(*stocks)
    async with aiohttp.ClientSession() as session:
        old = None
        for number in range(1000):
            new = await session.ws_connect(f"{server.ws}?client_id=me")
            welcome = await new.receive_json(timeout=5)
            assert welcome["data"]["subscribed_stocks"] == 3, f"round {number}"
            if old is not None:
                error = await old.receive_json(timeout=5)
                assert error["code"] == "session_taken_over"
                end = await old.receive(timeout=5)
                assert (end.type, end.data) == (aiohttp.WSMsgType.CLOSE, 4409)
                await old.close()
            old = new
        assert old is not None
        assert len(server.node.hub) == 1
        server.tick(SBIN, 800.0)
        server.tick(SBIN, 800.5)
        prices = [(await old.receive_json(timeout=5))["data"]["ltp"] for _ in range(2)]
        assert prices == [800.0, 800.5], "each tick arrives once"
        await old.send_json({"action": "get_subscriptions"})
        answer = await old.receive_json(timeout=5)
        assert answer["data"]["subscribed_symbols"] == stocks
        await old.close()


async def test_fault_1_subscriptions_survive_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        await client.subscribe("TCS", "SBIN", "BHARTIARTL")
        await client.ask("unsubscribe", stocks=["SBIN"])
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        assert client.welcome["data"]["subscribed_stocks"] == 2
        data = (await client.ask("get_subscriptions"))["data"]
        assert data["subscribed_symbols"] == ["TCS", "BHARTIARTL"]


async def test_fault_2_clients_may_come_and_go_while_ticks_are_sent(server: Server) -> None:
    async with Client(server.ws, "stay") as stay:
        await stay.subscribe("SBIN")
        volumes: list[int] = []

        async def visit(number: int) -> None:
            async with Client(server.ws, f"visitor{number}") as client:
                await client.subscribe("SBIN")
                await client.quote()
                await client.ask("unsubscribe", stocks=["SBIN"])

        async def tick() -> None:
            for number in range(100_000):
                server.tick(SBIN, 800.0, volume=number)
                await asyncio.sleep(0.0005)

        async def read() -> None:
            while True:
                volumes.append((await stay.quote())["data"]["volume"])

        running_on = [asyncio.ensure_future(tick()), asyncio.ensure_future(read())]
        async with asyncio.timeout(20):
            while len(volumes) < 100:
                await asyncio.gather(*(visit(number) for number in range(50)))
        for task in running_on:
            task.cancel()
        await asyncio.gather(*running_on, return_exceptions=True)
        assert volumes == list(range(volumes[0], volumes[0] + len(volumes))), "none lost or twice"


async def test_fault_3_a_reader_that_is_stuck_delays_nobody(server: Server) -> None:
    async with Client(server.ws, "reads") as reader, Client(server.ws, "stuck") as stuck:
        await stuck.subscribe("SBIN", "TCS")
        await reader.subscribe("SBIN")
        stuck_transport = stuck.ws._response.connection.transport
        stuck_transport.pause_reading()
        for number in range(6000):
            server.tick(SBIN, 800 + number / 10)
            server.tick(TCS, 3000 + number / 10)
            if number % 100 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            last = 0.0
            while last < 1399.9:
                last = (await reader.quote())["data"]["ltp"]
            while server.node.hub.late_count != 1:  # the burst may have made the reader late too
                await asyncio.sleep(0.01)
        stuck_transport.resume_reading()
        newest = {}
        async with asyncio.timeout(10):
            while newest != {"SBIN": 1399.9, "TCS": 3599.9}:
                message = await stuck.quote()
                newest[message["symbol"]] = message["data"]["ltp"]


async def test_fault_4_malformed_json_is_answered_and_the_connection_lives(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        for text in ("{", "not json", "[1,2", '{"action": "subscribe", "stocks": "SBIN"}', "[]"):
            await client.send(text)
            error = await client.receive()
            assert error["type"] == "error"
            assert error["code"] in {"invalid_json", "invalid_request"}
        assert (await client.ask("ping"))["status"] == "alive"


async def test_fault_5_weekends_and_holidays_are_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        for at_ms, reason in (
            (CLOSED_MS, "Saturday"),
            (1759386600000, "Gandhi Jayanti / Dussehra"),
        ):
            server.clock.set_ms(at_ms)
            data = (await client.ask("market_status"))["data"]
            assert (data["market_open"], data["holiday"]) == (False, reason)


async def test_fault_6_data_timestamp_is_the_exchanges_time(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.tick(SBIN, 800.0, exchange_ms=OPEN_MS - 1234)
        message = await client.quote()
        assert message["data"]["timestamp"] == OPEN_MS - 1234
        assert message["timestamp"] == OPEN_MS


async def test_fault_7_and_8_year_values_come_from_history(server: Server) -> None:
    summary = YearSummary(900.0, "2025-06-10", 680.0, "2025-03-03", 12345, 805.0, "2025-09-03")
    server.node.board.load_history({SBIN: summary}, "2025-09-04")
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.tick(SBIN, 899.0, volume=777)
        data = (await client.quote())["data"]
        assert data["avg_volume_5d"] == 12345
        assert (data["week_52_high"], data["week_52_high_date"]) == (900.0, "2025-06-10")
        assert data["is_new_week_52_high"] is False
        server.tick(SBIN, 900.05)
        data = (await client.quote())["data"]
        assert (data["week_52_high"], data["week_52_high_date"]) == (900.05, "2025-09-04")
        assert data["is_new_week_52_high"] is True
        server.tick(SBIN, 900.05)
        assert (await client.quote())["data"]["is_new_week_52_high"] is False


async def test_fault_9_all_failed_is_an_error_and_unsubscribe_names_unknowns(
    server: Server,
) -> None:
    async with Client(server.ws, "me") as client:
        answer = await client.subscribe("NOPE", "ALSONOPE")
        assert (answer["type"], answer["status"]) == ("subscription_response", "error")
        assert answer["data"]["failed_stocks"] == ["NOPE", "ALSONOPE"]
        await client.subscribe("SBIN")
        answer = await client.ask("unsubscribe", stocks=["SBIN", "TCS", "NOPE"])
        assert answer["status"] == "success"
        assert answer["data"]["unsubscribed_stocks"] == ["SBIN"]
        assert answer["data"]["failed_stocks"] == ["NOPE", "TCS"]
        codes = {d["stock"]: d["code"] for d in answer["data"]["failed_details"]}
        assert codes == {"TCS": "not_subscribed", "NOPE": "unknown_symbol"}


async def test_fault_10_the_same_stock_twice_counts_once(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        data = (await client.subscribe("SBIN", "3045", "sbin", 3045, "NSE:SBIN", "NO", "NO"))[
            "data"
        ]
        assert data["subscribed_stocks"] == ["SBIN"]
        assert data["failed_stocks"] == ["NO"]
        assert data["total_subscribed"] == 1
        data = (await client.subscribe("3045", "TCS"))["data"]
        assert data["subscribed_stocks"] == ["SBIN (NSE)", "TCS"]
        assert data["already_subscribed"] == ["SBIN (NSE)"]
        assert data["total_subscribed"] == 2
        server.tick(SBIN, 800.0)
        assert len([m for m in await client.nothing_but_pong() if m["type"] == "market_data"]) == 1


async def test_fault_11_the_last_known_quote_comes_with_the_subscription(server: Server) -> None:
    server.tick(SBIN, 800.0)
    async with Client(server.ws, "me") as client:
        await client.send({"action": "subscribe", "stocks": ["SBIN", "TCS"]})
        answer, snapshot = await client.receive(), await client.receive()
        assert answer["type"] == "subscription_response"
        assert snapshot["type"] == "market_data"
        assert snapshot["snapshot"] is True
        assert snapshot["data"]["ltp"] == 800.0
        server.tick(SBIN, 801.0)
        live = await client.quote()
        assert "snapshot" not in live
    async with Client(server.ws, "me") as client:
        assert (await client.receive())["snapshot"] is True, "restored stocks have theirs too"


async def test_fault_11_when_closed_no_snapshot_comes_but_one_may_be_asked_for(
    server: Server,
) -> None:
    server.tick(SBIN, 800.0)
    server.clock.set_ms(BELL_CLOSE_MS + 60_000)
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN", "TCS")
        assert [m["type"] for m in await client.nothing_but_pong()] == []
        data = (await client.ask("snapshot"))["data"]
        assert [quote["ltp"] for quote in data["quotes"]] == [800.0]
        assert data["without_quote"] == ["TCS"]
        data = (await client.ask("snapshot", stocks=["3045", "NOPE"]))["data"]
        assert [quote["symbol"] for quote in data["quotes"]] == ["SBIN"]
        assert data["failed_stocks"] == ["NOPE"]


async def test_fault_12_limits_are_announced_and_kept(tmp_path: Path) -> None:
    limits = {"stocks_per_request": 3, "subscriptions_per_client": 4}
    async with running(tmp_path, limits=limits) as server, Client(server.ws, "me") as client:
        announced = client.welcome["data"]["limits"]
        assert announced["stocks_per_request"] == 3
        assert announced["subscriptions_per_client"] == 4
        error = await client.subscribe("SBIN", "TCS", "INFY", "ITC")
        assert error["code"] == "too_many_stocks"
        await client.subscribe("SBIN", "TCS", "INFY")
        error = await client.subscribe("ITC", "RELIANCE", "SBIN")
        assert error["code"] == "subscription_limit"
        assert "limit of 4" in error["message"]
        data = (await client.ask("get_subscriptions"))["data"]
        assert data["total_subscribed"] == 3, "nothing of the refused request was applied"


async def test_fault_13_tokens_are_accepted_beside_stocks(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        data = (await client.ask("subscribe", tokens=["3045", 2885]))["data"]
        assert data["subscribed_stocks"] == ["SBIN (NSE)", "RELIANCE (NSE)"]


async def test_fault_14_the_state_of_the_feed_is_told(tmp_path: Path) -> None:
    async with (
        running(tmp_path, feed={"kind": "simulator"}, simulator={"rate_hz": 50}) as server,
        Client(server.ws, "me") as client,
    ):
        await client.subscribe("SBIN")
        await client.quote()
        data = (await client.ask("market_status"))["data"]
        assert data["feed"] == {"name": "simulator", "state": "streaming", "stale": False}
        assert data["streaming_data"] is True
        assert data["simulated"] is True


async def test_fault_15_a_guessed_client_id_must_be_a_valid_one(server: Server) -> None:
    for client_id in ("a%20b", "x" * 129, "%00", "a%2Fb", "me&client_id=you", "%D0%B0"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with Client(f"{server.ws}?client_id={client_id}"):
                pass
        assert caught.value.status == 400


# ---------------------------------------------------------------------- sessions


async def test_a_takeover_in_the_middle_of_a_request_keeps_the_change(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old connection's request is on its way to the disk when the new one arrives."""
    journal = server.node.journal
    record, release = journal.record, asyncio.Event()
    reached = asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> None:
        reached.set()
        await release.wait()
        await record(*args, **kwargs)

    monkeypatch.setattr(journal, "record", slow)
    async with Client(server.ws, "me") as old:
        await old.send({"action": "subscribe", "stocks": ["SBIN"]})
        await reached.wait()
        connecting = asyncio.ensure_future(Client(server.ws, "me").__aenter__())
        assert await old.closed() == 4409
        release.set()
        new = await connecting
        assert new.welcome["data"]["subscribed_stocks"] == 1
        server.tick(SBIN, 800.0)
        assert (await new.quote())["symbol"] == "SBIN"
        await new.__aexit__(None, None, None)


async def test_many_connections_with_one_id_at_once_leave_one(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
    async with aiohttp.ClientSession() as session:
        sockets = await asyncio.gather(
            *(session.ws_connect(f"{server.ws}?client_id=me") for _ in range(20))
        )
        codes = []

        async def drain(ws: aiohttp.ClientWebSocketResponse) -> None:
            while True:
                message = await ws.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    codes.append(message.data)
                    return

        drains = [asyncio.ensure_future(drain(ws)) for ws in sockets]
        async with asyncio.timeout(5):
            while len(codes) < 19:
                await asyncio.sleep(0.01)
            while len(server.node.hub) < 1:
                await asyncio.sleep(0.01)
        assert codes == [4409] * 19
        assert len(server.node.hub) == 1
        await asyncio.gather(*(ws.close() for ws in sockets))
        for task in drains:
            task.cancel()
        await asyncio.gather(*drains, return_exceptions=True)


async def test_connecting_alone_writes_nothing(server: Server, tmp_path: Path) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("NOPE")
        await client.ask("ping")
    assert rows(tmp_path, "select count(*) from clients") == [(0,)]


async def test_the_operator_sees_what_was_acknowledged(server: Server, tmp_path: Path) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("2885", "SBIN")
        query = "select exchange, segment, token, symbol from subscriptions order by position"
        assert rows(tmp_path, query) == [
            ("NSE", "CM", 2885, "RELIANCE"),
            ("NSE", "CM", 3045, "SBIN"),
        ]


async def test_what_could_not_be_saved_is_not_acknowledged(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise StoreUnavailable("disk full")

    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        monkeypatch.setattr(server.node.journal, "record", refuse)
        assert (await client.subscribe("TCS"))["code"] == "store_unavailable"
        assert (await client.ask("unsubscribe", stocks=["SBIN"]))["code"] == "store_unavailable"
        data = (await client.ask("get_subscriptions"))["data"]
        assert data["subscribed_symbols"] == ["SBIN"]
        server.tick(TCS, 3000.0)
        server.tick(SBIN, 800.0)
        assert [m["symbol"] for m in await client.nothing_but_pong() if "symbol" in m] == ["SBIN"]


async def test_a_store_that_cannot_be_read_says_try_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_client_id: str) -> list[Subscription]:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(server.node.store, "load_subscriptions", refuse)
    async with Client(server.ws, "me") as client:
        assert client.welcome["code"] == "store_unavailable"
        assert await client.closed() == 1013


async def test_a_fault_in_the_server_is_not_the_clients_to_see(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(server.node.registry), "resolve_many", broken)
    async with Client(server.ws, "me") as client:
        error = await client.subscribe("SBIN")
        assert error["code"] == "internal"
        assert "secret" not in str(error)
        assert (await client.ask("ping"))["type"] == "pong"
    assert server.node.metrics.faults == 1


# ---------------------------------------------------------------------- order and instruments


async def test_the_answer_comes_before_the_data_and_nothing_after_an_unsubscribe(
    tmp_path: Path,
) -> None:
    limits = {"requests_per_s": 1000, "request_burst": 1000}
    async with running(tmp_path, limits=limits) as server, Client(server.ws, "me") as client:
        stop = asyncio.Event()

        async def tick() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                server.tick(SBIN, 800 + number % 100)
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(tick())
        for _ in range(10):
            await client.send({"action": "subscribe", "stocks": ["SBIN"]})
            first = await client.receive()
            assert first["type"] == "subscription_response"
            await client.quote()
            await client.send({"action": "unsubscribe", "stocks": ["SBIN"]})
            await client.until(lambda m: m["type"] == "subscription_response")
            assert await client.nothing_but_pong() == []
        stop.set()
        await ticking


async def test_a_new_master_keeps_subscriptions_follows_renames_and_lists_the_vanished(
    server: Server, tmp_path: Path
) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN", "TCS", "INFY")
        server.tick(TCS, 3000.0)
        new = Instrument(SBIN, "SBINEW", series="EQ"), Instrument(TCS, "TCS", series="EQ")
        elsewhere = await SqliteStore.open(tmp_path / "odin.db", is_tool=True)
        async with elsewhere:
            await elsewhere.save_instruments(new, [INFY], "test", OPEN_MS)
        async with asyncio.timeout(10):
            while server.node.registry.get(INFY) is not None:
                await asyncio.sleep(0.05)
        data = (await client.ask("get_subscriptions"))["data"]
        assert data["subscribed_tokens"] == ["3045", "11536", "1594"]
        assert data["subscribed_symbols"] == ["SBINEW", "TCS", "INFY"]
        assert data["unavailable_stocks"] == ["INFY"]
        server.tick(SBIN, 800.0)
        assert (await client.quote())["symbol"] == "SBINEW"
        answer = await client.ask("unsubscribe", stocks=["INFY"])
        assert answer["data"]["unsubscribed_stocks"] == ["INFY"]
        assert answer["data"]["total_subscribed"] == 2


async def test_two_exchanges_list_the_same_name(server: Server) -> None:
    bse = InstrumentKey("BSE", "CM", 500112)
    await server.node.store.save_instruments(
        [Instrument(SBIN, "SBIN", series="EQ"), Instrument(bse, "SBIN", series="A")], [], "t", 1
    )
    await server.node.upkeep._load_instruments()
    async with Client(server.ws, "me") as client:
        data = (await client.subscribe("SBIN", "BSE:SBIN", "500112"))["data"]
        assert data["subscribed_stocks"] == ["SBIN", "SBIN (BSE)"]
        server.tick(bse, 801.0)
        message = await client.quote()
        assert (message["exchange"], message["token"]) == ("BSE", "500112")


# ---------------------------------------------------------------------- limits and ends


async def test_a_binary_message_is_an_error_and_the_connection_lives(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.send(b"\x00\x01")
        assert (await client.receive())["code"] == "binary_message"
        assert (await client.ask("ping"))["type"] == "pong"


async def test_a_message_of_the_limit_passes_and_one_more_byte_closes(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        text = '{"action":"ping","x":"' + "y" * (65536 - 24) + '"}'
        assert len(text) == 65536
        await client.send(text)
        assert (await client.receive())["type"] == "pong"
        await client.send(text + " ")
        assert await client.closed() == 1009


async def test_unknown_actions_are_named(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        assert (await client.ask("dance"))["message"] == "Unknown action: dance"
        await client.send({})
        assert (await client.receive())["message"] == "Unknown action: "
        error = await client.ask("x" * 5000)
        assert len(error["message"]) <= 200
        error = await client.ask("a\nb\x1b[31m")
        assert error["message"] == r"Unknown action: a\nb\x1b[31m"


async def test_too_many_requests_are_refused_and_then_the_connection_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odin.protocols.base.RATE_PATIENCE_S", 0.2)
    limits = {"requests_per_s": 50, "request_burst": 5}
    async with running(tmp_path, limits=limits) as server, Client(server.ws, "me") as client:
        for _ in range(40):
            await client.send({"action": "ping"})
        kinds = [(await client.receive())["type"] for _ in range(8)]
        assert kinds[:5] == ["pong"] * 5
        assert "error" in kinds
        assert {m["code"] for m in client.seen if m["type"] == "error"} == {"rate_limited"}
        for _ in range(400):
            await client.send({"action": "ping"})
        assert await client.closed() == 4429


async def test_a_client_that_takes_nothing_is_ended(tmp_path: Path) -> None:
    limits = {"progress_timeout_s": 0.3}
    async with running(tmp_path, limits=limits) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        client.ws._response.connection.transport.pause_reading()
        async with asyncio.timeout(20):
            while server.node.metrics.disconnects_slow == 0:
                for number in range(200):
                    server.tick(SBIN, 800 + number / 10)
                await asyncio.sleep(0.01)
            while len(server.node.hub):
                await asyncio.sleep(0.01)
        assert server.node.enhanced.connection_count in {0, 1}
        client.ws._response.connection.transport.abort()


async def test_a_client_that_does_not_answer_pings_is_ended(tmp_path: Path) -> None:
    limits = {"ping_interval_s": 0.2}
    async with running(tmp_path, limits=limits) as server:
        async with Client(server.ws, "deaf", autoping=False) as deaf:
            async with Client(server.ws, "well") as well:
                reading = asyncio.ensure_future(well.ws.receive())
                async with asyncio.timeout(5):
                    message = await deaf.ws.receive()
                    while message.type is aiohttp.WSMsgType.PING:
                        message = await deaf.ws.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4408)
                assert not reading.done(), "the one that answers stays"
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


async def test_a_stop_tells_every_client_and_ends_in_time(tmp_path: Path) -> None:
    server = await start_server(tmp_path)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(server.ws, f"c{number}")) for number in range(5)
        ]
        reading = [asyncio.ensure_future(client.closed()) for client in clients]
        async with asyncio.timeout(8):
            await server.close(1012)
        assert await asyncio.gather(*reading) == [1012] * 5


async def test_a_stop_does_not_wait_for_a_client_that_is_stuck(tmp_path: Path) -> None:
    server = await start_server(tmp_path)
    async with Client(server.ws, "stuck") as client:
        await client.subscribe("SBIN")
        transport = client.ws._response.connection.transport
        transport.pause_reading()
        for number in range(3000):
            server.tick(SBIN, 800 + number / 10)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(8):
            await server.close()
        transport.abort()


# ---------------------------------------------------------------------- before the upgrade


async def get(server: Server, path: str, **headers: str) -> tuple[int, dict[str, Any], Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.http + path, headers=headers) as response,
    ):
        return response.status, await response.json(), response.headers


async def test_a_plain_get_is_told_to_upgrade(server: Server) -> None:
    status, body, headers = await get(server, "/enhanced-stream")
    assert status == 426
    assert body["code"] == "upgrade_required"
    assert headers["Sec-WebSocket-Version"] == "13"


async def test_another_version_is_told_the_right_one(server: Server) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "99"}
    status, _, headers = await get(server, "/enhanced-stream", **upgrade)
    assert (status, headers["Sec-WebSocket-Version"]) == (426, "13")


async def test_a_bad_client_id_is_told_in_json(server: Server) -> None:
    status, body, _ = await get(server, "/enhanced-stream?client_id=a%20b")
    assert status == 400
    assert body["code"] == "invalid_client_id"
    assert body["type"] == "error"


async def test_a_foreign_page_is_refused(server: Server) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with Client(server.ws, "me", headers={"Origin": "https://evil.example"}):
            pass
    assert caught.value.status == 403
    async with Client(server.ws, "me", headers={"Origin": server.http}) as client:
        assert client.welcome["type"] == "welcome"


async def test_a_full_server_says_when_to_come_back(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"connections": 1}) as server, Client(server.ws, "a"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with Client(server.ws, "b"):
                pass
        assert caught.value.status == 503
        assert caught.value.headers is not None
        assert caught.value.headers["Retry-After"] == "5"


async def test_one_address_may_not_take_everything(tmp_path: Path) -> None:
    limits = {"connections_per_address": 2, "exempt_addresses": []}
    async with (
        running(tmp_path, limits=limits) as server,
        Client(server.ws, "a"),
        Client(server.ws, "b"),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with Client(server.ws, "c"):
                pass
        assert caught.value.status == 429


async def test_forced_open_streams_at_any_hour_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, market={"gate": "always"}) as server:
        server.clock.set_ms(CLOSED_MS)
        async with Client(server.ws, "me") as client:
            assert client.welcome["data"]["gate"] == "always"
            data = (await client.ask("market_status"))["data"]
            assert (data["gate"], data["market_open"], data["phase"]) == ("always", True, "closed")
            await client.subscribe("RELIANCE")
            server.tick(RELIANCE, 1365.5)
            assert (await client.quote())["data"]["ltp"] == 1365.5


# ---------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_quotes_come_in_the_encoding_asked_for_and_all_else_as_json(
    server: Server, encoding: str
) -> None:
    server.tick(SBIN, 800.5, volume=10)
    async with Client(f"{server.ws}?format={encoding}") as client:
        assert client.welcome["data"]["format"] == encoding
        await client.send({"action": "subscribe", "stocks": ["SBIN"]})
        answer = await client.receive()
        assert answer["type"] == "subscription_response"
        if encoding == "binary":
            named = await client.receive()
            assert named["data"]["instruments"] == [
                {"symbol": "SBIN", "token": "3045", "exchange": "NSE", "segment": "CM"}
            ]
        server.tick(SBIN, 801.0, volume=11)
        server.tick(SBIN, 801.5, volume=12)
        messages = [await client.ws.receive(timeout=5) for _ in range(3)]
        is_text = encoding.startswith("json")
        assert {m.type for m in messages} == {WSMsgType.TEXT if is_text else WSMsgType.BINARY}
        held: dict[str, Any] = {}
        for message in messages:
            if encoding == "binary":
                names = {(1, 1, 3045): (SBIN, "SBIN")}
                held = msgspec.to_builtins(decode_binary(message.data, names).quote)
            else:
                decode = msgspec.json.decode if is_text else msgspec.msgpack.decode
                held |= decode(message.data)["data"]
        quote = server.node.board.quote(SBIN)
        assert quote is not None
        assert held == msgspec.to_builtins(quote)
        assert (await client.ask("ping"))["type"] == "pong"


async def test_a_subprotocol_chooses_too_and_is_agreed_to(server: Server) -> None:
    async with Client(server.ws, protocols=["foreign", "odin.msgpack"]) as client:
        assert client.ws.protocol == "odin.msgpack"
        assert client.welcome["data"]["format"] == "msgpack"
    async with Client(server.ws) as client:
        assert client.ws.protocol is None


async def test_an_unknown_format_is_told_in_json(server: Server) -> None:
    status, body, _ = await get(server, "/enhanced-stream?format=xml")
    assert (status, body["code"]) == (400, "invalid_format")
    assert server.node.enhanced.connection_count == 0


async def test_subscriptions_outlive_a_change_of_encoding(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN", "RELIANCE")
    async with Client(f"{server.ws}?client_id=me&format=binary") as client:
        assert client.welcome["data"]["subscribed_stocks"] == 2
        named = await client.receive()
        assert [item["symbol"] for item in named["data"]["instruments"]] == ["SBIN", "RELIANCE"]
        server.tick(SBIN, 800.0)
        message = await client.ws.receive(timeout=5)
        assert len(message.data) == 120
        assert server.node.demand.wanted == {SBIN, RELIANCE}


async def test_a_stock_stays_wanted_while_any_encoding_of_it_is_read(tmp_path: Path) -> None:
    async with running(tmp_path, feed={"kind": "none", "linger_s": 0}) as server:
        async with Client(server.ws, "a") as one, Client(f"{server.ws}?format=binary") as other:
            await one.subscribe("SBIN")
            await other.subscribe("SBIN")
            await one.ask("unsubscribe", stocks=["SBIN"])
            assert server.node.demand.wanted == {SBIN}
            await other.ask("unsubscribe", stocks=["SBIN"])
            assert server.node.demand.wanted == frozenset()


async def test_new_client_ids_are_limited_and_known_ones_are_not(tmp_path: Path) -> None:
    """S23: random ids cannot fill the disk; connecting alone counts for nothing."""
    limits = {"new_clients_per_day": 2, "exempt_addresses": []}
    async with running(tmp_path, limits=limits) as server:
        for name in ("idle", "a", "a", "b", "a"):
            async with Client(server.ws, name) as client:
                if name != "idle":
                    assert (await client.subscribe("SBIN"))["status"] == "success"
                    await client.ask("unsubscribe", stocks=["SBIN"])
                    assert (await client.subscribe("TCS"))["status"] == "success"
        async with Client(server.ws, "c") as client:
            assert client.welcome["data"]["limits"]["new_clients_per_day"] == 2
            answer = await client.subscribe("SBIN")
            assert (answer["type"], answer["code"]) == ("error", "too_many_clients")
            listed = await client.ask("get_subscriptions")
            assert listed["data"]["total_subscribed"] == 0


async def test_a_database_that_keeps_enough_clients_takes_no_new_one(tmp_path: Path) -> None:
    """S23: the limit of all together; who is known goes on."""
    async with running(tmp_path, limits={"stored_clients": 1}) as server:
        async with Client(server.ws, "a") as known, Client(server.ws, "b") as other:
            assert (await known.subscribe("SBIN"))["status"] == "success"
            assert (await other.subscribe("SBIN"))["code"] == "too_many_clients"
            assert (await known.subscribe("TCS"))["status"] == "success"
            await known.ask("unsubscribe", stocks=["SBIN", "TCS"])
            assert (await other.subscribe("SBIN"))["status"] == "success"
