"""API keys and resume tokens, against the real server."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from conftest import Heard, connected_after
from real_server import CHECKOUT, RealServer

from odin_client import ConnectFailed, ConnectionClosed, OdinClient
from odin_client.reconnect import is_terminal

Make = Callable[..., OdinClient]


def odin_keys(*arguments: str) -> str:
    command = [sys.executable, "-m", "odin", "keys", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[RealServer, str]]:
    """A server with authentication, and a key for it."""
    database = tmp_path / "odin.db"
    server = RealServer(database, "--auth", "required")
    key = odin_keys("create", "test", "--db", str(database))
    await server.start()
    yield server, key
    await server.stop()


async def test_a_key_is_sent_with_every_connection(
    guarded: tuple[RealServer, str], client_of: Make
) -> None:
    server, key = guarded
    client = client_of(server.url, api_key=key)
    states = Heard()
    client.on_state(states)
    async with client:
        await client.subscribe("SBIN")
        assert (await anext(client.quotes())).symbol == "SBIN"
        await server.kill()
        await server.start()
        await connected_after(states, 2)
        assert [stock.symbol for stock in await client.subscriptions()] == ["SBIN"]
        assert client.client_id == "me"
        assert key not in repr(vars(client))


async def test_a_wrong_key_is_refused_and_not_tried_again(
    guarded: tuple[RealServer, str], client_of: Make
) -> None:
    server, key = guarded
    client = client_of(server.url, api_key=key[:-1] + ("A" if key[-1] != "A" else "B"))
    with pytest.raises(ConnectFailed) as refused:
        await client.connect()
    assert refused.value.status == 401
    assert key[:20] not in str(refused.value)


async def test_a_revoked_key_ends_the_client(
    guarded: tuple[RealServer, str], client_of: Make
) -> None:
    server, key = guarded
    client = client_of(server.url, api_key=key)
    await client.connect()
    odin_keys("revoke", key.split("_")[1], "--db", str(server.database))
    with pytest.raises(ConnectionClosed) as closed:
        await client.wait_closed()
    assert closed.value.code == 4401
    assert is_terminal(4401)


async def test_a_resume_token_is_kept_over_connections(
    tmp_path: Path, client_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODIN_AUTH__REQUIRE_RESUME_TOKEN", "true")
    server = RealServer(tmp_path / "odin.db")
    await server.start()
    client = client_of(server.url)
    states = Heard()
    client.on_state(states)
    async with client:
        await client.subscribe("SBIN")
        await server.kill()
        await server.start()
        await connected_after(states, 2)
        token = client.resume_token
        assert token is not None
        thief = client_of(server.url)
        with pytest.raises(ConnectionClosed) as refused:
            await thief.connect()
        assert refused.value.code == 4403
        assert client.state == "connected"
    async with client_of(server.url, resume_token=token) as again:
        assert [stock.symbol for stock in await again.subscriptions()] == ["SBIN"]
    await server.stop()
