"""Who may connect to `/enhanced-stream` with authentication on, and whose session it is."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from odin.auth.keys import create
from odin.errors import CLIENT_ERRORS, StoreUnavailable
from odin.protocols.enhanced import door
from odin.protocols.enhanced.session import Session
from odin.store.sqlite import SqliteStore
from tests.support.keys import REQUIRED, bearer, make_key, revoke_key
from tests.support.raw import Raw, handshake
from tests.support.server import SBIN, Client, Server, running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path, auth=REQUIRED) as started:
        yield started


async def refusal(url: str, **options: Any) -> tuple[int, str]:
    """Return the status and the code of a refused handshake."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    headers = {**upgrade, **options.pop("headers", {})}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url.replace("ws", "http", 1), headers=headers) as response,
    ):
        body = orjson.loads(await response.read())
        assert body["message"] == CLIENT_ERRORS[body["code"]].text
        return response.status, body["code"]


class Stranger(Client):
    """A client that waits for no welcome, as none comes before its credentials."""

    async def receive(self, timeout: float = 5.0) -> dict[str, Any]:
        if not self.welcome and not self.seen:
            self.seen.append({})
            return {}
        return await super().receive(timeout)

    async def introduce(self, api_key: object, **more: Any) -> dict[str, Any]:
        """Send the first message and return the answer."""
        await self.send({"action": "authenticate", "api_key": api_key, **more})
        return await self.receive()


async def test_a_key_as_bearer_is_served(server: Server) -> None:
    key = await make_key(server)
    async with Client(server.ws, "me", **bearer(key)) as client:
        assert client.welcome["client_id"] == client.welcome["data"]["client_id"] == "me"
        assert (await client.subscribe("SBIN"))["client_id"] == "me"


async def test_wrong_keys_are_refused_before_the_upgrade(server: Server) -> None:
    key = await make_key(server)
    for wrong in (key[:-2] + "AA", "odin_00000000_" + key[14:], "nonsense"):
        assert await refusal(server.ws, **bearer(wrong)) == (401, "authentication_failed")
    assert server.node.enhanced.connection_count == 0


async def test_ten_failures_stop_the_address_for_a_while(server: Server) -> None:
    key = await make_key(server)
    for _ in range(10):
        assert (await refusal(server.ws, **bearer("wrong")))[0] == 401
    assert await refusal(server.ws, **bearer("wrong")) == (429, "too_many_failures")
    assert await refusal(server.ws, **bearer(key)) == (429, "too_many_failures")


async def test_a_key_without_the_scope_is_refused(server: Server) -> None:
    key = await make_key(server, "admin")
    assert await refusal(server.ws, **bearer(key)) == (403, "scope_missing")
    async with Stranger(server.ws, "me") as client:
        assert (await client.introduce(key))["code"] == "scope_missing"
        assert await client.closed() == 4403


async def test_a_ticket_is_good_for_one_connection(server: Server) -> None:
    key = await make_key(server)
    async with aiohttp.ClientSession() as session:
        async with session.post(server.http + "/api/tickets", **bearer(key)) as response:
            answer = await response.json()
    assert answer["expires_in_s"] == 30
    url = f"{server.ws}?ticket={answer['ticket']}&client_id=page"
    async with Client(url) as client:
        assert client.welcome["client_id"] == "page"
    assert await refusal(url) == (401, "authentication_failed")


async def test_a_ticket_that_found_the_server_full_is_still_good(tmp_path: Path) -> None:
    limits = {"connections_per_key": 1}
    async with running(tmp_path, auth=REQUIRED, limits=limits) as server:
        key = await make_key(server)
        async with aiohttp.ClientSession() as session:
            async with session.post(server.http + "/api/tickets", **bearer(key)) as response:
                ticket = (await response.json())["ticket"]
        url = f"{server.ws}?ticket={ticket}"
        async with Client(server.ws, "a", **bearer(key)):
            for _ in range(2):
                assert await refusal(url) == (429, "too_many_connections")
        while server.node.enhanced.connection_count:
            await asyncio.sleep(0)
        async with Client(url) as client:
            assert client.welcome["type"] == "welcome"
        while server.node.enhanced.connection_count:
            await asyncio.sleep(0)
        assert await refusal(url) == (401, "authentication_failed")


