"""What RFC 6455 demands of a client's frames, checked before aiohttp's reader sees them.

That reader takes unmasked frames, a new message after an empty first fragment, and close code
1006. Only headers are looked at: payloads are the reader's. Pure: bytes in, bytes out.
"""

from typing import Final

CONTINUATION: Final = 0x0
CLOSE: Final = 0x8
MAX_FRAGMENTS: Final = 1024
"""Fragments of one message. Empty ones cost their sender nothing, and count as no request."""
REFUSED: Final = b"\x8f\x80"
"""Passed on instead of a frame that is forbidden: no reader takes opcode 15. So the error comes
after the messages before it, where a reader that holds bytes back would have it."""

_OPCODES: Final = frozenset({CONTINUATION, 0x1, 0x2, CLOSE, 0x9, 0xA})
_MAX_CONTROL_BYTES: Final = 125
_MAX_LENGTH: Final = 2**63
_MASK_BYTES: Final = 4
_CODES_IN_USE: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


class FrameChecker:
    """Follows one connection's frames from its first byte on, in pieces of any size.

    is_compressed: whether permessage-deflate was agreed, which gives RSV1 a meaning on the first
        frame of a message (RFC 7692 §6).
    """

    __slots__ = ("_fragments", "_header", "_is_compressed", "_skip", "code", "problem")

    def __init__(self, *, is_compressed: bool = False) -> None:
        self._is_compressed = is_compressed
        self._header = b""
        """The beginning of a header whose rest is still to come."""
        self._skip = 0
        """Bytes of the payload that are still to come."""
        self._fragments = 0
        """Frames of a message whose last one is still to come."""
        self.problem = ""
        """What was wrong; "" where nothing was."""
        self.code = 1002
        """The close code that the problem calls for."""

    def feed(self, data: bytes) -> bytes:
        """Take in bytes; return those that a reader may have: payloads, and headers once whole.

        After a problem, which ends what is returned with REFUSED, nothing is passed on any more.
        """
        if self.problem:
            return b""
        if self._header:
            data = self._header + data
            self._header = b""
        at = self._skip
        size = len(data)
        while at < size:
            length = self._length_of(data, at)
            if length == 0:
                self._header = data[at:]
                self._skip = 0
                return data[:at]
            payload = self._begin(data, at) if length > 0 else -1
            if payload < 0:
                return data[:at] + REFUSED
            at += length + payload
        self._skip = at - size
        return data

    def _length_of(self, data: bytes, at: int) -> int:
        """Return the size of the header, with the code of a close frame; 0 while it is cut off.

        Negative where its first two bytes are wrong, and the problem is set.
        """
        known = len(data) - at
        if known < 2:
            return 0
        self.problem = self._check(data[at], data[at + 1])
        if self.problem:
            return -1
        short = data[at + 1] & 0x7F
        size = 2 + _MASK_BYTES
        if short > _MAX_CONTROL_BYTES:
            size += 2 if short == 126 else 8
        elif short and data[at] & 0x0F == CLOSE:
            size += 2
        return size if known >= size else 0

    def _check(self, first: int, second: int) -> str:
        """Return what is wrong with the first two bytes of a frame."""
        opcode = first & 0x0F
        reserved = first & 0x70
        if reserved == 0x40 and self._is_compressed and opcode in (0x1, 0x2):
            reserved = 0
        if reserved:
            return "reserved bits were set"
        if opcode not in _OPCODES:
            return "an opcode was reserved"
        if not second & 0x80:
            return "a frame was not masked"
        if opcode >= CLOSE:
            if not first & 0x80:
                return "a control frame was fragmented"
            if second & 0x7F > _MAX_CONTROL_BYTES:
                return "a control frame was too long"
            if opcode == CLOSE and second & 0x7F == 1:
                return "a close frame had half a code"
        elif (opcode == CONTINUATION) != bool(self._fragments):
            return "fragments of messages were mixed"
        return ""

    def _begin(self, data: bytes, at: int) -> int:
        """Enter a frame whose header is whole; return how much follows it, see _length_of."""
        opcode = data[at] & 0x0F
        payload = data[at + 1] & 0x7F
        if payload > _MAX_CONTROL_BYTES:
            shortest, end = (126, at + 4) if payload == 126 else (65536, at + 10)
            payload = int.from_bytes(data[at + 2 : end], "big")
            if not shortest <= payload < _MAX_LENGTH:
                self.problem = "a length was not as short as possible"
        if opcode == CLOSE and payload:
            code = (data[at + 6] ^ data[at + 2]) << 8 | data[at + 7] ^ data[at + 3]
            if code not in _CODES_IN_USE and not 3000 <= code < 5000:
                self.problem = "a close code was invalid"
            payload -= 2
        if opcode < CLOSE:
            self._fragments = 0 if data[at] & 0x80 else self._fragments + 1
            if self._fragments > MAX_FRAGMENTS:
                self.problem = "a message had too many fragments"
                self.code = 1008
        return -1 if self.problem else payload
