"""Limits that all connections of one API key, or of one address, share."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from odin.settings import LimitSettings
from tests.support.keys import REQUIRED, bearer, make_key
from tests.support.server import Client, running

FEW: dict[str, Any] = {"requests_per_s_per_key": 0.01, "request_burst_per_key": 4}
VECTORS = Path(__file__).resolve().parents[3] / "clients" / "vectors"


async def test_every_limit_of_the_settings_is_announced(tmp_path: Path) -> None:
    """All but whom the limits do not count, which is no client's business."""
    defaults = msgspec.to_builtins(LimitSettings())
    del defaults["exempt_addresses"]
    others = {name: value + 1 for name, value in defaults.items()}
    async with running(tmp_path, limits=others) as server, Client(server.ws, "me") as client:
        assert client.welcome["data"]["limits"] == others
    example = json.loads((VECTORS / "welcome.json").read_text(encoding="utf-8"))
    assert example["message"]["data"]["limits"] == defaults, "what clients are tested with"


async def test_requests_of_one_key_are_limited_on_all_its_connections(tmp_path: Path) -> None:
    async with running(tmp_path, auth=REQUIRED, limits=FEW) as server:
        one, other = await make_key(server), await make_key(server)
        async with (
            Client(server.ws, "a", **bearer(one)) as first,
            Client(server.ws, "b", **bearer(one)) as second,
            Client(server.ws, "a", **bearer(other)) as third,
        ):
            announced = first.welcome["data"]["limits"]
            assert announced["requests_per_s_per_key"] == 0.01
            for client in (first, second, first, second):
                assert (await client.ask("ping"))["status"] == "alive"
            for client in (first, second):
                await client.send({"action": "subscribe", "stocks": ["SBIN"]})
                error = await client.receive()
                assert error["code"] == "rate_limited"
                assert "the limit is 0.01 a second" in error["message"]
            assert (await third.ask("ping"))["status"] == "alive"
        assert await server.node.store.clients() == [], "what was refused was not carried out"
        assert server.node.metrics.requests_rate_limited == 2


async def test_without_authentication_they_are_limited_by_address(tmp_path: Path) -> None:
    proxy = {"trusted_proxies": ["127.0.0.1"]}
    async with running(tmp_path, server=proxy, limits=FEW) as server:
        here, there = ({"headers": {"X-Forwarded-For": f"192.0.2.{n}"}} for n in (1, 2))
        async with (
            Client(server.ws, "a", **here) as first,
            Client(server.ws, "b", **here) as second,
            Client(server.ws, "c", **there) as third,
            Client(server.ws, "d") as exempt,
        ):
            for _ in range(4):
                assert (await first.ask("ping"))["status"] == "alive"
            await second.send({"action": "ping"})
            assert (await second.receive())["code"] == "rate_limited"
            assert (await third.ask("ping"))["status"] == "alive"
            for _ in range(10):
                assert (await exempt.ask("ping"))["status"] == "alive"


async def test_a_new_connection_does_not_begin_afresh(tmp_path: Path) -> None:
    async with running(tmp_path, auth=REQUIRED, limits=FEW) as server:
        key = await make_key(server)
        for name in ("a", "b", "c", "d"):
            async with Client(server.ws, name, **bearer(key)) as client:
                assert (await client.ask("ping"))["status"] == "alive"
        async with Client(server.ws, "e", **bearer(key)) as client:
            await client.send({"action": "ping"})
            assert (await client.receive())["code"] == "rate_limited"


async def test_who_keeps_to_its_own_limit_is_not_closed_for_another_connection(
    tmp_path: Path,
) -> None:
    """Errors, as long as others of the key use all of it up; never 4429."""
    async with running(tmp_path, auth=REQUIRED, limits=FEW) as server:
        key = await make_key(server)
        async with Client(server.ws, "a", **bearer(key)) as client:
            for _ in range(30):
                await client.send({"action": "ping"})
            kinds = [(await client.receive())["type"] for _ in range(30)]
            assert kinds == ["pong"] * 4 + ["error"] * 26
            assert not client.ws.closed


