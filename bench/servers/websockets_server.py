"""websockets: one broadcast() a message, uvloop, no compression."""

import logging
import os

import uvloop
from source import REPLY, TOPICS, Messages, Schedule, announce, follow, raise_file_limit, topics_of
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main() -> None:
    raise_file_limit()
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # the load ends by resets
    messages = Messages()
    routes: list[set[ServerConnection]] = [set() for _ in range(TOPICS)]

    async def handle(connection: ServerConnection) -> None:
        mine: list[int] = []
        try:
            async for request in connection:
                mine += topics_of(request)
                for topic in mine:
                    routes[topic].add(connection)
                await connection.send(REPLY)
        finally:
            for topic in mine:
                routes[topic].discard(connection)

    def publish(first: int, end: int) -> None:
        for n in range(first, end):
            broadcast(routes[n % TOPICS], messages.encode(n).decode())

    server = await serve(handle, "127.0.0.1", 0, compression=None, backlog=4096)
    announce(server.sockets[0].getsockname()[1])
    await follow(Schedule(publish))
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main())