@pytest.mark.parametrize("broken", ["part", "exit"])
async def test_a_fault_at_the_end_of_a_connection_leaves_no_count_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    limits = {"connections_per_key": 1}
    async with running(tmp_path, auth=REQUIRED, limits=limits) as server:
        key = await make_key(server)
        with monkeypatch.context() as patch:
            async with Stranger(server.ws, "a") as client:
                assert (await client.introduce(key))["type"] == "welcome"
                patch.setattr(server.node.enhanced, broken, fail)
            while server.node.enhanced.connection_count:
                await asyncio.sleep(0)
        async with Stranger(server.ws, "b") as client:
            assert (await client.introduce(key))["type"] == "welcome"


async def test_a_fault_in_a_session_that_ends_does_not_keep_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    key = await make_key(server)
    async with Client(server.ws, "a", **bearer(key)) as client:
        await client.subscribe("SBIN")
        with monkeypatch.context() as patch:
            patch.setattr(Session, "leave", fail)
            await client.ws.close()
            while server.node.enhanced.connection_count:
                await asyncio.sleep(0)
    assert server.node.enhanced.connected_clients() == []


async def test_two_keys_with_one_client_id_have_two_sessions(server: Server) -> None:
    one, other = await make_key(server), await make_key(server)
    async with (
        Client(server.ws, "desk", **bearer(one)) as first,
        Client(server.ws, "desk", **bearer(other)) as second,
    ):
        await first.subscribe("SBIN")
        await second.subscribe("TCS", "INFY")
        for client, expected in ((first, ["SBIN"]), (second, ["TCS", "INFY"])):
            data = (await client.ask("get_subscriptions"))["data"]
            assert data["subscribed_symbols"] == expected
            assert (await client.ask("ping"))["status"] == "alive"
    kept = {row.client_id: row.subscription_count for row in await server.node.store.clients()}
    assert sorted(kept.values()) == [1, 2], "on disk they are two as well"
    for key, count in ((one, 1), (other, 2)):
        async with Client(server.ws, "desk", **bearer(key)) as again:
            assert again.welcome["data"]["subscribed_stocks"] == count


async def test_the_same_key_takes_its_own_session_over(server: Server) -> None:
    key = await make_key(server)
    async with Client(server.ws, "desk", **bearer(key)) as first:
        async with Client(server.ws, "desk", **bearer(key)):
            assert await first.closed() == 4409


async def test_sessions_of_a_key_survive_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, auth=REQUIRED) as server:
        key = await make_key(server)
        long_id = "x" * 128
        async with Client(server.ws, long_id, **bearer(key)) as client:
            assert (await client.subscribe("SBIN"))["status"] == "success"
    async with running(tmp_path, auth=REQUIRED) as server:
        async with Client(server.ws, long_id, **bearer(key)) as client:
            assert client.welcome["data"]["subscribed_stocks"] == 1


async def test_a_key_may_have_so_many_connections(tmp_path: Path) -> None:
    limits = {"connections_per_key": 2}
    async with running(tmp_path, auth=REQUIRED, limits=limits) as server:
        one, other = await make_key(server), await make_key(server)
        async with Client(server.ws, "a", **bearer(one)):
            async with Stranger(server.ws, "b") as second:
                assert (await second.introduce(one))["type"] == "welcome"
                assert await refusal(server.ws, **bearer(one)) == (429, "too_many_connections")
                async with Stranger(server.ws, "c") as third:
                    assert (await third.introduce(one))["code"] == "too_many_connections"
                    assert await third.closed() == 4429
                async with Client(server.ws, "a", **bearer(other)):
                    pass
        async with Client(server.ws, "a", **bearer(one)), Client(server.ws, "b", **bearer(one)):
            pass


async def test_a_revoked_key_loses_its_connections_and_no_other_does(server: Server) -> None:
    one, other = await make_key(server), await make_key(server)
    async with (
        Client(server.ws, "me", **bearer(one)) as first,
        Client(server.ws, "me", **bearer(other)) as second,
    ):
        await first.subscribe("SBIN")
        async with asyncio.timeout(2):
            await revoke_key(server, one)
            assert await first.closed() == 4401
        assert first.seen[-1]["code"] == "authentication_failed"
        assert (await second.ask("ping"))["status"] == "alive"
        assert await refusal(server.ws, **bearer(one)) == (401, "authentication_failed")


