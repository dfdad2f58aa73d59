"""The server as its users start it: a process of its own."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


class Process:
    """`odin COMMAND …`, listening."""

    def __init__(self, process: asyncio.subprocess.Process, ws: str) -> None:
        self.process = process
        self.ws = ws
        self.pid = process.pid
        self.http = ws.replace("ws", "http", 1).removesuffix("/enhanced-stream")

    def kill(self) -> None:
        """End it as a power cut would, without a chance to do anything."""
        self.process.kill()

    async def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 15) -> int:
        """Send a signal and return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(timeout):
            await self.process.wait()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def odin(
    *arguments: str | Path,
    program: tuple[str, ...] = ("-m", "odin"),
    log: Path | None = None,
    **environ: str,
) -> AsyncIterator[Process]:
    """Start the command and wait until it says where it listens; kill it at the end.

    program: what Python is told to run. log: file that gets what is written to standard error.
    """
    with log.open("ab+") if log is not None else tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *program,
            *map(str, arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(REPO), **environ},
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(20):
                while line := (await process.stdout.readline()).decode():
                    if "listens on ws" in line:
                        break
                else:
                    code = await process.wait()
                    errors.seek(0)
                    raise AssertionError(f"the server ended with {code}: {errors.read().decode()}")
            yield Process(process, line.split()[-1])
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def run_odin(*arguments: str | Path, **environ: str) -> tuple[int, str]:
    """Run a command to its end; return its exit code and all it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "odin",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(REPO), **environ},
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()
