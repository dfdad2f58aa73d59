"""What a client asks of an ODIN broadcast server, as text and back.

Requests are `tag=value` joined by "|"; "$" joins the tags of one scrip. Field 65 is a constant, as
servers do not look at it. Both directions, because tests speak for the server. No frames here.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from odin.errors import LocalWireError, RemoteWireError, reflect

Version = Literal["FT3.0", "FIX3.0"]
LoginKind = Literal["password", "token"]

MAX_UINT32: Final = 2**32 - 1

_HEAD: Final = re.compile(r"63=([^|]{0,16})\|64=([0-9]{1,5})(?=\||\Z)")
_PAIR: Final = re.compile(r"\|([0-9]{1,5})=([^|]*)")
_SCRIP: Final = re.compile(r"\|1=([0-9]{1,10})[$|]7=([0-9]{1,10})(?=\||\Z)")
_KINDS: Final[dict[LoginKind, str]] = {"password": "1", "token": "2"}


class Scrip(NamedTuple):
    """One instrument as the server numbers it."""

    segment: int
    token: int


class Login(NamedTuple):
    """401 tells the kind; Choice's servers (FIX3.0) are not told it."""

    user: str
    secret: str
    kind: LoginKind = "token"

    def __repr__(self) -> str:
        return f"Login({self.kind})"


class Touchline(NamedTuple):
    """Send the last price and its surroundings, or stop. Indices have scrips like all others."""

    scrips: tuple[Scrip, ...]
    is_on: bool = True
    is_binary: bool = False
    is_ltp_change_only: bool = False
    """Send when the last price changes, instead of with every change. A request to stop tells
    neither of both."""


class LtpTouchline(NamedTuple):
    """Send the last price alone, or stop."""

    scrips: tuple[Scrip, ...]
    is_on: bool = True


class BestFive(NamedTuple):
    """Send the five best levels of the order book, or stop. One scrip a request."""

    scrip: Scrip
    is_on: bool = True


class Pause(NamedTuple):
    """Send nothing for a while, or go on."""

    is_paused: bool


class KeepAlive(NamedTuple):
    """Only tells that the client is there."""

    session: str = ""


Request = Login | Touchline | LtpTouchline | BestFive | Pause | KeepAlive


def encode_request(request: Request, time: str, version: Version = "FT3.0") -> bytes:
    """Return the text of a request.

    time: the client's, "HH:MM:SS".
    Raises LocalWireError for a value that the text cannot hold; the value is not named.
    """

    def text(code: int, length: int, *fields: str) -> bytes:
        parts = (f"63={version}", f"64={code}", f"65={length}", f"66={time}", *fields)
        return "|".join(parts).encode("ascii")

    match request:
        case Login(user, secret, kind):
            if not user or not _is_value(user + secret):
                raise LocalWireError("user or secret has a character that a login cannot hold")
            who = (f"67={user}", f"68={secret}")
            if version == "FIX3.0":
                return "|".join(
                    (f"63={version}", "64=101", f"66={time}", *who, "400=11", "")
                ).encode("ascii")
            return text(101, 74, *who, *((f"401={_KINDS[kind]}",) if secret else ()))
        case Touchline(scrips, False):
            return text(206, 84, "4=", *_listed(scrips), _switch(False))
        case Touchline(scrips, _, is_binary, is_ltp_change_only):
            form = ("49=1",) if is_binary else ()
            change = f"200={int(is_ltp_change_only)}"
            return text(206, 84, *form, change, *_listed(scrips), _switch(True))
        case LtpTouchline(scrips, is_on):
            return text(347, 84, *_listed(scrips), _switch(is_on))
        case BestFive(scrip, is_on):
            segment, token = _checked(scrip)
            return text(127, 84, f"1={segment}", f"7={token}", _switch(is_on))
        case Pause(is_paused):
            return text(106, 84, _switch(is_paused))
        case KeepAlive(session):
            if not _is_value(session):
                raise LocalWireError("the session has a character that a request cannot hold")
            return text(1000, 34, f"4={session}")


def decode_request(message: bytes) -> Request:
    """Return the request of a text, in any of the forms that clients send.

    Raises RemoteWireError for what is none.
    """
    text = message.decode("ascii", "replace")
    head = _HEAD.match(text)
    if head is None:
        raise RemoteWireError("a request must begin with 63 and 64")
    fields = dict(_PAIR.findall(text))
    match int(head[2]):
        case 101:
            if not fields.get("67"):
                raise RemoteWireError("a login must name its user (67)")
            kind: LoginKind = "password" if fields.get("401") == "1" else "token"
            return Login(fields["67"], fields.get("68", ""), kind)
        case 206:
            return Touchline(
                _scrips(text),
                _is_on(fields),
                is_binary=fields.get("49") == "1",
                is_ltp_change_only=fields.get("200") == "1",
            )
        case 347:
            return LtpTouchline(_scrips(text), _is_on(fields))
        case 127:
            scrips = _scrips(text)
            if len(scrips) != 1:
                raise RemoteWireError(f"best five is for one scrip a request, was {len(scrips)}")
            return BestFive(scrips[0], _is_on(fields))
        case 106:
            return Pause(_is_on(fields))
        case 1000:
            return KeepAlive(fields.get("4", ""))
        case code:
            raise RemoteWireError(f"no request has the code {code}")


def _is_value(text: str) -> bool:
    return text.isascii() and (text.isprintable() or not text) and "|" not in text


def _switch(is_on: bool) -> str:
    return "230=1" if is_on else "230=2"


def _is_on(fields: dict[str, str]) -> bool:
    switch = fields.get("230")
    if switch not in {"1", "2"}:
        raise RemoteWireError(f"230 must be 1 or 2, was {reflect(switch)}")
    return switch == "1"


def _checked(scrip: Scrip) -> Scrip:
    if not (0 <= scrip.segment <= MAX_UINT32 and 0 <= scrip.token <= MAX_UINT32):
        raise LocalWireError(f"segment and token must fit 32 bits, were {scrip[0]} and {scrip[1]}")
    return scrip


def _listed(scrips: Iterable[Scrip]) -> list[str]:
    listed = [f"1={segment}$7={token}" for segment, token in map(_checked, scrips)]
    if not listed:
        raise LocalWireError("a subscription must name a scrip")
    return listed


def _scrips(text: str) -> tuple[Scrip, ...]:
    scrips = tuple(Scrip(int(segment), int(token)) for segment, token in _SCRIP.findall(text))
    if not scrips or max(map(max, scrips)) > MAX_UINT32:
        raise RemoteWireError("a subscription must name scrips of 32-bit numbers")
    return scrips
