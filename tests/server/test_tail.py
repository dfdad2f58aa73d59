"""`odin tail` against a small server that speaks the protocol on a real socket."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from odin.errors import CLOSE_CODES, Disconnect, FeedRejected
from odin.server.tail import (
    BACKOFF_S,
    FINAL_CODES,
    LEAST_WAIT_S,
    MAX_BACKOFF_S,
    JsonLines,
    Lines,
    LiveTable,
    Row,
    Tail,
    _view,
)
from odin.server.tail import follow as follow_on_terminal

QUOTE: dict[str, Any] = {
    "type": "market_data",
    "symbol": "RELIANCE",
    "token": "2885",
    "exchange": "NSE",
    "data": {
        "symbol": "RELIANCE",
        "ltp": 1365.5,
        "open": 1371.8,
        "day_high": 1374.0,
        "day_low": 1360.3,
        "volume": 8053013,
        "percent_change": -0.5172665015299366,
        "timestamp": 1756971590198,
        "is_new_week_52_high": False,
        "is_new_week_52_low": False,
    },
    "timestamp": 1756971591651,
}

Connection = Callable[["Exchange", web.WebSocketResponse], Awaitable[None]]


class Exchange:
    """A server whose connections follow a script, one entry each; the last one repeats."""

    def __init__(self, *script: Connection | int) -> None:
        self.script = list(script)
        self.requests: list[dict[str, Any]] = []
        self.client_ids: list[str] = []
        self.authorizations: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        number = min(len(self.client_ids), len(self.script) - 1)
        self.client_ids.append(request.query["client_id"])
        self.authorizations.append(request.headers.get("Authorization", ""))
        step = self.script[number]
        if isinstance(step, int):
            return web.Response(status=step)
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_json({"type": "welcome", "status": "connected", "data": {}})
        await step(self, ws)
        return ws

    async def receive(self, ws: web.WebSocketResponse) -> dict[str, Any]:
        request: dict[str, Any] = await ws.receive_json()
        self.requests.append(request)
        return request


def answers(*messages: Mapping[str, Any] | str, close: int | None = None) -> Connection:
    """Answer the subscribe with messages, then close or wait for the goodbye."""

    async def talk(exchange: Exchange, ws: web.WebSocketResponse) -> None:
        await exchange.receive(ws)
        for message in messages:
            await ws.send_str(message if isinstance(message, str) else json.dumps(message))
        if close is not None:
            await ws.close(code=close)
            return
        with contextlib.suppress(TypeError, RuntimeError):  # the client goes without a goodbye
            await exchange.receive(ws)
            await ws.send_json({"type": "subscription_response", "data": {"action": "unsubscribe"}})

    return talk


def subscribed(**data: object) -> dict[str, Any]:
    base = {"action": "subscribe", "subscribed_stocks": ["RELIANCE"], "failed_stocks": []}
    return {"type": "subscription_response", "status": "success", "data": base | data}


class Seen:
    """A view that remembers, and ends the test's run after some quotes."""

    def __init__(self, quotes: int = 1) -> None:
        self.quotes: list[str] = []
        self.notices: list[str] = []
        self.enough = asyncio.Event()
        self._wanted = quotes

    def quote(self, message: Mapping[str, Any], raw: str) -> None:
        self.quotes.append(raw)
        if len(self.quotes) >= self._wanted:
            self.enough.set()

    def notice(self, text: str) -> None:
        self.notices.append(text)


class Waits:
    """Sleeps nothing, remembers how long it should have."""

    def __init__(self, until: int = 10**6) -> None:
        self.asked: list[float] = []
        self.enough = asyncio.Event()
        self._until = until

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        if len(self.asked) >= self._until:
            self.enough.set()
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def serving(exchange: Exchange) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/enhanced-stream", exchange.handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/enhanced-stream")).replace("http", "ws", 1)


