"""What a feed received, on disk, byte for byte: to look at later, and to replay.

A capture is a gzip file: one line of JSON that says which feed it is of, then records. A record is
little-endian `u64 arrival time (ns), u8 kind, u8 stream, u32 length`, then the bytes. Files are
rotated by size and the oldest deleted, so that a folder never holds more than it may. A file that
was cut off is read as far as it goes. Writing happens in a thread; what the disk cannot keep up
with is dropped and counted, never waited for.
"""

import asyncio
import errno
import gzip
import logging
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from odin.clock import IST, NS_PER_S
from odin.errors import ReferenceDataError, reflect
from odin.metrics import Metrics

SUFFIX: Final = ".capture.gz"
FLUSH_S: Final = 0.5
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""What may wait for the disk."""
FILES: Final = 16
"""Files that a full folder consists of, about."""
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024

NS_PER_US: Final = 1000

_RECORD: Final = struct.Struct("<QBBI")
_BINARY, _TEXT, _BEGIN = range(3)

log = logging.getLogger(__name__)


class Header(msgspec.Struct, frozen=True):
    """The first line of a capture."""

    feed: str
    odin_capture: Literal[1] = 1


class Record(NamedTuple):
    """One message, or the beginning of a connection."""

    at_ns: int
    stream: int
    data: bytes | str | None
    """None where a connection begins."""


class Capture:
    """Writes the captures of one feed into a folder.

    max_bytes: what all captures in the folder, of whatever feed, may hold; the oldest go first.
    """

    def __init__(self, folder: Path, feed: str, metrics: Metrics, *, max_bytes: int) -> None:
        self._folder = folder
        self._feed = feed
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._path: Path | None = None
        self._is_failing = False
        self._is_closed = False
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def begin(self, stream: int, now_ns: int) -> Callable[[bytes | str, int], None]:
        """Note that a connection begins; return what takes its messages and their times, ns."""
        self._add(now_ns, _BEGIN, stream, b"")

        def take(data: bytes | str, at_ns: int) -> None:
            if isinstance(data, str):
                self._add(at_ns, _TEXT, stream, data.encode("utf-8", "surrogatepass"))
            else:
                self._add(at_ns, _BINARY, stream, data)

        return take

    async def close(self) -> None:
        """Write what waits; what comes later is dropped."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._flush()

    def _add(self, at_ns: int, kind: int, stream: int, data: bytes) -> None:
        size = _RECORD.size + len(data)
        if self._is_closed or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self._metrics.feed_captures_dropped += 1
            return
        self._waiting.append(_RECORD.pack(at_ns, kind, stream, len(data)) + data)
        self._waiting_bytes += size
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._flush())
        else:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._on_timer)

    async def _flush(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not waiting:
            return
        try:
            await asyncio.to_thread(self._write, waiting)
        except OSError as error:
            self._path = None  # a new file, when the disk takes one again
            self._metrics.feed_captures_dropped += len(waiting)
            if not self._is_failing:  # once, not twice a second for as long as the disk is full
                log.error("the capture could not be written: %s", error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def _write(self, records: list[bytes]) -> None:
        """Append one block, in a new file where the present one is full. Runs in a thread."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
        if self._path is None or _size(self._path) >= self._max_bytes // FILES:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path = self._new_path(_RECORD.unpack_from(records[0])[0])
            records = [msgspec.json.encode(Header(self._feed)), b"\n", *records]
            flags |= os.O_CREAT | os.O_EXCL
        block = gzip.compress(b"".join(records), 1)
        self._make_room(len(block))
        with os.fdopen(os.open(self._path, flags, 0o640), "ab", 0) as file:
            size = file.tell()
            try:
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                # What did not fit is taken back: a disk that is full all night must not be given
                # an empty file twice a second.
                with suppress(OSError):
                    file.truncate(size)
                if not size:
                    self._path.unlink(missing_ok=True)
                raise

    def _new_path(self, at_ns: int) -> Path:
        """Return a name that no file has; names are in the order of time."""
        while True:
            at = datetime.fromtimestamp(at_ns / NS_PER_S, IST).strftime("%Y%m%d-%H%M%S-%f")
            path = self._folder / f"{self._feed}-{at}{SUFFIX}"
            if not path.exists() and not path.is_symlink():
                return path
            at_ns += NS_PER_US

    def _make_room(self, more_bytes: int) -> None:
        """Delete the oldest files until the folder may hold so many bytes more."""
        files = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            try:
                found = path.lstat()
            except FileNotFoundError:  # another feed's capture has deleted it
                continue
            if stat.S_ISREG(found.st_mode):
                files.append((path == self._path, found.st_mtime_ns, path, found.st_size))
        held_bytes = more_bytes + sum(size for *_, size in files)
        for is_present, _, path, size in sorted(files):
            if held_bytes <= self._max_bytes or is_present:
                break
            path.unlink(missing_ok=True)
            held_bytes -= size
        if held_bytes > self._max_bytes:
            raise OSError(errno.EFBIG, "what came at once is more than the folder may hold")


def _size(path: Path) -> float:
    """Return a file's size; one that was deleted is as good as full."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return float("inf")


def is_capture(path: Path) -> bool:
    """Whether a file is named as captures are."""
    return path.name.endswith(SUFFIX)


def read_header(path: Path) -> Header:
    """Return the first line. Raises ReferenceDataError for what is no capture."""
    try:
        with gzip.open(path) as file:
            return msgspec.json.decode(file.readline(4096), type=Header)
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError, ValueError, RecursionError):
        raise ReferenceDataError(f"{reflect(path.name)} is not a capture") from None


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records in the order of arrival, as far as the file goes.

    Raises ReferenceDataError for what is no capture, or makes no sense.
    """
    read_header(path)
    with gzip.open(path) as file:
        file.readline(4096)
        while True:
            try:
                head = file.read(_RECORD.size)
                if len(head) < _RECORD.size:
                    return
                at_ns, kind, stream, length = _RECORD.unpack(head)
                if kind > _BEGIN or length > MAX_RECORD_BYTES:
                    raise ReferenceDataError(f"{reflect(path.name)} was damaged")
                data = file.read(length)
            except (OSError, EOFError, zlib.error):
                return
            if len(data) < length:
                return
            yield Record(at_ns, stream, _content(kind, data, path))


def _content(kind: int, data: bytes, path: Path) -> bytes | str | None:
    if kind == _BINARY:
        return data
    if kind == _BEGIN:
        return None
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise ReferenceDataError(f"{reflect(path.name)} was damaged") from None
