import asyncio
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from odin.clock import NS_PER_MS
from odin.errors import ReferenceDataError
from odin.feeds import capture as capture_module
from odin.feeds.base import Decoder
from odin.feeds.capture import SUFFIX, Capture, read_records
from odin.feeds.captured import CapturedRecording, holds_captures
from odin.metrics import Metrics
from odin.model import Quote
from odin.node import ReplayOptions
from odin.settings import KiteSettings
from tests.feeds.fake_venue import SBIN, TCS, FakeDecoder, FakeVenueFeed, install
from tests.support.server import OPEN_MS, Client, running

Entry = tuple[int, str | bytes | None]
"""Milliseconds after OPEN_MS, and a message, or None where a connection begins."""


async def write(
    folder: Path, entries: Sequence[Entry], *, feed: str = "kite", stream: int = 0
) -> Path:
    """Write one capture file and return it."""
    before = set(folder.glob("*"))
    capture = Capture(folder, feed, Metrics(), max_bytes=10**9)
    await add(capture, entries, stream=stream)
    await capture.close()
    [path] = set(folder.glob("*")) - before
    return path


async def add(capture: Capture, entries: Sequence[Entry], *, stream: int = 0) -> None:
    take = None
    for offset_ms, data in entries:
        at_ns = (OPEN_MS + offset_ms) * NS_PER_MS
        if data is None or take is None:
            take = capture.begin(stream, at_ns)
        if data is not None:
            take(data, at_ns)


def decoder(feed: str) -> Decoder:
    if feed not in {"kite", "odin"}:
        raise KeyError(feed)
    return FakeDecoder(KiteSettings(), {})


def played(*paths: Path) -> list[tuple[int, int, float]]:
    """Return when each tick was due, of what, and its price."""
    recording = CapturedRecording.load(paths, decoder)
    first, second = list(recording.timeline()), list(recording.timeline())
    assert first == second, "it can be iterated again"
    due = [at_ms for at_ms, _ in first]
    assert due == sorted(due)
    assert not due or recording.start_ms <= due[0]
    return [(at_ms - OPEN_MS, tick.key.token, tick.ltp) for at_ms, tick in first]


async def test_what_was_received_is_decoded_again_when_it_came(tmp_path: Path) -> None:
    path = await write(tmp_path, [(0, None), (5, "3045 800\n11536 3000"), (9, b"3045 801")])
    assert played(path) == [(5, 3045, 800.0), (5, 11536, 3000.0), (9, 3045, 801.0)]
    recording = CapturedRecording.load([path], decoder)
    assert (recording.start_ms, recording.instruments) == (OPEN_MS, ())


async def test_two_feeds_are_merged_by_time(tmp_path: Path) -> None:
    one = await write(tmp_path, [(0, None), (10, "3045 1"), (30, "3045 3")], feed="kite")
    two = await write(tmp_path, [(5, None), (20, "11536 2"), (40, "11536 4")], feed="odin")
    assert [price for _, _, price in played(one, two)] == [1.0, 2.0, 3.0, 4.0]
    assert played(one, two) == played(two, one) == played(tmp_path)


