"""Where a request comes from, and for whom: its address behind proxies, and its API key."""

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Protocol, Self

from aiohttp import web

from odin.auth.authenticator import Authenticator
from odin.errors import ClientError, StoreError
from odin.model import ApiKey
from odin.protocols.accounts import Accounts
from odin.settings import LimitSettings, Settings

log = logging.getLogger("odin.access")

HTTP_STATUSES = {
    "authentication_required": 401,
    "authentication_failed": 401,
    "scope_missing": 403,
    "too_many_failures": 429,
    "too_many_connections": 429,
    "rate_limited": 429,
    "host_not_allowed": 403,
    "headers_too_large": 431,
}
"""What an error about access is as an HTTP answer."""
CLOSE_CODES = {401: 4401, 403: 4403, 429: 4429}
"""The same on a WebSocket, by the HTTP status."""
SITE_BITS = 64
"""Of an IPv6 address, those that name who has it: one customer has the others to choose from."""


class KeyStore(Protocol):
    """Where API keys are kept; other processes make and revoke them."""

    async def outside_changes(self) -> int:
        """Return a number that differs whenever another process has changed something."""
        ...

    async def api_keys(self) -> list[ApiKey]:
        """Return all keys, those revoked too."""
        ...


class Access:
    """Judges requests by their credentials and tells where they come from.

    auth: None where authentication is off; then credentials are not looked at.
    store: where its keys are.
    trusted_proxies: addresses and networks whose X-Forwarded-For is believed.
    limits: those that all requests of one key or address share; they are counted in `accounts`.
    """

    def __init__(
        self,
        auth: Authenticator | None,
        store: KeyStore,
        trusted_proxies: Collection[str] = (),
        limits: LimitSettings = LimitSettings(),  # noqa: B008
    ) -> None:
        self.auth = auth
        self.accounts = Accounts(limits)
        self.on_gone: Callable[[set[str]], None] = lambda _: None
        """Told the ids of keys that are valid no more."""
        self._store = store
        self._seen = -1
        self._proxies = [ip_network(text) for text in trusted_proxies]
        self._exempt = {_plain_address(text): text for text in limits.exempt_addresses}

    @classmethod
    def of(cls, settings: Settings, store: KeyStore) -> Self:
        """Return what the settings ask for; no key is known before the first `refresh`."""
        auth = Authenticator() if settings.auth.mode == "required" else None
        return cls(auth, store, settings.server.trusted_proxies, settings.limits)

    async def refresh(self) -> None:
        """Take in keys that were made or revoked since the last look."""
        changes = await self._store.outside_changes()
        if self.auth is not None and changes != self._seen:
            gone = self.auth.keys.replace(await self._store.api_keys())
            if self._seen < 0 and not len(self.auth.keys):
                log.warning("there is no API key yet: make one with odin keys create NAME")
            self._seen = changes
            self.on_gone(gone)

    def address_of(self, request: web.Request) -> str:
        """Return the address that counts for limits: what connected, or where trusted proxies say
        it came from; of that, the last address that is not a proxy's, as only it is no hearsay."""
        address = request.remote or ""
        if not self._proxies:
            return self._counted(address)
        hops = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
        while hops and _is_in(address, self._proxies):
            before = _plain_address(hops.pop())
            if not before:
                break
            address = before
        return self._counted(address)

    def socket_address(self, host: str) -> str:
        """Return the address that a connection from a host counts for before anything was said on
        it, "" for a trusted proxy, which stands for many."""
        return "" if _is_in(host, self._proxies) else self._counted(host)

    def _counted(self, address: str) -> str:
        """Return what an address counts as: itself, IPv6 its network."""
        plain = _plain_address(address)
        if ":" not in plain or plain in self._exempt:
            return self._exempt.get(plain, plain or address)
        return str(IPv6Network((plain.partition("%")[0], SITE_BITS), strict=False))

    async def key_of(
        self, request: web.Request, address: str, tickets: Sequence[str] = ()
    ) -> ApiKey | None:
        """Return the key that a request brings as Bearer or by a ticket, None where it brings
        neither or authentication is off; a ticket stays good until `spend`. Raises ClientError
        for wrong credentials."""
        if self.auth is None:
            return None
        given = request.headers.getall("Authorization", ())
        if given:
            scheme, _, text = given[0].partition(" ")
            is_bearer = scheme.lower() == "bearer" and len(given) == 1
            return await self.by_key(self.auth, text.strip() if is_bearer else "", address)
        if tickets:
            return self.auth.by_ticket(tickets[0] if len(tickets) == 1 else "", address)
        return None

    def spend(self, tickets: Sequence[str]) -> None:
        """Make tickets void: what they were brought for has been granted."""
        if self.auth is not None:
            for ticket in tickets:
                self.auth.spend_ticket(ticket)

    async def by_key(self, auth: Authenticator, text: str, address: str) -> ApiKey:
        """Return the key that a text is. Raises ClientError for any other text.

        One that is not known may have been made a moment ago, so there is a look for news; also
        for one that is wrong, whose answer would be quicker otherwise.
        """
        auth.check_failures(address)
        if auth.keys.find(text) is None:
            with suppress(StoreError):
                await self.refresh()
        return auth.by_key(text, address)

    async def authorize(self, request: web.Request, scope: str) -> ApiKey | None:
        """Return the key of an API request that may do what needs the scope; None where
        authentication is off. Raises ClientError for all others."""
        if self.auth is None:
            return None
        key = await self.key_of(request, self.address_of(request))
        if key is None:
            raise ClientError("authentication_required")
        check_scope(key, scope)
        return key

    def count(self, request: web.Request, key: ApiKey | None) -> None:
        """Count a request for its key, or for its address without one. Raises ClientError
        rate_limited."""
        self.accounts.ask(key.id if key is not None else self.address_of(request))


def check_scope(key: ApiKey, scope: str) -> None:
    """Raise ClientError scope_missing where the key has not the scope."""
    if scope not in key.scopes:
        raise ClientError("scope_missing")


def close_code(error: ClientError) -> int:
    """Return the close code of an error about access, after the upgrade."""
    return CLOSE_CODES[HTTP_STATUSES.get(error.code, 403)]


def _is_in(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    plain = _plain_address(address)
    return bool(plain) and any(ip_address(plain) in network for network in networks)


@lru_cache(maxsize=4096)
def _plain_address(text: str) -> str:
    """Return an address as a proxy writes it, without its port; "" where it is none. Kept between
    calls: each connection asks several times, and parsing was a tenth of what it costs."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)
