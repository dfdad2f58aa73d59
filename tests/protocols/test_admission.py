"""Who may connect."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from odin.errors import ClientError
from odin.metrics import Metrics
from odin.protocols.access import Access
from odin.protocols.admission import (
    SPARE_SOCKETS,
    SPARE_SOCKETS_PER_ADDRESS,
    Admission,
    Origins,
    Sockets,
    Tally,
    is_origin_allowed,
)
from odin.settings import AuthSettings, LimitSettings, ServerSettings, Settings

LIMITS = LimitSettings(
    connections=5, connections_per_address=2, connects_per_s=1.0, connect_burst=3
)


def test_the_whole_server_has_a_capacity() -> None:
    admission = Admission(LIMITS)
    assert [admission.enter(f"10.0.0.{n}", 0.0) for n in range(6)] == [0, 0, 0, 0, 0, 503]
    admission.exit("10.0.0.0")
    assert admission.enter("10.0.0.9", 0.0) == 0
    assert admission.total == 5


def test_one_address_has_a_limit_that_others_do_not_feel() -> None:
    admission = Admission(LIMITS)
    assert [admission.enter("10.0.0.1", 0.0) for _ in range(3)] == [0, 0, 429]
    assert admission.enter("10.0.0.2", 0.0) == 0
    admission.exit("10.0.0.1")
    assert admission.enter("10.0.0.1", 1.0) == 0


def test_one_address_may_not_connect_too_fast() -> None:
    admission = Admission(LIMITS)
    for _ in range(3):
        assert admission.enter("10.0.0.1", 0.0) == 0
        admission.exit("10.0.0.1")
    assert admission.enter("10.0.0.1", 0.5) == 429
    assert admission.enter("10.0.0.1", 1.6) == 0


def test_exempt_addresses_are_limited_by_capacity_alone() -> None:
    admission = Admission(LIMITS)
    assert [admission.enter("127.0.0.1", 0.0) for _ in range(6)] == [0, 0, 0, 0, 0, 503]


def test_addresses_that_went_quiet_are_forgotten() -> None:
    admission = Admission(LimitSettings(connections=100_000))
    for number in range(5000):
        address = f"10.0.{number // 250}.{number % 250}"
        assert admission.enter(address, float(number)) == 0
        admission.exit(address)
    assert len(admission._buckets) <= 1100
    assert not admission._open


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "feed.example:8080", True),
        ("https://app.example", "feed.example", True),
        ("https://feed.example", "feed.example", True),
        ("http://feed.example:8080", "feed.example:8080", True),
        ("http://localhost:3000", "localhost:8080", True),
        ("http://127.0.0.1:5173", "localhost:8080", True),
        ("http://localhost:3000", "feed.example", False),
        ("https://app.example.evil", "feed.example", False),
        ("https://app.example@evil.net", "feed.example", False),
        ("https://APP.example", "feed.example", False),
        ("https://app.example/", "feed.example", False),
        ("https://app.example:444", "feed.example", False),
        ("null", "feed.example", False),
        ("null", "localhost:8080", False),
        ("", "feed.example", False),
        ("http://localhost@evil.net", "localhost:8080", False),
        ("http://me@localhost:8080", "localhost:8080", False),
        ("http://localhost.evil.net", "localhost:8080", False),
        ("http://evil-localhost:3000", "localhost:8080", False),
        ("http://localhost:3000/x", "localhost:8080", False),
        ("file://localhost", "localhost:8080", False),
        ("http://[::1", "localhost:8080", False),
    ],
)
def test_origins(origin: str | None, host: str, allowed: bool) -> None:
    assert is_origin_allowed(origin, host, {"https://app.example"}) is allowed


def test_a_star_lets_every_page_in() -> None:
    assert is_origin_allowed("https://anything.example", "feed.example", {"*"})


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8080", True),
        ("localhost:8080", True),
        ("[::1]:8080", True),
        ("192.168.1.5:8080", True),  # a number cannot be made to point elsewhere
        ("[2001:db8::5]:8080", True),
        ("odin.lan:8080", True),
        ("server.example:8080", True),
        ("evil.example:8080", False),  # its own name, pointed here: DNS rebinding
        ("odin.lan.evil.example:8080", False),
        ("odin.lan@evil.example:8080", False),
        ("192.168.1.5.evil.example:8080", False),
        ("", False),
    ],
)
def test_a_name_that_was_made_to_point_here_is_not_ours(host: str, allowed: bool) -> None:
    server = ServerSettings(host="server.example", host_names=("Odin.LAN",))
    anonymous = Origins.of(Settings(server=server))
    assert is_origin_allowed(f"http://{host}", host, *anonymous) is allowed


def test_with_authentication_any_name_is_ours() -> None:
    origins = Origins.of(Settings(auth=AuthSettings(mode="required")))
    assert is_origin_allowed("http://any.example", "any.example", *origins)
    assert not is_origin_allowed("http://other.example", "any.example", *origins)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://App.example.com", False),  # no browser sends it
        ("HTTPS://app.example.com", False),
        ("https://app.example.com:443", False),
        ("http://app.example.com", False),
        ("https://app.example.com.", False),
        ("https://app.example.com.evil.net", False),
        ("https://evil.net/app.example.com", False),
        ("https://evil.net?https://app.example.com", False),
        ("https://evil.net#https://app.example.com", False),
        ("https://app.example.com@evil.net", False),
        ("https://app.example.com/..", False),
        ("https://app.example.com\\@evil.net", False),
        ("https://app.example.com, https://evil.net", False),
        (" https://app.example.com", False),
        ("null", False),
        ("", False),
    ],
)
def test_listed_origins_are_matched_exactly(origin: str, allowed: bool) -> None:
    server = ServerSettings(cors_origins=("https://App.Example.com",))
    for auth in (AuthSettings(), AuthSettings(mode="required")):
        origins = Origins.of(Settings(server=server, auth=auth))
        assert is_origin_allowed(origin, "feed.example", *origins) is allowed


def test_a_key_has_a_limit_that_others_do_not_feel() -> None:
    admission = Admission(LimitSettings(connections_per_key=2))
    assert [admission.admit("127.0.0.1", "one") is None for _ in range(3)] == [True, True, False]
    assert admission.total == 2
    assert admission.admit("127.0.0.1", "two") is None
    assert admission.admit("127.0.0.1") is None
    admission.leave("127.0.0.1", "one")
    admission.enter_key("one")
    with pytest.raises(ClientError):
        admission.enter_key("one")


def test_a_tally_keeps_what_there_is() -> None:
    tally = Tally()
    for name in ("a", "b", "a"):
        tally.add(name)
    assert (tally["a"], tally["b"], tally["c"], tally.total) == (2, 1, 0, 3)
    tally.remove("a")
    tally.remove("b")
    assert (dict(tally), tally.total) == ({"a": 1}, 1)


# TCP connections


class NoKeys:
    async def outside_changes(self) -> int:
        return 0

    async def api_keys(self) -> list[Any]:
        return []


def sockets(*proxies: str) -> tuple[Sockets, Metrics]:
    metrics = Metrics()
    return Sockets(LIMITS, Access(None, NoKeys(), proxies, LIMITS), metrics), metrics


def test_tcp_connections_of_one_address_have_a_limit_with_some_to_spare() -> None:
    counted, metrics = sockets()
    most = LIMITS.connections_per_address + SPARE_SOCKETS_PER_ADDRESS
    entered = [counted.enter("192.0.2.1") for _ in range(most + 1)]
    assert entered == ["192.0.2.1"] * most + [None]
    assert metrics.connections_refused == 1
    assert counted.enter("192.0.2.2") == "192.0.2.2"
    counted.exit("192.0.2.1")
    assert counted.enter("::ffff:192.0.2.1") == "192.0.2.1"
    assert counted.enter("192.0.2.1") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "::1"])
def test_exempt_addresses_and_proxies_are_limited_by_capacity_alone(host: str) -> None:
    counted, _ = sockets("10.0.0.0/8")
    entered = [counted.enter(host) for _ in range(LIMITS.connections + SPARE_SOCKETS + 1)]
    assert entered[-1] is None
    assert None not in entered[:-1]
    counted.exit(entered[0] or "")
    assert counted.enter("192.0.2.1") == "192.0.2.1"


# The name that a browser knows the server by


def page(host: str, *headers: tuple[str, str]) -> Any:
    return make_mocked_request("GET", "/", dict([("Host", host), *headers]))


BROWSER = ("Accept-Language", "en")


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1:8080", True),
        ("localhost:8080", True),
        ("LOCALHOST", True),
        ("[::1]:8080", True),
        ("192.0.2.7:8080", True),
        ("odin.lan", True),
        ("server.example:8080", True),
        ("evil.example:8080", False),
        ("odin.lan.evil.example", False),
        ("odin.lan@evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_a_browser_must_know_the_server_by_a_name_of_its_own(host: str, is_ours: bool) -> None:
    server = ServerSettings(host="server.example", host_names=("Odin.LAN",))
    origins = Origins.of(Settings(server=server))
    assert origins.allow_host(page(host, BROWSER)) is is_ours
    assert origins.allow_host(page(host)), "a program is told by nobody where to go"


@pytest.mark.parametrize(
    "header",
    [
        ("Accept-Language", ""),
        ("Referer", "http://evil.example/"),
        ("Origin", "http://evil.example"),
        ("Sec-Fetch-Site", "same-origin"),
    ],
)
def test_a_browser_is_known_by_any_of_its_headers(header: tuple[str, str]) -> None:
    assert not Origins.of(Settings()).allow_host(page("evil.example", header))


def test_names_do_not_matter_where_a_key_does_or_every_page_may_read() -> None:
    strange = page("evil.example", BROWSER)
    assert Origins.of(Settings(auth=AuthSettings(mode="required"))).allow_host(strange)
    assert Origins.of(Settings(server=ServerSettings(cors_origins=("*",)))).allow_host(strange)
    listed = Origins.of(Settings(server=ServerSettings(cors_origins=("https://app.example",))))
    assert not listed.allow_host(strange)
    assert listed.allow_host(page("evil.example", ("Origin", "https://app.example")))