async def test_files_of_a_feed_follow_each_other_in_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation in the middle of a connection loses nothing of what the decoder remembers."""
    monkeypatch.setattr(capture_module, "FILES", 10**9)  # each block a file
    capture = Capture(tmp_path, "kite", Metrics(), max_bytes=10**9)
    take = capture.begin(0, OPEN_MS * NS_PER_MS)
    for count in range(5):
        at_ns = (OPEN_MS + count) * NS_PER_MS
        take("3045 800" if count == 0 else "3045 +1", at_ns)
        await capture._flush()
    await capture.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    expected = [(n, 3045, 800.0 + n) for n in range(5)]
    assert played(*reversed(files)) == played(tmp_path) == expected


async def test_what_is_no_capture_is_left_out_of_a_folder_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await write(tmp_path, [(0, None), (1, "3045 1")])
    empty = tmp_path / f"kite-00000000-000000-000000{SUFFIX}"
    empty.touch()
    assert played(tmp_path) == [(1, 3045, 1.0)]
    assert "a file was left out" in caplog.records[0].getMessage()
    with pytest.raises(ReferenceDataError):
        played(empty)


async def test_a_new_connection_knows_nothing_of_the_one_before(tmp_path: Path) -> None:
    path = await write(
        tmp_path,
        [(0, None), (1, "3045 800"), (2, None), (3, "3045 +1"), (4, "3045 900"), (5, "3045 +1")],
    )
    assert [price for _, _, price in played(path)] == [800.0, 900.0, 901.0]


async def test_connections_side_by_side_have_a_decoder_each(tmp_path: Path) -> None:
    capture = Capture(tmp_path, "kite", Metrics(), max_bytes=10**9)
    ns = OPEN_MS * NS_PER_MS
    one, two = capture.begin(0, ns), capture.begin(1, ns)
    one("3045 800", ns)
    two("3045 10", ns)
    one("3045 +1", ns)
    capture.begin(1, ns)("3045 +1", ns)  # the second begins again, the first goes on
    one("3045 +1", ns)
    await capture.close()
    assert [price for _, _, price in played(tmp_path)] == [800.0, 10.0, 801.0, 802.0]


async def test_a_clock_that_was_set_back_keeps_the_order_of_arrival(tmp_path: Path) -> None:
    path = await write(tmp_path, [(0, None), (100, "3045 1"), (50, "3045 2"), (120, "3045 3")])
    assert played(path) == [(100, 3045, 1.0), (100, 3045, 2.0), (120, 3045, 3.0)]
    ticks = CapturedRecording.load([path], decoder).timeline()
    times = [tick.exchange_ms - OPEN_MS for _, tick in ticks]
    assert times == [100, 50, 120], "the decoder is told what it was told then"


async def test_what_makes_no_sense_is_passed_over_and_told_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = await write(
        tmp_path, [(0, None), (1, "3045 1"), (2, "?!"), (3, "\ud800"), (4, "3045 2")]
    )
    recording = CapturedRecording.load([path], decoder)
    assert [tick.ltp for _, tick in recording.timeline()] == [1.0, 2.0]
    assert [record.getMessage() for record in caplog.records] == [
        "2 messages in the captures of kite made no sense"
    ]


async def test_a_capture_of_an_unknown_feed_says_so(tmp_path: Path) -> None:
    path = await write(tmp_path, [(0, None), (1, "x")], feed="\x1b[2Jupstox")
    with pytest.raises(ReferenceDataError, match="no feed of this version") as caught:
        CapturedRecording.load([path], decoder)
    assert "\x1b" not in str(caught.value)
    assert path.name.endswith(SUFFIX)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b""), gzip.compress(b"{}\n")])
def test_what_is_no_capture_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"kite{SUFFIX}"
    path.write_bytes(content)
    with pytest.raises(ReferenceDataError, match="is not a capture"):
        CapturedRecording.load([path], decoder)


async def test_captures_without_a_message_hold_nothing(tmp_path: Path) -> None:
    empty = tmp_path / f"kite-empty{SUFFIX}"
    empty.write_bytes(gzip.compress(b'{"feed":"kite","odin_capture":1}\n'))
    with pytest.raises(ReferenceDataError, match="the captures held nothing"):
        CapturedRecording.load([empty], decoder)
    path = await write(tmp_path, [(0, None), (1, "3045 1")])
    assert played(empty, path) == [(1, 3045, 1.0)]


async def test_a_file_that_was_cut_off_is_played_up_to_there(tmp_path: Path) -> None:
    capture = Capture(tmp_path, "kite", Metrics(), max_bytes=10**9)
    take = capture.begin(0, OPEN_MS * NS_PER_MS)
    for price in (1, 2, 3):
        take(f"3045 {price}", OPEN_MS * NS_PER_MS)
        await capture._flush()
    await capture.close()
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    assert [price for _, _, price in played(path)] == [1.0, 2.0]


async def test_after_a_damaged_file_the_next_one_is_played(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = await write(tmp_path, [(0, None), (1, "3045 1")])
    with damaged.open("ab") as file:
        file.write(gzip.compress(b"\xff" * 200))
    whole = await write(tmp_path, [(10, None), (11, "3045 2")])
    assert [price for _, _, price in played(damaged, whole)] == [1.0, 2.0]
    assert "the rest of a capture was left out" in caplog.text
    assert damaged.name in caplog.text


def test_captures_are_told_by_their_names(tmp_path: Path) -> None:
    assert not holds_captures(tmp_path)
    assert not holds_captures(tmp_path / "missing")
    path = tmp_path / f"kite-1{SUFFIX}"
    path.touch()
    assert holds_captures(path)
    assert holds_captures(tmp_path)
    assert not holds_captures(tmp_path / "SBIN.csv")


# ---------------------------------------------------------------------- in a whole node


async def test_a_capture_that_is_replayed_ends_in_the_same_quotes_as_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live: a venue that is played into the feed's own decoder, and captured on the way."""
    messages = [f"3045 {800 + n % 7}\n11536 {3000 - n % 11}" for n in range(500)]
    done = asyncio.Event()

    async def live(feed: FakeVenueFeed, emit: Any, report: Any) -> None:
        report("ready")
        keep = capture.begin(0, OPEN_MS * NS_PER_MS)
        decode = decoder("kite")
        for count, text in enumerate(messages):
            at_ms = OPEN_MS + count * 100
            keep(text, at_ms * NS_PER_MS)
            for tick in filter(None, decode.ticks(text, at_ms)):
                emit(tick)
        done.set()
        await asyncio.Event().wait()

    install(monkeypatch, live)
    capture = Capture(tmp_path / "captures", "kite", Metrics(), max_bytes=10**9)
    (tmp_path / "live").mkdir()
    async with running(tmp_path / "live", feed={"kind": "kite"}) as server:
        await done.wait()
        expected = quotes(server.node.board.quote(key) for key in (SBIN, TCS))
    await capture.close()
    [path] = (tmp_path / "captures").iterdir()
    assert sum(1 for _ in read_records(path)) == 501

    (tmp_path / "again").mkdir()
    replay = ReplayOptions(paths=(str(path),), speed=None)
    async with running(tmp_path / "again", replay=replay) as server:
        async with Client(server.ws, "me") as client:
            assert client.welcome["data"]["simulated"] is True
            await client.subscribe("SBIN")
            last = await client.until(lambda m: m.get("data", {}).get("timestamp") == last_ms)
            assert last["data"]["ltp"] == 800 + 499 % 7
        assert quotes(server.node.board.quote(key) for key in (SBIN, TCS)) == expected


last_ms = OPEN_MS + 499 * 100


def quotes(found: Iterator[Quote | None]) -> list[dict[str, object]]:
    """Return all fields that do not say when the server applied the tick."""
    values = []
    for quote in found:
        assert quote is not None
        fields = {name: getattr(quote, name) for name in quote.__struct_fields__}
        del fields["last_updated"]
        values.append(fields)
    return values
