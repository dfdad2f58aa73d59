import asyncio
import errno
import gzip
import os
import resource
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin.errors import ReferenceDataError
from odin.feeds import capture as captures
from odin.feeds.capture import (
    MAX_RECORD_BYTES,
    MAX_WAITING_BYTES,
    SUFFIX,
    Capture,
    Header,
    Record,
    is_capture,
    read_header,
    read_records,
)
from odin.metrics import Metrics

AT_NS = 1_756_971_590_198_000_000
"""2025-09-04 13:09:50.198 IST."""
PLENTY = 1 << 30
HEAD = struct.Struct("<QBBI")
"""The layout of a record's beginning as the page of the format states it."""


class Desk:
    """A folder with a capture in it."""

    def __init__(self, folder: Path, max_bytes: int = PLENTY, feed: str = "kite") -> None:
        self.folder = folder
        self.metrics = Metrics()
        self.capture = Capture(folder, feed, self.metrics, max_bytes=max_bytes)
        self.take = self.capture.begin(0, AT_NS)

    async def flush(self) -> None:
        """Let the timer come, without waiting for it."""
        self.capture._on_timer()
        assert self.capture._writing is not None
        await self.capture._writing

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    @property
    def messages(self) -> list[bytes | str]:
        return [r.data for f in self.files for r in read_records(f) if r.data is not None]


def written(folder: Path, *blocks: list[bytes | str]) -> Path:
    """Return a capture of these messages, each list in a block of its own."""

    async def write() -> Path:
        desk = Desk(folder)
        for block in blocks:
            for message in block:
                desk.take(message, AT_NS)
            await desk.flush()
        await desk.capture.close()
        (path,) = desk.files
        return path

    return asyncio.run(write())


# ---------------------------------------------------------------------- what is written

MESSAGES = st.one_of(st.binary(max_size=300), st.text(st.characters(), max_size=100))
RECORDS = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 255), MESSAGES, st.booleans()), max_size=20
)


@settings(max_examples=50)
@given(RECORDS)
def test_what_was_received_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, int, bytes | str, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("capture")

    async def write() -> list[Record]:
        desk = Desk(folder)
        expected = [Record(AT_NS, 0, None)]
        for at_ns, stream, data, is_flushed in records:
            desk.capture.begin(stream, at_ns)(data, at_ns)
            expected += [Record(at_ns, stream, None), Record(at_ns, stream, data)]
            if is_flushed:
                await desk.flush()
        await desk.capture.close()
        return expected

    expected = asyncio.run(write())
    (path,) = folder.iterdir()
    assert list(read_records(path)) == expected
    assert read_header(path) == Header("kite")


async def test_a_lone_surrogate_is_kept_as_it_came(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.take("a\ud800b", AT_NS)
    await desk.capture.close()
    assert desk.messages == ["a\ud800b"]


async def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    """Read without the reader."""
    desk = Desk(tmp_path)
    desk.capture.begin(3, AT_NS + 1)("ü", AT_NS + 2)
    await desk.capture.close()
    header, _, rest = gzip.decompress(desk.files[0].read_bytes()).partition(b"\n")
    assert header == b'{"feed":"kite","odin_capture":1}'
    assert rest == b"".join(
        [
            HEAD.pack(AT_NS, 2, 0, 0),
            HEAD.pack(AT_NS + 1, 2, 3, 0),
            HEAD.pack(AT_NS + 2, 1, 3, 2) + "ü".encode(),
        ]
    )


async def test_a_file_is_named_for_its_feed_and_the_time_in_india(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "not" / "yet" / "there")
    await desk.capture.close()
    assert [path.name for path in desk.files] == ["kite-20250904-130950-198000.capture.gz"]
    assert is_capture(desk.files[0])
    assert not is_capture(tmp_path / "odin.db")
    assert desk.files[0].stat().st_mode & 0o007 == 0, "what a broker sends is not for everybody"


async def test_of_files_that_begin_together_the_names_are_in_the_order_of_writing(
    tmp_path: Path,
) -> None:
    for number in range(12):
        desk = Desk(tmp_path)
        desk.take(b"%d" % number, AT_NS)
        await desk.capture.close()
    assert desk.messages == [b"%d" % number for number in range(12)]


async def test_it_is_written_by_itself_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "FLUSH_S", 0.01)
    desk = Desk(tmp_path)
    async with asyncio.timeout(10):
        for number in range(3):
            desk.take(b"%d" % number, AT_NS)
            while len(desk.messages) <= number:
                await asyncio.sleep(0.005)
    await desk.capture.close()
    assert desk.messages == [b"0", b"1", b"2"]


