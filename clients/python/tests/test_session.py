"""What happens to subscriptions over reconnects, against a server that forgets on purpose."""

from collections.abc import Callable

from conftest import Heard, connected_after
from fake_server import FakeServer

from odin_client import Gap, OdinClient, RequestError

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


# ---------------------------------------------------------------- modes


async def test_a_mode_is_asked_for_only_where_the_program_names_one(
    fake: FakeServer, client_of: Make
) -> None:
    client = client_of(fake.url)
    await client.connect()
    await client.subscribe("SBIN")
    await client.subscribe("TCS", mode="full")
    asked = [request for request in fake.requests if request["action"] == "subscribe"]
    assert ["mode" in request for request in asked] == [False, True]
    listed = await client.subscriptions()
    assert [(stock.symbol, stock.mode) for stock in listed] == [("SBIN", "quote"), ("TCS", "full")]


async def test_what_the_server_lost_comes_back_in_its_mode(
    fake: FakeServer, client_of: Make
) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe(["SBIN", "TCS"], "full")
    await client.subscribe("INFY")
    await listing(fake, client)
    await client.subscribe("SBIN", "ltp")  # not listed yet
    fake.held["me"], fake.modes = [], {}
    fake.drop()
    await connected_after(states, 2)
    modes = {stock.symbol: stock.mode for stock in await client.subscriptions()}
    assert modes == {"SBIN": "ltp", "TCS": "full", "INFY": "quote"}


async def test_the_server_is_right_about_the_modes_of_what_it_holds(
    fake: FakeServer, client_of: Make
) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe("SBIN", "full")
    await listing(fake, client)
    fake.modes["me", "SBIN"] = "ltp"  # another program of this client_id
    fake.drop()
    await connected_after(states, 2)
    assert fake.actions().count("subscribe") == 1
    assert (await client.subscriptions())[0].mode == "ltp"


async def test_a_reconnect_tells_a_last_price_only_if_it_is_news(
    fake: FakeServer, client_of: Make
) -> None:
    client, quotes, states = client_of(fake.url), Heard(), Heard()
    client.on_quote(quotes)
    client.on_state(states)
    await client.connect()
    names = {"symbol": "SBIN", "token": "3045", "exchange": "NSE"}
    for ltp, at_ms in ((800.0, 1), (800.0, 1), (801.0, 1), (801.0, 2)):
        data = {"ltp": ltp, "percent_change": 0.1, "timestamp": at_ms}
        fake.last_messages = [
            {"type": "market_data", **names, "data": data, "snapshot": True, "mode": "ltp"}
        ]
        fake.drop()
        await connected_after(states, states.values.count("connected") + 1)
    assert [(q.ltp, q.timestamp) for q in quotes.values] == [(800.0, 1), (801.0, 1), (801.0, 2)]


async def test_gaps_are_told(fake: FakeServer, client_of: Make) -> None:
    client, gaps = client_of(fake.url), Heard()
    client.on_gap(gaps)
    await client.connect()
    await fake.push({"type": "feed_gap", "data": {"feed": "kite", "from": 5, "to": 9}})
    await gaps.until(lambda values: values)
    assert gaps.values == [Gap("kite", 5, 9)]
