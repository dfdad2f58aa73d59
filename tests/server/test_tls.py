"""wss with a certificate of the test's own."""

import asyncio
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from odin.errors import ConfigError
from odin.server import run
from odin.server.tls import tls_context
from odin.settings import ServerSettings
from tests.support.process import Process, odin, run_odin
from tests.support.server import SBIN, Client, Server, running

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[[], None]:
    """Writes a new certificate for 127.0.0.1, signed by itself, and its key."""
    return lambda: write_files(tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.fixture
def files(tmp_path: Path, make_files: Callable[[], None]) -> tuple[Path, Path]:
    """Their paths, and what is there at first."""
    make_files()
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def write_files(cert: Path, key: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=odin", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True
    )


@asynccontextmanager
async def serving(path: Path, files: tuple[Path, Path]) -> AsyncIterator[tuple[Server, str]]:
    """Serve by TLS; give the server and the address of its stream."""
    tls = {"tls_cert": str(files[0]), "tls_key": str(files[1])}
    async with running(path, server=tls) as server:
        yield server, server.ws.replace("ws://", "wss://")


def trusting(files: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=files[0])


async def test_a_client_that_trusts_the_certificate_is_served(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    async with serving(tmp_path, files) as (server, url):
        async with Client(url, "me", ssl=trusting(files)) as client:
            await client.subscribe("SBIN")
            for price in range(100, 200):
                server.tick(SBIN, float(price))
            prices = [(await client.quote())["data"]["ltp"] for _ in range(100)]
            assert prices == [float(price) for price in range(100, 200)]
            async with Client(url, "me", ssl=trusting(files)):
                assert await client.closed() == 4409


async def test_a_slow_reader_gets_the_newest_by_tls_too(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    async with serving(tmp_path, files) as (server, url):
        async with (
            Client(url, "slow", ssl=trusting(files)) as slow,
            Client(url, "quick", ssl=trusting(files)) as quick,
        ):
            await slow.subscribe("SBIN")
            await quick.subscribe("SBIN")
            slow.ws._conn.transport.pause_reading()  # type: ignore[union-attr]
            last = 0.0
            for price in range(1000, 13_000):
                last = float(price)
                server.tick(SBIN, last)
                if price % 20 == 0:
                    while (await quick.quote())["data"]["ltp"] != last:
                        pass
            assert server.node.metrics.frames_conflated > 0
            slow.ws._conn.transport.resume_reading()  # type: ignore[union-attr]
            while (await slow.quote())["data"]["ltp"] != last:
                pass
            got = [m for m in slow.seen if m["type"] == "market_data"]
            assert len(got) < 12_000


@pytest.mark.parametrize(
    ("version", "is_spoken"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)]
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_1_2_is_the_oldest_spoken(
    tmp_path: Path, files: tuple[Path, Path], version: ssl.TLSVersion, is_spoken: bool
) -> None:
    async with serving(tmp_path, files) as (_, url):
        context = trusting(files)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        try:
            async with Client(url, "me", ssl=context):
                was_spoken = True
        except aiohttp.ClientError:
            was_spoken = False
        assert was_spoken is is_spoken
    # OpenSSL refuses the older ones too, as it is mostly set up: it is not left to that.
    cert, key = map(str, files)
    made = tls_context(ServerSettings(tls_cert=cert, tls_key=key))
    assert made is not None
    assert made.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_half_a_tls_handshake_is_dropped(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.HANDSHAKE_TIMEOUT_S == 10.0
    monkeypatch.setattr(run, "HANDSHAKE_TIMEOUT_S", 0.1)
    async with serving(tmp_path, files) as (server, _):
        host, port = server.http.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01\x02\x00\x01")  # the head of a ClientHello
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_real_process_announces_and_serves_wss(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    options = ("--tls-cert", files[0], "--tls-key", files[1], "--port", "0")
    async with odin("demo", *options, "--db", tmp_path / "odin.db") as server:
        assert server.ws.startswith("wss://127.0.0.1:")
        async with Client(server.ws, "me", ssl=trusting(files)) as client:
            await client.subscribe("SBIN")
            assert (await client.quote())["data"]["ltp"] > 0
        assert await server.stop() == 0


async def test_a_slow_and_a_silent_client_are_served_and_ended_by_tls_of_the_real_loop(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    """uvloop where there is one: its TLS has buffers of its own between us and the socket."""
    options = ("--tls-cert", files[0], "--tls-key", files[1], "--port", "0", "--rate", "1000")
    limits = {"ODIN_LIMITS__PING_INTERVAL_S": "1", "ODIN_LIMITS__PROGRESS_TIMEOUT_S": "60"}
    stocks = ["SBIN", "TCS", "INFY", "RELIANCE"]
    async with odin("demo", *options, "--db", tmp_path / "odin.db", **limits) as server:
        trust = trusting(files)
        async with (
            Client(server.ws, "quick", ssl=trust) as quick,
            Client(server.ws, "slow", ssl=trust) as slow,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
        ):
            await quick.subscribe(*stocks)
            await slow.subscribe(*stocks)
            slow.ws._conn.transport.pause_reading()  # type: ignore[union-attr]

            async def conflated() -> float:
                async with session.get(f"{server.http}/metrics") as response:
                    lines = (await response.text()).splitlines()
                name = "odin_frames_conflated_total "
                return next(float(line.split()[1]) for line in lines if line.startswith(name))

            async with asyncio.timeout(20):
                while await conflated() < 1000:
                    await quick.quote("SBIN")  # others are served meanwhile
            newest = (await quick.quote("SBIN"))["data"]["timestamp"]
            slow.ws._conn.transport.resume_reading()  # type: ignore[union-attr]
            while (await slow.quote("SBIN"))["data"]["timestamp"] < newest:
                pass
        async with Client(server.ws, "silent", ssl=trust, autoping=False) as silent:
            async with asyncio.timeout(10):
                assert await ended(silent) == 4408
        assert await server.stop() == 0


async def ended(client: Client) -> int:
    """Read to the end, answering no ping; return the close code."""
    while True:
        message = await client.ws.receive()
        if message.type is aiohttp.WSMsgType.CLOSE:
            return int(message.data)
        assert message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PING}, message


async def test_a_renewed_certificate_is_taken_without_a_restart(
    tmp_path: Path, files: tuple[Path, Path], make_files: Callable[[], None]
) -> None:
    old = trusting(files)
    options = ("--tls-cert", files[0], "--tls-key", files[1], "--port", "0")
    log = tmp_path / "log"
    async with odin("demo", *options, "--db", tmp_path / "odin.db", log=log) as server:
        async with Client(server.ws, "before", ssl=old) as before:
            make_files()
            await hang_up(server, log, "the certificate was read again")
            async with Client(server.ws, "after", ssl=trusting(files)):
                pass
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                async with Client(server.ws, "after", ssl=old):
                    pass
            assert (await before.ask("ping"))["status"] == "alive"
            good, key = files[0].read_text(), files[1].read_text()
            make_files()
            files[1].write_text(key)  # as if the renewal were half done
            await hang_up(server, log, "the certificate was not renewed")
            files[0].write_text(good)
            async with Client(server.ws, "after", ssl=trusting(files)):
                pass
        assert await server.stop() == 0


async def hang_up(server: Process, log: Path, event: str) -> None:
    """Send SIGHUP and wait until the log says what came of it."""
    server.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(5):
        while event not in log.read_text():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("which", ["missing", "nonsense", "swapped", "half"])
async def test_files_that_cannot_be_used_exit_with_78(
    tmp_path: Path, files: tuple[Path, Path], which: str
) -> None:
    cert, key = files
    if which == "missing":
        cert = tmp_path / "nowhere.pem"
    elif which == "nonsense":
        cert.write_text("nonsense")
    elif which == "swapped":
        cert, key = key, cert
    options = ["--tls-cert", cert] + (["--tls-key", key] if which != "half" else [])
    code, printed = await run_odin("demo", "--port", "0", "--db", tmp_path / "odin.db", *options)
    assert code == ConfigError.exit_code
    assert "server.tls_" in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) == 1
