"""The web application: which path does what, and what every answer has in common."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from odin.node import Node
from odin.protocols.admission import http_error, is_origin_allowed
from odin.protocols.enhanced import endpoint
from odin.server.api import Api

log = logging.getLogger("odin.server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def build_app(node: Node) -> web.Application:
    """Return the application that serves a running node."""
    api = Api(node)
    origins = frozenset(node.settings.server.cors_origins)

    @web.middleware
    async def shape(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer HTTP errors in JSON, and let the allowed pages read what the API says."""
        try:
            response = await handler(request)
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
            if origin is not None and is_origin_allowed(origin, request.host, origins):
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
            web.get("/api/openapi.json", api.openapi),
        ]
    )
    return app