# ---------------------------------------------------------------------- closing


async def test_close_waits_for_what_is_being_written_and_writes_the_rest_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    may_write, is_writing = threading.Event(), asyncio.Event()
    loop, write = asyncio.get_running_loop(), Capture._write

    def slow_write(self: Capture, records: list[bytes]) -> None:
        loop.call_soon_threadsafe(is_writing.set)
        assert may_write.wait(10)
        write(self, records)

    monkeypatch.setattr(Capture, "_write", slow_write)
    desk.take(b"first", AT_NS)
    desk.capture._on_timer()
    await is_writing.wait()
    desk.take(b"second", AT_NS)
    closing = asyncio.create_task(desk.capture.close())
    await asyncio.sleep(0)
    desk.take(b"too late", AT_NS)
    may_write.set()
    await closing
    assert desk.messages == [b"first", b"second"]
    assert len(desk.files) == 1
    assert desk.metrics.feed_captures_dropped == 1


async def test_a_write_that_takes_longer_than_the_timer_is_not_overtaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    may_write, at_once, most = threading.Event(), 0, 0
    write = Capture._write

    def slow_write(self: Capture, records: list[bytes]) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        assert may_write.wait(10)
        write(self, records)
        at_once -= 1

    monkeypatch.setattr(Capture, "_write", slow_write)
    for number in range(3):
        desk.take(b"%d" % number, AT_NS)
        desk.capture._on_timer()
        await asyncio.sleep(0)
    may_write.set()
    await desk.capture.close()
    assert most == 1
    assert desk.messages == [b"0", b"1", b"2"]


async def test_nothing_received_is_no_file(tmp_path: Path) -> None:
    await Capture(tmp_path, "kite", Metrics(), max_bytes=PLENTY).close()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- bounds


async def test_files_are_rotated_and_the_folder_never_holds_more_than_it_may(
    tmp_path: Path,
) -> None:
    max_bytes = 320_000
    desk = Desk(tmp_path, max_bytes)
    largest = 0
    for number in range(60):
        desk.take(number.to_bytes(2) + os.urandom(9_998), AT_NS + number * 1_000_000)
        await desk.flush()
        largest = max(largest, sum(path.stat().st_size for path in desk.files))
    await desk.capture.close()
    assert 250_000 < largest <= max_bytes
    assert all(path.stat().st_size <= 40_000 for path in desk.files)
    numbers = [int.from_bytes(message[:2]) for message in desk.messages]  # type: ignore[arg-type]
    assert numbers == list(range(numbers[0], 60)), "the oldest went, and nothing else"
    assert len(numbers) >= 25
    assert desk.metrics.feed_captures_dropped == 0


async def test_several_feeds_share_one_bound(tmp_path: Path) -> None:
    max_bytes = 320_000
    desks = [Desk(tmp_path, max_bytes, feed) for feed in ("kite", "odin", "third")]
    for number in range(40):
        for desk in desks if number < 5 else desks[:2]:
            desk.take(os.urandom(9_998), AT_NS + number)
            await desk.flush()
            assert sum(path.stat().st_size for path in desk.files) <= max_bytes
    quiet = desks[2]
    quiet.take(b"back again", AT_NS)
    for desk in desks:
        await desk.capture.close()
    assert b"back again" in quiet.messages
    assert all(desk.metrics.feed_captures_dropped == 0 for desk in desks)
    assert {read_header(path).feed for path in quiet.files} == {"kite", "odin", "third"}


