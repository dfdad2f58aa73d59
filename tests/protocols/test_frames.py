"""WebSocket frames as the server writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.protocols.frames import binary_frame, text_frame


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, "8100"),
        (1, "8101"),
        (125, "817d"),
        (126, "817e007e"),
        (610, "817e0262"),
        (65535, "817effff"),
        (65536, "817f0000000000010000"),
    ],
)
def test_headers_are_those_of_rfc_6455(size: int, header: str) -> None:
    payload = b"x" * size
    frame = text_frame(payload)
    assert frame == bytes.fromhex(header) + payload


def read_frame(data: bytes) -> tuple[int, bytes, bytes]:
    """Decode one unmasked frame by the letter of RFC 6455 §5.2: opcode, payload, rest."""
    assert data[0] & 0x70 == 0, "reserved bits"
    assert data[0] & 0x80, "not final"
    assert not data[1] & 0x80, "a server's frame is not masked"
    length = data[1] & 0x7F
    start = 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
        assert length >= 126
    elif length == 127:
        length, start = int.from_bytes(data[2:10], "big"), 10
        assert length >= 65536
    return data[0] & 0x0F, data[start : start + length], data[start + length :]


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=70_000)), max_size=5))
def test_joined_frames_come_apart_again(messages: list[tuple[bool, bytes]]) -> None:
    data = b"".join(
        text_frame(payload) if is_text else binary_frame(payload) for is_text, payload in messages
    )
    read = []
    while data:
        opcode, payload, data = read_frame(data)
        assert opcode in (1, 2)
        read.append((opcode == 1, payload))
    assert read == messages


@pytest.mark.parametrize("size", [0, 125, 126, 1023, 1024, 65535, 65536])
def test_every_size_has_the_header_of_its_length(size: int) -> None:
    opcode, payload, rest = read_frame(binary_frame(bytes(size)))
    assert (opcode, len(payload), rest) == (2, size, b"")
