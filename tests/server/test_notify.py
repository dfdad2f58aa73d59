"""What systemd hears of the server, on a real socket."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from odin.server.notify import Notifier
from tests.support.process import odin
from tests.support.server import Client


class Supervisor:
    """The end of NOTIFY_SOCKET that systemd holds."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": address.replace("\0", "@", 1)}

    async def heard(self) -> list[str]:
        async with asyncio.timeout(20):
            data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return data.decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(str(tmp_path / "notify"))
    yield made
    made.close()


async def test_a_server_says_when_it_is_ready_alive_and_stopping(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    environ = supervisor.environ | {"WATCHDOG_USEC": "300000"}
    async with odin("demo", "--port", "0", "--db", tmp_path / "odin.db", **environ) as server:
        ready = await supervisor.heard()
        assert ready[0] == "READY=1"
        assert server.ws in ready[1]
        for _ in range(3):
            assert await supervisor.heard() == ["WATCHDOG=1"]
        async with Client(server.ws, "me"):  # who is told READY can connect
            pass
        assert await server.stop() == 0
    last = await supervisor.heard()
    while last == ["WATCHDOG=1"]:
        last = await supervisor.heard()
    assert last == ["STOPPING=1"]


async def test_a_reload_ends_nobody_s_connection(tmp_path: Path, supervisor: Supervisor) -> None:
    """Without a certificate there is nothing to read again; `systemctl reload` sends SIGHUP."""
    log, environ = tmp_path / "log", supervisor.environ
    options = ("--port", "0", "--db", tmp_path / "odin.db")
    async with (
        odin("demo", *options, log=log, **environ) as server,
        Client(server.ws, "me") as client,
    ):
        assert (await supervisor.heard())[0] == "READY=1"  # before it, the signal would end it
        server.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(5):
            while "there is nothing to reload" not in log.read_text():
                await asyncio.sleep(0.01)
        assert (await client.ask("ping"))["status"] == "alive"
        assert await server.stop() == 0


async def test_a_server_that_is_not_well_is_silent(supervisor: Supervisor) -> None:
    answers = [False, False, False]
    notifier = Notifier(supervisor.environ | {"WATCHDOG_USEC": "3000"})
    async with notifier.watchdog(lambda: not answers or answers.pop()):
        assert await supervisor.heard() == ["WATCHDOG=1"]
    assert answers == []


async def test_a_name_of_the_abstract_namespace_is_found() -> None:
    supervisor = Supervisor(f"\0odin-test-{os.getpid()}")
    Notifier(supervisor.environ).send("READY=1", "STATUS=fine")
    assert await supervisor.heard() == ["READY=1", "STATUS=fine"]
    supervisor.close()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 0),
        ({"NOTIFY_SOCKET": "/x"}, 0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000"}, 30),
        (
            {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())},
            1.5,
        ),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, 0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, 0),
    ],
)
def test_the_watchdog_is_kept_only_where_it_was_asked_for(
    environ: dict[str, str], watchdog_s: float
) -> None:
    assert Notifier(environ).watchdog_s == watchdog_s


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "no path"])
def test_nobody_who_listens_is_no_harm(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier({"NOTIFY_SOCKET": address}).send("READY=1")
    assert len(caplog.records) == bool(address)
