"""socketify: its own topics (uWebSockets), one app.publish() a message, no compression.

It runs on socketify's libuv loop alone: its asyncio integration polls without pause. A timer of
1 ms wakes the source, so up to about a millisecond of its latency is the timer's.
"""

import os
import socket
from typing import Any

from socketify import App, CompressOptions, OpCode
from source import (
    REPLY,
    TOPICS,
    Messages,
    Schedule,
    announce,
    raise_file_limit,
    token,
    topics_of,
)


def main() -> None:
    raise_file_limit()
    os.set_blocking(0, False)
    messages = Messages()
    app = App()

    def on_message(client: Any, text: str, _opcode: object) -> None:
        for topic in topics_of(text):
            client.subscribe(token(topic))
        client.send(REPLY, OpCode.TEXT)

    app.ws(
        "/*",
        {
            "compression": CompressOptions.DISABLED,
            "max_payload_length": 1024 * 1024,
            "max_backpressure": 64 * 1024 * 1024,
            "idle_timeout": 120,
            "message": on_message,
        },
    )

    def publish(first: int, end: int) -> None:
        for n in range(first, end):
            app.publish(token(n % TOPICS), messages.encode(n), OpCode.TEXT)

    schedule = Schedule(publish)

    def on_timer(_data: object) -> None:
        try:
            command = os.read(0, 256)
            if not command:
                os._exit(0)
            schedule.begin(command)
        except BlockingIOError:
            pass
        if not schedule.is_done:
            schedule.turn()

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app.listen({"port": port, "host": "127.0.0.1"}, lambda _config: announce(port))
    timer = app.loop.uv_loop.create_timer(1, 1, on_timer, None)
    app.loop.uv_loop.run()
    timer.stop()


if __name__ == "__main__":
    main()
