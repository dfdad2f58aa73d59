"""Compressed messages of clients (permessage-deflate, RFC 7692), where the settings agree to them.

A compressed message becomes a plain one before aiohttp's reader sees it. No state lives from one
message to the next, so that an idle connection costs no more for it, and what a message inflates
to is bounded while it is inflated. Pure: bytes in, bytes out.
"""

import re
import zlib
from typing import Final

from odin.protocols.strict import CLOSE, REFUSED, FrameChecker

EXTENSION: Final = "permessage-deflate"
NO_TAKEOVER: Final = f"{EXTENSION}; server_no_context_takeover; client_no_context_takeover"
TOO_LARGE: Final = b"\x82\xff" + (2**62).to_bytes(8, "big") + bytes(4)
"""The header of a message that no reader takes."""

_FLAGS: Final = frozenset({"server_no_context_takeover", "client_no_context_takeover"})
_SERVER_BITS: Final = "server_max_window_bits"
_CLIENT_BITS: Final = "client_max_window_bits"
_BITS: Final = re.compile(r'"?([89]|1[0-5])"?')
_TAIL: Final = b"\x00\x00\xff\xff"
"""What a sender leaves out at the end of a message (§7.2.1)."""
_AFTER_LAST: Final = frozenset({b"", _TAIL, b"\x00" + _TAIL})
"""What may follow a block that says it is the last (§7.2.3.4)."""


def agree(offers: str) -> str:
    """Return the answer to a Sec-WebSocket-Extensions header, "" where no offer can be taken.

    The first valid offer counts; one with anything wrong in it is declined, as §7.1 demands.
    """
    for offer in offers.split(","):
        name, *params = (part.strip() for part in offer.split(";"))
        if name != EXTENSION:
            continue
        values: dict[str, str] = {}
        for param in params:
            key, equals, value = (part.strip() for part in param.partition("="))
            if key in values or not _is_valid(key, value, has_value=bool(equals)):
                break
            values[key] = value
        else:
            bits = values.get(_SERVER_BITS, "").strip('"')
            return f"{NO_TAKEOVER}; {_SERVER_BITS}={bits}" if bits else NO_TAKEOVER
    return ""


def _is_valid(key: str, value: str, *, has_value: bool) -> bool:
    if key in _FLAGS or (key == _CLIENT_BITS and not has_value):
        return not has_value
    is_even = value.startswith('"') == value.endswith('"')
    return key in {_SERVER_BITS, _CLIENT_BITS} and is_even and bool(_BITS.fullmatch(value))


class InflatingChecker(FrameChecker):
    """Checks frames as its base does, and passes compressed messages on as plain ones.

    limit: bytes of a message, compressed or not; above it TOO_LARGE is passed on instead.
    """

    __slots__ = ("_compressed", "_limit", "_opcode", "_pending")

    def __init__(self, limit: int) -> None:
        super().__init__(is_compressed=True)
        self._limit = limit
        self._pending = bytearray()
        """Frames that are not yet passed on, at most one that is cut off after each call."""
        self._opcode = 0
        """That of the compressed message that has begun; 0 while there is none."""
        self._compressed = bytearray()

    def feed(self, data: bytes) -> bytes:
        if self.problem:
            return b""
        checked = super().feed(data)
        end = REFUSED if self.problem else b""
        pending = self._pending
        pending += checked.removesuffix(end)
        passed: list[bytes] = []
        at = 0
        while len(pending) - at >= 2:
            head, size = _header_of(pending, at)
            if not head:
                break
            is_data = pending[at] & 0x0F < CLOSE
            if is_data and len(self._compressed) + size > self._limit:
                end = TOO_LARGE
                break
            if at + head + size > len(pending):
                break
            frame = bytes(pending[at : at + head + size])
            passed.append(self._frame(frame, head))
            if passed[-1] is REFUSED:
                end = b""
                break
            at += head + size
        del pending[:at]
        return b"".join(passed) + end

    def _frame(self, frame: bytes, head: int) -> bytes:
        """Return what is passed on in place of one whole frame."""
        opcode = frame[0] & 0x0F
        if frame[0] & 0x40:
            self._opcode = opcode
        elif not self._opcode or opcode:
            return frame
        self._compressed += _unmasked(frame[head:], frame[head - 4 : head])
        if not frame[0] & 0x80:
            return b""
        text = self._inflated()
        if self.problem:
            return REFUSED
        if len(text) > self._limit:
            return TOO_LARGE
        first = bytes((0x80 | self._opcode,))
        self._opcode = 0
        self._compressed.clear()
        if len(text) < 126:
            return first + bytes((0x80 | len(text),)) + bytes(4) + text
        if len(text) < 65536:
            return first + b"\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text
        return first + b"\xff" + len(text).to_bytes(8, "big") + bytes(4) + text

    def _inflated(self) -> bytes:
        """Return the message, cut off behind the limit; set the problem where it is noise."""
        inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            text = inflate.decompress(bytes(self._compressed) + _TAIL, self._limit + 1)
        except zlib.error:
            self.problem = "a message could not be inflated"
            return b""
        if len(text) <= self._limit and inflate.unused_data not in _AFTER_LAST:
            self.problem = "a message did not end where it said"
        return text


def _header_of(data: bytearray, at: int) -> tuple[int, int]:
    """Return the sizes of a masked frame's header, 0 while it is cut off, and of its payload."""
    short = data[at + 1] & 0x7F
    wide = {126: 2, 127: 8}.get(short, 0)
    if len(data) - at < 6 + wide:
        return 0, 0
    return 6 + wide, int.from_bytes(data[at + 2 : at + 2 + wide], "big") if wide else short


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    plain = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return plain.to_bytes(len(payload), "big")