async def follow(tail: Tail, enough: asyncio.Event) -> None:
    """Run until enough was seen, then end it as Ctrl-C does."""
    running = asyncio.ensure_future(tail.run())
    waiting = asyncio.ensure_future(enough.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_it_subscribes_and_shows_what_comes() -> None:
    exchange, seen = Exchange(answers(subscribed(), QUOTE)), Seen()
    async with serving(exchange) as url:
        await follow(Tail(["RELIANCE", "2885"], seen, url=url), seen.enough)
    assert exchange.requests[0] == {"action": "subscribe", "stocks": ["RELIANCE", "2885"]}
    assert [json.loads(raw) for raw in seen.quotes] == [QUOTE]
    assert seen.notices == []


async def test_a_key_goes_into_a_header() -> None:
    for key, sent in ((None, ""), ("odin_1f2e3d4c_x", "Bearer odin_1f2e3d4c_x")):
        exchange, seen = Exchange(answers(subscribed(), QUOTE)), Seen()
        async with serving(exchange) as url:
            await follow(Tail(["RELIANCE"], seen, url=url, api_key=key), seen.enough)
        assert exchange.authorizations == [sent]


async def test_a_client_of_its_own_gives_its_subscriptions_back() -> None:
    exchange, seen = Exchange(answers(subscribed(), QUOTE)), Seen()
    async with serving(exchange) as url:
        await follow(Tail(["RELIANCE"], seen, url=url), seen.enough)
    assert exchange.requests[1:] == [{"action": "unsubscribe", "stocks": ["RELIANCE"]}]
    [client_id] = exchange.client_ids
    assert client_id.startswith("tail-")
    assert len(client_id) >= len("tail-") + 22


async def test_two_followers_are_two_clients() -> None:
    exchange, seen = Exchange(answers(subscribed(), QUOTE)), Seen(2)
    async with serving(exchange) as url:
        first, second = Tail(["A"], seen, url=url), Tail(["A"], seen, url=url)
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(first, seen.enough))
            group.create_task(follow(second, seen.enough))
    assert len(set(exchange.client_ids)) == 2


async def test_the_subscriptions_of_a_named_client_are_left_alone() -> None:
    exchange, seen = Exchange(answers(subscribed(), QUOTE)), Seen()
    async with serving(exchange) as url:
        await follow(Tail(["RELIANCE"], seen, url=url, client_id="app/1 ü"), seen.enough)
    assert exchange.client_ids == ["app/1 ü"]
    assert [request["action"] for request in exchange.requests] == ["subscribe"]


async def test_a_break_is_followed_by_another_connection_of_the_same_client() -> None:
    exchange = Exchange(answers(subscribed(), QUOTE, close=1001), answers(subscribed(), QUOTE))
    seen, waits = Seen(2), Waits()
    async with serving(exchange) as url:
        await follow(Tail(["A"], seen, url=url, sleep=waits, jitter=lambda: 0.5), seen.enough)
    assert len(seen.quotes) == 2
    assert len(set(exchange.client_ids)) == 1
    assert waits.asked == [BACKOFF_S / 2]
    assert seen.notices == ["connection closed: server stops; next try in 0.2 s"]


async def test_waits_double_up_to_a_bound_and_start_over_after_a_welcome() -> None:
    exchange = Exchange(*[503] * 9, answers(subscribed(), close=1012), 503)
    seen, waits = Seen(), Waits(until=11)
    async with serving(exchange) as url:
        await follow(Tail(["A"], seen, url=url, sleep=waits, jitter=lambda: 1.0), waits.enough)
    assert waits.asked == [0.5, 1, 2, 4, 8, *[MAX_BACKOFF_S] * 4, 0.5, 1]
    assert seen.notices[0] == "the server is busy: HTTP 503; next try in 0.5 s"


@pytest.mark.parametrize(("code", "least"), LEAST_WAIT_S.items())
async def test_codes_that_ask_for_patience_get_it(code: int, least: float) -> None:
    seen, waits = Seen(), Waits(until=1)
    async with serving(Exchange(answers(subscribed(), close=code))) as url:
        await follow(Tail(["A"], seen, url=url, sleep=waits, jitter=lambda: 0.0), waits.enough)
    assert waits.asked == [least]


async def test_a_server_that_is_not_there_yet_is_waited_for(unused_tcp_port: int) -> None:
    seen, waits = Seen(), Waits(until=2)
    url = f"ws://127.0.0.1:{unused_tcp_port}/enhanced-stream"
    await follow(Tail(["A"], seen, url=url, sleep=waits, jitter=lambda: 1.0), waits.enough)
    assert waits.asked == [0.5, 1]
    assert seen.notices[0] == f"no connection to {url}: Connection refused; next try in 0.5 s"


