"""Who may connect: capacity, limits per address, and the Origin of web pages.

Everything is decided before the upgrade, so that a refusal costs one HTTP answer.
"""

from collections.abc import Collection, Mapping
from time import monotonic
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from odin.config import LimitSettings
from odin.errors import CLIENT_ERRORS

RETRY_AFTER_S = "5"

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_FORGET_AFTER = 1024


class TokenBucket:
    """Allows `burst` at once and `rate` a second on average. Times are monotonic seconds."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._updated = now

    def take(self, now: float) -> bool:
        """Take one token; False where there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def is_full(self, now: float, share: float = 1.0) -> bool:
        """Whether it holds at least this share of its burst: little was taken lately."""
        return self._tokens + (now - self._updated) * self._rate >= self._burst * share


class Admission:
    """Lets WebSocket requests in or refuses them, and counts who is in.

    origins: Origins of pages that may connect, see is_origin_allowed.
    """

    def __init__(self, limits: LimitSettings, origins: Collection[str] = ()) -> None:
        self._limits = limits
        self._origins = frozenset(origins)
        self.is_closed = False
        """Set when the server stops: nobody is let in any more."""
        self._exempt = frozenset(limits.exempt_addresses)
        self._open: dict[str, int] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self.total = 0

    def admit(self, request: web.Request) -> web.Response | None:
        """Count the request's connection and return None, or return the answer that refuses it.

        Who was let in must `leave`.
        """
        if request.version < HttpVersion11:
            return http_error(400, "bad_handshake")
        is_upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        if not is_upgrade or request.headers.get("Sec-WebSocket-Version") != "13":
            headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            return http_error(426, "upgrade_required", headers)
        if not is_origin_allowed(request.headers.get("Origin"), request.host, self._origins):
            return http_error(403, "origin_not_allowed")
        status = 503 if self.is_closed else self.enter(request.remote or "", monotonic())
        if status:
            return http_error(status, "too_many_connections", {"Retry-After": RETRY_AFTER_S})
        return None

    def leave(self, request: web.Request) -> None:
        """Count the connection of a request that `admit` let in as gone."""
        self.exit(request.remote or "")

    def enter(self, address: str, now: float) -> int:
        """Count a connection and return 0, or return the HTTP status that refuses it.

        503: the server is full. 429: this address has too many, or connects too fast.
        """
        if self.total >= self._limits.connections:
            return 503
        if address not in self._exempt:
            if self._open.get(address, 0) >= self._limits.connections_per_address:
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
        self._open[address] = self._open.get(address, 0) + 1
        self.total += 1
        return 0

    def exit(self, address: str) -> None:
        """Count a connection that `enter` let in as gone."""
        self.total -= 1
        left = self._open[address] - 1
        if left:
            self._open[address] = left
        else:
            del self._open[address]

    def _forget_idle(self, now: float) -> None:
        for address in [a for a, bucket in self._buckets.items() if bucket.is_full(now)]:
            del self._buckets[address]


def is_origin_allowed(origin: str | None, host: str, allowed: Collection[str]) -> bool:
    """Whether a page of this Origin may connect to the server it knows as `host` (host:port).

    Programs send no Origin and are let in. Pages are let in from the server's own address, from
    this machine (development servers; a foreign page cannot claim that Origin), and from the
    list; the comparison is exact.
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
    if origin == f"{parts.scheme}://{host}":
        return True
    return hostname in _LOOPBACK_NAMES and server_name in _LOOPBACK_NAMES


def http_error(status: int, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a refusal before the upgrade, as the JSON of an error message."""
    text = CLIENT_ERRORS[code].text
    body = {"type": "error", "status": "error", "code": code, "message": text}
    return web.json_response(body, status=status, headers=headers)