async def test_subscriptions_of_one_key_have_a_sum(tmp_path: Path) -> None:
    limits = {"subscriptions_per_key": 3}
    async with running(tmp_path, auth=REQUIRED, limits=limits) as server:
        one, other = await make_key(server), await make_key(server)
        async with (
            Client(server.ws, "a", **bearer(one)) as first,
            Client(server.ws, "b", **bearer(one)) as second,
            Client(server.ws, "a", **bearer(other)) as third,
        ):
            assert first.welcome["data"]["limits"]["subscriptions_per_key"] == 3
            assert (await first.subscribe("SBIN", "TCS"))["status"] == "success"
            error = await second.subscribe("SBIN", "TCS")
            assert error["code"] == "subscription_limit"
            assert "4 subscriptions would pass the limit of 3" in error["message"]
            assert (await second.subscribe("SBIN"))["status"] == "success"
            assert (await first.subscribe("SBIN", "TCS"))["status"] == "success", "it has them"
            assert (await third.subscribe("SBIN", "TCS", "INFY"))["status"] == "success"
            await first.ask("unsubscribe", stocks=["SBIN"])
            assert (await second.subscribe("INFY"))["status"] == "success"
            assert (await first.subscribe("SBIN"))["code"] == "subscription_limit"


async def test_what_could_not_be_saved_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    limits = {"subscriptions_per_key": 2}
    async with running(tmp_path, auth=REQUIRED, limits=limits) as server:
        key = await make_key(server)
        async with Client(server.ws, "a", **bearer(key)) as client:
            with monkeypatch.context() as patch:
                patch.setattr(server.node.store, "apply_changes", refuse)
                assert (await client.subscribe("SBIN", "TCS"))["type"] == "error"
            assert (await client.subscribe("SBIN", "TCS"))["status"] == "success"


async def test_who_comes_back_counts_again_and_is_told_where_there_is_no_room(
    tmp_path: Path,
) -> None:
    """It cannot be got round by subscribing one after another; nothing is lost by it."""
    limits = {"subscriptions_per_key": 3}
    async with running(tmp_path, auth=REQUIRED, limits=limits) as server:
        key = await make_key(server)
        for name in ("a", "b"):
            async with Client(server.ws, name, **bearer(key)) as client:
                assert (await client.subscribe("SBIN", "TCS"))["status"] == "success"
            while server.node.enhanced.connected_clients():
                await asyncio.sleep(0)
        async with Client(server.ws, "a", **bearer(key)) as first:
            assert first.welcome["data"]["subscribed_stocks"] == 2
            async with Client(server.ws, "b", **bearer(key)) as second:
                assert second.welcome["code"] == "subscription_limit"
                assert await second.closed() == 4429
            assert (await first.ask("ping"))["status"] == "alive"
            async with Client(server.ws, "a", **bearer(key)) as again:
                assert again.welcome["data"]["subscribed_stocks"] == 2, "it counts once"
        while server.node.enhanced.connected_clients():
            await asyncio.sleep(0)
        async with Client(server.ws, "b", **bearer(key)) as second:
            assert second.welcome["data"]["subscribed_stocks"] == 2


async def test_counts_are_right_after_clients_came_and_went_in_every_way(tmp_path: Path) -> None:
    async with running(tmp_path, auth=REQUIRED) as server:
        key = await make_key(server)
        account = server.node.access.accounts.of(key.split("_")[1])
        async with AsyncExitStack() as stack:
            for turn in range(3):
                for name in ("a", "b", "c"):
                    client = Client(server.ws, name, **bearer(key))
                    await stack.enter_async_context(client)
                    await client.subscribe("SBIN", "TCS", "INFY")
                    await client.ask("unsubscribe", stocks=["TCS"] if turn else ["SBIN"])
            assert account._held == 2 + 2 + 2
        while server.node.enhanced.connected_clients():
            await asyncio.sleep(0)
        assert account._held == 0
