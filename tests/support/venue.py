"""What the servers of all venues share: a real socket, and waiting for what clients ask."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from odin.model import InstrumentKey

WAIT_S = 10.0


class VenueServer:
    """A server of WebSockets on a free port of this machine. `async with` starts and stops it."""

    def __init__(self) -> None:
        self.connects = 0
        """WebSockets that were asked for."""
        self.nonsense = 0
        """Requests that made no sense."""
        self._is_refusing = False
        self._is_silent = False
        self._has_changed = asyncio.Event()
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.drop()
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    @property
    def wanted(self) -> set[InstrumentKey]:
        """The keys of all subscriptions on open connections."""
        raise NotImplementedError

    def drop(self) -> None:
        """Cut all connections."""
        raise NotImplementedError

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    async def wait_wanted(self, keys: set[InstrumentKey]) -> None:
        """Wait until exactly these are subscribed, in whatever mode."""
        await self.wait_for(lambda: self.wanted == keys)

    async def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so, looking whenever a client comes, goes or asks."""
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                self._has_changed.clear()
                await self._has_changed.wait()
