"""Where a feed's credentials come from, on every connect anew: Indian tokens die each day.

A source is `env:PREFIX` (variables PREFIX_USER, PREFIX_API_KEY, …), `file:PATH` or
`command:PROGRAM ARGUMENTS`; the last two give lines of `name=value`, or one JSON object. No secret
is ever in an error, a log line or a repr.
"""

import asyncio
import codecs
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from odin.errors import FeedUnavailable, reflect

COMMAND_TIMEOUT_S = 20.0
MAX_CREDENTIALS_BYTES = 65_536


class CredentialSource:
    """Reads the credentials of one feed, and knows whether they have changed since.

    spec: see the module. Raises ValueError for a spec of another form, without repeating it: it
        may be the secret itself.
    timeout_s: what a command may take before it is killed, with all that it has started.
    """

    def __init__(
        self,
        spec: str,
        *,
        environ: Mapping[str, str] = os.environ,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> None:
        self._kind, _, self._place = spec.partition(":")
        if self._kind not in {"env", "file", "command"} or not self._place.strip():
            raise ValueError("credentials must be env:PREFIX, file:PATH or command:PROGRAM")
        self._environ = environ
        self._timeout_s = timeout_s
        self._last: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"CredentialSource({self._kind}:…)"

    async def read(self, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, str]:
        """Return the values of these names; optional ones that are missing are "".

        Raises FeedUnavailable where the source cannot be read or lacks a name: the operator may be
        about to renew it.
        """
        found = await self._read((*names, *optional))
        missing = [name for name in names if not found.get(name)]
        if missing:
            raise FeedUnavailable(f"the credentials lack {', '.join(missing)} ({self._shown})")
        self._last = {name: found.get(name, "") for name in (*names, *optional)}
        return dict(self._last)

    async def has_changed(self) -> bool:
        """Whether the source now holds something else than was read last. False while it cannot
        be read."""
        if self._last is None:
            return True
        try:
            found = await self._read(tuple(self._last))
        except FeedUnavailable:
            return False
        return {name: found.get(name, "") for name in self._last} != self._last

    @property
    def _shown(self) -> str:
        """Where an operator must look. A command may have a secret among its arguments."""
        return f"{self._kind}:{reflect(self._place, 120)}" if self._kind != "command" else "command"

    async def _read(self, names: Sequence[str]) -> dict[str, str]:
        if self._kind == "env":
            values = {
                name: self._environ.get(f"{self._place}_{name.upper()}", "") for name in names
            }
            return {name: value.strip() for name, value in values.items()}
        text = await (self._run() if self._kind == "command" else self._read_file())
        return _parse(text, self._shown)

    async def _read_file(self) -> bytes:
        def read() -> bytes:
            with Path(self._place).expanduser().open("rb") as file:
                return file.read(MAX_CREDENTIALS_BYTES)

        try:
            return await asyncio.to_thread(read)
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not a path"
            raise FeedUnavailable(
                f"the credentials could not be read from {self._shown}: {reason}"
            ) from None

    async def _run(self) -> bytes:
        """Run the command without a shell and return what it prints."""
        process = None
        is_done = False
        try:
            process = await asyncio.create_subprocess_exec(
                *shlex.split(self._place),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            async with asyncio.timeout(self._timeout_s):
                output = await _read_up_to(process.stdout, MAX_CREDENTIALS_BYTES)
                await process.wait()
            is_done = True
        except TimeoutError:
            raise FeedUnavailable("the credentials command took too long") from None
        except (OSError, ValueError):
            raise FeedUnavailable("the credentials command could not be started") from None
        finally:
            if process is not None and not is_done:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise FeedUnavailable(f"the credentials command ended with {process.returncode}")
        return output


async def _read_up_to(stream: asyncio.StreamReader | None, limit: int) -> bytes:
    """Return what a stream holds. Raises FeedUnavailable where that is more than `limit` bytes."""
    if stream is None:
        return b""
    try:
        await stream.readexactly(limit + 1)
    except asyncio.IncompleteReadError as end:
        return end.partial
    raise FeedUnavailable(f"the credentials command printed more than {limit} bytes")


def _parse(text: bytes, shown: str) -> dict[str, str]:
    """Return the names and values of a JSON object of text, or of name=value lines."""
    text = text.removeprefix(codecs.BOM_UTF8)
    try:
        if text.lstrip().startswith(b"{"):
            return {
                k.lower(): v.strip()
                for k, v in msgspec.json.decode(text, type=dict[str, str]).items()
            }
        pairs = [line.partition("=") for line in text.decode().splitlines()]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise FeedUnavailable(f"the credentials could not be understood ({shown})") from None
    return {
        name.strip().lower(): _unquote(value.strip())
        for name, equals, value in pairs
        if equals and not name.lstrip().startswith("#")
    }


def _unquote(value: str) -> str:
    """Take a pair of quotes off; a single one belongs to the secret."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value
