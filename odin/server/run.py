"""Runs a server until it is told to stop: event loop, sockets, signals."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from aiohttp import web

from odin import log as logs
from odin.config import check_access
from odin.errors import ConfigError, OdinError
from odin.node import Node, ReplayOptions
from odin.protocols.admission import SPARE_SOCKETS, Sockets
from odin.protocols.edge import EdgeRunner
from odin.protocols.enhanced import endpoint
from odin.protocols.selftest import check_edge
from odin.server.app import build_app
from odin.server.notify import Notifier
from odin.server.tls import TlsSite, tls_context
from odin.settings import Settings

log = logging.getLogger("odin.server")

HANDSHAKE_TIMEOUT_S = 10.0
"""Half a request is dropped after this; aiohttp's own default is about an hour."""
GC_ALLOCATIONS = 10_000
"""New objects before the garbage collector looks at them, instead of 700. A connection makes a
hundred that live as long as it does: collecting was a quarter of what opening one cost."""
SPARE_FILES = 64 + SPARE_SOCKETS
"""Descriptors beyond the limit of connections: the database, the listening socket, the loop's own,
and connections that are no WebSockets."""
STOPS = 1001
RESTARTS = 1012


def serve(settings: Settings, *, replay: ReplayOptions | None = None) -> None:
    """Serve until SIGTERM or SIGINT (clients get close code 1001), or SIGUSR1 (1012: a restart
    follows). A second signal ends at once. Raises OdinError if it cannot start."""
    logs.setup(settings.log)
    check_access(settings)
    tls_context(settings.server)  # what is wrong with its files is said before anything is begun
    _raise_file_limit(settings.limits.connections)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, replay))


def _raise_file_limit(connections: int) -> None:
    """Take all the open files the system grants: the usual soft limit of 1,024 would refuse
    connections long before `limits.connections` does, and without a word."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    granted, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if granted != resource.RLIM_INFINITY and granted < connections + SPARE_FILES:
        log.warning(
            "the system allows fewer open files than limits.connections needs",
            extra={"open_files": granted, "connections": connections},
        )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where the platform has it, unless ODIN_LOOP=asyncio."""
    if os.environ.get("ODIN_LOOP") == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, replay: ReplayOptions | None) -> None:
    stopping = _stop_signal()
    with _only_server_of(Path(settings.store.path)):
        await _serve_until(stopping, settings, replay)


@contextlib.contextmanager
def _only_server_of(database: Path) -> Iterator[None]:
    """Hold the database for this server: two on one file could not take sessions over from each
    other, and the same client_id would live twice. The system lets go of it however we end."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = database.with_name(database.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OdinError(f"cannot write {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OdinError(f"another server uses the database {database}") from None
        yield
    finally:
        os.close(descriptor)


async def _serve_until(
    stopping: "asyncio.Future[int]", settings: Settings, replay: ReplayOptions | None
) -> None:
    # What is built at start lives for ever. Looking through it for garbage took a tenth of a start
    # and found none, so the collector neither looks now nor ever again.
    gc.disable()
    try:
        node = await Node.start(settings, replay)
    finally:
        gc.freeze()
        gc.enable()
    runner: web.AppRunner | None = None
    notifier = Notifier()
    code = STOPS
    try:
        runner = await listen(node)
        _renew_certificates_on_hangup(runner, settings, is_supervised=notifier.is_heard)
        url = _announce(settings, runner, node)
        notifier.send("READY=1", f"STATUS=Listening on {url}")
        async with notifier.watchdog(lambda: not node.dead_tasks):
            code = await stopping
        notifier.send("STOPPING=1")
        log.info("stopping", extra={"close_code": code})
    finally:
        if runner is not None:
            for site in list(runner.sites):
                await site.stop()
        await node.stop(code)
        if runner is not None:
            await runner.cleanup()
    log.info("stopped")


async def listen(node: Node) -> web.AppRunner:
    """Open the server's socket for a running node; the caller cleans the runner up."""
    settings = node.settings.server
    tls = tls_context(settings)
    gc.set_threshold(GC_ALLOCATIONS, 10, 10)
    await check_edge()
    runner = EdgeRunner(
        build_app(node),
        handshake_timeout_s=HANDSHAKE_TIMEOUT_S,
        shutdown_timeout_s=1.0,
        inflate_limit_bytes=node.settings.limits.message_bytes if settings.compression else 0,
        sockets=Sockets(node.settings.limits, node.access, node.metrics),
    )
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port, backlog=settings.backlog)
    if tls is not None:
        site = TlsSite(
            runner,
            settings.host,
            settings.port,
            context=tls,
            backlog=settings.backlog,
            handshake_timeout_s=HANDSHAKE_TIMEOUT_S,
        )
    try:
        await site.start()
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a host name
        await runner.cleanup()
        problem = getattr(error, "strerror", None) or str(error)
        where = f"{url_host(settings.host)}:{settings.port}"
        raise OdinError(f"cannot listen on {where}: {problem}") from error
    return runner


def address_of(runner: web.AppRunner) -> tuple[str, int]:
    """Return the host and port a runner listens on."""
    host, port = runner.addresses[0][:2]
    return str(host), int(port)


def url_host(host: str) -> str:
    """Return a host as it stands before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def _announce(settings: Settings, runner: web.AppRunner, node: Node) -> str:
    """Print how to connect; return the address of the stream."""
    host, port = address_of(runner)
    shown = url_host(host)
    tls = "s" if settings.server.tls_cert else ""
    url = f"ws{tls}://{shown}:{port}{endpoint.PATH}"
    print_line = sys.stdout.write
    print_line(f"Odin Streamer listens on {url}\n")
    if node.is_simulated:
        print_line(f"The data is not live: {node.feed_status.name}\n")
    print_line(
        f'Try:  wscat -c \'{url}?client_id=me\' -x \'{{"action":"subscribe",'
        f'"stocks":["SBIN","2885"]}}\' -w 60\n'
        f"      odin tail SBIN 2885 RELIANCE --url {url}\n"
        f"      http{tls}://{shown}:{port}/\n"
    )
    sys.stdout.flush()
    return url


def _renew_certificates_on_hangup(
    runner: web.AppRunner, settings: Settings, *, is_supervised: bool
) -> None:
    """Have SIGHUP read the certificate again, where there is one. Without it the signal ends the
    process, as when a terminal is closed, but under systemd, which has none, it does nothing."""
    sites = [site for site in runner.sites if isinstance(site, TlsSite)]

    def renew() -> None:
        try:
            for site in sites:
                site.renew(settings.server)
        except ConfigError as error:
            log.error("the certificate was not renewed", extra={"problem": str(error)})
        else:
            log.info("the certificate was read again" if sites else "there is nothing to reload")

    if (sites or is_supervised) and hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)


def _stop_signal() -> "asyncio.Future[int]":
    """Return a future of the close code that the first stop signal asks for."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if stopping.done():
            os._exit(1)  # asked twice: whoever waits wants it gone now
        stopping.set_result(code)

    wanted = {signal.SIGTERM: STOPS, signal.SIGINT: STOPS}
    if hasattr(signal, "SIGUSR1"):
        wanted[signal.SIGUSR1] = RESTARTS
    for number, code in wanted.items():
        if sys.platform == "win32":  # its event loops take no signal handlers
            signal.signal(number, lambda *_, code=code: loop.call_soon_threadsafe(stop, code))
        else:
            loop.add_signal_handler(number, stop, code)
    return stopping
