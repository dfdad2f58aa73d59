"""An echo server for the Autobahn testsuite, made of the product's own parts.

Edge, checker, Peer and their defaults are those of `odin serve`; only the rate limit is raised,
and messages are sent back instead of being understood. `python -m tests.conformance.echo_server`
prints its port and serves until it is killed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import msgspec
from aiohttp import web

from odin.metrics import Metrics
from odin.protocols import base
from odin.protocols.edge import EdgeRunner, EdgeSocket
from odin.protocols.frames import binary_frame, text_frame
from odin.server.run import HANDSHAKE_TIMEOUT_S
from odin.settings import LimitSettings

LIMITS = msgspec.structs.replace(LimitSettings(), requests_per_s=1e6, request_burst=1_000_000)


class Remembering(EdgeSocket):
    """Keeps the last message: the product drops what is in a binary one."""

    async def receive(self, timeout: float | None = None) -> Any:
        self.last = await super().receive(timeout)
        return self.last


class Echo:
    """A Receiver that sends everything back."""

    async def on_text(self, peer: base.Peer, text: str) -> None:
        peer.write(text_frame(text.encode()))

    def on_binary(self, peer: base.Peer) -> None:
        peer.write(binary_frame(peer.response.last.data))

    def on_rate_limited(self, peer: base.Peer) -> None:
        raise AssertionError("the limit is above what the testsuite sends")


@asynccontextmanager
async def echo_server(*, inflates: bool = False) -> AsyncIterator[tuple[int, Metrics]]:
    """Serve on a free port of the loopback interface; give it, and what the server counts."""
    metrics, heartbeat = Metrics(), base.Heartbeat(LIMITS.ping_interval_s)

    async def handle(request: web.Request) -> web.StreamResponse:
        peer = base.Peer(request, LIMITS, metrics, heartbeat)
        await peer.open()
        await peer.read(Echo())
        return peer.response

    app = web.Application()
    app.router.add_get("/", handle)
    runner = EdgeRunner(
        app,
        handshake_timeout_s=HANDSHAKE_TIMEOUT_S,
        shutdown_timeout_s=1.0,
        inflate_limit_bytes=LIMITS.message_bytes if inflates else 0,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with mock.patch.object(base, "EdgeSocket", Remembering):
        yield runner.addresses[0][1], metrics
    await runner.cleanup()


async def _serve() -> None:
    async with echo_server() as (port, _):
        print(port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
