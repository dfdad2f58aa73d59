"""Messages of `/enhanced-stream`: requests in, JSON out.

Shapes, names and texts are those of the integration guide; fields beyond it are only added.
Requests are decoded into typed values or a ClientError; every encoder returns JSON bytes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from odin.clock import ist_datetime_text
from odin.errors import STOCK_ERRORS, ClientError, mask_secrets, reflect
from odin.market.instruments import Resolution
from odin.model import MODES, FeedGap, FeedStatus, InstrumentKey, MarketStatus, Mode
from odin.topics import Encoding

ACTIONS = ("subscribe", "unsubscribe", "get_subscriptions", "market_status", "ping", "snapshot")
FEATURES = (
    "dynamic_subscriptions",
    "market_hours_control",
    "persistent_connection",
    "real_time_data",
    "snapshot",
)
INSTRUCTIONS = {
    "subscribe": '{"action":"subscribe","stocks":["SBIN","2885"]}',
    "unsubscribe": '{"action":"unsubscribe","stocks":["SBIN"]}',
    "ping": '{"action":"ping"}',
}
WELCOME = "Connected to Odin Streamer Enhanced WebSocket"
TIMEZONE = "Asia/Kolkata"
PROTOCOL_VERSION = 1

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}\Z", re.ASCII)


def is_client_id(text: str) -> bool:
    """Whether the text may name a client. It is never changed, only accepted or not: a secret sent
    in its place by mistake is not, as names are stored and shown."""
    return _CLIENT_ID.match(text) is not None and mask_secrets(text) == text


def client_id_of(given: Sequence[str]) -> str:
    """Return the client_id of a query string's values for it, "" where there is none.

    Raises ClientError invalid_client_id.
    """
    if len(given) > 1 or not all(map(is_client_id, filter(None, given))):
        raise ClientError("invalid_client_id")
    return "".join(given)


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request. Fields not listed here are ignored, as older clients send some."""

    action: str = ""
    stocks: list[str | int] | None = None
    tokens: list[str | int] | None = None
    """Accepted beside `stocks`: an earlier guide called it so."""
    mode: object = None
    """Anything, because it counts in `subscribe` alone: see `mode_of`."""
    request_id: str | int | None = None
    timestamp: int | float | str | None = None

    @property
    def names(self) -> list[str | int]:
        """Everything asked for, in order."""
        return [*(self.stocks or ()), *(self.tokens or ())]


class Credentials(msgspec.Struct, frozen=True):
    """The first message of a client that brought no credentials with its handshake."""

    action: str = ""
    api_key: str = ""
    resume_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(…)"


_credentials_decoder = msgspec.json.Decoder(Credentials)


def decode_credentials(text: str) -> Credentials:
    """Return what an `authenticate` message holds. Raises ClientError authentication_required for
    anything else, without a word of what it was."""
    try:
        found = _credentials_decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        raise ClientError("authentication_required") from None
    if found.action != "authenticate":
        raise ClientError("authentication_required")
    return found


class Echo(NamedTuple):
    """What an answer repeats of its request, so that a client can tell which one it answers."""

    request_id: str | int | None = None
    timestamp: int | float | str | None = None


NO_ECHO = Echo()


class _Ids(msgspec.Struct):
    request_id: str | int | None = None
    timestamp: int | float | str | None = None


_id_decoder = msgspec.json.Decoder(_Ids)


def echo_of_refused(text: str) -> Echo:
    """Return what can be repeated of a request that was not understood otherwise."""
    try:
        ids = _id_decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return NO_ECHO
    if _echo_problem(ids.request_id) or _echo_problem(ids.timestamp):
        return NO_ECHO
    return Echo(ids.request_id, ids.timestamp)


def _echo_problem(value: object) -> str:
    """Return why a value cannot be repeated in an answer, "" where it can."""
    if isinstance(value, str) and len(value) > _MAX_ECHO_CHARS:
        return f"request_id and timestamp hold at most {_MAX_ECHO_CHARS} characters"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a number was too large"
    return ""


def echo_of(request: Request) -> Echo:
    """Return what the answer to a request repeats of it."""
    return Echo(request.request_id, request.timestamp)


def mode_of(request: Request) -> Mode | None:
    """Return the mode a request asks for, None where it asks for none.

    Raises ClientError invalid_mode.
    """
    if request.mode is None:
        return None
    for mode in MODES:
        if mode == request.mode:
            return mode
    raise ClientError("invalid_mode")


_MAX_ECHO_CHARS = 128
_decoder = msgspec.json.Decoder(Request)


def decode_request(text: str) -> Request:
    """Return the request, or raise ClientError invalid_json or invalid_request."""
    try:
        request = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise ClientError("invalid_request", problem=_plain(error)) from None
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ClientError("invalid_json", problem=_plain(error)) from None
    except RecursionError:
        raise ClientError("invalid_json", problem="nested too deeply") from None
    problem = _echo_problem(request.request_id) or _echo_problem(request.timestamp)
    if problem:
        raise ClientError("invalid_request", problem=problem)
    return request


def _plain(error: Exception) -> str:
    """The decoder's problem in our words, without Python's names for things."""
    text = str(error) if not isinstance(error, UnicodeEncodeError) else "lone surrogate"
    return text.replace(", got ", ", was ").replace("JSON is malformed: ", "")


