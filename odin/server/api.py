"""What the server says over plain HTTP: health, metrics, market, instruments and quotes.

Nothing here names a client or an address. Which paths need an API key is app.py's to say.
"""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

import msgspec
from aiohttp import web

from odin import __version__
from odin.auth.authenticator import TICKET_LIFE_S
from odin.clock import WallClock, ist_datetime_text
from odin.errors import reflect
from odin.feeds.router import UNWELL
from odin.market.sessions import CALENDAR_WARNING_DAYS
from odin.model import Instrument
from odin.node import Node
from odin.protocols.admission import http_error
from odin.protocols.enhanced import endpoint, wire
from odin.server.openapi import openapi
from odin.upkeep import EXCHANGES

MAX_SEARCH = 100
_DIRECTORIES = re.compile(
    r"(?<![\w/\\:])(?:[A-Za-z]:|\.{1,2})?(?:[/\\][^\s/\\]*)*[/\\](?=[^\s/\\])"
)
"""The directories of paths, as far as they can be told from other text."""


class Api:
    """HTTP handlers on one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # ------------------------------------------------------------------ operations

    def _degraded(self) -> list[str]:
        """Return, in words, everything that does not work as it should."""
        node = self._node
        problems = []
        for feed in node.router.statuses:
            if feed.is_stale or feed.state in UNWELL:
                why = f": {feed.problem}" if feed.problem else ""
                problems.append(f"feed {feed.name} is {feed.state}{why}")
        days = node.clocks[EXCHANGES[0]].days_known(WallClock().now_ms())
        if days < CALENDAR_WARNING_DAYS:
            problems.append(f"the trading calendar is known for {max(days, 0)} more days only")
        if node.journal.is_failing:
            problems.append("subscriptions cannot be saved")
        problems += [f"{what}: {problem}" for what, problem in node.problems.items()]
        problems += [f"the task {name} ended by a fault" for name in node.dead_tasks]
        return [self._without_paths(problem) for problem in problems]

    def _without_paths(self, problem: str) -> str:
        """Return a problem as it may be told to everybody: the log has where the files are."""
        settings = self._node.settings
        for file in filter(None, (settings.store.path, settings.market.calendar_file)):
            for path in (Path(file), Path(file).absolute()):
                problem = problem.replace(str(path), path.name)
        return _DIRECTORIES.sub("", problem)

    async def health(self, _request: web.Request) -> web.Response:
        """200 while the process lives; the body says what is degraded."""
        node = self._node
        problems = self._degraded()
        body = {
            "status": "degraded" if problems else "ok",
            "degraded": problems,
            "version": __version__,
            "uptime_s": (WallClock().now_ms() - node.started_ms) // 1000,
            "connections": node.enhanced.connection_count,
            "instruments": len(node.registry),
            "feed": wire.feed_fields(node.feed_status),
            "feeds": [wire.feed_fields(status) for status in node.router.statuses],
            "simulated": node.is_simulated,
        }
        return _json(body)

    async def ready(self, _request: web.Request) -> web.Response:
        """200 when clients are served, 503 before and while stopping."""
        is_ready = self._node.is_ready
        return _json({"ready": is_ready}, status=200 if is_ready else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Everything the server counts, for Prometheus."""
        exposition = self._node.exposition
        headers = {"Content-Type": exposition.content_type}
        return web.Response(body=exposition.render(), headers=headers)

    # ------------------------------------------------------------------ market data

    async def market_status(self, _request: web.Request) -> web.Response:
        """The `data` of a market_status message."""
        return _json(wire.market_status_fields(self._node.view()))

    async def instruments(self, request: web.Request) -> web.Response:
        """Instruments whose symbol, token or name fits `search`."""
        text = request.query.get("search", "").strip()
        limit = request.query.get("limit", "20")
        if not text or len(text) > 64:
            return _bad_request("search must have 1 to 64 characters")
        if not (re.fullmatch("[0-9]{1,3}", limit) and 1 <= int(limit) <= MAX_SEARCH):
            return _bad_request(f"limit must be a number from 1 to {MAX_SEARCH}")
        found = self._node.registry.search(text, int(limit))
        return _json({"instruments": [_instrument_fields(item) for item in found]})

    async def quotes(self, request: web.Request) -> web.Response:
        """The last known quotes of `stocks` (comma separated), at any hour."""
        stocks = [text for text in request.query.get("stocks", "").split(",") if text.strip()]
        limit = self._node.settings.limits.stocks_per_request
        if not 0 < len(stocks) <= limit:
            return _bad_request(f"stocks must name 1 to {limit} stocks, separated by commas")
        found = self._node.registry.resolve_many(stocks)
        keys = dict.fromkeys(item.instrument.key for item in found if item.instrument is not None)
        failed = [item for item in found if item.instrument is None]
        quotes = {key: self._node.board.quote(key) for key in keys}
        body = {
            "quotes": [quote for quote in quotes.values() if quote is not None],
            "without_quote": [
                item.instrument.symbol
                for item in found
                if item.instrument is not None and quotes[item.instrument.key] is None
            ],
            "failed_stocks": [item.stock for item in failed],
            "failed_details": wire.failed_details(failed),
            "simulated": self._node.is_simulated,
        }
        return _json(body)

    # ------------------------------------------------------------------ access

    async def tickets(self, request: web.Request) -> web.Response:
        """A ticket that opens one WebSocket in the place of the key, for browsers."""
        access = self._node.access
        key = await access.authorize(request, endpoint.SCOPE)
        if access.auth is None or key is None:
            return http_error(404, "authentication_not_needed")
        return _json({"ticket": access.auth.issue_ticket(key), "expires_in_s": TICKET_LIFE_S})

    async def openapi(self, _request: web.Request) -> web.Response:
        """The description of this API."""
        return _json(openapi())

    # ------------------------------------------------------------------ page

    async def page(self, request: web.Request) -> web.Response:
        """A short status page for people."""
        node = self._node
        view = node.view()
        problems = self._degraded()
        market = "open" if view.is_streaming else "closed"
        phase = view.status.phase.replace("_", " ")
        if phase != market:
            market = f"{market} ({phase})"
        rows = {
            "Server": f"Odin Streamer {__version__}",
            "Health": "; ".join(problems) or "all is well",
            "Market": f"{market}, {view.status.market_hours}",
            "Market time": ist_datetime_text(view.now_ms)
            + (" simulated" if view.is_simulated else ""),
            "Feed": "; ".join(f"{feed.name}: {feed.state}" for feed in view.feeds or [view.feed]),
            "Connections": f"{node.enhanced.connection_count:,}",
            "Instruments": f"{len(node.registry):,}",
        }
        cells = "\n".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        scheme = "wss" if request.secure else "ws"
        url = escape(f"{scheme}://{reflect(request.host)}{endpoint.PATH}?client_id=YOUR_ID")
        html = _PAGE.format(cells=cells, url=url, state="bad" if problems else "good")
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=html, content_type="text/html", headers=headers)


