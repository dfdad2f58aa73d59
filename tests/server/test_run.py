"""From settings to a listening process and to its end: addresses, event loops, signals."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from odin.errors import OdinError
from odin.node import Node
from odin.server.run import address_of, listen
from odin.settings import ServerSettings
from tests.support.process import odin, run_odin
from tests.support.raw import TEXT, Raw
from tests.support.server import Client, settings_for


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    started = await Node.start(settings_for(tmp_path))
    yield started
    await started.stop()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


async def node_on(path: Path, **server: object) -> Node:
    return await Node.start(settings_for(path, server=server))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it of a listening socket")
async def test_a_storm_of_connects_waits_in_the_kernel_and_not_for_a_retry(tmp_path: Path) -> None:
    """What finds no room in the backlog comes again after 1 s, then 2 s."""
    assert ServerSettings().backlog == 4096
    node = await node_on(tmp_path, backlog=77)
    runner = await listen(node)
    [sock] = next(iter(runner.sites))._server.sockets  # type: ignore[attr-defined]
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    room = int.from_bytes(info[28:32], sys.byteorder)  # tcpi_sacked, tcp(7)
    await node.stop()
    await runner.cleanup()
    assert room == 77


# ---------------------------------------------------------------------- listening


async def test_port_0_is_one_that_is_free(node: Node) -> None:
    runner = await listen(node)
    host, port = address_of(runner)
    assert host == "127.0.0.1"
    assert 1024 <= port <= 65_535
    async with Client(f"ws://{host}:{port}/enhanced-stream", "me") as client:
        assert client.welcome["client_id"] == "me"
    await runner.cleanup()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)


async def test_a_port_in_use_is_an_error_that_names_it(node: Node) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = settings_for(Path(node.store.path).parent, server={"port": port})
        node.settings = settings
        with pytest.raises(OdinError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            await listen(node)


@pytest.mark.parametrize("host", ["192.0.2.1", "my..host", "a" * 70])
async def test_an_address_that_is_not_ours_is_an_error_that_names_it(
    tmp_path: Path, host: str
) -> None:
    node = await node_on(tmp_path, host=host)
    try:
        with pytest.raises(OdinError, match="cannot listen on"):
            await listen(node)
    finally:
        await node.stop()


@needs_ipv6
async def test_ipv6_is_served(tmp_path: Path) -> None:
    node = await node_on(tmp_path, host="::1")
    runner = await listen(node)
    host, port = address_of(runner)
    assert host == "::1"
    async with Client(f"ws://[::1]:{port}/enhanced-stream", "me") as client:
        assert client.welcome["type"] == "welcome"
    origin = {"Origin": f"http://[::1]:{port}"}
    async with Client(f"ws://[::1]:{port}/enhanced-stream", "me", headers=origin) as client:
        assert client.welcome["type"] == "welcome"
    await runner.cleanup()
    await node.stop()


@needs_ipv6
async def test_an_ipv6_port_in_use_is_named_so_that_it_can_be_read(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        node = await node_on(tmp_path, host="::1", port=port)
        try:
            with pytest.raises(OdinError, match=rf"cannot listen on \[::1\]:{port}: "):
                await listen(node)
        finally:
            await node.stop()


# ---------------------------------------------------------------------- the process


@needs_ipv6
async def test_an_ipv6_address_is_announced_in_brackets(tmp_path: Path) -> None:
    async with odin("demo", "--host", "::1", "--port", "0", "--db", tmp_path / "odin.db") as server:
        assert server.ws.startswith("ws://[::1]:")
        async with Client(server.ws, "me") as client:
            assert client.welcome["type"] == "welcome"
        assert await server.stop() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_event_loop_can_be_chosen(tmp_path: Path, loop: str) -> None:
    """Both serve, and end in order with a client connected."""
    pytest.importorskip("uvloop")
    options = ("demo", "--port", "0", "--db", tmp_path / "odin.db")
    async with odin(*options, ODIN_LOOP=loop) as server:
        maps = Path(f"/proc/{server.process.pid}/maps")
        if maps.exists():
            assert ("uvloop" in maps.read_text()) == (loop == "uvloop")
        async with Client(server.ws, "me") as client:
            await client.subscribe("SBIN")
            await client.quote()
            stopping = asyncio.ensure_future(server.stop(signal.SIGINT))
            assert await client.closed() == 1001
            assert await stopping == 0


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Even while it still waits for a client that does not take its goodbye."""
    environ = {"ODIN_SERVER__SHUTDOWN_GRACE_S": "30", "ODIN_SIMULATOR__RATE_HZ": "1000"}
    options = ("demo", "--port", "0", "--db", tmp_path / "odin.db")
    async with odin(*options, **environ) as server, Raw(server.ws, receive_buffer=4096) as stuck:
        await stuck.open()
        async with Client(server.ws, "other") as other:
            await other.ask("ping")
            server.process.send_signal(signal.SIGTERM)
            assert await other.closed() == 1001
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                assert await server.process.wait() == 1


async def test_a_stop_with_a_client_that_is_stuck_takes_no_longer_than_promised(
    tmp_path: Path,
) -> None:
    """Within 10 s; it takes what a close frame is tried for."""
    options = ("demo", "--port", "0", "--rate", "1000", "--db", tmp_path / "odin.db")
    async with odin(*options) as server, Raw(server.ws, receive_buffer=4096) as stuck:
        await stuck.open("stuck")
        stuck.ask(action="subscribe", stocks=["SBIN", "TCS", "INFY"])
        await stuck.until(TEXT)
        stuck.stop_reading()
        async with Client(server.ws, "other") as other, aiohttp.ClientSession() as session:
            await other.subscribe("SBIN", "TCS", "INFY")
            async with asyncio.timeout(10):
                late = False
                while not late:
                    async with session.get(f"{server.http}/metrics") as response:
                        late = "odin_late_peers 1.0" in await response.text()
            stopping = asyncio.ensure_future(server.stop(timeout=9))
            assert await other.closed() == 1001
            assert await stopping == 0


async def test_what_cannot_start_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "odin.db").write_text("not a database\n" * 100)
    code, printed = await run_odin("demo", "--port", "0", "--db", tmp_path / "odin.db")
    assert code == 1
    assert printed.count("error:") == 1
    assert "Traceback" not in printed
    assert len([line for line in printed.splitlines() if not line.startswith("{")]) == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the limits of a process in /proc")
async def test_the_server_takes_all_the_open_files_it_is_granted(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard <= 300:
        pytest.skip("this system grants no more open files than the test starts with")
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        async with odin("demo", "--port", "0", "--db", tmp_path / "odin.db") as server:
            limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3] == str(hard)


@pytest.mark.parametrize("command", ["serve", "demo"])
async def test_what_others_can_reach_needs_authentication_or_a_word(
    tmp_path: Path, command: str
) -> None:
    database = tmp_path / "odin.db"
    options = (command, "--host", "0.0.0.0", "--port", "0", "--db", database)
    code, printed = await run_odin(*options)
    assert code == 78
    (line,) = printed.splitlines()
    assert line.startswith("error: server.host: '0.0.0.0' can be reached by others")
    assert not database.exists()
    for word in (("--allow-anonymous",), ("--auth", "required")):
        async with odin(*options, *word) as server:
            assert await server.stop() == 0
