"""The bare hot path: the product's hub and sockets with ready-made messages.

What the whole server costs beyond this is the quote board, the market gate, the product's own
encoder, sessions and the database.
"""

import os

import uvloop
from aiohttp import web
from source import (
    REPLY,
    TOPICS,
    Messages,
    Schedule,
    announce,
    follow,
    raise_file_limit,
    token,
    topics_of,
)

from odin.hub.hub import Hub
from odin.hub.outbox import Subscriber
from odin.metrics import Metrics
from odin.model import InstrumentKey
from odin.protocols.base import Heartbeat, Peer
from odin.protocols.edge import EdgeRunner
from odin.protocols.frames import text_frame
from odin.settings import LimitSettings
from odin.topics import QuoteTopic

MANY = 1_000_000
TOPIC = [QuoteTopic(InstrumentKey("NSE", "CM", int(token(n)))) for n in range(TOPICS)]
ACCEPTED = text_frame(REPLY.encode())


class Bare:
    """Answers every request, and subscribes what it asks for."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.subscribers: dict[Peer, Subscriber] = {}

    async def on_text(self, peer: Peer, text: str) -> None:
        subscriber = self.subscribers[peer]
        self._hub.put(subscriber, ACCEPTED)
        self._hub.subscribe(subscriber, [TOPIC[topic] for topic in topics_of(text)])

    def on_binary(self, peer: Peer) -> None:
        return

    def on_rate_limited(self, peer: Peer) -> None:
        return


async def main() -> None:
    raise_file_limit()
    messages, metrics = Messages(), Metrics()
    limits = LimitSettings(requests_per_s=MANY, request_burst=MANY)
    hub = Hub(metrics)
    bare = Bare(hub)

    heartbeat = Heartbeat(limits.ping_interval_s)

    async def handle(request: web.Request) -> web.StreamResponse:
        peer = Peer(request, limits, metrics, heartbeat)
        await peer.open()
        bare.subscribers[peer] = hub.attach(peer)
        await peer.read(bare)
        hub.detach(bare.subscribers.pop(peer))
        return peer.response

    def publish(first: int, end: int) -> None:
        for n in range(first, end):
            hub.publish(TOPIC[n % TOPICS], text_frame(messages.encode(n)))

    app = web.Application()
    app.router.add_get("/enhanced-stream", handle)
    runner = EdgeRunner(app, handshake_timeout_s=10.0, shutdown_timeout_s=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    announce(runner.addresses[0][1])
    await follow(Schedule(publish))
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main())