def _instrument_fields(item: Instrument) -> dict[str, object]:
    return {
        "exchange": item.key.exchange,
        "segment": item.key.segment,
        "token": item.token,
        "symbol": item.symbol,
        "series": item.series,
        "name": item.name,
        "isin": item.isin,
        "kind": item.kind,
        "tick_size": item.tick_size,
        "lot_size": item.lot_size,
    }


def _json(body: Mapping[str, object], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


def _bad_request(message: str) -> web.Response:
    return _json({"type": "error", "status": "error", "message": message}, status=400)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Odin Streamer</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; margin: 0 0 1rem; }}
h1::before {{ content: ""; display: inline-block; width: .7em; height: .7em; border-radius: 50%;
  margin-right: .5em; background: #2a9d58; }}
h1.bad::before {{ background: #d9822b; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; }}
th {{ font-weight: 600; white-space: nowrap; width: 9rem; }}
code {{ background: #8882; padding: .1em .35em; border-radius: .25em; overflow-wrap: anywhere; }}
</style></head><body>
<h1 class="{state}">Odin Streamer</h1>
<table>
{cells}
</table>
<p>Stream: <code>{url}</code></p>
<p><a href="/health">health</a> · <a href="/metrics">metrics</a> ·
<a href="/api/market-status">market status</a> · <a href="/api/openapi.json">API</a></p>
</body></html>
"""
