"""Tells systemd how the server is: sd_notify(3), by a datagram to NOTIFY_SOCKET.

Where nobody asked to be told, all of this does nothing.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping

log = logging.getLogger("odin.server")

US_PER_S = 1_000_000


class Notifier:
    """The way to whoever started the process, by the variables it set."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # of Linux's abstract namespace
            self._address = "\0" + self._address[1:]
        self.watchdog_s = _watchdog_s(environ) if self._address else 0.0
        """The server is restarted when it was not heard for so long; 0: it need not be."""

    @property
    def is_heard(self) -> bool:
        """Whether somebody asked to be told."""
        return bool(self._address)

    def send(self, *states: str) -> None:
        """Send assignments such as "READY=1". Never raises and never waits: a supervisor that does
        not listen must not harm the server."""
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(states).encode(), self._address)
        except OSError as error:
            log.warning("NOTIFY_SOCKET takes nothing", extra={"problem": error.strerror})

    @contextlib.asynccontextmanager
    async def watchdog(self, is_healthy: Callable[[], bool]) -> AsyncIterator[None]:
        """Send WATCHDOG=1 from the event loop as long as it turns and `is_healthy` says so."""
        task = asyncio.create_task(self._watch(is_healthy)) if self.watchdog_s else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _watch(self, is_healthy: Callable[[], bool]) -> None:
        while True:
            if is_healthy():
                self.send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 3)  # two may come late before it counts as gone


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Return the time WATCHDOG_USEC gives, 0 where it is meant for another process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    given = environ.get("WATCHDOG_USEC", "")
    return int(given) / US_PER_S if given.isascii() and given.isdigit() else 0.0