async def test_a_server_that_vanishes_is_looked_for_again() -> None:
    async def vanish(exchange: Exchange, ws: web.WebSocketResponse) -> None:
        await exchange.receive(ws)
        assert ws._req is not None
        assert ws._req.transport is not None
        ws._req.transport.abort()

    seen, waits = Seen(), Waits(until=1)
    async with serving(Exchange(vanish)) as url:
        await follow(Tail(["A"], seen, url=url, sleep=waits, jitter=lambda: 1.0), waits.enough)
    assert seen.notices == ["connection closed: without a word; next try in 0.5 s"]


@pytest.mark.parametrize("code", sorted(FINAL_CODES))
async def test_codes_that_say_not_to_come_back_end_it(code: int) -> None:
    exchange = Exchange(answers(subscribed(), close=code))
    async with serving(exchange) as url:
        with pytest.raises(Disconnect) as caught:
            await Tail(["A"], Seen(), url=url).run()
    assert caught.value.code == code
    assert len(exchange.client_ids) == 1


def test_the_codes_agree_with_the_table_of_close_codes() -> None:
    asks_for_change = ("no,", "after a fix", "after new credentials", "with a new session")
    final = {c for c, spec in CLOSE_CODES.items() if spec.come_back.startswith(asks_for_change)}
    assert final == FINAL_CODES
    for code, seconds in LEAST_WAIT_S.items():
        assert f"{seconds:.0f} s" in CLOSE_CODES[code].come_back


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
async def test_a_refused_connection_is_not_tried_again(status: int) -> None:
    async with serving(Exchange(status)) as url:
        with pytest.raises(FeedRejected, match=f"refused the connection: HTTP {status}"):
            await Tail(["A"], Seen(), url=url).run()


async def test_too_many_connections_is_a_reason_to_wait() -> None:
    seen, waits = Seen(), Waits(until=1)
    async with serving(Exchange(429)) as url:
        await follow(Tail(["A"], seen, url=url, sleep=waits), waits.enough)
    assert seen.notices[0].startswith("the server is busy: HTTP 429")


@pytest.mark.parametrize("url", ["nonsense", "ws://", "ftp://x/"])
async def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(FeedRejected, match="this is not an address: "):
        await Tail(["A"], Seen(), url=url).run()


async def test_when_no_stock_is_known_it_ends_with_the_reasons() -> None:
    details = [
        {
            "stock": "SBIM",
            "message": "No instrument is called SBIM",
            "suggestions": ["SBIN", "SBI"],
        },
        {"stock": "X\x1b", "message": "No instrument is called X\x1b", "suggestions": []},
    ]
    refused = subscribed(subscribed_stocks=[], failed_stocks=["SBIM"], failed_details=details)
    exchange = Exchange(answers(refused))
    async with serving(exchange) as url:
        with pytest.raises(FeedRejected) as caught:
            await Tail(["SBIM", "X"], Seen(), url=url).run()
    assert str(caught.value) == (
        "No instrument is called SBIM; near: SBIN, SBI; No instrument is called X\\x1b"
    )


async def test_unknown_stocks_among_known_ones_are_told() -> None:
    exchange = Exchange(answers(subscribed(failed_stocks=["SBIM"]), QUOTE))
    seen = Seen()
    async with serving(exchange) as url:
        await follow(Tail(["A", "SBIM"], seen, url=url), seen.enough)
    assert seen.notices == ["not subscribed: SBIM"]


