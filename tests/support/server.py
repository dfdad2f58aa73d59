"""A real server on a real socket, and a client that reads what it says."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
import orjson
from aiohttp import WSMsgType, web

from odin.clock import Clock, ManualClock
from odin.model import InstrumentKey, Tick
from odin.node import Node, ReplayOptions
from odin.server.run import address_of, listen
from odin.settings import Settings

SBIN = InstrumentKey("NSE", "CM", 3045)
RELIANCE = InstrumentKey("NSE", "CM", 2885)
TCS = InstrumentKey("NSE", "CM", 11536)
INFY = InstrumentKey("NSE", "CM", 1594)

OPEN_MS = 1756971590198
"""Thursday 2025-09-04 13:09:50.198 IST, a trading day in market hours."""
CLOSED_MS = 1757140200000
"""Saturday 2025-09-06 12:00 IST."""
BELL_CLOSE_MS = 1756980000000
"""Thursday 2025-09-04 15:30:00 IST."""


def settings_for(path: Path, **sections: dict[str, Any]) -> Settings:
    """Return settings with a database in `path`, a free port, no feed, and the given changes."""
    defaults: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "shutdown_grace_s": 2.0},
        "store": {"path": str(path / "odin.db")},
        "feed": {"kind": "none"},
    }
    merged = {
        name: {**defaults.get(name, {}), **sections.get(name, {})}
        for name in {*defaults, *sections}
    }
    return msgspec.convert(merged, Settings)


class Server:
    """A node and its listening socket."""

    def __init__(self, node: Node, runner: web.AppRunner) -> None:
        self.node = node
        self.runner = runner
        host, port = address_of(runner)
        self.http = f"http://{host}:{port}"
        self.ws = f"ws://{host}:{port}/enhanced-stream"

    @property
    def clock(self) -> ManualClock:
        assert isinstance(self.node.clock, ManualClock)
        return self.node.clock

    def tick(self, key: InstrumentKey, ltp: float, **fields: Any) -> None:
        """Feed one tick, timed now unless it says otherwise."""
        fields.setdefault("exchange_ms", self.node.clock.now_ms())
        self.node.on_tick(Tick(key=key, ltp=ltp, **fields))

    async def close(self, code: int = 1001) -> None:
        await self.node.stop(code)
        await self.runner.cleanup()


async def start_server(
    path: Path,
    *,
    clock: Clock | None = None,
    replay: ReplayOptions | None = None,
    **sections: dict[str, Any],
) -> Server:
    """Start a server whose database is in `path`; by default its clock stands at OPEN_MS."""
    if clock is None and replay is None:
        clock = ManualClock(OPEN_MS * 1_000_000, is_simulated=False)
    node = await Node.start(settings_for(path, **sections), replay, clock=clock)
    return Server(node, await listen(node))


@asynccontextmanager
async def running(path: Path, **options: Any) -> AsyncIterator[Server]:
    """Start a server, and close it at the end."""
    server = await start_server(path, **options)
    try:
        yield server
    finally:
        await server.close()


class Client:
    """A WebSocket client for tests: sends dicts, reads dicts, remembers everything."""

    def __init__(self, url: str, client_id: str | None = None, **options: Any) -> None:
        self._url = url if client_id is None else f"{url}?client_id={client_id}"
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self.seen: list[dict[str, Any]] = []
        self.welcome: dict[str, Any] = {}
        self.close_code: int | None = None
        self.close_reason = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        try:
            self.ws = await self._session.ws_connect(self._url, **self._options)
            self.welcome = await self.receive()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.ws.close()
        assert self._session is not None
        await self._session.close()

    async def send(self, message: object) -> None:
        """Send JSON, or a string or bytes as they are."""
        if isinstance(message, bytes):
            await self.ws.send_bytes(message)
        else:
            await self.ws.send_str(
                message if isinstance(message, str) else orjson.dumps(message).decode()
            )

    async def receive(self, timeout: float = 5.0) -> dict[str, Any]:
        """Return the next message; raise ConnectionError with the code when closed."""
        message = await self.ws.receive(timeout=timeout)
        if message.type is WSMsgType.CLOSE:
            # The code of the close frame itself; ws.close_code may say 1006 in spite of it.
            self.close_code, self.close_reason = message.data, message.extra or ""
        if message.type is not WSMsgType.TEXT:
            raise ConnectionError(f"closed with {self.close_code}: {message}")
        value: dict[str, Any] = orjson.loads(message.data)
        self.seen.append(value)
        return value

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        """Send a request and return its answer, passing over data and pushes before it."""
        await self.send({"action": action, "request_id": f"r{len(self.seen)}", **fields})
        wanted = fields.get("request_id", f"r{len(self.seen)}")
        return await self.until(lambda message: message.get("request_id") == wanted)

    async def subscribe(self, *stocks: str | int) -> dict[str, Any]:
        return await self.ask("subscribe", stocks=list(stocks))

    async def until(
        self, accept: Callable[[dict[str, Any]], bool], timeout: float = 5.0
    ) -> dict[str, Any]:
        """Return the next message that is accepted."""
        while True:
            message = await self.receive(timeout)
            if accept(message):
                return message

    async def quote(self, symbol: str | None = None) -> dict[str, Any]:
        """Return the next market_data message, of one symbol if given."""
        return await self.until(
            lambda m: m["type"] == "market_data" and symbol in {None, m["symbol"]}
        )

    async def nothing_but_pong(self) -> list[dict[str, Any]]:
        """Return what arrives up to the answer to a ping: proof of what did not arrive."""
        start = len(self.seen)
        await self.ask("ping")
        return self.seen[start:-1]

    async def closed(self) -> int:
        """Read to the end and return the close code."""
        try:
            while True:
                await self.receive()
        except ConnectionError:
            return self.close_code or 1006
