"""The HTTP side: health, readiness, metrics, market data, the page, and what all answers share."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from odin.model import Quote
from odin.server.openapi import openapi
from tests.support.raw import Raw
from tests.support.server import BELL_CLOSE_MS, SBIN, Client, Server, running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


async def get(server: Server, path: str, **headers: str) -> tuple[int, Any, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.http + path, headers=headers) as response,
    ):
        is_json = response.content_type == "application/json"
        body = await response.json() if is_json else await response.text()
        return response.status, body, response.headers


async def test_health_says_what_is_degraded(server: Server) -> None:
    status, body, _ = await get(server, "/health")
    assert status == 200
    assert body["status"] in {"ok", "degraded"}
    assert body["instruments"] > 40
    assert body["connections"] == 0
    server.node.journal.is_failing = True
    _, body, _ = await get(server, "/health")
    assert body["status"] == "degraded"
    assert "subscriptions cannot be saved" in body["degraded"]


async def test_health_lists_what_could_not_be_read_again(tmp_path: Path) -> None:
    days = tmp_path / "days.toml"
    days.write_text("")
    async with running(tmp_path, market={"calendar_file": str(days)}) as server:
        days.write_text("[[day")
        server.node.upkeep._reload_calendars()
        _, body, _ = await get(server, "/health")
        assert any("calendar file" in problem for problem in body["degraded"])
        days.write_text("")
        server.node.upkeep._reload_calendars()
        _, body, _ = await get(server, "/health")
        assert not any("calendar file" in problem for problem in body["degraded"])


async def test_problems_are_told_without_the_paths_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    days = folder / "days.toml"
    days.write_text("")
    async with running(tmp_path, market={"calendar_file": str(days)}) as server:
        days.write_text("[[day")
        server.node.upkeep._reload_calendars()
        database = server.node.settings.store.path
        server.node.problems["keys"] = f"{database} is locked by another process"
        server.node.problems["x"] = "/elsewhere/in/a.file and ../b.file: either/or, see http://x/y"
        _, health, _ = await get(server, "/health")
        _, page, _ = await get(server, "/")
    told = " ".join(health["degraded"])
    assert "keys: odin.db is locked by another process" in told
    assert "x: a.file and b.file: either/or, see http://x/y" in told
    assert "calendar file: " in told
    for text in (told, page):
        assert str(tmp_path) not in text
        assert "with space" not in text
        assert "elsewhere" not in text


async def test_no_answer_names_a_client_or_an_address(server: Server) -> None:
    async with Client(server.ws, "secret_client_7") as client:
        await client.subscribe("SBIN")
        for path in ("/", "/health", "/ready", "/metrics", "/api/market-status"):
            _, body, _ = await get(server, path)
            assert "secret_client_7" not in str(body)
            assert "127.0.0.1" not in str(body).replace(server.ws.removeprefix("ws://"), "")


async def test_ready_until_it_stops(server: Server) -> None:
    assert (await get(server, "/ready"))[:2] == (200, {"ready": True})
    server.node.is_ready = False
    assert (await get(server, "/ready"))[:2] == (503, {"ready": False})


async def test_metrics_are_prometheus_text_and_count(server: Server) -> None:
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        server.tick(SBIN, 800.0)
        await client.quote()
        _, text, headers = await get(server, "/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["odin_frames_published_total"] == 1
    assert values["odin_frames_delivered_total"] == 3, "welcome, answer, quote"
    assert values["odin_connected"] == 1
    assert values["odin_market_open"] == 1
    assert values["odin_store_commits_total"] == 1
    assert values["odin_bytes_delivered_total"] > 600


async def test_market_status_is_what_the_socket_says(server: Server) -> None:
    _, body, _ = await get(server, "/api/market-status")
    async with Client(server.ws, "me") as client:
        assert (await client.ask("market_status"))["data"] == body


async def test_instruments_are_searched(server: Server) -> None:
    _, body, _ = await get(server, "/api/instruments?search=rel")
    first = body["instruments"][0]
    assert (first["symbol"], first["token"], first["exchange"]) == ("RELIANCE", "2885", "NSE")
    _, body, _ = await get(server, "/api/instruments?search=3045&limit=1")
    assert [item["symbol"] for item in body["instruments"]] == ["SBIN"]
    _, body, _ = await get(server, "/api/instruments?search=zzzz")
    assert body["instruments"] == []


@pytest.mark.parametrize(
    "query", ["", "?search=", f"?search={'x' * 65}", "?search=a&limit=0", "?search=a&limit=1e3",
              "?search=a&limit=-1", "?search=a&limit=101", "?search=a&limit=٣"]
)  # fmt: skip
async def test_a_search_that_makes_no_sense_is_told_so(server: Server, query: str) -> None:
    status, body, _ = await get(server, f"/api/instruments{query}")
    assert status == 400
    assert body["type"] == "error"


async def test_quotes_are_there_at_any_hour(server: Server) -> None:
    server.tick(SBIN, 800.0, prev_close=805.0)
    server.clock.set_ms(BELL_CLOSE_MS + 3_600_000)
    _, body, _ = await get(server, "/api/quotes?stocks=3045,TCS,NOPE,sbin")
    assert [quote["symbol"] for quote in body["quotes"]] == ["SBIN"]
    assert list(body["quotes"][0]) == [name for name in Quote.__struct_fields__ if name != "source"]
    assert body["without_quote"] == ["TCS"]
    assert body["failed_stocks"] == ["NOPE"]
    assert body["failed_details"][0]["code"] == "unknown_symbol"


async def test_quotes_of_nothing_are_a_bad_request(server: Server) -> None:
    assert (await get(server, "/api/quotes"))[0] == 400
    assert (await get(server, "/api/quotes?stocks=,,"))[0] == 400
    assert (await get(server, "/api/quotes?stocks=" + ",".join("x" * 1001)))[0] == 400


async def test_the_page_is_short_and_complete(server: Server) -> None:
    status, page, headers = await get(server, "/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for text in ("Odin Streamer", "open", "09:15 - 15:30 IST", "/enhanced-stream"):
        assert text in page


async def test_unknown_paths_and_methods_are_answered_in_json(server: Server) -> None:
    status, body, _ = await get(server, "/nowhere/../../etc/passwd")
    assert (status, body["type"]) == (404, "error")
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.http + "/health") as response,
    ):
        assert response.status == 405
        assert (await response.json())["type"] == "error"
        assert "GET" in response.headers["Allow"]


async def test_a_host_that_is_no_text_is_shown_escaped(server: Server) -> None:
    async with Raw(server.ws) as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n\r\n")
        assert (await raw.answer())[0] == 200
    assert server.node.metrics.faults == 0


async def test_only_allowed_pages_may_read_the_api(tmp_path: Path) -> None:
    options = {"server": {"cors_origins": ["https://app.example"], "port": 0}}
    async with running(tmp_path, **options) as server:
        _, _, headers = await get(server, "/health", Origin="https://app.example")
        assert headers["Access-Control-Allow-Origin"] == "https://app.example"
        _, _, headers = await get(server, "/health", Origin="https://evil.example")
        assert "Access-Control-Allow-Origin" not in headers


async def test_every_route_is_described(server: Server) -> None:
    _, body, _ = await get(server, "/api/openapi.json")
    assert body == openapi()
    routes = {
        route.resource.canonical
        for route in server.runner.app.router.routes()
        if route.resource is not None
    }
    assert set(body["paths"]) == routes - {"/", "/enhanced-stream", "/api/openapi.json"}


async def test_answers_have_the_described_shape(server: Server) -> None:
    """Every property the description requires is there, and nothing else."""
    server.tick(SBIN, 800.0)
    schemas = openapi()["components"]["schemas"]  # type: ignore[index]
    for path, name, pick in (
        ("/health", "Health", lambda body: body),
        ("/api/market-status", "MarketStatus", lambda body: body),
        ("/api/instruments?search=SBIN", "Instrument", lambda body: body["instruments"][0]),
        ("/api/quotes?stocks=SBIN", "Quote", lambda body: body["quotes"][0]),
        ("/api/quotes?stocks=NOPE", "Failure", lambda body: body["failed_details"][0]),
    ):
        _, body, _ = await get(server, path)
        assert list(pick(body)) == schemas[name]["required"], path