class MarketView(NamedTuple):
    """Everything a client is told about the market at one instant."""

    now_ms: int
    status: MarketStatus
    is_streaming: bool
    """Whether market_data flows now: the calendar's word, or always with the gate forced open."""
    gate: str
    is_simulated: bool
    feed: FeedStatus
    """What the feeds do, in one word for all."""
    feeds: Sequence[FeedStatus] = ()
    """Each of them; empty where there is but one."""


# ---------------------------------------------------------------------- encoding


# Structs are encoded as they are: building a dict first would cost more than encoding it.
_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def encode_message(
    kind: str,
    status: str,
    client_id: str,
    now_ms: int,
    *,
    message: str | None = None,
    data: Mapping[str, Any] | None = None,
    echo: Echo = NO_ECHO,
    code: str | None = None,
) -> bytes:
    """Return any message but market_data; absent parts are left out, not null."""
    body: dict[str, object] = {"type": kind, "status": status}
    if code is not None:
        body["code"] = code
    if message is not None:
        body["message"] = message
    if data is not None:
        body["data"] = data
    if client_id:
        body["client_id"] = client_id
    body["timestamp"] = now_ms
    if echo.request_id is not None:
        body["request_id"] = echo.request_id
    if echo.timestamp is not None:
        body["request_timestamp"] = echo.timestamp
    return _encode(body)


def encode_error(error: ClientError, client_id: str, now_ms: int, echo: Echo = NO_ECHO) -> bytes:
    """Return an error message."""
    return encode_message(
        "error", "error", client_id, now_ms, message=error.message, code=error.code, echo=echo
    )


def encode_gap(gap: FeedGap, now_ms: int) -> bytes:
    """Return a feed_gap message: from when to when nothing came from a feed."""
    data = {
        "feed": gap.feed,
        "from": gap.from_ms,
        "to": gap.to_ms,
        "from_time": instant(gap.from_ms),
        "to_time": instant(gap.to_ms),
    }
    return encode_message("feed_gap", "success", "", now_ms, data=data)


def encode_instruments(
    names: Iterable[tuple[InstrumentKey, str]], client_id: str, now_ms: int
) -> bytes:
    """Return an instruments message: which symbol each (exchange, segment, token) is."""
    listed = [
        {"symbol": symbol, "token": str(token), "exchange": exchange, "segment": segment}
        for (exchange, segment, token), symbol in names
    ]
    return encode_message("instruments", "success", client_id, now_ms, data={"instruments": listed})


def failed_details(failed: Sequence[Resolution]) -> list[dict[str, object]]:
    """Return the `failed_details` of stocks that were not found, and why."""
    return [
        {
            "stock": item.stock,
            "code": item.code,
            "message": item.message,
            "suggestions": item.suggestions,
        }
        for item in failed
    ]


def not_subscribed(item: Resolution) -> Resolution:
    """Return the failure of unsubscribing what is not held."""
    message = STOCK_ERRORS["not_subscribed"].text.format(stock=reflect(item.stock))
    return item._replace(code="not_subscribed", message=message, suggestions=())


def market_status_fields(view: MarketView) -> dict[str, object]:
    """Return the `data` of a market_status message."""
    status = view.status
    now = _ist_text(view.now_ms // 1000)
    return {
        "market_open": view.is_streaming,
        "market_hours": status.market_hours,
        "phase": status.phase,
        "current_time": now[11:],
        "current_date": now[:10],
        "next_open": instant(status.next_open_ms),
        "next_close": instant(status.next_close_ms),
        "timezone": TIMEZONE,
        "holiday": status.holiday,
        "session": status.session,
        "streaming_data": view.is_streaming and view.feed.state == "streaming",
        "calendar_known": status.is_calendar_known,
        "gate": view.gate,
        "simulated": view.is_simulated,
        "feed": feed_fields(view.feed),
        "feeds": [feed_fields(feed) for feed in view.feeds or (view.feed,)],
    }


def feed_fields(feed: FeedStatus) -> dict[str, object]:
    """Return what clients are told about the source of the data."""
    return {"name": feed.name, "state": feed.state, "stale": feed.is_stale}


def welcome_fields(
    client_id: str,
    subscribed: int,
    view: MarketView,
    limits: Mapping[str, object],
    encoding: Encoding,
    resume_token: str = "",
) -> dict[str, object]:
    """Return the `data` of a welcome message."""
    now = _ist_text(view.now_ms // 1000)
    fields: dict[str, object] = {
        "message": WELCOME,
        "client_id": client_id,
        "features": FEATURES,
        "market_hours": view.status.market_hours,
        "market_open": view.is_streaming,
        "current_time": now[11:],
        "current_date": now[:10],
        "subscribed_stocks": subscribed,
        "instructions": INSTRUCTIONS,
        "limits": limits,
        "feed": feed_fields(view.feed),
        "phase": view.status.phase,
        "next_open": instant(view.status.next_open_ms),
        "gate": view.gate,
        "simulated": view.is_simulated,
        "protocol": PROTOCOL_VERSION,
        "format": encoding,
    }
    if resume_token:
        fields["resume_token"] = resume_token
    return fields


def instant(epoch_ms: int | None) -> str | None:
    """Return "2025-09-05 09:15:00" in India, None where there is no instant."""
    return None if epoch_ms is None else _ist_text(epoch_ms // 1000)


@lru_cache(maxsize=32)
def _ist_text(epoch_s: int) -> str:
    """Kept between calls: of what a welcome took to build, two thirds were the same few dates."""
    return ist_datetime_text(epoch_s * 1000)