@pytest.mark.parametrize(
    ("message", "notice"),
    [
        (
            subscribed(market_open=False, next_open="2026-08-24 09:15:00"),
            "the market is closed, next opening 2026-08-24 09:15:00",
        ),
        (subscribed(market_open=False), "the market is closed"),
        ({"type": "market_status", "data": {"market_open": True}}, "the market is open"),
        ({"type": "market_status", "data": {"market_open": False}}, "the market is closed"),
        (
            {"type": "market_status", "data": {"market_open": True, "feed": {"stale": True}}},
            "the server's feed is silent, quotes may be old",
        ),
        ({"type": "welcome", "data": {"simulated": True}}, "the data is simulated, not live"),
        ({"type": "error", "message": "Too\nmany"}, "the server says: Too\\nmany"),
    ],
)
async def test_what_a_user_should_know_is_told(message: dict[str, Any], notice: str) -> None:
    seen = Seen()
    async with serving(Exchange(answers(message, QUOTE))) as url:
        await follow(Tail(["A"], seen, url=url), seen.enough)
    assert seen.notices == [notice]


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "7", '{"type":7}', '{"type":"subscription_response","data":3}']
)
async def test_messages_it_does_not_understand_are_passed_over(text: str) -> None:
    seen = Seen()
    async with serving(Exchange(answers(text, QUOTE))) as url:
        await follow(Tail(["A"], seen, url=url), seen.enough)
    assert len(seen.quotes) == 1


async def test_a_reader_that_goes_away_ends_it() -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    async with serving(Exchange(answers(subscribed(), QUOTE))) as url:
        with pytest.raises(BrokenPipeError):
            await Tail(["A"], JsonLines(Closed(), io.StringIO()), url=url).run()


def test_ctrl_c_is_a_quiet_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(self: Tail) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tail, "run", interrupted)
    out, err = Terminal(), io.StringIO()
    follow_on_terminal(["A"], url="ws://x", client_id=None, is_json=False, out=out, err=err)
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is shown again
    assert err.getvalue() == ""


# -------------------------------------------------------------------- views


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_plain() -> None:
    out, err = io.StringIO(), io.StringIO()
    with Lines(out, err) as view:
        view.quote(QUOTE, json.dumps(QUOTE))
        view.notice("hello")
    assert out.getvalue() == (
        "13:09:50  RELIANCE (NSE)         1,365.50    -0.52%  volume 8,053,013\n"
    )
    assert err.getvalue() == "hello\n"


def test_json_lines_are_the_messages_themselves() -> None:
    out = io.StringIO()
    raw = '{"type":"market_data",\r\n "price":1.50}'
    JsonLines(out, io.StringIO()).quote(json.loads(raw), raw)
    assert out.getvalue() == '{"type":"market_data",   "price":1.50}\n'


def test_a_quote_with_nothing_in_it_is_shown_as_dashes() -> None:
    row = Row({"symbol": "A\x1b[2J", "exchange": None, "data": {"ltp": True, "volume": "7"}})
    assert row.label == "A\\x1b[2J (None)"
    assert (row.price("ltp"), row.volume, row.change, row.time) == ("-", "-", "-", "-")


@pytest.mark.parametrize("value", [None, "x", True, [], 1e300, float("nan"), float("-inf")])
def test_a_number_that_is_none_is_a_dash(value: object) -> None:
    data = dict.fromkeys(("ltp", "volume", "percent_change", "timestamp"), value)
    row = Row({"data": data})
    assert (row.price("ltp"), row.volume, row.change, row.time) == ("-", "-", "-", "-")


def test_new_extremes_are_marked() -> None:
    data = QUOTE["data"] | {"is_new_week_52_high": True}
    assert Row(QUOTE | {"data": data}).marks == " 52w high"


def test_the_view_follows_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(out: io.StringIO, *, is_json: bool = False) -> type:
        return type(_view(is_json=is_json, out=out, err=io.StringIO()))

    assert kind(io.StringIO()) is Lines
    assert kind(Terminal()) is LiveTable
    assert kind(Terminal(), is_json=True) is JsonLines
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kind(Terminal()) is Lines


async def test_the_table_has_a_row_a_stock_with_its_newest_quote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    newer = QUOTE | {"data": QUOTE["data"] | {"ltp": 1400.0}}
    other = QUOTE | {"symbol": "[bold]SBIN[/]", "exchange": "BSE"}
    with LiveTable(out, {"NO_COLOR": "1"}) as view:
        for message in (QUOTE, newer, other):
            view.quote(message, "")
        view.notice("[red]hello")
    text = out.getvalue()
    assert "1,400.00" in text
    assert "1,365.50" in text  # of the other stock
    assert "[bold]SBIN[/] (BSE)" in text
    assert text.rpartition("Stock")[2].count("RELIANCE (NSE)") == 1
    assert "[red]hello" in text
    assert "\x1b[32m" not in text
    assert "\x1b[31m" not in text
