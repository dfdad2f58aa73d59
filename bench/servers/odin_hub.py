"""The bare hot path: the product's hub and sockets with ready-made messages.

What the whole server costs beyond this is the quote board, the market gate, the product's own
encoder, sessions and the database.
"""

import os

import uvloop
from aiohttp import web
from source import REPLY, Messages, Schedule, announce, follow, raise_file_limit, token, topics_of

from odin.config import LimitSettings
from odin.hub.hub import Hub
from odin.metrics import Metrics
from odin.model import InstrumentKey
from odin.protocols.base import Peer
from odin.protocols.frames import text_frame
from odin.topics import QuoteTopic

MANY = 1_000_000


async def main() -> None:
    raise_file_limit()
    messages, metrics = Messages(), Metrics()
    limits = LimitSettings(requests_per_s=MANY, request_burst=MANY)
    hub = Hub(metrics)
    reply = text_frame(REPLY.encode())
    topics = [QuoteTopic(InstrumentKey("NSE", "CM", int(token(n)))) for n in range(2_000)]

    async def handle(request: web.Request) -> web.StreamResponse:
        peer = Peer(request, limits, metrics)
        await peer.open()
        subscriber = hub.attach(peer)

        async def on_text(text: str) -> None:
            hub.put(subscriber, reply)
            hub.subscribe(subscriber, [topics[topic] for topic in topics_of(text)])

        await peer.read(on_text, lambda: None, lambda: None)
        hub.detach(subscriber)
        return peer.response

    def publish(first: int, end: int) -> None:
        for n in range(first, end):
            hub.publish(topics[n % len(topics)], text_frame(messages.encode(n)))

    app = web.Application()
    app.router.add_get("/enhanced-stream", handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    announce(runner.addresses[0][1])
    await follow(Schedule(publish))
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main())
