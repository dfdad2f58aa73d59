"""What all HTTP answers have in common: errors in JSON, headers, who may read them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from odin.errors import CLIENT_ERRORS
from odin.server.app import SECURITY_HEADERS, build_app
from odin.server.run import HANDSHAKE_TIMEOUT_S
from tests.support.keys import REQUIRED, bearer, make_key
from tests.support.raw import Raw
from tests.support.server import Client, Server, running

PATHS = ["/", "/health", "/ready", "/metrics", "/api/market-status", "/api/openapi.json",
         "/api/instruments?search=SBIN", "/api/quotes?stocks=SBIN"]  # fmt: skip


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


async def ask(
    server: Server, target: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send a request exactly as written; return status, headers and body."""
    host = server.http.removeprefix("http://")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {headers.pop('Host', host)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    async with Raw(server.http) as raw:
        raw.send("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        if method != "HEAD":
            return await raw.answer()
        head = (await raw.rest()).decode()
        first, *rest = head.split("\r\n")
        pairs = (line.split(": ", 1) for line in rest if line)
        return int(first.split()[1]), {name.lower(): value for name, value in pairs}, b""


def error_of(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    """Return status and message of an error, which must have its shape."""
    status, headers, body = answer
    assert headers["content-type"].startswith("application/json")
    message = json.loads(body)
    assert (message["type"], message["status"]) == ("error", "error")
    assert len(message["message"]) <= 200
    assert "Traceback" not in message["message"]
    return status, message["message"]


# ---------------------------------------------------------------------- errors


async def test_what_is_not_there_is_404_in_json(server: Server) -> None:
    for path in (
        "/nowhere", "/Health", "/health/", "/api", "/api/", "//health", "/enhanced-stream/x",
        "/.git/config", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/odin.db", "/%00",
        "/..%2f..%2fetc%2fpasswd", "/static/../odin.db", "/%0d%0aX:%20y", "/%ff", "/<script>",
        "/~root", "/health%3Fx", "/*", "/;",
    ):  # fmt: skip
        status, message = error_of(await ask(server, path))
        assert status == 404, path
        assert path.strip("/") not in message, "nothing of the path comes back"


async def test_methods_that_do_nothing_are_405_and_told_which_do(server: Server) -> None:
    for path in ("/health", "/enhanced-stream?client_id=me"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            answer = await ask(server, path, method)
            assert error_of(answer)[0] == 405, method
            assert "GET" in answer[1]["allow"]


async def test_head_is_get_without_a_body(server: Server) -> None:
    status, headers, _ = await ask(server, "/health", "HEAD")
    assert status == 200
    assert headers["content-type"] == "application/json"
    status, _, _ = await ask(server, "/enhanced-stream", "HEAD")
    assert status == 405


async def test_a_fault_in_the_server_is_500_in_json_and_shows_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret detail in /srv/odin.py")

    monkeypatch.setattr(type(server.node), "view", broken)
    for accept in ("application/json", "text/html"):
        answer = await ask(server, "/api/market-status", Accept=accept)
        assert b"secret" not in answer[2]
        assert b"ZeroDivision" not in answer[2]
        assert answer[0] == 500
        assert error_of(answer)[0] == 500
        assert answer[1].items() >= {k.lower(): v for k, v in SECURITY_HEADERS.items()}.items()


async def test_the_stream_says_what_is_wrong_before_the_upgrade(server: Server) -> None:
    upgrade = {"Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    foreign = {"Origin": "https://evil.example"}
    for query, headers, expected in (
        ("", {}, (426, "upgrade_required")),
        ("?client_id=a%20b", upgrade, (400, "invalid_client_id")),
        ("", upgrade | foreign, (403, "origin_not_allowed")),
        ("", upgrade | {"Sec_WebSocket_Version": "8"}, (426, "upgrade_required")),
    ):
        answer = await ask(server, f"/enhanced-stream{query}", **headers)
        status, _ = error_of(answer)
        assert (status, json.loads(answer[2])["code"]) == expected
        assert answer[1]["x-content-type-options"] == "nosniff"


# ---------------------------------------------------------------------- headers


async def test_every_answer_has_the_security_headers(server: Server) -> None:
    for path in (*PATHS, "/nowhere", "/enhanced-stream", "/api/quotes"):
        _, headers, _ = await ask(server, path)
        for name, value in SECURITY_HEADERS.items():
            assert headers[name.lower()] == value, path


async def test_parameters_come_back_escaped_if_at_all(server: Server) -> None:
    for path in PATHS:
        separator = "&" if "?" in path else "?"
        status, _, body = await ask(server, f"{path}{separator}x=%3Cscript%3E", Host="<script>x")
        assert status == 200
        assert b"<script>" not in body


# ---------------------------------------------------------------------- who may read


async def test_only_listed_pages_may_read_answers_and_errors(tmp_path: Path) -> None:
    async with running(tmp_path, server={"cors_origins": ["https://app.example"]}) as server:
        for origin, is_allowed in {
            "https://app.example": True,
            server.http: True,
            "http://localhost:3000": True,
            "https://app.example.evil": False,
            "https://app.example:8443": False,
            "https://APP.EXAMPLE": False,
            "https://evil.example": False,
            "null": False,
            "": False,
            "*": False,
            "file://": False,
            "http://[::1": False,
            "https://app.example/": False,
            "https://app.example@evil.example": False,
        }.items():
            for path in ("/health", "/nowhere", "/api/quotes"):
                _, headers, _ = await ask(server, path, Origin=origin)
                told = headers.get("access-control-allow-origin")
                assert told == (origin if is_allowed else None)
                assert "access-control-allow-credentials" not in headers
                assert ("vary" in headers) == is_allowed


async def test_a_program_without_an_origin_is_served_without_ceremony(server: Server) -> None:
    status, headers, _ = await ask(server, "/health")
    assert status == 200
    assert "access-control-allow-origin" not in headers


async def test_a_star_lets_every_page_read_and_connect(tmp_path: Path) -> None:
    async with running(tmp_path, server={"cors_origins": ["*"]}) as server:
        _, headers, _ = await ask(server, "/health", Origin="https://any.example")
        assert headers["access-control-allow-origin"] == "https://any.example"
        async with Client(server.ws, "me", headers={"Origin": "https://any.example"}) as client:
            assert client.welcome["type"] == "welcome"


# ---------------------------------------------------------------------- the application


async def test_an_idle_http_connection_does_not_stay_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HANDSHAKE_TIMEOUT_S == 10
    monkeypatch.setattr("odin.server.run.HANDSHAKE_TIMEOUT_S", 0.2)
    async with running(tmp_path) as server, Raw(server.http) as raw:
        raw.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await raw.answer())[0] == 200
        assert await raw.rest(timeout=4) == b""


async def test_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    async with Raw(server.http) as raw:
        for path in ("/health", "/nowhere", "/ready"):
            raw.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert [(await raw.answer())[0] for _ in range(3)] == [200, 404, 200]


async def test_many_at_once_are_served_while_data_flows(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        statuses = await asyncio.gather(*(ask(server, path) for path in PATHS * 5))
        assert {status for status, _, _ in statuses} == {200}
        assert (await client.ask("ping"))["status"] == "alive"


async def test_the_application_offers_nothing_but_what_is_read(server: Server) -> None:
    app = build_app(server.node)
    assert isinstance(app, web.Application)
    routes = {(route.method, route.get_info()["path"]) for route in app.router.routes()}
    changing = {(method, path) for method, path in routes if method not in {"GET", "HEAD"}}
    assert changing == {("POST", "/api/tickets")}


# ---------------------------------------------------------------------- limits and names


async def test_requests_of_one_address_are_limited_and_health_is_not(tmp_path: Path) -> None:
    few = {"requests_per_s_per_key": 0.01, "request_burst_per_key": 3, "exempt_addresses": []}
    async with running(tmp_path, limits=few) as server:
        paths = ["/api/market-status", "/", "/metrics", "/api/market-status", "/nowhere"]
        answers = [await ask(server, path) for path in paths]
        assert [status for status, _, _ in answers] == [200, 200, 200, 429, 429]
        _, headers, body = answers[3]
        assert json.loads(body)["code"] == "rate_limited"
        assert "the limit is 0.01 a second" in error_of(answers[3])[1]
        assert headers["retry-after"] == "5"
        for path in ("/health", "/ready"):
            assert (await ask(server, path))[0] == 200


async def test_requests_of_one_key_are_limited_with_those_on_its_connections(
    tmp_path: Path,
) -> None:
    few = {"requests_per_s_per_key": 0.01, "request_burst_per_key": 3}
    async with running(tmp_path, auth=REQUIRED, limits=few) as server:
        one, other = await make_key(server), await make_key(server)
        async with Client(server.ws, "me", **bearer(one)) as client:
            assert (await client.ask("ping"))["status"] == "alive"
            statuses = [await api_status(server, key) for key in (one, one, one, other)]
            assert statuses == [200, 200, 429, 200]
            await client.send({"action": "ping"})
            assert (await client.receive())["code"] == "rate_limited"


async def api_status(server: Server, key: str) -> int:
    return (await ask(server, "/api/market-status", Authorization=f"Bearer {key}"))[0]


async def test_a_page_cannot_make_its_own_name_point_here_and_read(tmp_path: Path) -> None:
    """DNS rebinding: for the browser the page and the server are one site."""
    browser = {"Accept_Language": "en", "Referer": "http://evil.example:8080/x"}
    guarded = ["/", "/metrics", "/api/market-status", "/api/quotes?stocks=SBIN"]
    async with running(tmp_path, server={"host_names": ["odin.lan"]}) as server:
        for path in guarded:
            answer = await ask(server, path, Host="evil.example:8080", **browser)
            assert error_of(answer) == (403, CLIENT_ERRORS["host_not_allowed"].text)
            for host in ("odin.lan:8080", "127.0.0.1:8080", "localhost"):
                assert (await ask(server, path, Host=host, **browser))[0] == 200
            assert (await ask(server, path, Host="evil.example"))[0] == 200, "a program"
        for path in ("/health", "/ready"):
            assert (await ask(server, path, Host="evil.example", **browser))[0] in {200, 503}