async def test_a_key_revoked_during_the_handshake_gets_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key(server)
    enter = server.node.enhanced.enter

    def revoked(*args: str) -> Any:
        server.node.access.auth.keys.replace([])  # type: ignore[union-attr]
        return enter(*args)

    monkeypatch.setattr(server.node.enhanced, "enter", revoked)
    async with Client(server.ws, "me", **bearer(key)) as client:
        assert client.welcome["code"] == "authentication_failed"
        assert await client.closed() == 4401


# The first message


async def test_the_welcome_follows_a_right_key(server: Server) -> None:
    key = await make_key(server)
    async with Stranger(server.ws, "page") as client:
        welcome = await client.introduce(key)
        assert (welcome["type"], welcome["client_id"]) == ("welcome", "page")
        assert (await client.subscribe("SBIN"))["status"] == "success"
        server.tick(SBIN, 800.0)
        assert (await client.quote())["data"]["ltp"] == 800.0
        assert (await client.introduce(key))["code"] == "authentication_not_needed"
    async with Client(server.ws, "page", **bearer(key)) as same:
        assert same.welcome["data"]["subscribed_stocks"] == 1


@pytest.mark.parametrize(
    "first",
    [
        {"action": "ping"},
        {"action": "subscribe", "stocks": ["SBIN"]},
        {"action": "AUTHENTICATE", "api_key": "x"},
        {"action": "authenticate", "api_key": 5},
        {"action": "authenticate", "api_key": ["x"]},
        "not json",
        "[" * 5000,
        "[]",
        '{"action":"\\ud800"}',
        b"\x00\x01",
    ],
)
async def test_nothing_is_served_before_credentials(server: Server, first: Any) -> None:
    async with Stranger(server.ws, "me") as client:
        await client.send(first)
        assert (await client.receive())["code"] == "authentication_required"
        assert await client.closed() == 4401
    assert server.node.enhanced.connected_clients() == []


async def test_a_wrong_key_is_said_and_closes(server: Server) -> None:
    for wrong in ("", "odin_00000000_" + "A" * 43, "x" * 60_000):
        async with Stranger(server.ws, "me") as client:
            assert (await client.introduce(wrong))["code"] == "authentication_failed"
            assert await client.closed() == 4401


async def test_failures_on_the_socket_count_with_the_others(server: Server) -> None:
    for _ in range(10):
        async with Stranger(server.ws, "me") as client:
            assert (await client.introduce("wrong"))["code"] == "authentication_failed"
            await client.closed()
    async with Stranger(server.ws, "me") as client:
        assert (await client.introduce("wrong"))["code"] == "too_many_failures"
        assert await client.closed() == 4429


async def test_who_says_nothing_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert door.PATIENCE_S == 10.0
    monkeypatch.setattr(door, "PATIENCE_S", 0.01)
    async with Stranger(server.ws, "me") as client:
        await client.receive()
        assert await client.closed() == 4401
        assert client.seen[-1]["code"] == "authentication_required"


async def test_who_spoke_in_time_stays(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "PATIENCE_S", 0.2)
    key = await make_key(server)
    now = asyncio.get_running_loop().time
    async with Stranger(server.ws, "me") as client:
        await client.introduce(key)
        given_until = now() + 0.2
        while now() < given_until + 0.05:
            assert (await client.ask("market_status"))["status"] == "success"
            await asyncio.sleep(0.05)
        assert (await client.ask("ping"))["status"] == "alive"


async def test_a_stranger_takes_nobody_s_session(server: Server) -> None:
    key = await make_key(server)
    async with Client(server.ws, "me", **bearer(key)) as victim:
        async with Stranger(server.ws, "me") as thief:
            await thief.introduce("wrong")
            await thief.closed()
        assert (await victim.ask("ping"))["status"] == "alive"


async def test_a_stop_ends_strangers_too(server: Server) -> None:
    async with Stranger(server.ws, "me") as client:
        stopping = asyncio.ensure_future(server.node.enhanced.stop(1012, 5.0))
        assert await client.closed() == 1012
        async with asyncio.timeout(1):
            await stopping


