"""Frames of a client that RFC 6455 forbids, at any place where they may be cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.protocols.strict import MAX_FRAGMENTS, REFUSED, FrameChecker

MASK = b"\x37\xfa\x21\x3d"


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, is_masked: bool = True
) -> bytes:
    """Return a client's frame, as RFC 6455 §5.2 has it unless told otherwise."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask = 0x80 if is_masked else 0
    if len(payload) < 126:
        head = bytes((first, mask | len(payload)))
    elif len(payload) < 65536:
        head = bytes((first, mask | 126)) + len(payload).to_bytes(2, "big")
    else:
        head = bytes((first, mask | 127)) + len(payload).to_bytes(8, "big")
    if not is_masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


def problem_of(data: bytes, *, piece: int = 1 << 20, is_compressed: bool = False) -> str:
    """Return what is found wrong, after a look at what would be passed on."""
    checker = FrameChecker(is_compressed=is_compressed)
    passed = b"".join(checker.feed(data[at : at + piece]) for at in range(0, len(data), piece))
    if checker.problem:
        assert passed.endswith(REFUSED)
        assert checker.feed(frame(1, b"more")) == b""
        passed = passed.removesuffix(REFUSED)
    assert data.startswith(passed)
    return checker.problem


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(8, code.to_bytes(2, "big") + reason)


GOOD = {
    "text": frame(1, b"hello"),
    "empty text": frame(1),
    "binary": frame(2, bytes(300)),
    "large": frame(2, bytes(70_000)),
    "fragments": frame(1, b"a", fin=False) + frame(0, b"b", fin=False) + frame(0, b"c"),
    "ping between fragments": frame(1, b"a", fin=False) + frame(9, b"p") + frame(0, b"c"),
    "empty fragments": frame(1, fin=False) + frame(0, fin=False) + frame(0),
    "pings": frame(9) + frame(9, bytes(125)) + frame(10, b"x"),
    "close": close(1000),
    "close with a reason": frame(1, b"x") + close(1001, b"bye"),
    "close without a code": frame(8),
    "close by an application": close(4999) + frame(1, b"never read"),
}

BAD = {
    "unmasked text": (frame(1, b"hello", is_masked=False), "a frame was not masked"),
    "unmasked ping": (frame(9, is_masked=False), "a frame was not masked"),
    "unmasked close": (frame(8, b"\x03\xe8", is_masked=False), "a frame was not masked"),
    "unmasked after masked": (frame(1) + frame(1, is_masked=False), "a frame was not masked"),
    **{
        f"RSV {rsv} on opcode {opcode}": (frame(opcode, rsv=rsv), "reserved bits were set")
        for rsv in range(1, 8)
        for opcode in (0, 1, 2, 8, 9, 10)
    },
    **{
        f"opcode {opcode}": (frame(opcode), "an opcode was reserved")
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    **{
        f"fragmented control {opcode}": (frame(opcode, fin=False), "a control frame was fragmented")
        for opcode in (8, 9, 10)
    },
    **{
        f"long control {opcode}": (frame(opcode, bytes(126)), "a control frame was too long")
        for opcode in (8, 9, 10)
    },
    "very long ping": (frame(9, bytes(70_000)), "a control frame was too long"),
    "lone continuation": (frame(0, b"x"), "fragments of messages were mixed"),
    "continuation after the end": (
        frame(1, b"x") + frame(0, b"y"),
        "fragments of messages were mixed",
    ),
    "message in a message": (
        frame(1, b"x", fin=False) + frame(1, b"y"),
        "fragments of messages were mixed",
    ),
    "message after an empty first fragment": (
        frame(1, fin=False) + frame(2, b"y"),
        "fragments of messages were mixed",
    ),
    "half a close code": (frame(8, b"\x03"), "a close frame had half a code"),
    **{
        f"close code {code}": (close(code), "a close code was invalid")
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "long form of a short length": (
        b"\x81\xfe\x00\x7d" + MASK + bytes(125),
        "a length was not as short as possible",
    ),
    "longest form of a short length": (
        b"\x81\xff" + (65535).to_bytes(8, "big") + MASK,
        "a length was not as short as possible",
    ),
    "length with the highest bit": (
        b"\x81\xff" + (2**63).to_bytes(8, "big") + MASK,
        "a length was not as short as possible",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_the_rfc_allows_passes_in_pieces_of_any_size(name: str) -> None:
    for piece in (1, 2, 3, 7, 1 << 20):
        assert problem_of(GOOD[name], piece=piece) == ""


@pytest.mark.parametrize("name", BAD)
def test_what_the_rfc_forbids_is_named_wherever_it_is_cut(name: str) -> None:
    data, problem = BAD[name]
    for before in (b"", GOOD["text"], GOOD["fragments"], GOOD["large"]):
        for piece in (1, 2, 5, 1 << 20):
            assert problem_of(before + data, piece=piece) == problem


@pytest.mark.parametrize("name", BAD)
def test_all_before_the_bad_frame_is_passed_on_and_nothing_of_it(name: str) -> None:
    data, _ = BAD[name]
    before = GOOD["pings"] + GOOD["fragments"]
    for piece in (1, 2, 5, 1 << 20):
        checker = FrameChecker()
        stream = before + data
        passed = b"".join(
            checker.feed(stream[at : at + piece]) for at in range(0, len(stream), piece)
        )
        good = passed.removesuffix(REFUSED)
        assert good.startswith(before)
        assert not problem_of(good)


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_a_message_of_too_many_fragments_is_against_policy(payload: bytes) -> None:
    checker = FrameChecker()
    for _ in range(2):
        most = frame(1, payload, fin=False) + frame(0, payload, fin=False) * (MAX_FRAGMENTS - 1)
        assert checker.feed(most + frame(9)) == most + frame(9)
        assert checker.feed(frame(0)) == frame(0)
    assert checker.feed(most + frame(0, fin=False)) == most + REFUSED
    assert (checker.code, checker.problem) == (1008, "a message had too many fragments")


def test_a_compressed_message_has_rsv1_on_its_first_frame_alone() -> None:
    good = frame(1, b"x", rsv=4, fin=False) + frame(9) + frame(0, b"y")
    assert problem_of(good, is_compressed=True) == ""
    for bad in (frame(9, rsv=4), frame(8, rsv=4), frame(1, fin=False) + frame(0, rsv=4)):
        assert problem_of(bad, is_compressed=True) == "reserved bits were set"
    assert problem_of(frame(1, rsv=6), is_compressed=True) == "reserved bits were set"


messages = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 9, 10]), st.binary(max_size=300), st.integers(0, 3), st.booleans()
    ),
    max_size=8,
)


@given(messages, st.data())
def test_any_conversation_passes_cut_anywhere(
    parts: list[tuple[int, bytes, int, bool]], data: st.DataObject
) -> None:
    stream = b""
    for opcode, payload, fragments, has_ping in parts:
        if opcode > 8 or not fragments:
            stream += frame(opcode, payload[:125] if opcode > 8 else payload)
            continue
        stream += frame(opcode, payload, fin=False)
        for _ in range(fragments - 1):
            stream += frame(0, payload, fin=False)
            stream += frame(9) if has_ping else b""
        stream += frame(0)
    checker = FrameChecker()
    said, passed = stream, b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        passed += checker.feed(stream[:size])
        stream = stream[size:]
    assert (checker.problem, passed) == ("", said)


@given(st.binary(max_size=400), st.integers(1, 20))
def test_any_bytes_are_judged_the_same_in_one_piece_and_in_many(data: bytes, piece: int) -> None:
    assert problem_of(data, piece=piece) == problem_of(data)
