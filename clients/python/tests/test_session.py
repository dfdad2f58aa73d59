"""What happens to subscriptions over reconnects, against a server that forgets on purpose."""

from collections.abc import Callable

from conftest import Heard, connected_after
from fake_server import FakeServer

from odin_client import OdinClient, RequestError

Make = Callable[..., OdinClient]


async def listing(fake: FakeServer, client: OdinClient) -> None:
    """Return when the client has looked at the server's list after a change."""
    asked = fake.actions().count("get_subscriptions")
    await fake.until(lambda: fake.actions().count("get_subscriptions") > asked)
    await client.ping()


async def test_a_listed_session_is_not_subscribed_again(fake: FakeServer, client_of: Make) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe(["SBIN", "TCS"])
    await listing(fake, client)
    fake.drop()
    await connected_after(states, 2)
    assert fake.actions().count("subscribe") == 1


async def test_only_what_the_server_lost_is_subscribed_again(
    fake: FakeServer, client_of: Make
) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe(["SBIN", "TCS", "INFY"])
    await listing(fake, client)
    fake.held["me"] = ["TCS"]
    fake.drop()
    await connected_after(states, 2)
    assert fake.requests[-2]["stocks"] == ["NSE:SBIN", "NSE:INFY"]
    assert sorted(fake.held["me"]) == ["INFY", "SBIN", "TCS"]


async def test_what_was_subscribed_before_this_program_began_is_restored_too(
    fake: FakeServer, client_of: Make
) -> None:
    fake.held["me"] = ["SBIN"]
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    fake.held["me"] = []
    fake.drop()
    await connected_after(states, 2)
    assert fake.held["me"] == ["SBIN"]


async def test_what_was_unsubscribed_under_another_name_stays_so(
    fake: FakeServer, client_of: Make
) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe(["SBIN", "TCS"])
    await client.unsubscribe("3045")
    fake.drop()
    await connected_after(states, 2)
    assert fake.held["me"] == ["TCS"]
    fake.held["me"] = []
    fake.drop()
    await connected_after(states, 3)
    assert fake.held["me"] == ["TCS"]


async def test_changes_not_yet_listed_survive_a_server_that_lost_all(
    fake: FakeServer, client_of: Make
) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe(["SBIN", "TCS"])
    await listing(fake, client)
    await client.unsubscribe("SBIN")
    await client.subscribe("INFY")
    fake.held["me"] = []
    fake.drop()
    await connected_after(states, 2)
    assert sorted(fake.held["me"]) == ["INFY", "TCS"]


async def test_what_cannot_be_restored_is_told(fake: FakeServer, client_of: Make) -> None:
    client, states, errors = client_of(fake.url), Heard(), Heard()
    client.on_state(states)
    client.on_error(errors)
    fake.held["me"] = ["SBIN"]
    await client.connect()
    fake.held["me"] = []
    refusal = {"type": "error", "code": "store_unavailable", "message": "could not be saved"}
    fake.errors["subscribe"] = refusal
    fake.drop()
    await connected_after(states, 2)
    assert [e.code for e in errors.values if isinstance(e, RequestError)] == ["store_unavailable"]
