"""What the server touches while clients and a venue do their worst: its database, its captures and
the venue of its settings, and nothing that anybody named."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import orjson

from odin.feeds.kite.text import Text
from tests.support.hostile import BAD_HTTP, BAD_IDS, BAD_NAMES
from tests.support.kite_server import KiteServer
from tests.support.process import odin
from tests.support.raw import Raw, handshake
from tests.support.server import Client

WATCHED = """
import os, sys
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NAMED = (
    "sqlite3.connect", "socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen",
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.mkdir", "os.rename", "os.remove",
    "os.link", "os.symlink", "os.truncate", "os.chmod", "urllib.Request", "ctypes.dlopen",
)
reached = os.open(os.environ["REACHED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str | os.PathLike) and arguments[2] & WRITES:
        os.write(reached, f"{event} {arguments[0]}\\n".encode("utf-8", "backslashreplace"))
    elif event in NAMED:
        os.write(reached, f"{event} {arguments}\\n".encode("utf-8", "backslashreplace"))
from odin.cli import main
sys.addaudithook(note)
main()
"""
"""The program, with a note of every file it writes and everything it connects to or starts."""


@asynccontextmanager
async def bait() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Listen where nobody has any business; yield the address and what was received."""
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(b"connected")
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", received
    finally:
        server.close()
        await server.wait_closed()


async def hostile_clients(ws: str, address: str) -> None:
    """Name files and addresses wherever a client can name anything."""
    names = [name for name in BAD_NAMES if isinstance(name, str)]
    names += [f"{scheme}{address}/x" for scheme in ("http://", "ws://", "//", "")]
    async with Client(ws, "hostile") as client:
        for name in names:
            await client.send({"action": "subscribe", "stocks": [name]})
            await client.send({"action": "subscribe", "tokens": [name]})
            await client.send({"action": name, "url": f"http://{address}/", "request_id": "x"})
            await client.send({"action": "unsubscribe", "stocks": [name, "SBIN"]})
        await client.ask("subscribe", stocks=["SBIN"], feed=f"ws://{address}/")
    forged = f"Origin: http://{address}\r\nX-Forwarded-Host: {address}\r\nReferer: http://{address}"
    for client_id in [*BAD_IDS, quote(f"http://{address}/"), "..%2Fodin.db", "CON", "..", "-x"]:
        async with Raw(ws) as connection:
            head = handshake(f"/enhanced-stream?client_id={client_id}")
            connection.send(head.replace(b"\r\n", f"\r\n{forged}\r\n".encode(), 1))
            await connection.reader.readline()
    for said in BAD_HTTP:
        async with Raw(ws) as connection:
            connection.send(said.encode("utf-8", "surrogateescape"))
            connection.writer.write_eof()
            await connection.rest()


async def test_nothing_is_written_or_reached_that_others_name(tmp_path: Path) -> None:
    """S25, S26 and S28."""
    folder = tmp_path / "server"
    folder.mkdir()
    database, captures, reached = folder / "odin.db", folder / "captures", tmp_path / "reached"
    async with KiteServer() as venue, bait() as (address, received):
        environ = {
            "ODIN_LOOP": "asyncio",  # the other loop connects behind the audit's back
            "PYTHONDONTWRITEBYTECODE": "1",
            "REACHED": str(reached),
            "ODIN_FEED__KIND": "kite",
            "ODIN_FEED__CAPTURE_DIR": str(captures),
            "ODIN_KITE__URL": venue.url,
            "KITE_API_KEY": "key",
            "KITE_ACCESS_TOKEN": "token",
            "ODIN_MARKET__GATE": "always",
            "ODIN_LIMITS__REQUESTS_PER_S": "100000",
        }
        options = ("serve", "--port", "0", "--db", database)
        async with odin(*options, program=("-c", WATCHED), **environ) as server:
            async with Client(server.ws, "reader") as reader:
                await reader.subscribe("SBIN")
                await venue.wait_for(lambda: len(venue.wanted) == 1)
                await hostile_clients(server.ws, address)
                for text in (f"http://{address}/x", "../../x", "=1+1|cmd", "CON", "\0"):
                    venue.say(Text("message", text))
                    venue.say(Text("error", text))
                    venue.say(orjson.dumps({"type": text, "data": {"url": text}}).decode())
                venue.send_garbage()
                [key] = venue.wanted
                venue.tick(key, 800.0)
                assert (await reader.quote("SBIN"))["data"]["ltp"] == 800.0
            assert await server.stop() == 0
        assert received == []

    port = venue.url.rpartition(":")[2]
    touched = [line.partition(" ")[::2] for line in reached.read_text().splitlines()]
    expected = {"open", "sqlite3.connect", "os.mkdir", "socket.connect"}
    assert {event for event, _ in touched} == expected
    for event, what in touched:
        if event == "socket.connect":
            assert f"('127.0.0.1', {port})" in what
        else:
            assert what.startswith((str(folder), f"('{folder}")), what
    files = {file for file in folder.rglob("*") if file.is_file()}
    assert {file for file in files if file.parent == folder} <= {
        database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm", ".lock")
    }
    kept = files - {file for file in files if file.parent == folder}
    assert kept
    for file in kept:
        assert file.parent == captures
        assert file.name.startswith("kite-")
        assert file.name.endswith(".capture.gz")
        assert stat.S_IMODE(os.stat(file).st_mode) & 0o137 == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"server", "reached"}
