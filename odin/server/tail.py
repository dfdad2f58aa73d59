"""`odin tail`: follows quotes as a client of a running server.

It speaks only the public protocol and comes back after every break that allows it. Without a
client_id of the caller's it makes one up and gives its subscriptions back at the end, so that
no watchlist of it stays behind. A view shows the quotes: a live table, lines, or JSON.
"""

import asyncio
import contextlib
import importlib.util
import os
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

import aiohttp
import orjson

from odin.clock import ist_time_text
from odin.errors import CLOSE_CODES, Disconnect, FeedRejected, reflect

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_URL = "ws://127.0.0.1:8080/enhanced-stream"

FINAL_CODES = frozenset({1002, 1003, 1007, 1008, 1009, 4401, 4403, 4409})
"""Close codes after which coming back with the same request would only end the same way."""

LEAST_WAIT_S = {1013: 5.0, 4429: 10.0}
"""Close codes that ask for more patience than the usual backoff."""

BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
HEARTBEAT_S = 15.0
GOODBYE_S = 2.0
REFRESH_S = 0.25

_NO_CODE = 1006
_ENDS = {aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


def follow(
    stocks: Sequence[str],
    *,
    url: str,
    client_id: str | None,
    api_key: str | None = None,
    is_json: bool,
    out: TextIO,
    err: TextIO,
) -> None:
    """Show quotes until Ctrl-C or the reader of `out` goes away; both are a quiet end.

    A live table on a terminal where rich is installed, plain lines otherwise, the market_data
    messages themselves with is_json. Remarks go to `err`. Raises what Tail.run raises.
    """
    with contextlib.suppress(KeyboardInterrupt), _view(is_json=is_json, out=out, err=err) as view:
        asyncio.run(Tail(stocks, view, url=url, client_id=client_id, api_key=api_key).run())


def _view(*, is_json: bool, out: TextIO, err: TextIO) -> "Lines | LiveTable":
    if is_json:
        return JsonLines(out, err)
    has_rich = importlib.util.find_spec("rich") is not None
    return LiveTable(out) if has_rich and out.isatty() else Lines(out, err)


class View(Protocol):
    """Where quotes and remarks go."""

    def quote(self, message: Mapping[str, Any], raw: str) -> None:
        """Show one market_data message; `raw` is its text as received."""
        ...

    def notice(self, text: str) -> None:
        """Tell the user what happens to the connection or the request; one line."""
        ...


class Tail:
    """One follower of some stocks. `run` until it is cancelled or raises."""

    def __init__(
        self,
        stocks: Sequence[str],
        view: View,
        *,
        url: str = DEFAULT_URL,
        client_id: str | None = None,
        api_key: str | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._stocks = list(stocks)
        self._view = view
        self._url = url
        self._is_throwaway = client_id is None
        self._client_id = client_id or f"tail-{secrets.token_urlsafe(16)}"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._sleep = sleep
        self._jitter = jitter
        self._failures = 0
        self._status = ""

    async def run(self) -> None:
        """Follow the stocks, reconnecting as needed, until cancelled.

        Raises Disconnect when the server ended the connection for good (4409: another program
        uses this client_id) and FeedRejected when it refused the connection or all stocks.
        """
        async with aiohttp.ClientSession() as session:
            while True:
                least_s = 0.0
                try:
                    code = await self._follow(session)
                    if code in FINAL_CODES:
                        raise Disconnect(code)
                    least_s = LEAST_WAIT_S.get(code, 0.0)
                    problem = f"connection closed: {_reason(code)}"
                except aiohttp.WSServerHandshakeError as error:
                    if 400 <= error.status < 500 and error.status != 429:
                        reason = f"the server refused the connection: HTTP {error.status}"
                        raise FeedRejected(reason) from error
                    problem = f"the server is busy: HTTP {error.status}"
                except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
                    raise FeedRejected(f"this is not an address: {reflect(self._url)}") from error
                except (aiohttp.ClientError, TimeoutError) as error:
                    problem = f"no connection to {self._url}: {_cause(error)}"
                wait_s = least_s + self._backoff_s()
                self._view.notice(f"{problem}; next try in {wait_s:.1f} s")
                await self._sleep(wait_s)

    def _backoff_s(self) -> float:
        """Return a random wait whose ceiling doubles with each failure in a row."""
        ceiling = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return ceiling * self._jitter()

    async def _follow(self, session: aiohttp.ClientSession) -> int:
        """Hold one connection until it closes; return its close code, 1006 if there was none."""
        async with session.ws_connect(
            self._url,
            params={"client_id": self._client_id},
            headers=self._headers,
            heartbeat=HEARTBEAT_S,
        ) as ws:
            try:
                await self._send(ws, "subscribe")
                while True:
                    frame = await ws.receive()
                    if frame.type is aiohttp.WSMsgType.TEXT:
                        self._on_text(frame.data)
                    elif frame.type is aiohttp.WSMsgType.CLOSE:
                        # ws.close_code may be 1006 in spite of it, if the socket went at once.
                        return int(frame.data or _NO_CODE)
                    elif frame.type in _ENDS:
                        return ws.close_code or _NO_CODE
            finally:
                if self._is_throwaway and not ws.closed:
                    await self._give_back(ws)

    async def _send(self, ws: aiohttp.ClientWebSocketResponse, action: str) -> None:
        await ws.send_str(orjson.dumps({"action": action, "stocks": self._stocks}).decode())

    async def _give_back(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Unsubscribe and wait for the answer, so that it is certain to have been done."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._send(ws, "unsubscribe")
                async for frame in ws:
                    if frame.type is aiohttp.WSMsgType.TEXT:
                        answer = _message(frame.data)
                        if _data(answer).get("action") == "unsubscribe":
                            return

    def _on_text(self, text: str) -> None:
        message = _message(text)
        match message.get("type"):
            case "market_data":
                self._view.quote(message, text)
            case "welcome":
                self._failures = 0
                if _data(message).get("simulated"):
                    self._view.notice("the data is simulated, not live")
            case "subscription_response":
                self._on_subscribed(_data(message))
            case "market_status":
                self._on_market_status(_data(message))
            case "feed_gap":
                gap = _data(message)
                span = f"{reflect(gap.get('from_time'))} to {reflect(gap.get('to_time'))}"
                self._view.notice(f"the server's feed missed quotes from {span}")
            case "error":
                self._view.notice(f"the server says: {reflect(message.get('message'), 200)}")

    def _on_subscribed(self, data: Mapping[str, Any]) -> None:
        problems = [f"not subscribed: {reflect(s)}" for s in _list(data.get("failed_stocks"))]
        details = [d for d in _list(data.get("failed_details")) if isinstance(d, dict)]
        if details:
            problems = [_failure(detail) for detail in details]
        if problems and not _list(data.get("subscribed_stocks")):
            raise FeedRejected("; ".join(problems))
        for problem in problems:
            self._view.notice(problem)
        if data.get("market_open") is False:
            opens = data.get("next_open")
            when = f", next opening {reflect(opens)}" if opens else ""
            self._view.notice(f"the market is closed{when}")

    def _on_market_status(self, data: Mapping[str, Any]) -> None:
        """Say what it comes to, where that is news."""
        feed = data.get("feed")
        feed = feed if isinstance(feed, dict) else {}
        status = f"the market is {'open' if data.get('market_open') else 'closed'}"
        if feed.get("stale"):
            status = "the server's feed is silent, quotes may be old"
        elif feed.get("state") in {"connecting", "authenticating", "backoff"}:
            status = "the server has lost its feed and tries to reach it again"
        elif feed.get("state") in {"rejected", "stopped"}:
            status = f"the server's feed is {feed['state']}"
        if status != self._status:
            self._status = status
            self._view.notice(status)


class Lines:
    """One line a quote."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def quote(self, message: Mapping[str, Any], raw: str) -> None:
        row = Row(message)
        self._write(
            f"{row.time}  {row.label:<18} {row.price('ltp'):>12} {row.change:>9}"
            f"  volume {row.volume}{row.marks}"
        )

    def notice(self, text: str) -> None:
        self._err.write(f"{text}\n")
        self._err.flush()

    def _write(self, line: str) -> None:
        self._out.write(f"{line}\n")
        self._out.flush()


class JsonLines(Lines):
    """The market_data messages as they came, one a line."""

    def quote(self, message: Mapping[str, Any], raw: str) -> None:
        # Between the tokens of JSON a line break is only white space; inside them there is none.
        self._write(raw.replace("\r", " ").replace("\n", " "))


class LiveTable:
    """A table of the newest quotes, drawn at most four times a second."""

    def __init__(self, out: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=out, no_color=bool(environ.get("NO_COLOR")) or None)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._rows: dict[str, Row] = {}
        self._drawing: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
        if kind is None or not issubclass(kind, BrokenPipeError):
            self._draw()
            self._live.stop()

    def quote(self, message: Mapping[str, Any], raw: str) -> None:
        row = Row(message)
        self._rows[row.label] = row
        if self._drawing is None:
            self._drawing = asyncio.get_running_loop().call_later(REFRESH_S, self._draw)

    def notice(self, text: str) -> None:
        from rich.text import Text

        self._live.console.print(Text(text, style="yellow"))

    def _draw(self) -> None:
        self._drawing = None
        self._live.update(self._table(), refresh=True)

    def _table(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("Stock", no_wrap=True)
        for heading in ("Price", "Change", "Open", "High", "Low", "Volume", "Time"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self._rows.values():
            colour = {"+": "green", "-": "red"}.get(row.change[:1], "")
            cells = [row.label, row.price("ltp"), row.change]
            cells += [row.price(name) for name in ("open", "day_high", "day_low")]
            cells += [row.volume, row.time + row.marks]
            table.add_row(
                *(Text(cell, style=colour if i in {1, 2} else "") for i, cell in enumerate(cells))
            )
        return table


class Row:
    """The texts of one quote; whatever is missing or no number is a dash."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        self._data = _data(message)
        symbol, exchange = message.get("symbol", "?"), message.get("exchange", "?")
        self.label = reflect(f"{symbol} ({exchange})")
        volume = self._number("volume")
        self.volume = "-" if volume is None else f"{volume:,.0f}"
        percent = self._number("percent_change")
        self.change = "-" if percent is None else f"{percent:+.2f}%"
        at_ms = self._number("timestamp")
        self.time = "-" if at_ms is None else ist_time_text(int(at_ms))
        marks = {"is_new_week_52_high": " 52w high", "is_new_week_52_low": " 52w low"}
        self.marks = "".join(text for name, text in marks.items() if self._data.get(name) is True)

    def price(self, name: str) -> str:
        """Return one of the prices."""
        value = self._number(name)
        return "-" if value is None else f"{value:,.2f}"

    def _number(self, name: str) -> float | None:
        value = self._data.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value if abs(value) < 1e15 else None


def _reason(code: int) -> str:
    if code == _NO_CODE:
        return "without a word"
    known = CLOSE_CODES.get(code)
    return known.reason if known else str(code)


def _cause(error: Exception) -> str:
    """Return what the system says, "Connection refused", without what aiohttp adds."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return reflect(cause, 120) or type(error).__name__


def _failure(detail: Mapping[str, Any]) -> str:
    text = reflect(detail.get("message") or detail.get("stock"), 200)
    near = [reflect(name) for name in _list(detail.get("suggestions"))]
    return f"{text}; near: {', '.join(near)}" if near else text


def _message(text: str) -> dict[str, Any]:
    """Return a message, or an empty one for what is no JSON object."""
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return message if isinstance(message, dict) else {}


def _data(message: Mapping[str, Any]) -> dict[str, Any]:
    data = message.get("data")
    return data if isinstance(data, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