async def test_a_burst_that_is_more_than_the_folder_may_hold_is_dropped(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 10_000)
    desk.take(os.urandom(20_000), AT_NS)
    await desk.flush()
    assert desk.metrics.feed_captures_dropped == 2
    desk.take(b"small", AT_NS)
    await desk.capture.close()
    assert desk.messages == [b"small"]


async def test_what_the_disk_cannot_keep_up_with_is_dropped_and_counted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    piece = bytes(1 << 20)
    for _ in range(20):
        desk.take(piece, AT_NS)
    fit = (MAX_WAITING_BYTES - HEAD.size) // (len(piece) + HEAD.size)
    assert desk.metrics.feed_captures_dropped == 20 - fit
    await desk.flush()
    desk.take(b"there is room again", AT_NS)
    await desk.capture.close()
    assert desk.messages == [piece] * fit + [b"there is room again"]


async def test_only_captures_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "odin.db").write_bytes(bytes(50_000))
    (tmp_path / f"folder{SUFFIX}").mkdir()
    (tmp_path / f"link{SUFFIX}").symlink_to(tmp_path / "odin.db")
    desk = Desk(tmp_path, 32_000)
    for _ in range(10):
        desk.take(os.urandom(9_998), AT_NS)
        await desk.flush()
    await desk.capture.close()
    assert desk.metrics.feed_captures_dropped == 0
    assert {"odin.db", f"folder{SUFFIX}", f"link{SUFFIX}"} < {p.name for p in tmp_path.iterdir()}
    assert (tmp_path / "odin.db").read_bytes() == bytes(50_000)


# ---------------------------------------------------------------------- a disk that fails


async def test_a_disk_that_takes_nothing_is_survived_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "captures"
    folder.write_text("a file is in the way")
    desk = Desk(folder)
    for _ in range(3):
        desk.take(b"lost", AT_NS)
        await desk.flush()
    assert desk.metrics.feed_captures_dropped == 4
    assert [record.getMessage() for record in caplog.records] == [
        "the capture could not be written: File exists"
    ]
    folder.unlink()
    desk.take(b"kept", AT_NS)
    await desk.flush()
    await desk.capture.close()
    assert desk.messages == [b"kept"]
    assert desk.metrics.feed_captures_dropped == 4


