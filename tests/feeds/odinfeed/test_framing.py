import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from odin.errors import LocalWireError, RemoteWireError
from odin.feeds.odinfeed.framing import (
    MAX_BODY_BYTES,
    MAX_INFLATED_BYTES,
    MAX_MESSAGES,
    Dialect,
    FrameReader,
    encode_frame,
    encode_messages,
    encode_plain_frame,
    inflate,
)

HELLO = b"63=FT3.0|64=907|1=hello"
OTHER = b"63=FT3.0|64=110|1=other"


class Reading:
    """What a reader made of some pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.malformed = 0
        self.reader = FrameReader(self._count)
        self.messages = [text for piece in pieces for text in self.reader.messages(piece)]

    def _count(self) -> None:
        self.malformed += 1


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[start:end] for start, end in pairwise(places)]


def test_a_frame_by_hand() -> None:
    """Layout: lead byte, five digits, body; inside, the same again."""
    deflated = zlib.compress(b"\x0200023" + HELLO, 6)
    frame = b"\x05" + f"{len(deflated):05d}".encode() + deflated
    assert Reading(frame).messages == [HELLO]
    assert Reading(b"\x0200029\x0200023" + HELLO).messages == [HELLO]
    assert Reading(b"\x0200023" + HELLO).messages == [HELLO]
    assert encode_messages([HELLO]) == b"\x0200023" + HELLO


def test_a_request_by_hand_in_both_dialects() -> None:
    deflated = zlib.compress(HELLO)
    size = len(deflated)
    assert encode_frame(HELLO, "plain") == b"\x05%05d" % size + deflated
    assert encode_frame(HELLO, "padded") == b"\x05%05d" % (size + 4) + deflated + b"\0\0\0\0"


messages = st.lists(st.binary(max_size=60).map(lambda tail: b"63=" + tail), min_size=1, max_size=4)
frames = st.builds(
    lambda texts, is_plain: (
        texts,
        (encode_plain_frame if is_plain else encode_frame)(encode_messages(texts)),
    ),
    messages,
    st.booleans(),
)


@given(st.lists(frames, max_size=4), st.lists(st.integers(0, 2000)))
def test_any_split_of_a_stream_gives_the_same_messages(
    parts: list[tuple[list[bytes], bytes]], places: list[int]
) -> None:
    stream = b"".join(frame for _, frame in parts)
    wanted = [text for texts, _ in parts for text in texts]
    for pieces in ([stream], list(one_by_one(stream)), cut(stream, places)):
        reading = Reading(*pieces)
        assert (reading.messages, reading.malformed) == (wanted, 0)


@pytest.mark.parametrize("dialect", ["plain", "padded"])
@given(text=st.text(st.characters(codec="ascii", exclude_characters="\x02\0"), max_size=200))
def test_a_request_comes_back_in_both_dialects(dialect: Dialect, text: str) -> None:
    message = b"63=" + text.encode()
    assert Reading(encode_frame(message, dialect)).messages == [message]


@given(st.binary(max_size=400), st.lists(st.integers(0, 400)))
@example(b"\x0500000", [])
@example(b"\x0200012\x0299999123456", [3])
@example(b"\x0500009" + zlib.compress(b""), [])
def test_any_bytes_are_messages_or_counted(data: bytes, places: list[int]) -> None:
    whole = Reading(data)
    for pieces in (list(one_by_one(data)), cut(data, places)):
        reading = Reading(*pieces)
        assert (reading.messages, reading.malformed) == (whole.messages, whole.malformed)


@given(
    st.binary(max_size=100).filter(lambda data: not {2, 5} & set(data)),
    st.sampled_from(
        [
            *(b"", b"\x02", b"\x05123", b"\x0599999", b"\x0299999", b"\x0500003"),
            *(b"\x0599999\0\0", b"\x0599999\x78\xbb"),  # no deflate; a preset dictionary
        ]
    ),
)
def test_a_frame_after_garbage_is_found_and_the_garbage_counted_once(
    data: bytes, more: bytes
) -> None:
    frame = encode_frame(encode_messages([HELLO]))
    for pieces in ([data + more + frame], list(one_by_one(data + more + frame))):
        reading = Reading(*pieces, frame)
        assert reading.messages == [HELLO, HELLO]
        assert reading.malformed == bool(data + more)


def test_each_stretch_of_garbage_counts() -> None:
    frame = encode_frame(encode_messages([HELLO]))
    assert Reading(b"junk" + frame + b"more junk" + frame + b"x").malformed == 3


def test_a_broken_frame_costs_itself_only() -> None:
    good = encode_frame(encode_messages([HELLO]))
    bad = bytearray(good)
    bad[-1] ^= 1  # the checksum
    reading = Reading(bytes(bad) + good)
    assert (reading.messages, reading.malformed) == ([HELLO], 1)


def test_messages_before_a_cut_off_one_are_kept() -> None:
    body = encode_messages([HELLO, OTHER])
    assert Reading(encode_frame(body[:-1])).messages == [HELLO]
    assert Reading(encode_frame(body[:-1])).malformed == 1
    assert Reading(encode_frame(body + b"rest")).messages == [HELLO, OTHER]
    assert Reading(encode_frame(body + b"rest")).malformed == 1
    assert Reading(encode_frame(body + bytes(4))).malformed == 0


def test_a_message_has_any_bytes_in_it_where_it_has_a_header() -> None:
    record = HELLO + b"|50=\x02\x05\0" + bytes(range(256))
    assert Reading(encode_frame(encode_messages([record, HELLO]))).messages == [record, HELLO]


def test_the_older_form_is_cut_at_zero_and_split_at_two() -> None:
    """Legacy clients cut at 0x00, split on 0x02 and drop what is before "63="."""
    body = b"00023" + HELLO + b"\x0200023" + OTHER + b"\0\0 \x02 rubbish"
    assert Reading(encode_frame(body)).messages == [HELLO, OTHER]
    assert Reading(encode_frame(b"rubbish without a message")).malformed == 1


def test_a_zip_bomb_is_refused_and_the_next_frame_is_read() -> None:
    bomb = encode_frame(encode_messages([HELLO]) + bytes(MAX_INFLATED_BYTES))
    reading = Reading(bomb + encode_frame(encode_messages([OTHER])))
    assert (reading.messages, reading.malformed) == ([OTHER], 1)
    with pytest.raises(RemoteWireError, match=f"held more than {MAX_INFLATED_BYTES} bytes"):
        inflate(bomb[6:])
    assert len(inflate(zlib.compress(bytes(MAX_INFLATED_BYTES - 1)))) == MAX_INFLATED_BYTES - 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [(b"x" * 20, "was no zlib stream"), (zlib.compress(HELLO)[:-1], "was cut off")],
)
def test_a_broken_stream_says_how(body: bytes, problem: str) -> None:
    with pytest.raises(RemoteWireError, match=problem):
        inflate(body)


def test_what_waits_is_less_than_a_frame() -> None:
    reading = Reading()
    endless = b"\x0599999" + zlib.compress(b"")[:2]
    for piece in (endless, *[bytes(50_000)] * 100):
        assert list(reading.reader.messages(piece)) == []
        assert len(reading.reader._waiting) <= MAX_BODY_BYTES + 6
    assert reading.malformed > 0


def test_a_new_connection_forgets_half_a_frame() -> None:
    frame = encode_frame(encode_messages([HELLO]))
    reading = Reading(frame[:10])
    reading.reader.reset()
    assert list(reading.reader.messages(frame)) == [HELLO]
    assert reading.malformed == 0


def test_what_a_header_cannot_tell_is_not_sent() -> None:
    encode_plain_frame(bytes(MAX_BODY_BYTES))
    with pytest.raises(LocalWireError, match="100000 bytes is too long, 99999 may be"):
        encode_plain_frame(bytes(MAX_BODY_BYTES + 1))
    with pytest.raises(LocalWireError):
        encode_messages([bytes(MAX_BODY_BYTES + 1)])


def test_a_frame_of_endless_messages_is_left_off() -> None:
    """A few bytes can inflate to a million messages, and each would take its time."""
    reading = Reading(encode_frame(encode_messages([b"63=x"] * (MAX_MESSAGES + 5))))
    assert (len(reading.messages), reading.malformed) == (MAX_MESSAGES, 1)
    for junk in (b"\x0200000" * 100_000, b"\x02a" * 100_000, b"63=" + b"x" * MAX_BODY_BYTES):
        reading = Reading(encode_frame(junk))
        assert (reading.messages, reading.malformed) == ([], 1)
