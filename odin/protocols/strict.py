"""What RFC 6455 demands of a client's frames, checked before aiohttp's reader sees them.

That reader takes unmasked frames, a new message after an empty first fragment, and close code
1006. Only headers are looked at: payloads are the reader's. Pure: bytes in, a problem out.
"""

from typing import Final

CONTINUATION: Final = 0x0
CLOSE: Final = 0x8
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

    __slots__ = ("_header", "_is_compressed", "_is_in_message", "_skip")

    def __init__(self, *, is_compressed: bool = False) -> None:
        self._is_compressed = is_compressed
        self._header = b""
        self._skip = 0
        """Bytes of the payload that are still to come."""
        self._is_in_message = False
        """Whether a message has begun whose last fragment is still to come."""

    def feed(self, data: bytes) -> str:
        """Take in bytes; return what is wrong with them, "" where nothing is.

        After a problem the connection must end: what follows is not checked.
        """
        at = 0
        size = len(data)
        while at < size:
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                continue
            known = len(self._header)
            header = self._header + data[at : at + 16 - known]
            if len(header) >= 2:
                problem = self._check(header[0], header[1])
                if problem:
                    return problem
                length = self._length_of(header)
                if length:
                    problem, self._skip = self._begin(header, length)
                    if problem:
                        return problem
                    at += length - known
                    self._header = b""
                    continue
            self._header = header
            return ""
        return ""

    def _check(self, first: int, second: int) -> str:
        """Return what is wrong with the first two bytes of a frame."""
        opcode = first & 0x0F
        reserved = first & 0x70
        is_control = opcode >= CLOSE
        if reserved == 0x40 and self._is_compressed and opcode in (0x1, 0x2):
            reserved = 0
        if reserved:
            return "reserved bits were set"
        if opcode not in _OPCODES:
            return "an opcode was reserved"
        if not second & 0x80:
            return "a frame was not masked"
        if is_control:
            if not first & 0x80:
                return "a control frame was fragmented"
            if second & 0x7F > _MAX_CONTROL_BYTES:
                return "a control frame was too long"
            if opcode == CLOSE and second & 0x7F == 1:
                return "a close frame had half a code"
        elif (opcode == CONTINUATION) != self._is_in_message:
            return "fragments of messages were mixed"
        return ""

    @staticmethod
    def _length_of(header: bytes) -> int:
        """Return the size of the header, with the code of a close frame; 0 while it is cut off."""
        short = header[1] & 0x7F
        size = 2 + {126: 2, 127: 8}.get(short, 0) + _MASK_BYTES
        if header[0] & 0x0F == CLOSE and short:
            size += 2
        return size if len(header) >= size else 0

    def _begin(self, header: bytes, size: int) -> tuple[str, int]:
        """Enter a frame whose header is whole; return what is wrong, and what follows of it."""
        opcode = header[0] & 0x0F
        payload = header[1] & 0x7F
        if payload == 126:
            payload = int.from_bytes(header[2:4], "big")
            if payload < 126:
                return "a length was not as short as possible", 0
        elif payload == 127:
            payload = int.from_bytes(header[2:10], "big")
            if not 65536 <= payload < _MAX_LENGTH:
                return "a length was not as short as possible", 0
        if opcode == CLOSE and payload:
            code = int.from_bytes(bytes((header[6] ^ header[2], header[7] ^ header[3])), "big")
            if code not in _CODES_IN_USE and not 3000 <= code < 5000:
                return "a close code was invalid", 0
            payload -= 2
        if opcode < CLOSE:
            self._is_in_message = not header[0] & 0x80
        return "", payload