# The resume token


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path, auth={"require_resume_token": True}) as started:
        yield started


def resume(token: str) -> dict[str, dict[str, str]]:
    return {"headers": {"X-Resume-Token": token}}


async def test_a_client_id_is_continued_with_its_token_only(strict: Server) -> None:
    async with Client(strict.ws, "me") as victim:
        token = victim.welcome["data"]["resume_token"]
        assert re.fullmatch(r"odin_resume_[\w-]{43}", token)
        await victim.subscribe("SBIN")
        for wrong in ({}, resume("wrong"), resume(token[:-1]), resume("")):
            async with Client(strict.ws, "me", **wrong) as thief:
                assert thief.welcome["code"] == "resume_token_required"
                assert await thief.closed() == 4403
        assert (await victim.ask("ping"))["status"] == "alive"
        async with Client(strict.ws, "me", **resume(token)) as owner:
            assert owner.welcome["data"]["subscribed_stocks"] == 1
            assert "resume_token" not in owner.welcome["data"]
            assert await victim.closed() == 4409


async def test_a_token_outlives_the_connection_and_a_restart(tmp_path: Path) -> None:
    options = {"auth": {"require_resume_token": True}}
    async with running(tmp_path, **options) as server:
        async with Client(server.ws, "me") as client:
            token = client.welcome["data"]["resume_token"]
            await client.subscribe("SBIN")
    async with running(tmp_path, **options) as server:
        async with Client(server.ws, "me") as thief:
            assert thief.welcome["code"] == "resume_token_required"
        async with Client(server.ws, "me", **resume(token)) as owner:
            assert owner.welcome["data"]["subscribed_stocks"] == 1
        kept = (tmp_path / "odin.db").read_bytes() + (tmp_path / "odin.db-wal").read_bytes()
        assert token.encode() not in kept


async def test_a_client_from_before_the_setting_is_claimed_once(tmp_path: Path) -> None:
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
    async with running(tmp_path, auth={"require_resume_token": True}) as server:
        async with Client(server.ws, "me") as client:
            token = client.welcome["data"]["resume_token"]
            assert client.welcome["data"]["subscribed_stocks"] == 1
            assert (await client.ask("ping"))["status"] == "alive"
    async with running(tmp_path, auth={"require_resume_token": True}) as server:
        async with Client(server.ws, "me") as thief:
            assert thief.welcome["code"] == "resume_token_required"
        async with Client(server.ws, "me", **resume(token)) as owner:
            assert owner.welcome["data"]["subscribed_stocks"] == 1


