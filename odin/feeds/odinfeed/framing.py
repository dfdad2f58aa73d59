"""The frames of the ODIN broadcast: a byte stream in, messages out, and back.

A frame is a lead byte (0x05 a zlib body, 0x02 a plain one), five ASCII digits that tell the length
of the body, and the body. What the server sends is, inside a frame, again a row of messages with
such headers. WebSocket messages split and join frames as they like. Invariant: whatever arrives,
in whatever pieces, what is kept is less than one frame and what is inflated is at most
MAX_INFLATED_BYTES. What a message says is none of this module's business.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from odin.errors import LocalWireError, RemoteWireError

Dialect = Literal["plain", "padded"]
"""How a request states its length. plain: that of the zlib stream. padded: four zero bytes follow
the stream, and count."""

DEFLATED: Final = 0x05
PLAIN: Final = 0x02
HEADER_BYTES: Final = 6
MAX_BODY_BYTES: Final = 99_999
"""What five digits can tell."""
MAX_INFLATED_BYTES: Final = 2 * 1024 * 1024
"""Of one frame; it takes 5 ms. Texts shrink to a tenth, so true ones are half of it at most."""

MAX_MESSAGES: Final = 10_000
"""In one frame; hundreds are usual."""

_PADDING: Final = bytes(4)
_LEADS: Final = frozenset({DEFLATED, PLAIN})
_HEADER: Final = re.compile(rb"[\x02\x05][0-9]{5}")
_HEADER_BEGUN: Final = re.compile(rb"[\x02\x05][0-9]{0,4}\Z")
_PLAIN_BEGIN: Final = re.compile(rb"(?:[\x02\x05][0-9]{5})?63=")
_OLDER_PART: Final = re.compile(rb"[^\x02]+")
_MIN_BODY_BYTES: Final = 9
"""The shortest zlib stream that holds anything; the shortest message is longer."""
_PROBE_BYTES: Final = HEADER_BYTES + _MIN_BODY_BYTES
"""What must have arrived to tell a frame from bytes that only look like a header."""


class FrameReader:
    """Finds the messages in the bytes of one direction of one connection.

    on_malformed: called for each stretch of bytes that belonged to no frame, and for each frame,
        or rest of one, that could not be read; reading goes on at the next frame.
    """

    def __init__(self, on_malformed: Callable[[], None]) -> None:
        self._on_malformed = on_malformed
        self._waiting = bytearray()
        """Less than one frame."""
        self._is_lost = False

    def reset(self) -> None:
        """Forget what waits for its rest: a new connection begins."""
        self._waiting.clear()
        self._is_lost = False

    def messages(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that are whole with these bytes. To be read to the end: otherwise
        what is left of the bytes comes with the next call."""
        for body in self._bodies(data):
            yield from self._split(body)

    def _bodies(self, data: bytes) -> Iterator[bytes]:
        waiting = self._waiting
        waiting += data
        at = 0
        try:
            while True:
                start = self._find_header(at)
                if start > at:
                    self._lose()
                at = start
                if len(waiting) - at < _PROBE_BYTES:
                    return
                begin = at + HEADER_BYTES
                end = begin + int(waiting[at + 1 : begin])
                if end - begin < _MIN_BODY_BYTES or not self._may_be_frame(at):
                    self._lose()
                    at += 1
                    continue
                if len(waiting) < end:
                    return
                lead, body = waiting[at], bytes(waiting[begin:end])
                at = end
                if lead == DEFLATED:
                    try:
                        body = inflate(body)
                    except RemoteWireError:
                        self._on_malformed()
                        continue
                self._is_lost = False
                yield body
        finally:
            del waiting[:at]

    def _find_header(self, at: int) -> int:
        """Return where the next header begins, or may begin; the end where none does."""
        waiting = self._waiting
        found = _HEADER.match(waiting, at) or _HEADER.search(waiting, at)
        if found is None:
            found = _HEADER_BEGUN.search(waiting, max(at, len(waiting) - HEADER_BYTES + 1))
        return len(waiting) if found is None else found.start()

    def _may_be_frame(self, at: int) -> bool:
        """Whether what follows a header can be a body: so garbage that looks like a header does
        not swallow true frames after it."""
        waiting, begin = self._waiting, at + HEADER_BYTES
        if waiting[at] == PLAIN:
            return _PLAIN_BEGIN.match(waiting, begin) is not None
        method, flags = waiting[begin], waiting[begin + 1]  # RFC 1950 §2.2
        return method & 0x0F == 8 and not flags & 0x20 and (method << 8 | flags) % 31 == 0

    def _lose(self) -> None:
        """Count a stretch of garbage, once."""
        if not self._is_lost:
            self._is_lost = True
            self._on_malformed()

    def _split(self, body: bytes) -> Iterator[bytes]:
        """Yield the messages of one body, up to the first that is broken."""
        split = self._split_by_headers if _HEADER.match(body) else self._split_by_leads
        for count, message in enumerate(split(body)):
            if count == MAX_MESSAGES:
                self._on_malformed()
                return
            yield message

    def _split_by_headers(self, body: bytes) -> Iterator[bytes]:
        at, size = 0, len(body)
        while at < size:
            begin = at + HEADER_BYTES
            digits = body[at + 1 : begin]
            end = begin + int(digits) if body[at] in _LEADS and digits.isdigit() else size + 1
            if not begin < end <= size:
                if body[at:].strip(b"\0"):
                    self._on_malformed()
                return
            yield body[begin:end]
            at = end

    def _split_by_leads(self, body: bytes) -> Iterator[bytes]:
        """The older form: up to the first 0x00, separated by 0x02."""
        for part in _OLDER_PART.finditer(body.partition(b"\0")[0]):
            begin = part[0].find(b"63=")
            if begin < 0 or len(part[0]) > MAX_BODY_BYTES:
                self._on_malformed()
                return
            yield part[0][begin:]


def inflate(body: bytes) -> bytes:
    """Return what a zlib stream holds; what follows the stream is ignored, as one dialect pads it.

    Raises RemoteWireError where it is broken, cut off, or holds more than MAX_INFLATED_BYTES.
    """
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(body, MAX_INFLATED_BYTES)
    except zlib.error:
        raise RemoteWireError("the frame was no zlib stream") from None
    if not stream.eof:
        if len(inflated) == MAX_INFLATED_BYTES:
            raise RemoteWireError(f"the frame held more than {MAX_INFLATED_BYTES} bytes")
        raise RemoteWireError("the zlib stream of the frame was cut off")
    return inflated


def encode_frame(body: bytes, dialect: Dialect = "plain") -> bytes:
    """Return the frame of a request, or of what `encode_messages` returned, compressed.

    Raises LocalWireError where it is longer than a header can tell.
    """
    return _frame(DEFLATED, zlib.compress(body) + (_PADDING if dialect == "padded" else b""))


def encode_plain_frame(body: bytes) -> bytes:
    """Return a frame that is not compressed. Raises LocalWireError like `encode_frame`."""
    return _frame(PLAIN, body)


def encode_messages(messages: Iterable[bytes]) -> bytes:
    """Return messages as the server puts them into one frame. Raises LocalWireError where one is
    longer than a header can tell."""
    return b"".join(_frame(PLAIN, message) for message in messages)


def _frame(lead: int, body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise LocalWireError(f"a frame of {len(body)} bytes is too long, {MAX_BODY_BYTES} may be")
    return b"%c%05d%b" % (lead, len(body), body)
