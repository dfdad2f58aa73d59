"""Runs Kite's own client package, in a process of its own: its reactor is one for the process, and
its dependencies warn of what would end a test here.

`parse` reads messages as lines of hex and prints what its parser makes of each, one JSON array a
line. `stream URL COUNT TOKEN=MODE …` runs its KiteTicker until it has brought so many ticks, and
prints each as one JSON object.
"""

import json
import sys
from datetime import datetime
from typing import Any

from kiteconnect import KiteTicker

API_KEY, ACCESS_TOKEN = "key", "token"


def show(value: object) -> object:
    """Times as Unix seconds; the package makes them local."""
    return value.timestamp() if isinstance(value, datetime) else str(value)


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value, default=show) + "\n")
    sys.stdout.flush()


def parse() -> None:
    ticker = KiteTicker(API_KEY, ACCESS_TOKEN)
    for line in sys.stdin:
        say(ticker._parse_binary(bytes.fromhex(line)))


def stream(url: str, count: int, modes: dict[int, str]) -> None:
    ticker = KiteTicker(API_KEY, ACCESS_TOKEN, root=url, reconnect=False)
    left = count

    def on_connect(ws: Any, response: object) -> None:
        ws.subscribe(list(modes))
        for mode in sorted(set(modes.values())):
            ws.set_mode(mode, [token for token in modes if modes[token] == mode])

    def on_ticks(ws: Any, ticks: list[dict[str, Any]]) -> None:
        nonlocal left
        for tick in ticks:
            say(tick)
            left -= 1
        if left <= 0:
            ws.close()

    def on_error(ws: Any, code: object, reason: object) -> None:
        say({"error": [code, str(reason)]})

    def on_close(ws: Any, code: object, reason: object) -> None:
        from twisted.internet import reactor

        reactor.callLater(0, reactor.stop)

    ticker.on_connect, ticker.on_ticks = on_connect, on_ticks
    ticker.on_error, ticker.on_close = on_error, on_close
    ticker.connect()


if __name__ == "__main__":
    if sys.argv[1] == "parse":
        parse()
    else:
        pairs = (pair.split("=") for pair in sys.argv[4:])
        stream(sys.argv[2], int(sys.argv[3]), {int(token): mode for token, mode in pairs})
