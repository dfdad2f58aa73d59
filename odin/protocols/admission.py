"""Who may connect: capacity, limits per address, and the Origin of web pages.

Everything is decided before the upgrade, so that a refusal costs one HTTP answer.
"""

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from time import monotonic
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from odin.errors import CLIENT_ERRORS, ClientError
from odin.metrics import Metrics
from odin.protocols.access import HTTP_STATUSES, Access
from odin.protocols.accounts import TokenBucket
from odin.settings import LimitSettings, Settings

RETRY_AFTER_S = "5"
RETRY_AFTER_FAILURES_S = "60"

SPARE_SOCKETS = 64
SPARE_SOCKETS_PER_ADDRESS = 16
"""TCP connections beyond the limits, for what is no WebSocket: refusals, health, the API."""

_PAGE_HEADERS = ("Origin", "Sec-Fetch-Site", "Referer", "Accept-Language")
"""What browsers send and programs do not. Accept-Language comes always, and no page can omit it;
Sec-Fetch-Site comes to https and this machine only, Origin not to a page's own address."""
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_FORGET_AFTER = 1024


class Origins(NamedTuple):
    """Which pages may connect; see is_origin_allowed."""

    listed: frozenset[str] = frozenset()
    names: frozenset[str] | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings say. With authentication a page needs a key as well, so that
        one which made its own name point here gains nothing."""
        server = settings.server
        is_authenticated = settings.auth.mode == "required"
        names = frozenset(map(str.lower, (server.host, *server.host_names)))
        listed = frozenset(map(str.lower, server.cors_origins))
        return cls(listed, None if is_authenticated else names)

    def allow(self, request: web.Request) -> bool:
        """Whether the page that sends the request may do so."""
        origin = request.headers.get("Origin")
        return is_origin_allowed(origin, request.host, self.listed, self.names)

    def allow_host(self, request: web.Request) -> bool:
        """Whether the request is a program's, or a page's that knows the server by a name of its
        own: a foreign page can make its name lead here and then read everything."""
        if self.names is None or not any(name in request.headers for name in _PAGE_HEADERS):
            return True
        if "*" in self.listed or request.headers.get("Origin") in self.listed:
            return True
        try:
            name = urlsplit(f"//{request.host}").hostname
        except ValueError:
            return False
        return name in self.names or name in _LOOPBACK_NAMES or _is_number(name)


class Tally(dict[str, int]):
    """How many there are of each name; a name of which there is nothing is not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __missing__(self, name: str) -> int:
        return 0

    def add(self, name: str) -> None:
        """Count one more."""
        self[name] += 1
        self.total += 1

    def remove(self, name: str) -> None:
        """Count one less."""
        left = self[name] - 1
        if left:
            self[name] = left
        else:
            del self[name]
        self.total -= 1


