"""Servers to test against, and how to wait for what a client tells."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer
from real_server import RealServer

from odin_client import OdinClient


class Heard:
    """Everything a handler was called with, and a way to wait for more."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._news = asyncio.Event()

    def __call__(self, value: Any) -> None:
        self.values.append(value)
        self._news.set()

    async def until(self, is_enough: Callable[[list[Any]], object]) -> None:
        async with asyncio.timeout(30):
            while not is_enough(self.values):
                self._news.clear()
                await self._news.wait()


async def connected_after(states: Heard, times: int) -> None:
    """Return when a client has been connected so often."""
    await states.until(lambda values: values.count("connected") >= times)


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    """A scripted server in this process."""
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def odin(tmp_path: Path) -> AsyncIterator[RealServer]:
    """The real server in a process of its own, with data flowing at any hour."""
    server = RealServer(tmp_path / "odin.db")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def busy_odin(tmp_path: Path) -> AsyncIterator[RealServer]:
    """The real server with many quotes a second."""
    server = RealServer(tmp_path / "odin.db", "--rate", "20")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., OdinClient]]:
    """Makes clients that reconnect quickly and are closed after the test."""
    made: list[OdinClient] = []

    def make(url: str, client_id: str | None = "me", **options: Any) -> OdinClient:
        quick = {"least_delay_s": 0.01, "most_delay_s": 0.02, "request_timeout_s": 5.0}
        client = OdinClient(url, client_id, **{**quick, **options})
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()
