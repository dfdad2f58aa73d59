"""Who owns a session, and what reaches whom when connections and requests cross."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from odin.model import Subscription
from odin.store.sqlite import SqliteStore
from tests.support.server import SBIN, TCS, Client, Server, running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


@pytest.mark.parametrize("backlog", [40, 400, 2000])
async def test_the_close_frame_reaches_a_client_that_is_busy_reading(
    server: Server, backlog: int
) -> None:
    """What waits for it goes first, then the word and the code; nothing is cut off."""
    async with Client(server.ws, "me") as old:
        await old.subscribe("SBIN")
        transport = old.ws._response.connection.transport
        transport.pause_reading()
        for number in range(backlog):
            server.tick(SBIN, 800.0, volume=number)
            if number % 20 == 0:
                await asyncio.sleep(0)
        async with Client(server.ws, "me") as new:
            await asyncio.sleep(0.2)
            transport.resume_reading()
            assert await old.closed() == 4409
            assert old.seen[-1]["code"] == "session_taken_over"
            volumes = [m["data"]["volume"] for m in old.seen if m["type"] == "market_data"]
            assert volumes == sorted(volumes)
            assert new.welcome["data"]["subscribed_stocks"] == 1


async def test_what_a_displaced_connection_still_asks_is_not_carried_out(server: Server) -> None:
    async with Client(server.ws, "me") as old:
        session = server.node.enhanced._sessions["me"]
        peer = session.peer
        assert peer is not None
        async with Client(server.ws, "me") as new:
            assert not session.is_served(peer)
            await session.on_text(peer, '{"action":"subscribe","stocks":["SBIN"]}')
            data = (await new.ask("get_subscriptions"))["data"]
            assert data["total_subscribed"] == 0
        assert await old.closed() == 4409


async def test_nothing_is_carried_out_for_a_session_that_could_not_be_loaded(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from odin.errors import StoreUnavailable

    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
    load = server.node.store.load_subscriptions
    release = asyncio.Event()

    async def refuse(_client_id: str) -> list[Subscription]:
        await release.wait()
        raise StoreUnavailable("locked")

    monkeypatch.setattr(server.node.store, "load_subscriptions", refuse)
    connecting = asyncio.ensure_future(Client(server.ws, "me").__aenter__())
    async with asyncio.timeout(5):
        while "me" not in server.node.enhanced._sessions:
            await asyncio.sleep(0)
    release.set()
    client = await connecting
    await client.send({"action": "subscribe", "stocks": ["TCS"]})
    assert client.welcome["code"] == "store_unavailable"
    assert await client.closed() == 1013
    await client.__aexit__(None, None, None)
    monkeypatch.setattr(server.node.store, "load_subscriptions", load)
    async with Client(server.ws, "me") as client:
        assert client.welcome["data"]["subscribed_stocks"] == 1


async def test_an_answer_that_its_asker_did_not_see_is_in_the_next_welcome(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, release, reached = server.node.journal.record, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> None:
        reached.set()
        await release.wait()
        await record(*args, **kwargs)

    monkeypatch.setattr(server.node.journal, "record", slow)
    async with Client(server.ws, "me") as old:
        await old.send({"action": "subscribe", "stocks": ["SBIN", "TCS"]})
        await reached.wait()
        connecting = asyncio.ensure_future(Client(server.ws, "me").__aenter__())
        assert await old.closed() == 4409
        assert not connecting.done(), "the newer one waits for the change that is on its way"
        release.set()
        new = await connecting
        assert new.welcome["data"]["subscribed_stocks"] == 2
        server.tick(TCS, 3000.0)
        assert (await new.quote())["symbol"] == "TCS"
        assert {m["type"] for m in new.seen} == {"welcome", "market_data"}
        await new.__aexit__(None, None, None)


async def test_the_session_leaves_memory_with_its_last_connection(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        assert server.node.enhanced.connected_clients() == ["me"]
    async with asyncio.timeout(5):
        while server.node.enhanced.connected_clients():
            await asyncio.sleep(0.01)
    assert len(server.node.hub) == 0
    assert server.node.enhanced.connection_count == 0


async def test_what_another_process_forgot_is_gone_at_the_next_connection(
    server: Server, tmp_path: Path
) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
    async with asyncio.timeout(5):
        while server.node.enhanced.connected_clients():
            await asyncio.sleep(0.01)
    async with await SqliteStore.open(tmp_path / "odin.db", is_tool=True) as store:
        assert await store.forget("me")
    async with Client(server.ws, "me") as client:
        assert client.welcome["data"]["subscribed_stocks"] == 0
