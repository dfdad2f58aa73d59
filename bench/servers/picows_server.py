"""picows: one transport.send() for each client and message, uvloop."""

import os

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server
from source import REPLY, TOPICS, Messages, Schedule, announce, follow, raise_file_limit, topics_of

routes: list[dict[WSTransport, None]] = [{} for _ in range(TOPICS)]


class Client(WSListener):  # type: ignore[misc]
    def on_ws_connected(self, transport: WSTransport) -> None:
        self.topics: list[int] = []

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.topics += topics_of(frame.get_payload_as_bytes())
            for topic in self.topics:
                routes[topic][transport] = None
            transport.send(WSMsgType.TEXT, REPLY.encode())
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for topic in self.topics:
            routes[topic].pop(transport, None)


def accept(_request: WSUpgradeRequest) -> WSListener:
    return Client()


async def main() -> None:
    raise_file_limit()
    messages = Messages()

    def publish(first: int, end: int) -> None:
        text = WSMsgType.TEXT
        for n in range(first, end):
            payload = messages.encode(n)
            for transport in routes[n % TOPICS]:
                transport.send(text, payload)

    server = await ws_create_server(accept, "127.0.0.1", 0, backlog=4096)
    announce(server.sockets[0].getsockname()[1])
    await follow(Schedule(publish))
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main())
