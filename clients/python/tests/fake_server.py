"""A small server of the real protocol that can do what a healthy one does not: close with any
code, fall silent, forget a client, refuse the handshake."""

import asyncio
import json
from collections import defaultdict
from typing import Any

from aiohttp import WSMsgType, web

STOCKS = {"SBIN": "3045", "RELIANCE": "2885", "TCS": "11536", "INFY": "1594", "ITC": "1660"}
SYMBOLS = {token: symbol for symbol, token in STOCKS.items()}
NOW_MS = 1756971591651


def quote(symbol: str, ltp: float = 100.0, updated: str = "u0") -> dict[str, Any]:
    return {
        "symbol": symbol,
        "token": STOCKS[symbol],
        "exchange": "NSE",
        "ltp": ltp,
        "timestamp": NOW_MS,
        "last_updated": updated,
    }


class FakeServer:
    """Serves `/enhanced-stream` on a free port of the loopback."""

    def __init__(self) -> None:
        self.held: defaultdict[str, list[str]] = defaultdict(list)
        self.modes: dict[tuple[str, str], str] = {}
        self.requests: list[dict[str, Any]] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.client_ids: list[str] = []
        self.formats: list[str | None] = []
        self.is_older = False
        """Whether it knows nothing of ?format=."""
        self.connects = 0
        self.is_mute = False
        self.is_greeting = True
        self.mute_actions: set[str] = set()
        self.market_open = False
        self.refuse_status = 0
        self.refuse_headers: dict[str, str] = {}
        self.last_quotes: list[dict[str, Any]] = []
        self.last_messages: list[dict[str, Any]] = []
        self.errors: dict[str, dict[str, Any]] = {}
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/enhanced-stream"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/enhanced-stream", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.drop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # what a test does to clients

    async def close(self, code: int, reason: str = "") -> None:
        for ws in list(self.sockets):
            await ws.close(code=code, message=reason.encode())

    def drop(self) -> None:
        for ws in list(self.sockets):
            if ws._req is not None and ws._req.transport is not None:
                ws._req.transport.abort()

    async def push(self, message: dict[str, Any] | str | bytes) -> None:
        for ws in list(self.sockets):
            if isinstance(message, bytes):
                await ws.send_bytes(message)
            else:
                await ws.send_str(message if isinstance(message, str) else json.dumps(message))

    async def push_quote(self, symbol: str, ltp: float, updated: str = "") -> None:
        await self.push(market_data(quote(symbol, ltp, updated or f"u{ltp}")))

    async def until(self, predicate: Any) -> None:
        """Wait until something that happened here makes the predicate true."""
        async with self._changed:
            await self._changed.wait_for(predicate)

    def actions(self) -> list[str]:
        return [request["action"] for request in self.requests]

    # serving

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.connects += 1
        await self._tell()
        if self.refuse_status:
            return web.Response(status=self.refuse_status, headers=self.refuse_headers)
        client_id = request.query.get("client_id", "made_up")
        self.client_ids.append(client_id)
        self.formats.append(request.query.get("format"))
        ws = web.WebSocketResponse(autoping=True)
        await ws.prepare(request)
        self.sockets.append(ws)
        try:
            if self.is_greeting:
                await ws.send_json(self._welcome(client_id, request.query.get("format")))
                for data in self.last_quotes:
                    await ws.send_json({**market_data(data), "snapshot": True})
                for message in self.last_messages:
                    await ws.send_json(message)
            await self._tell()
            async for frame in ws:
                if frame.type is WSMsgType.TEXT:
                    asked = json.loads(frame.data)
                    self.requests.append(asked)
                    if not self.is_mute and asked["action"] not in self.mute_actions:
                        await ws.send_json(self._answer(client_id, asked))
                    await self._tell()
        except ConnectionError:
            pass
        finally:
            self.sockets.remove(ws)
            await self._tell()
        return ws

    def _welcome(self, client_id: str, encoding: str | None) -> dict[str, Any]:
        data = {
            "client_id": client_id,
            "market_open": self.market_open,
            "subscribed_stocks": len(self.held[client_id]),
        }
        if not self.is_older:
            data["format"] = encoding
        return {"type": "welcome", "status": "connected", "data": data, "client_id": client_id}

    def _answer(self, client_id: str, asked: dict[str, Any]) -> dict[str, Any]:
        action, held = asked["action"], self.held[client_id]
        if action in self.errors:
            return self.errors[action]
        echo = {"request_id": asked["request_id"], "timestamp": NOW_MS, "status": "success"}
        names = [name.rpartition(":")[2] for name in asked.get("stocks", ())]
        if action in ("subscribe", "unsubscribe") and not names:
            text = "No stocks provided for subscription"
            return {**echo, "type": "error", "code": "no_stocks_subscribe", "message": text}
        symbols = [SYMBOLS.get(name, name) for name in names]
        if action == "subscribe":
            known = [s for s in symbols if s in STOCKS]
            data: dict[str, Any] = {
                "action": action,
                "subscribed_stocks": known,
                "failed_stocks": [s for s in symbols if s not in STOCKS],
                "already_subscribed": [s for s in known if s in held],
            }
            for symbol in known:
                if "mode" in asked or symbol not in held:
                    self.modes[client_id, symbol] = asked.get("mode", "quote")
            held += [s for s in known if s not in held]
            data["total_subscribed"] = len(held)
            return {**echo, "type": "subscription_response", "data": data}
        if action == "unsubscribe":
            gone = [s for s in symbols if s in held]
            self.held[client_id] = [s for s in held if s not in gone]
            data = {
                "action": action,
                "unsubscribed_stocks": gone,
                "failed_stocks": [s for s in symbols if s not in gone],
                "total_subscribed": len(self.held[client_id]),
            }
            return {**echo, "type": "subscription_response", "data": data}
        if action == "get_subscriptions":
            data = {
                "subscribed_tokens": [STOCKS[s] for s in held],
                "subscribed_symbols": held,
                "subscribed_exchanges": ["NSE"] * len(held),
                "subscribed_modes": [self.modes.get((client_id, s), "quote") for s in held],
                "total_subscribed": len(held),
            }
            return {**echo, "type": "subscriptions", "data": data}
        if action == "market_status":
            return {**echo, "type": "market_status", "data": {"market_open": self.market_open}}
        if action == "snapshot":
            data = {"quotes": [quote(s) for s in symbols or held], "failed_stocks": []}
            return {**echo, "type": "snapshot", "data": data}
        return {**echo, "type": "pong", "status": "alive"}


def market_data(data: dict[str, Any]) -> dict[str, Any]:
    identity = {key: data[key] for key in ("symbol", "token", "exchange")}
    return {"type": "market_data", **identity, "data": data, "timestamp": NOW_MS}
