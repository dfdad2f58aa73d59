"""The web application: which path does what, and what every answer has in common."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from odin.errors import ClientError
from odin.node import Node
from odin.protocols.admission import access_error, http_error
from odin.protocols.enhanced import endpoint
from odin.server.api import Api

log = logging.getLogger("odin.server")

MAX_HEADER_BYTES = 8192
"""Of all headers of a request together."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization",
    "Access-Control-Max-Age": "600",
}

_UNCOUNTED = frozenset({"/health", "/ready", endpoint.PATH})
"""Load balancers ask often and by any name; the stream has limits and checks of its own."""


def build_app(node: Node) -> web.Application:
    """Return the application that serves a running node."""
    api = Api(node)

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through who may have the answer."""
        if _is_preflight(request) and node.origins.allow(request):
            return web.Response(status=204, headers=PREFLIGHT_HEADERS)
        if _header_bytes(request) > MAX_HEADER_BYTES:
            raise ClientError("headers_too_large")
        if request.path in _UNCOUNTED:
            return await handler(request)
        if not node.origins.allow_host(request):
            raise ClientError("host_not_allowed")
        scope = _scope_of(request)
        key = await node.access.authorize(request, scope) if scope else None
        node.access.count(request, key)
        return await handler(request)

    @web.middleware
    async def shape(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer HTTP errors in JSON, and let the allowed pages read what the API says."""
        try:
            response = await answer(request, handler)
        except ClientError as error:
            response = access_error(error)
        except web.HTTPException as error:
            body = {"type": "error", "status": "error", "message": error.reason}
            response = web.json_response(body, status=error.status)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except ConnectionError:
            raise  # the client left; there is nobody to answer
        except Exception:
            node.metrics.faults += 1
            log.exception("an HTTP request could not be answered")
            response = http_error(500, "internal")
        if not response.prepared:
            response.headers.update(SECURITY_HEADERS)
            origin = request.headers.get("Origin")
            if origin is not None and node.origins.allow(request):
                response.headers["Access-Control-Allow-Origin"] = origin
                response.headers["Vary"] = "Origin"
        return response

    app = web.Application(middlewares=[shape])
    app.add_routes(
        [
            web.get(endpoint.PATH, node.enhanced.handle, allow_head=False),
            web.get("/", api.page),
            web.get("/health", api.health),
            web.get("/ready", api.ready),
            web.get("/metrics", api.metrics),
            web.get("/api/market-status", api.market_status),
            web.get("/api/instruments", api.instruments),
            web.get("/api/quotes", api.quotes),
            web.post("/api/tickets", api.tickets),
            web.get("/api/openapi.json", api.openapi),
        ]
    )
    return app


def _header_bytes(request: web.Request) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers)


def _scope_of(request: web.Request) -> str:
    """Return what a key must be allowed for this path, "" where none is needed: the stream looks
    at credentials itself, and health is for load balancers."""
    if request.path == "/metrics":
        return "admin"
    return "stream" if request.path.startswith("/api/") else ""


def _is_preflight(request: web.Request) -> bool:
    """Whether a browser asks, without credentials, if a page may send them."""
    needed = ("Origin", "Access-Control-Request-Method")
    return request.method == "OPTIONS" and all(name in request.headers for name in needed)