async def test_a_store_in_trouble_lets_nobody_take_a_session(
    strict: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise StoreUnavailable("it is locked")

    monkeypatch.setattr(strict.node.store, "resume_sha256", refuse)
    async with Client(strict.ws, "me") as client:
        assert client.welcome["code"] == "store_unavailable"
        assert await client.closed() == 1013
    monkeypatch.undo()
    async with Client(strict.ws, "me") as client:
        assert client.welcome["data"]["resume_token"]


async def test_a_welcome_that_never_arrived_locks_nobody_out(tmp_path: Path) -> None:
    """The client is known, its connection dies before it has read its token."""
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
    async with running(tmp_path, auth={"require_resume_token": True}) as server:
        async with Raw(server.ws) as deaf:
            deaf.send(handshake("/enhanced-stream?client_id=me"))
            while server.node.metrics.frames_delivered < 1:
                await asyncio.sleep(0)
            async with Client(server.ws, "me") as client:  # while the dead one still seems alive
                unused = client.welcome["data"]["resume_token"]
            deaf.reset()
        while server.node.enhanced.connected_clients():
            await asyncio.sleep(0)
        async with Client(server.ws, "me", **resume(unused)) as client:
            assert client.welcome["data"]["subscribed_stocks"] == 1
            token = client.welcome["data"]["resume_token"]  # the other did not bind
            await client.ask("ping")
            async with Client(server.ws, "me") as thief:
                assert thief.welcome["code"] == "resume_token_required"
    async with running(tmp_path, auth={"require_resume_token": True}) as server:
        async with Client(server.ws, "me") as thief:
            assert thief.welcome["code"] == "resume_token_required"
        async with Client(server.ws, "me", **resume(token)) as client:
            assert "resume_token" not in client.welcome["data"]


async def test_a_locked_database_keeps_nobody_waiting_for_a_token(tmp_path: Path) -> None:
    """A wait for the lock would take 3 s for each, one after another."""
    async with running(tmp_path) as server, Client(server.ws, "known") as client:
        await client.subscribe("SBIN")
    async with running(tmp_path, auth={"require_resume_token": True}) as server:
        database = sqlite3.connect(tmp_path / "odin.db", isolation_level=None)
        with closing(database):
            database.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(2):
                for name in ("known", "new1", "new2", "new3"):
                    async with Client(server.ws, name) as client:
                        assert client.welcome["data"]["resume_token"]
                        assert (await client.ask("ping"))["status"] == "alive"
            database.execute("ROLLBACK")


async def test_who_left_nothing_behind_left_no_token(strict: Server) -> None:
    async with Client(strict.ws, "me") as client:
        first = client.welcome["data"]["resume_token"]
    while strict.node.enhanced.connected_clients():
        await asyncio.sleep(0)
    async with Client(strict.ws, "me") as client:
        assert client.welcome["data"]["resume_token"] != first


async def test_the_token_goes_into_the_first_message_too(tmp_path: Path) -> None:
    auth = {"mode": "required", "require_resume_token": True}
    async with running(tmp_path, auth=auth) as server:
        key = await make_key(server)
        async with Stranger(server.ws, "page") as client:
            token = (await client.introduce(key))["data"]["resume_token"]
            assert (await client.ask("ping"))["status"] == "alive"
            async with Stranger(server.ws, "page") as thief:
                assert (await thief.introduce(key))["code"] == "resume_token_required"
                assert await thief.closed() == 4403
            async with Stranger(server.ws, "page") as owner:
                assert (await owner.introduce(key, resume_token=token))["type"] == "welcome"


async def test_without_the_setting_there_are_no_tokens(tmp_path: Path) -> None:
    async with running(tmp_path) as server, Client(server.ws, "me") as client:
        assert "resume_token" not in client.welcome["data"]
        assert (await client.ask("authenticate"))["code"] == "authentication_not_needed"


async def test_a_key_that_was_just_made_is_known_at_once(server: Server) -> None:
    key, text = create("new", ["stream"], 0)
    async with await SqliteStore.open(server.node.settings.store.path, is_tool=True) as store:
        await store.add_api_key(key)
    async with Client(server.ws, "me", **bearer(text)) as client:
        assert client.welcome["type"] == "welcome"


async def test_credentials_that_come_too_late_take_no_session(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key(server)
    by_key = server.node.access.by_key

    async with Client(server.ws, "me", **bearer(key)) as victim:

        async def late(*arguments: Any) -> Any:
            found = await by_key(*arguments)
            (peer,) = server.node.enhanced._strangers
            peer.end(4401)
            return found

        monkeypatch.setattr(server.node.access, "by_key", late)
        async with Stranger(server.ws, "me") as client:
            await client.send({"action": "authenticate", "api_key": key})
            assert await client.closed() == 4401
        assert (await victim.ask("ping"))["status"] == "alive"


# Pages


@pytest.mark.parametrize("auth", [{}, REQUIRED])
async def test_a_page_whose_name_was_made_to_point_here_is_refused(
    tmp_path: Path, auth: dict[str, str]
) -> None:
    names = {"host_names": ["odin.lan"]}
    async with running(tmp_path, server=names, auth=auth) as server:
        port = server.http.rsplit(":", 1)[1]
        key = await make_key(server) if auth else ""
        for name, is_ours in (("127.0.0.1", True), ("odin.lan", True), ("evil.example", False)):
            options = bearer(key, Host=f"{name}:{port}", Origin=f"http://{name}:{port}")
            if is_ours or auth:  # with authentication the key decides
                async with Client(server.ws, "page", **options) as client:
                    assert client.welcome["type"] == "welcome"
            else:
                assert await refusal(server.ws, **options) == (403, "origin_not_allowed")
        foreign = bearer(key, Host=f"127.0.0.1:{port}", Origin=f"http://evil.example:{port}")
        assert await refusal(server.ws, **foreign) == (403, "origin_not_allowed")