class Sockets:
    """Counts TCP connections, whatever is said on them: half a request uses up a server as well.

    The limits of connections hold, with some to spare. One address cannot be limited behind a
    trusted proxy, as it is not known before a request.
    """

    def __init__(self, limits: LimitSettings, access: Access, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics
        self._most = limits.connections + SPARE_SOCKETS
        self._most_per_address = limits.connections_per_address + SPARE_SOCKETS_PER_ADDRESS
        self._free = frozenset({"", *limits.exempt_addresses})
        self._open = Tally()

    def enter(self, host: str) -> str | None:
        """Count a connection and return what it must `exit` with, or None where there is one too
        many."""
        address = self._access.socket_address(host)
        is_crowded = address not in self._free and self._open[address] >= self._most_per_address
        if is_crowded or self._open.total >= self._most:
            self._metrics.connections_refused += 1
            return None
        self._open.add(address)
        return address

    def exit(self, address: str) -> None:
        """Count a connection as gone."""
        self._open.remove(address)


class Admission:
    """Lets WebSocket requests in or refuses them, and counts who is in."""

    def __init__(self, limits: LimitSettings, origins: Origins = Origins()) -> None:  # noqa: B008
        self._limits = limits
        self._origins = origins
        self.is_closed = False
        """Set when the server stops: nobody is let in any more."""
        self._exempt = frozenset(limits.exempt_addresses)
        self._open = Tally()
        self._open_by_key = Tally()
        self._buckets: dict[str, TokenBucket] = {}

    @property
    def total(self) -> int:
        """How many are in."""
        return self._open.total

    def check(self, request: web.Request) -> web.Response | None:
        """Return the answer that refuses a request for what it is, None if it may go on."""
        if request.version < HttpVersion11:
            return http_error(400, "bad_handshake")
        is_upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        if not is_upgrade or request.headers.get("Sec-WebSocket-Version") != "13":
            headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            return http_error(426, "upgrade_required", headers)
        if not self._origins.allow(request):
            return http_error(403, "origin_not_allowed")
        return None

    def admit(self, address: str, key_id: str = "") -> web.Response | None:
        """Count a connection and return None, or return the answer that refuses it.

        Who was let in must `leave`.
        """
        if self.is_closed:
            status = 503
        elif key_id and self._is_key_full(key_id):
            status = 429
        else:
            status = self.enter(address, monotonic())
        if status:
            return http_error(status, "too_many_connections", {"Retry-After": RETRY_AFTER_S})
        if key_id:
            self.enter_key(key_id)
        return None

    def leave(self, address: str, key_id: str = "") -> None:
        """Count a connection that `admit` let in as gone."""
        self.exit(address)
        if key_id:
            self._open_by_key.remove(key_id)

    def enter_key(self, key_id: str) -> None:
        """Count a connection that was let in for this key too. Raises ClientError where the key
        has too many."""
        if self._is_key_full(key_id):
            raise ClientError("too_many_connections")
        self._open_by_key.add(key_id)

    def _is_key_full(self, key_id: str) -> bool:
        return self._open_by_key[key_id] >= self._limits.connections_per_key

    def enter(self, address: str, now: float) -> int:
        """Count a connection and return 0, or return the HTTP status that refuses it.

        503: the server is full. 429: this address has too many, or connects too fast.
        """
        if self._open.total >= self._limits.connections:
            return 503
        if address not in self._exempt:
            if self._open[address] >= self._limits.connections_per_address:
                return 429
            bucket = self._buckets.get(address)
            if bucket is None:
                if len(self._buckets) >= _FORGET_AFTER:
                    self._forget_idle(now)
                limits = self._limits
                bucket = TokenBucket(limits.connects_per_s, limits.connect_burst, now)
                self._buckets[address] = bucket
            if not bucket.take(now):
                return 429
        self._open.add(address)
        return 0

    def exit(self, address: str) -> None:
        """Count a connection that `enter` let in as gone."""
        self._open.remove(address)

    def _forget_idle(self, now: float) -> None:
        for address in [a for a, bucket in self._buckets.items() if bucket.is_full(now)]:
            del self._buckets[address]


def is_origin_allowed(
    origin: str | None,
    host: str,
    allowed: Collection[str],
    names: Collection[str] | None = None,
) -> bool:
    """Whether a page of this Origin may connect to the server it knows as `host` (host:port).

    Programs send no Origin and are let in. Pages are let in from the server's own address, from
    this machine (development servers; a foreign page cannot claim that Origin), and from the
    list; the comparison is exact.

    names: what the server's own address may be called, beside numbers and this machine's names;
        None for anything. A foreign page can make its own name lead here, but not a number.
    """
    if origin is None:
        return True
    if "*" in allowed or origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
        hostname = parts.hostname
        server_name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or "@" in parts.netloc or parts.path:
        return False
    is_here = server_name in _LOOPBACK_NAMES
    if origin == f"{parts.scheme}://{host}":
        return names is None or is_here or server_name in names or _is_number(server_name)
    return hostname in _LOOPBACK_NAMES and is_here


def _is_number(name: str | None) -> bool:
    try:
        ip_address(name or "")
    except ValueError:
        return False
    return True


def access_error(error: ClientError) -> web.Response:
    """Return a ClientError as the answer to an HTTP request."""
    status = HTTP_STATUSES.get(error.code, 400)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif status == 429:
        is_failure = error.code == "too_many_failures"
        headers["Retry-After"] = RETRY_AFTER_FAILURES_S if is_failure else RETRY_AFTER_S
    return http_error(status, error.code, headers, error.message)


def http_error(
    status: int, code: str, headers: Mapping[str, str] | None = None, message: str = ""
) -> web.Response:
    """Return a refusal before the upgrade, as the JSON of an error message.

    message: where the text of the code's error has something to fill in.
    """
    text = message or CLIENT_ERRORS[code].text
    body = {"type": "error", "status": "error", "code": code, "message": text}
    return web.json_response(body, status=status, headers=headers)
