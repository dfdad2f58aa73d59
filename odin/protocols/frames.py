"""WebSocket frames from server to client (RFC 6455 §5.2): whole, final and never masked.

Since they are not masked the same bytes serve every client.
"""

_LARGE = 126
_HUGE = 65536


def _headers(opcode: int) -> list[bytes]:
    """Return the headers by payload size, as far as quotes are usually large."""
    small = [bytes((opcode, size)) for size in range(_LARGE)]
    return small + [bytes((opcode, _LARGE)) + size.to_bytes(2, "big") for size in range(126, 1024)]


_TEXT = 0x81
_BINARY = 0x82
_TEXT_HEADERS = _headers(_TEXT)
_BINARY_HEADERS = _headers(_BINARY)


def text_frame(payload: bytes) -> bytes:
    """Return the payload as one text frame. It must be UTF-8."""
    size = len(payload)
    return (_TEXT_HEADERS[size] if size < 1024 else _header(_TEXT, size)) + payload


def binary_frame(payload: bytes) -> bytes:
    """Return the payload as one binary frame."""
    size = len(payload)
    return (_BINARY_HEADERS[size] if size < 1024 else _header(_BINARY, size)) + payload


def _header(opcode: int, size: int) -> bytes:
    if size < _HUGE:
        return bytes((opcode, _LARGE)) + size.to_bytes(2, "big")
    return bytes((opcode, 127)) + size.to_bytes(8, "big")
