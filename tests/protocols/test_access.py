"""Where requests come from and what they bring."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from odin.auth.authenticator import Authenticator
from odin.auth.keys import create
from odin.errors import ClientError, StoreUnavailable
from odin.model import ApiKey
from odin.protocols.access import Access, close_code
from odin.settings import LimitSettings

PROXIES = ("10.0.0.0/8", "2001:db8::1")


class Transport:
    """What a request asks its transport for."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._peer, 40000) if name == "peername" else default


class Keys:
    """A store of keys that another process may change."""

    def __init__(self, *keys: ApiKey) -> None:
        self.keys = list(keys)
        self.changes = 1
        self.is_well = True
        self.reads = 0

    async def outside_changes(self) -> int:
        if not self.is_well:
            raise StoreUnavailable("it is locked")
        return self.changes

    async def api_keys(self) -> list[ApiKey]:
        self.reads += 1
        return self.keys


def request(peer: str = "192.0.2.1", *headers: tuple[str, str]) -> Any:
    transport = Transport(peer)
    return make_mocked_request("GET", "/", CIMultiDict(headers), transport=transport)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),  # not from a proxy: made up
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # the first is hearsay
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9:51234"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::7]:443"], "2001:db8::/64"),
        ("10.0.0.1", ["2001:db8::7"], "2001:db8::/64"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("2001:db8::1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["x" * 5000], "10.0.0.1"),
    ],
)
def test_the_last_address_that_is_no_proxy_counts(
    peer: str, forwarded: list[str], expected: str
) -> None:
    asked = request(peer, *(("X-Forwarded-For", text) for text in forwarded))
    assert Access(None, Keys(), PROXIES).address_of(asked) == expected


def test_without_proxies_nothing_forwarded_is_believed() -> None:
    asked = request("10.0.0.1", ("X-Forwarded-For", "203.0.113.9"))
    assert Access(None, Keys()).address_of(asked) == "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),  # exempt ones by themselves, or their neighbours would be
        ("::2", "::/64"),
        ("2001:db8::5", "2001:DB8::5"),
        ("", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, counts_as: str) -> None:
    """One customer has 2^64 of them: each would have the limits to itself."""
    limits = LimitSettings(exempt_addresses=("127.0.0.1", "::1", "2001:DB8::5"))
    access = Access(None, Keys(), (), limits)
    assert access.address_of(request(address)) == counts_as
    assert access.socket_address(address) == counts_as


def test_the_connections_of_a_proxy_count_for_nobody() -> None:
    access = Access(None, Keys(), PROXIES)
    assert access.socket_address("10.1.2.3") == access.socket_address("2001:db8::1") == ""
    assert access.socket_address("192.0.2.1") == "192.0.2.1"


class Bench:
    def __init__(self) -> None:
        self.auth = Authenticator()
        self.key, self.text = create("a", ["stream"], 0)
        self.keys = Keys(self.key)
        self.access = Access(self.auth, self.keys)

    async def judge(self, *headers: tuple[str, str], tickets: tuple[str, ...] = ()) -> str:
        """Return the id of the key, "" for none, or the code of the refusal."""
        try:
            key = await self.access.key_of(request("192.0.2.1", *headers), "192.0.2.1", tickets)
        except ClientError as error:
            return error.code
        return key.id if key else ""


async def test_a_key_comes_as_bearer() -> None:
    bench = Bench()
    assert await bench.judge(("Authorization", f"Bearer {bench.text}")) == bench.key.id
    assert await bench.judge(("Authorization", f"bearer  {bench.text} ")) == bench.key.id
    assert await bench.judge() == ""


async def test_other_authorizations_are_wrong() -> None:
    bench = Bench()
    right = ("Authorization", f"Bearer {bench.text}")
    for headers in (
        [("Authorization", "")],
        [("Authorization", bench.text)],
        [("Authorization", f"Basic {bench.text}")],
        [("Authorization", "Bearer")],
        [right, right],
    ):
        assert await bench.judge(*headers) == "authentication_failed"


async def test_a_ticket_comes_alone() -> None:
    bench = Bench()
    await bench.access.refresh()
    ticket = bench.auth.issue_ticket(bench.key)
    assert await bench.judge(tickets=(ticket, ticket)) == "authentication_failed"
    assert await bench.judge(tickets=(ticket,)) == bench.key.id
    assert await bench.judge(tickets=("",)) == "authentication_failed"


async def test_where_authentication_is_off_credentials_are_not_looked_at() -> None:
    access = Access(None, Keys())
    asked = request("192.0.2.1", ("Authorization", "Bearer nonsense"))
    assert await access.key_of(asked, "192.0.2.1", ["nonsense"]) is None
    assert await access.authorize(asked, "admin") is None


async def test_the_api_needs_a_key_with_the_scope() -> None:
    bench = Bench()
    asked = request("192.0.2.1", ("Authorization", f"Bearer {bench.text}"))
    assert await bench.access.authorize(asked, "stream") == bench.key
    with pytest.raises(ClientError) as missing:
        await bench.access.authorize(asked, "admin")
    with pytest.raises(ClientError) as nobody:
        await bench.access.authorize(request(), "stream")
    assert (missing.value.code, nobody.value.code) == ("scope_missing", "authentication_required")


@pytest.mark.parametrize(
    ("code", "closes"),
    [
        ("authentication_required", 4401),
        ("authentication_failed", 4401),
        ("scope_missing", 4403),
        ("resume_token_required", 4403),
        ("too_many_failures", 4429),
        ("too_many_connections", 4429),
    ],
)
def test_close_codes(code: str, closes: int) -> None:
    assert close_code(ClientError(code)) == closes


async def test_a_key_made_a_moment_ago_is_known() -> None:
    bench = Bench()
    await bench.access.refresh()
    new, text = create("b", ["stream"], 0)
    bench.keys.keys.append(new)
    bench.keys.changes += 1
    assert await bench.judge(("Authorization", f"Bearer {text}")) == new.id
    assert bench.keys.reads == 2


async def test_keys_are_read_again_only_when_something_changed() -> None:
    bench = Bench()
    for _ in range(5):
        assert await bench.judge(("Authorization", "Bearer wrong")) == "authentication_failed"
    assert bench.keys.reads == 1


async def test_who_was_wrong_too_often_costs_no_look_at_the_store() -> None:
    bench = Bench()
    for _ in range(20):
        bench.keys.changes += 1
        await bench.judge(("Authorization", "Bearer wrong"))
    assert bench.keys.reads == 10


async def test_a_store_in_trouble_leaves_the_keys_as_they_were() -> None:
    bench = Bench()
    await bench.access.refresh()
    bench.keys.is_well = False
    assert await bench.judge(("Authorization", f"Bearer {bench.text}")) == bench.key.id
    assert await bench.judge(("Authorization", "Bearer wrong")) == "authentication_failed"


async def test_keys_that_are_gone_are_told() -> None:
    bench = Bench()
    gone: list[set[str]] = []
    bench.access.on_gone = gone.append
    await bench.access.refresh()
    bench.keys.keys = [bench.key._replace(revoked_ms=1)]
    bench.keys.changes += 1
    await bench.access.refresh()
    assert gone == [set(), {bench.key.id}]
