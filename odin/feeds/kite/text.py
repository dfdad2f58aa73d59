"""The text half of Kite's protocol, version 3: requests of the client, and what the server says.

Both are JSON; actions and types are those of Kite Connect's page "WebSocket streaming". Market data
is never text: it is the binary half's, wire.py.
"""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from odin.errors import LocalWireError, RemoteWireError, reflect
from odin.feeds.kite.wire import MAX_TOKEN
from odin.model import Mode

DEFAULT_MODE: Final[Mode] = "quote"
"""The mode of what has been subscribed and not been given another."""

MAX_TEXT_CHARS: Final = 16_384
"""Orders and errors are a tenth of it; JSON that is built to be slow takes 2 ms."""

Token = Annotated[int, Meta(ge=0, le=MAX_TOKEN)]


class Subscribe(msgspec.Struct, frozen=True, tag_field="a", tag="subscribe"):
    """The client wants these, in DEFAULT_MODE."""

    tokens: tuple[Token, ...] = msgspec.field(name="v")


class Unsubscribe(msgspec.Struct, frozen=True, tag_field="a", tag="unsubscribe"):
    """The client wants these no longer."""

    tokens: tuple[Token, ...] = msgspec.field(name="v")


class SetMode(msgspec.Struct, frozen=True, tag_field="a", tag="mode"):
    """The client wants these, which it has subscribed, in another mode."""

    mode_and_tokens: tuple[Mode, tuple[Token, ...]] = msgspec.field(name="v")


Request = Subscribe | Unsubscribe | SetMode


class Text(msgspec.Struct, frozen=True):
    """A text message of the server. `type` is "error", "order" (of the account, private),
    "message" (to its owner), or what Kite may add."""

    type: str
    data: object = None

    @property
    def problem(self) -> str | None:
        """What an error says; None for every other message."""
        return str(self.data) if self.type == "error" else None


_requests: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)
_texts: Final = msgspec.json.Decoder(Text)
_REFUSAL: Final = re.compile(
    r"\b(access[ _]token|api[ _]key|session|token is)\b.*\b(invalid|expired|incorrect)\b"
    r"|\b(invalid|expired|incorrect)\b.*\b(access[ _]token|api[ _]key|session)\b",
    re.IGNORECASE | re.DOTALL,
)


def encode_request(request: Request) -> str:
    """Return the text of a request. Tokens go as numbers: Kite ignores texts without a word."""
    text = msgspec.json.encode(request)
    try:
        _requests.decode(text)
    except msgspec.MsgspecError as problem:
        raise LocalWireError(f"{reflect(request)} is no request: {problem}") from None
    return text.decode()


def decode_request(text: str | bytes) -> Request:
    """Return what a client sent. Raises RemoteWireError."""
    try:
        return _requests.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise RemoteWireError("a text that is no request") from None


def encode_text(text: Text) -> str:
    """Return a text message of the server. Raises LocalWireError."""
    try:
        return msgspec.json.encode(text).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as problem:
        raise LocalWireError(f"data that is no JSON: {problem}") from None


def decode_text(text: str) -> Text:
    """Return a text message of the server. Raises RemoteWireError."""
    if len(text) > MAX_TEXT_CHARS:
        raise RemoteWireError(f"a text of {len(text)} characters")
    try:
        return _texts.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise RemoteWireError("a text that is no message") from None


def is_refusal(problem: str) -> bool:
    """Whether an error says that the credentials are no good (and not, say, an instrument)."""
    return _REFUSAL.search(problem[:512]) is not None
