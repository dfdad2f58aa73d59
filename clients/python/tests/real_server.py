"""The odin server in a process of its own, on a free port, with a market that is always open."""

import asyncio
import importlib.util
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import pytest

START_PATIENCE_S = 20.0
CHECKOUT = Path(__file__).resolve().parents[3]
"""`python -m odin` finds the server here, or else installed in this environment."""


class RealServer:
    """`odin demo` on one database file and, after the first start, one port."""

    def __init__(self, database: Path, *options: str) -> None:
        if not (CHECKOUT / "odin").is_dir() and importlib.util.find_spec("odin") is None:
            pytest.skip("the odin server is neither beside this client nor installed")
        self.database = database
        self.options = options
        self.port = 0
        self.url = ""
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it; returns when it listens."""
        command = ["-m", "odin", "demo", "--port", str(self.port), "--db", str(self.database)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *command, *self.options, stdout=PIPE, stderr=DEVNULL, cwd=CHECKOUT
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_PATIENCE_S):
            line = (await self._process.stdout.readline()).decode()
        found = re.search(r"ws://\S+:(\d+)/\S+", line)
        assert found is not None, f"the first line was {line!r}"
        self.url, self.port = found[0], int(found[1])

    async def stop(self) -> None:
        """Stop it in order: clients get close code 1001."""
        await self._end("terminate")

    async def kill(self) -> None:
        """Stop it as a power cut would."""
        await self._end("kill")

    def freeze(self) -> None:
        """Have it do nothing at all, its connections open, until it is thawed."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            getattr(process, how)()
        # communicate() reads the rest of its output, so that the pipe is closed with it.
        await process.communicate()
