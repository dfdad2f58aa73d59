"""aiohttp: `await ws.send_str(text)` for each client and message, uvloop, no compression."""

import asyncio
import os

import uvloop
from aiohttp import WSMsgType, web
from source import REPLY, TOPICS, Messages, Schedule, announce, follow, raise_file_limit, topics_of


async def main() -> None:
    raise_file_limit()
    messages = Messages()
    routes: list[dict[web.WebSocketResponse, None]] = [{} for _ in range(TOPICS)]
    waiting: asyncio.Queue[int] = asyncio.Queue()

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        mine: list[int] = []
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    mine += topics_of(message.data)
                    for topic in mine:
                        routes[topic][socket] = None
                    await socket.send_str(REPLY)
        finally:
            for topic in mine:
                routes[topic].pop(socket, None)
        return socket

    async def send() -> None:
        while True:
            n = await waiting.get()
            text = messages.encode(n).decode()
            for socket in list(routes[n % TOPICS]):
                try:
                    await socket.send_str(text)
                except ConnectionError:
                    routes[n % TOPICS].pop(socket, None)

    def publish(first: int, end: int) -> None:
        for n in range(first, end):
            waiting.put_nowait(n)

    app = web.Application()
    app.router.add_get("/enhanced-stream", handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    sender = asyncio.create_task(send())
    announce(runner.addresses[0][1])
    await follow(Schedule(publish))
    sender.cancel()
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main())
