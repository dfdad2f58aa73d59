"""Every error of the server, the texts clients see, and the WebSocket close codes.

OdinError
├─ ConfigError            all problems of the configuration at once; exit code 78
├─ WireError
│  ├─ LocalWireError      our bug: a value that cannot be put on the wire
│  └─ RemoteWireError     theirs: bytes that cannot be read; count, answer or drop
├─ ClientError            answered on the socket, the connection stays
├─ Disconnect             ends the connection with a close code
├─ FeedError
│  ├─ FeedUnavailable     retry with backoff
│  ├─ FeedRejected        credentials refused: stop and tell the operator
│  └─ FeedSilent          connected, but nothing arrives when something should
├─ StoreError
│  ├─ StoreUnavailable    locked, full, read-only: honest answer now, retry later
│  ├─ StoreFull           as many clients as it may keep: a new one is refused
│  └─ MigrationError      the database and this version do not fit
└─ ReferenceDataError     an instrument master, history or calendar file cannot be used
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_ERROR_CHARS = 200
MAX_REFLECTED_CHARS = 64


_SECRET = re.compile(r"odin_([0-9a-f]{8}|ticket|resume)_[A-Za-z0-9_-]+", re.ASCII)


def mask_secrets(text: str) -> str:
    """Return a text without the secrets of API keys, tickets and resume tokens in it."""
    return _SECRET.sub(r"odin_\1_********", text) if "odin_" in text else text


def reflect(value: object, limit: int = MAX_REFLECTED_CHARS) -> str:
    """Return input made safe to show again: at most `limit` characters, control characters
    and lone surrogates escaped, so that neither a log line nor an answer can be forged, and
    secrets that were sent in the wrong place masked."""
    text = value if isinstance(value, str) else str(value)
    text = mask_secrets(text[:1024])[: limit + 1]
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


class OdinError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(OdinError):
    """The configuration cannot be used. `problems` is every (path, problem) found."""

    exit_code = 78  # EX_CONFIG of sysexits.h

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path}: {problem}" for path, problem in self.problems))


class WireError(OdinError):
    """Bytes and values do not agree."""


class LocalWireError(WireError):
    """A value of ours cannot be encoded: a bug here."""


class RemoteWireError(WireError):
    """Bytes of theirs cannot be decoded."""


class ErrorSpec(NamedTuple):
    """One entry of the catalogue: the text sent and when it is sent."""

    text: str
    when: str


CLIENT_ERRORS: dict[str, ErrorSpec] = {
    "invalid_json": ErrorSpec(
        "The message was not valid JSON: {problem}", "A text frame does not parse as JSON."
    ),
    "invalid_request": ErrorSpec(
        "The request was not understood: {problem}",
        "The JSON is not an object, or a field has the wrong type.",
    ),
    "unknown_action": ErrorSpec("Unknown action: {action}", "`action` is missing or not known."),
    "no_stocks_subscribe": ErrorSpec(
        "No stocks provided for subscription", "`subscribe` without `stocks` or with none in it."
    ),
    "no_stocks_unsubscribe": ErrorSpec(
        "No stocks provided for unsubscription",
        "`unsubscribe` without `stocks` or with none in it.",
    ),
    "invalid_mode": ErrorSpec(
        "mode must be ltp, quote or full; nothing was changed",
        "`subscribe` with another `mode`.",
    ),
    "binary_message": ErrorSpec(
        "Binary messages are not accepted, send JSON text", "A binary frame arrives."
    ),
    "too_many_stocks": ErrorSpec(
        "{count} stocks in one request, the limit is {limit}; nothing was changed",
        "More stocks in one request than `limits.stocks_per_request`.",
    ),
    "subscription_limit": ErrorSpec(
        "{count} subscriptions would pass the limit of {limit}; nothing was changed",
        "The client would hold more than `limits.subscriptions_per_client`, or all that are "
        "connected with its API key, or from its address, more than "
        "`limits.subscriptions_per_key`. Before close code 4429: with what this client_id has kept "
        "they would; it has it still, and is served when others have left.",
    ),
    "rate_limited": ErrorSpec(
        "Too many requests, the limit is {limit} a second; this one was not carried out",
        "More requests than `limits.requests_per_s` on one connection, or than "
        "`limits.requests_per_s_per_key` with one API key or from one address, after the allowed "
        "burst. HTTP 429 for the API.",
    ),
    "store_unavailable": ErrorSpec(
        "The subscription could not be saved, nothing was changed; try again shortly",
        "The database is locked, full or read-only.",
    ),
    "too_many_clients": ErrorSpec(
        "No more new client_ids are kept for now, nothing was changed; use one that is known",
        "The first subscription of a client_id when `limits.stored_clients` are kept, or when its "
        "address or API key brought `limits.new_clients_per_day`.",
    ),
    "session_taken_over": ErrorSpec(
        "This client_id has connected elsewhere; this connection ends",
        "Sent to the old connection before close code 4409.",
    ),
    "invalid_client_id": ErrorSpec(
        "client_id must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -",
        "HTTP 400 before the upgrade.",
    ),
    "invalid_format": ErrorSpec(
        "format must be json, json-delta, msgpack, msgpack-delta or binary",
        "HTTP 400 before the upgrade.",
    ),
    "bad_handshake": ErrorSpec(
        "A WebSocket handshake needs HTTP/1.1", "HTTP 400 for an upgrade by HTTP/1.0."
    ),
    "bad_request": ErrorSpec(
        "The request was not HTTP that could be read", "HTTP 400, and the connection ends."
    ),
    "uri_too_long": ErrorSpec(
        "The address that was asked for is longer than 8 KiB",
        "HTTP 414, and the connection ends.",
    ),
    "headers_too_large": ErrorSpec(
        "The request had more than 128 headers or more than 8 KiB of them",
        "HTTP 431.",
    ),
    "expectation_failed": ErrorSpec(
        "Nothing but 100-continue can be expected of this server",
        "HTTP 417 for another `Expect`.",
    ),
    "upgrade_required": ErrorSpec(
        "This address speaks WebSocket: connect with ws://HOST/enhanced-stream?client_id=YOUR_ID",
        "HTTP 426 for a plain GET.",
    ),
    "origin_not_allowed": ErrorSpec(
        "Pages of this Origin may not connect, see server.cors_origins",
        "HTTP 403 for a web page that is not on the list.",
    ),
    "host_not_allowed": ErrorSpec(
        "This server has another name, see server.host_names",
        "HTTP 403 for a browser that reads `/`, `/metrics` or the API without authentication by a "
        "name that is not listed.",
    ),
    "authentication_required": ErrorSpec(
        "Authentication is required, see docs/authentication.md",
        "HTTP 401 for the API without credentials; on a WebSocket, when something else than "
        "`authenticate` comes first or nothing in 10 s, before close code 4401.",
    ),
    "authentication_failed": ErrorSpec(
        "The credentials were not accepted",
        "A key or ticket is wrong, unknown, revoked or used: HTTP 401 before the upgrade, close "
        "code 4401 after it. Also sent when a key is revoked while it is connected.",
    ),
    "too_many_failures": ErrorSpec(
        "Too many failed attempts to authenticate came from this address; wait a minute",
        "HTTP 429 before the upgrade, close code 4429 after it: 10 failures in a minute.",
    ),
    "scope_missing": ErrorSpec(
        "The key does not have the scope that this needs",
        "HTTP 403 before the upgrade, close code 4403 after it.",
    ),
    "resume_token_required": ErrorSpec(
        "This client_id is continued with its resume token only",
        "The token is missing or wrong (`auth.require_resume_token`), before close code 4403.",
    ),
    "authentication_not_needed": ErrorSpec(
        "This connection is not waiting for credentials",
        "`authenticate` on a connection that is served already. HTTP 404 for a ticket where "
        "authentication is off.",
    ),
    "too_many_connections": ErrorSpec(
        "Too many connections, try again shortly",
        "HTTP 429 for one address, HTTP 503 for the whole server, before the upgrade.",
    ),
    "internal": ErrorSpec(
        "The server could not carry out the request; nothing was changed",
        "A fault in the server, logged there.",
    ),
}
"""Texts of the errors clients receive. `docs/errors.md` is generated from this table."""

STOCK_ERRORS: dict[str, ErrorSpec] = {
    "unknown_symbol": ErrorSpec("No instrument is called {stock}", "The name resolves to nothing."),
    "unknown_token": ErrorSpec("No instrument has the token {stock}", "The token is not listed."),
    "ambiguous_token": ErrorSpec(
        "Token {stock} is listed more than once, write EXCHANGE:TOKEN",
        "A bare token that several exchanges or segments share, none of them NSE cash.",
    ),
    "unknown_exchange": ErrorSpec(
        "No exchange or segment is called {stock}", "The qualifier of `EXCHANGE:NAME` is not known."
    ),
    "invalid_stock": ErrorSpec(
        "A stock is a symbol or token of 1 to 64 characters",
        "Empty, too long, or with control characters.",
    ),
    "not_subscribed": ErrorSpec(
        "{stock} was not subscribed", "`unsubscribe` of something the client does not hold."
    ),
}
"""Reasons in `failed_details` of a subscription_response."""


class ClientError(OdinError):
    """A request cannot be carried out; `code` and the text go to the client."""

    def __init__(self, code: str, **values: object) -> None:
        self.code = code
        text = CLIENT_ERRORS[code].text.format(**{k: reflect(v) for k, v in values.items()})
        self.message = text[:MAX_ERROR_CHARS]
        super().__init__(self.message)


class CloseSpec(NamedTuple):
    """One WebSocket close code: its reason text and whether a client should come back."""

    reason: str
    come_back: str


CLOSE_CODES: dict[int, CloseSpec] = {
    1000: CloseSpec("closed by the client", "as you like"),
    1001: CloseSpec("server stops", "at once, with 0 to 5 s of jitter"),
    1002: CloseSpec("protocol error", "after a fix"),
    1003: CloseSpec("binary data on a text endpoint", "after a fix"),
    1007: CloseSpec("text was not UTF-8", "after a fix"),
    1008: CloseSpec("policy", "with a new session"),
    1009: CloseSpec("message too large", "after a fix"),
    1011: CloseSpec("fault in the server", "with backoff"),
    1012: CloseSpec("server restarts", "at once, with 0 to 5 s of jitter"),
    1013: CloseSpec("overloaded, try later", "with backoff from 5 s"),
    4401: CloseSpec("authentication failed or expired", "after new credentials"),
    4403: CloseSpec("not allowed", "after new credentials"),
    4408: CloseSpec("too slow", "at once, state is kept"),
    4409: CloseSpec("session taken over", "no, or two programs fight for ever"),
    4429: CloseSpec("too many requests", "after 10 s"),
}
"""Close codes and what they ask of the client. Documented in docs/errors.md."""


class Disconnect(OdinError):
    """The connection must end with a close code of CLOSE_CODES."""

    def __init__(self, code: int, reason: str = "") -> None:
        self.code = code
        self.reason = reason or CLOSE_CODES[code].reason
        super().__init__(f"{code} {self.reason}")


class FeedError(OdinError):
    """A source of market data has a problem."""


class FeedUnavailable(FeedError):
    """The source cannot be reached or broke off: retry with backoff."""


class FeedRejected(FeedError):
    """The source refused the credentials: do not retry, tell the operator."""


class FeedSilent(FeedError):
    """The source is connected but says nothing when it should."""


class StoreError(OdinError):
    """The database has a problem."""


class StoreUnavailable(StoreError):
    """Locked, full, read-only or gone: nothing was changed, trying again may work."""


class StoreFull(StoreError):
    """The database keeps as many clients as it may, and this one is new; nothing was changed."""


class MigrationError(StoreError):
    """The database's schema and this version do not fit; nothing was changed."""


class ReferenceDataError(OdinError):
    """An instrument master, daily history or calendar file cannot be used; nothing was changed."""