async def test_a_full_disk_keeps_whole_blocks_and_gathers_no_files(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.take(b"first", AT_NS)
    await desk.flush()
    (file,) = desk.files
    whole = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
    try:
        for number in range(5):
            desk.take(os.urandom(500), AT_NS + 1 + number)
            await desk.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert desk.files == [file]
    assert file.read_bytes() == whole
    assert desk.metrics.feed_captures_dropped == 5
    desk.take(b"last", AT_NS + 9)
    await desk.capture.close()
    assert desk.messages == [b"first", b"last"]


async def test_after_a_failure_a_new_file_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    desk.take(b"first", AT_NS)
    await desk.flush()
    real = os.fdopen

    def full(fd: int, *_: object) -> object:
        os.close(fd)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    desk.take(b"lost", AT_NS + 1)
    await desk.flush()
    monkeypatch.setattr(os, "fdopen", real)
    desk.take(b"third", AT_NS + 2)
    await desk.capture.close()
    assert len(desk.files) == 2
    assert desk.messages == [b"first", b"third"]


async def test_a_file_that_somebody_deleted_is_begun_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.take(b"first", AT_NS)
    await desk.flush()
    desk.files[0].unlink()
    desk.take(b"second", AT_NS)
    await desk.capture.close()
    assert desk.messages == [b"second"]
    assert desk.metrics.feed_captures_dropped == 0


@pytest.mark.parametrize("is_dangling", [True, False])
async def test_a_symlink_is_not_followed(tmp_path: Path, is_dangling: bool) -> None:
    folder, target = tmp_path / "captures", tmp_path / "target"
    folder.mkdir()
    if not is_dangling:
        target.write_bytes(b"precious")
    link = folder / f"kite-20250904-130950-198000{SUFFIX}"
    link.symlink_to(target)
    await Desk(folder).capture.close()
    assert link.is_symlink()
    assert not target.exists() if is_dangling else target.read_bytes() == b"precious"


async def test_a_file_that_became_a_symlink_is_not_followed(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "captures")
    await desk.flush()
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    path = desk.files[0]
    path.unlink()
    path.symlink_to(target)
    desk.take(b"lost", AT_NS)
    await desk.capture.close()
    assert target.read_bytes() == b"precious"
    assert desk.metrics.feed_captures_dropped == 1


# ---------------------------------------------------------------------- damaged files


def test_a_file_that_was_cut_off_is_read_as_far_as_its_whole_blocks_at_least(
    tmp_path: Path,
) -> None:
    blocks: list[list[bytes | str]] = [[b"a%d" % n, "b" * n] for n in range(4)]
    path = written(tmp_path, *blocks)
    whole = path.read_bytes()
    everything = list(read_records(path))
    ends = [len(gzip_block) for gzip_block in _blocks(whole)]
    for length in range(ends[0], len(whole)):
        path.write_bytes(whole[:length])
        found = list(read_records(path))
        assert found == everything[: len(found)]
        complete = sum(1 for n in range(len(ends)) if sum(ends[: n + 1]) <= length)
        assert len(found) >= 1 + 2 * complete


def _blocks(whole: bytes) -> list[bytes]:
    """Cut a file where its blocks begin."""
    magic = whole[:10]
    return [magic + part for part in whole.split(magic)[1:]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x1f\x8b",
        b"not gzip at all",
        gzip.compress(b""),
        gzip.compress(b"[]\n"),
        gzip.compress(b'{"odin_capture":1}\n'),
        gzip.compress(b'{"feed":"kite","odin_capture":2}\n'),
        gzip.compress(b'{"feed":7}\n'),
        gzip.compress(b'{"feed":"\xff"}\n'),
        gzip.compress(b'{"feed":"kite","x":' + b"[" * 4000),
        gzip.compress(b'{"feed":"' + b"k" * 10_000 + b'"}\n'),
    ],
)
def test_what_is_no_capture_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"kite{SUFFIX}"
    path.write_bytes(content)
    for read in (read_header, lambda path: list(read_records(path))):
        with pytest.raises(ReferenceDataError, match=r"kite\.capture\.gz is not a capture"):
            read(path)


def test_what_is_not_there_is_no_capture(tmp_path: Path) -> None:
    with pytest.raises(ReferenceDataError, match="is not a capture"):
        list(read_records(tmp_path / f"kite{SUFFIX}"))


@pytest.mark.parametrize(
    "record",
    [
        HEAD.pack(AT_NS, 3, 0, 0),
        HEAD.pack(AT_NS, 0, 0, MAX_RECORD_BYTES + 1),
        HEAD.pack(AT_NS, 1, 0, 1) + b"\xff",
    ],
)
def test_records_that_make_no_sense_are_said_to_be_damaged(tmp_path: Path, record: bytes) -> None:
    path = tmp_path / f"kite{SUFFIX}"
    good = HEAD.pack(AT_NS, 0, 0, 2) + b"ok"
    path.write_bytes(gzip.compress(b'{"feed":"kite"}\n' + good + record))
    records = read_records(path)
    assert next(records) == Record(AT_NS, 0, b"ok")
    with pytest.raises(ReferenceDataError, match=r"kite\.capture\.gz was damaged"):
        next(records)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_raises_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    path = folder / f"kite{SUFFIX}"
    header = b'{"feed":"kite","odin_capture":1}\n'
    plain = bytearray(
        header + b"".join(HEAD.pack(AT_NS, n % 2, 0, 9) + b"\xc3\xbc" * 4 + b"x" for n in range(9))
    )
    if data.draw(st.booleans()):  # under the compression, so that its checksum is right
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
        content = bytearray(gzip.compress(plain))
    else:
        content = bytearray(gzip.compress(plain) * 2)
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    try:
        for record in read_records(path):
            assert isinstance(record, Record)
    except ReferenceDataError:
        pass
