"""The HTTP side with authentication on: who may read what, and tickets."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from odin.errors import CLIENT_ERRORS
from tests.server.test_app import ask
from tests.support.keys import REQUIRED, bearer, make_key
from tests.support.server import Client, Server, running

API = ["/api/market-status", "/api/openapi.json", "/api/instruments?search=SBIN",
       "/api/quotes?stocks=SBIN", "/api/nothing"]  # fmt: skip


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path, auth=REQUIRED) as started:
        yield started


async def status(server: Server, target: str, key: str = "", method: str = "GET") -> int:
    """Return the status; an error must be one of the catalogue."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    code, answered, body = await ask(server, target, method, **headers)
    if code in {401, 403, 429}:
        error = json.loads(body)
        assert error["message"] == CLIENT_ERRORS[error["code"]].text
        assert ("www-authenticate" in answered) == (code == 401)
        assert ("retry-after" in answered) == (code == 429)
    return code


@pytest.mark.parametrize("path", API)
async def test_the_api_needs_a_key_that_may_stream(server: Server, path: str) -> None:
    streams, administers = await make_key(server), await make_key(server, "admin")
    found = 404 if path == "/api/nothing" else 200
    assert await status(server, path) == 401
    assert await status(server, path, streams[:-2] + "AA") == 401
    assert await status(server, path, administers) == 403
    assert await status(server, path, streams) == found


async def test_metrics_need_a_key_that_may_administer(server: Server) -> None:
    streams, both = await make_key(server), await make_key(server, "admin", "stream")
    assert await status(server, "/metrics") == 401
    assert await status(server, "/metrics", streams) == 403
    assert await status(server, "/metrics", both) == 200


async def test_failures_at_the_api_are_limited(server: Server) -> None:
    statuses = [await status(server, "/metrics", "wrong") for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    assert await status(server, "/health") == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/"])
async def test_what_is_open_names_no_client_and_no_address(server: Server, path: str) -> None:
    key = await make_key(server)
    async with Client(server.ws, "secret-client", **bearer(key)) as client:
        await client.subscribe("SBIN")
        code, _, body = await ask(server, path)
        assert code == 200
        text = body.decode()
        address = client.ws.get_extra_info("sockname")
        for hidden in ("secret-client", key.split("_")[1], str(address[1])):
            assert hidden not in text
        assert "127.0.0.1" not in text.replace(server.http.removeprefix("http://"), "")


async def test_metrics_name_no_client_and_no_address(server: Server) -> None:
    key = await make_key(server, "stream", "admin")
    async with Client(server.ws, "secret-client", **bearer(key)):
        _, _, body = await ask(server, "/metrics", Authorization=f"Bearer {key}")
        for hidden in (b"secret-client", key.encode(), b"127.0.0.1"):
            assert hidden not in body


# Tickets


async def test_a_ticket_is_for_a_key_that_may_stream(server: Server) -> None:
    assert await status(server, "/api/tickets", method="POST") == 401
    administers = await make_key(server, "admin")
    assert await status(server, "/api/tickets", administers, "POST") == 403
    assert await status(server, "/api/tickets", await make_key(server), "GET") == 405
    assert await status(server, "/api/tickets", await make_key(server), "POST") == 200


async def test_without_authentication_there_are_no_tickets(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert await status(server, "/api/tickets", method="POST") == 404


async def test_a_ticket_is_no_key(server: Server) -> None:
    key = await make_key(server)
    _, _, body = await ask(server, "/api/tickets", "POST", Authorization=f"Bearer {key}")
    ticket = json.loads(body)["ticket"]
    assert await status(server, "/api/market-status", ticket) == 401
    assert await status(server, f"/api/market-status?ticket={ticket}") == 401


async def test_listed_pages_may_ask_before_they_send_a_key(tmp_path: Path) -> None:
    cors = {"cors_origins": ["https://app.example"]}
    async with running(tmp_path, auth=REQUIRED, server=cors) as server:
        for origin, expected in (("https://app.example", 204), ("https://evil.example", 401)):
            code, headers, _ = await ask(
                server,
                "/api/tickets",
                "OPTIONS",
                Origin=origin,
                Access_Control_Request_Method="POST",
            )
            assert code == expected
            assert (headers.get("access-control-allow-origin") == origin) == (expected == 204)


async def test_limits_are_for_whom_a_proxy_names(tmp_path: Path) -> None:
    proxy = {"trusted_proxies": ["127.0.0.1"]}
    async with running(tmp_path, auth=REQUIRED, server=proxy) as server:
        wrong = {"Authorization": "Bearer wrong"}
        for _ in range(11):
            code, _, _ = await ask(server, "/metrics", X_Forwarded_For="1.1.1.1, 2.2.2.2", **wrong)
        assert code == 429
        code, _, _ = await ask(server, "/metrics", X_Forwarded_For="2.2.2.2, 3.3.3.3", **wrong)
        assert code == 401
