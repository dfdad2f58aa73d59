"""The client against a server that misbehaves on purpose."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from conftest import Heard, connected_after
from fake_server import FakeServer, quote

from odin_client import (
    ConnectFailed,
    ConnectionClosed,
    OdinClient,
    RequestError,
    RequestTimeout,
    TakenOver,
)

Make = Callable[..., OdinClient]


# ---------------------------------------------------------------- making one


@pytest.mark.parametrize("url", ["http://localhost:8080", "localhost:8080", "ws://"])
def test_an_address_must_be_a_websocket_one(url: str) -> None:
    with pytest.raises(ValueError, match="url must be ws://HOST"):
        OdinClient(url)


@pytest.mark.parametrize("client_id", ["", "a b", "x" * 129, "é", "a\n"])
def test_a_client_id_that_the_server_refuses_is_refused_at_once(client_id: str) -> None:
    with pytest.raises(ValueError, match="client_id must be"):
        OdinClient("ws://localhost:8080", client_id)


async def test_the_path_may_be_left_out(fake: FakeServer, client_of: Make) -> None:
    await client_of(f"ws://127.0.0.1:{fake.port}").connect()
    assert fake.connects == 1


async def test_a_coroutine_function_is_no_handler(client_of: Make) -> None:
    async def handler(_: object) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        client_of("ws://localhost").on_quote(handler)


# ---------------------------------------------------------------- connecting


async def test_states_are_told_in_order(fake: FakeServer, client_of: Make) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    async with client:
        assert client.state == "connected"
        fake.drop()
        await connected_after(states, 2)
    assert states.values == ["connecting", "connected", "reconnecting", "connected", "closed"]


async def test_a_server_that_is_not_there_is_told_after_the_timeout(client_of: Make) -> None:
    client = client_of("ws://127.0.0.1:9", connect_timeout_s=0.1)
    with pytest.raises(ConnectFailed, match="could not be reached"):
        await client.connect()
    assert client.state == "closed"


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_refusal_is_told_at_once(fake: FakeServer, client_of: Make, status: int) -> None:
    fake.refuse_status = status
    with pytest.raises(ConnectFailed) as caught:
        await client_of(fake.url).connect()
    assert caught.value.status == status
    assert fake.connects == 1


async def test_a_full_server_is_tried_again(fake: FakeServer, client_of: Make) -> None:
    fake.refuse_status = 503
    client = client_of(fake.url)
    connecting = asyncio.ensure_future(client.connect())
    await fake.until(lambda: fake.connects >= 3)
    fake.refuse_status = 0
    await connecting
    assert client.state == "connected"


async def test_retry_after_is_kept(fake: FakeServer, client_of: Make) -> None:
    fake.refuse_status, fake.refuse_headers = 429, {"Retry-After": "30"}
    with pytest.raises(ConnectFailed, match="answered HTTP 429"):
        await client_of(fake.url, connect_timeout_s=0.3).connect()
    assert fake.connects == 1


async def test_a_server_without_a_welcome_is_left(fake: FakeServer, client_of: Make) -> None:
    fake.is_greeting = False
    client = client_of(fake.url, request_timeout_s=0.05)
    connecting = asyncio.ensure_future(client.connect())
    await fake.until(lambda: fake.connects >= 2)
    fake.is_greeting = True
    await connecting


async def test_connecting_twice_is_an_error(fake: FakeServer, client_of: Make) -> None:
    async with client_of(fake.url) as client:
        with pytest.raises(Exception, match="already connected"):
            await client.connect()


async def test_a_closed_client_connects_again(fake: FakeServer, client_of: Make) -> None:
    client, quotes = client_of(fake.url), Heard()
    client.on_quote(quotes)
    for _ in range(2):
        async with client:
            await client.subscribe("SBIN")
    await client.connect()
    await fake.push_quote("SBIN", 1.0)
    await quotes.until(len)
    assert len(quotes.values) == 1


async def test_the_generated_client_id_is_kept(fake: FakeServer, client_of: Make) -> None:
    client, states = client_of(fake.url, None), Heard()
    client.on_state(states)
    await client.connect()
    assert client.client_id == "made_up"
    fake.client_ids.clear()
    fake.drop()
    await connected_after(states, 2)
    assert fake.client_ids == ["made_up"]


# ---------------------------------------------------------------- requests


async def test_answers_find_their_requests(fake: FakeServer, client_of: Make) -> None:
    async with client_of(fake.url) as client:
        subscribed, listed, status, pong = await asyncio.gather(
            client.subscribe(["SBIN", "2885", "NOPE"]),
            client.subscriptions(),
            client.market_status(),
            client.ping(),
        )
    assert subscribed.subscribed == ("SBIN", "RELIANCE")
    assert [f.stock for f in subscribed.failed] == ["NOPE"]
    assert [s.token for s in listed] == ["3045", "2885"]
    assert not status.market_open
    assert 0 < pong < 5


async def test_a_refused_request_raises_its_code(fake: FakeServer, client_of: Make) -> None:
    async with client_of(fake.url) as client:
        with pytest.raises(RequestError, match="No stocks provided") as caught:
            await client.subscribe([])
        assert caught.value.code == "no_stocks_subscribe"
        assert client.state == "connected"


async def test_an_error_without_request_id_is_the_oldest_requests(
    fake: FakeServer, client_of: Make
) -> None:
    async with client_of(fake.url) as client:
        fake.errors["ping"] = {"type": "error", "code": "rate_limited", "message": "Too many"}
        with pytest.raises(RequestError, match="Too many"):
            await client.ping()


async def test_an_error_nobody_asked_for_goes_to_the_handlers(
    fake: FakeServer, client_of: Make
) -> None:
    errors = Heard()
    async with client_of(fake.url) as client:
        client.on_error(errors)
        await fake.push({"type": "error", "code": "session_taken_over", "message": "elsewhere"})
        await errors.until(len)
    assert errors.values[0].code == "session_taken_over"


async def test_no_answer_is_a_timeout(fake: FakeServer, client_of: Make) -> None:
    async with client_of(fake.url, request_timeout_s=0.05) as client:
        fake.mute_actions = {"ping"}
        with pytest.raises(RequestTimeout, match="ping had no answer within") as caught:
            await client.ping()
        assert isinstance(caught.value, TimeoutError)
        assert client.state == "connected"


async def test_a_request_waits_for_the_reconnect(fake: FakeServer, client_of: Make) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    fake.refuse_status = 503
    fake.drop()
    await states.until(lambda values: "reconnecting" in values)
    asking = asyncio.ensure_future(client.subscribe("SBIN"))
    connects = fake.connects
    await fake.until(lambda: fake.connects > connects + 1)
    assert not asking.done()
    fake.refuse_status = 0
    assert (await asking).subscribed == ("SBIN",)


async def test_a_request_without_an_answer_is_repeated(fake: FakeServer, client_of: Make) -> None:
    async with client_of(fake.url) as client:
        fake.mute_actions = {"subscribe"}
        asking = asyncio.ensure_future(client.subscribe("SBIN"))
        await fake.until(lambda: "subscribe" in fake.actions())
        fake.mute_actions = set()
        fake.drop()
        assert (await asking).subscribed == ("SBIN",)
    assert fake.actions().count("subscribe") == 2


async def test_a_request_offline_times_out(fake: FakeServer, client_of: Make) -> None:
    client = client_of(fake.url, request_timeout_s=0.1)
    await client.connect()
    fake.refuse_status = 503
    fake.drop()
    with pytest.raises(RequestTimeout, match="the client was reconnecting"):
        await client.ping()


async def test_a_request_of_a_closed_client_fails_at_once(
    fake: FakeServer, client_of: Make
) -> None:
    client = client_of(fake.url)
    with pytest.raises(ConnectionClosed, match="not connected"):
        await client.ping()
    await client.connect()
    fake.mute_actions = {"ping"}
    asking = asyncio.ensure_future(client.ping())
    await fake.until(lambda: "ping" in fake.actions())
    await client.close()
    with pytest.raises(ConnectionClosed, match=r"closed by close\(\)"):
        await asking


# ---------------------------------------------------------------- handlers and streams


async def test_handlers_are_called_once_after_many_reconnects(
    fake: FakeServer, client_of: Make
) -> None:
    client, states, quotes = client_of(fake.url), Heard(), Heard()
    client.on_state(states)
    client.on_quote(quotes)
    stream = client.quotes()
    await client.connect()
    for n in range(1, 6):
        fake.drop()
        await connected_after(states, n + 1)
        await fake.push_quote("SBIN", float(n))
        assert (await anext(stream)).ltp == float(n)
    assert [q.ltp for q in quotes.values] == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_reconnect_repeats_no_quote_but_tells_a_new_one(
    fake: FakeServer, client_of: Make
) -> None:
    client, states, quotes = client_of(fake.url), Heard(), Heard()
    client.on_state(states)
    client.on_quote(quotes)
    await client.connect()
    await fake.push_quote("SBIN", 1.0, "first")
    await quotes.until(len)
    fake.last_quotes = [quote("SBIN", 1.0, "first"), quote("TCS", 2.0, "second")]
    fake.drop()
    await connected_after(states, 2)
    assert [(q.symbol, q.is_snapshot) for q in quotes.values] == [("SBIN", False), ("TCS", True)]


async def test_a_removed_handler_is_not_called(fake: FakeServer, client_of: Make) -> None:
    first, second = Heard(), Heard()
    async with client_of(fake.url) as client:
        remove = client.on_quote(first)
        client.on_quote(second)
        remove()
        remove()
        await fake.push_quote("SBIN", 1.0)
        await second.until(len)
    assert first.values == []


async def test_a_failing_handler_harms_nobody(
    fake: FakeServer, client_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def fail(_: object) -> None:
        raise RuntimeError("a fault of the program")

    async with client_of(fake.url) as client:
        client.on_quote(fail)
        client.on_quote(heard)
        with caplog.at_level(logging.CRITICAL, "odin_client"):
            await fake.push_quote("SBIN", 1.0)
            await heard.until(len)
        assert client.state == "connected"


async def test_status_handlers_see_answers_and_pushes(fake: FakeServer, client_of: Make) -> None:
    statuses = Heard()
    async with client_of(fake.url) as client:
        client.on_status(statuses)
        await client.market_status()
        await fake.push({"type": "market_status", "data": {"market_open": True}})
        await statuses.until(lambda values: len(values) == 2)
    assert [s.market_open for s in statuses.values] == [False, True]


@pytest.mark.parametrize("text", ["{", "[]", "null", '"x"', '{"type":"market_data"}'])
async def test_what_is_not_understood_is_told_and_survived(
    fake: FakeServer, client_of: Make, text: str
) -> None:
    errors = Heard()
    async with client_of(fake.url) as client:
        client.on_error(errors)
        await fake.push(text)
        await errors.until(len)
        assert await client.ping() > 0
    assert "was not understood" in str(errors.values[0])


async def test_streams_end_with_the_client(fake: FakeServer, client_of: Make) -> None:
    client = client_of(fake.url)
    await client.connect()
    stream = client.quotes()
    await fake.push_quote("SBIN", 1.0)
    assert (await anext(stream)).ltp == 1.0
    await client.close()
    assert [q async for q in stream] == []
    assert [q async for q in client.quotes()] == []


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize("code", [1008, 1009, 4401, 4403])
async def test_codes_that_a_retry_cannot_cure_end_the_client(
    fake: FakeServer, client_of: Make, code: int
) -> None:
    client = client_of(fake.url)
    await client.connect()
    stream = client.quotes()
    await fake.close(code, "because")
    with pytest.raises(ConnectionClosed) as caught:
        await client.wait_closed()
    assert (caught.value.code, caught.value.reason) == (code, "because")
    with pytest.raises(ConnectionClosed):
        await anext(stream)
    with pytest.raises(ConnectionClosed, match="because"):
        await client.ping()
    assert fake.connects == 1


async def test_a_session_taken_over_is_not_taken_back(fake: FakeServer, client_of: Make) -> None:
    client = client_of(fake.url)
    await client.connect()
    await fake.close(4409, "session taken over")
    with pytest.raises(TakenOver, match="session taken over"):
        await client.wait_closed()
    assert (client.state, fake.connects) == ("closed", 1)


@pytest.mark.parametrize("code", [1011, 4408, 3000])
async def test_other_codes_bring_it_back(fake: FakeServer, client_of: Make, code: int) -> None:
    client, states = client_of(fake.url), Heard()
    client.on_state(states)
    await client.connect()
    await fake.close(code)
    await connected_after(states, 2)


async def test_waiting_for_a_client_that_the_program_closes(
    fake: FakeServer, client_of: Make
) -> None:
    client = client_of(fake.url)
    await client.connect()
    waiting = asyncio.ensure_future(client.wait_closed())
    await asyncio.sleep(0)
    await client.close()
    await waiting


async def test_closing_sends_1000_and_leaves_no_task(fake: FakeServer, client_of: Make) -> None:
    before = asyncio.all_tasks()
    client = client_of(fake.url)
    await client.connect()
    await fake.until(lambda: fake.sockets)
    ws = fake.sockets[0]
    await client.close()
    await client.close()
    await fake.until(lambda: not fake.sockets)
    assert ws.close_code == 1000
    assert {t for t in asyncio.all_tasks() - before if "odin" in repr(t.get_coro())} == set()


# ---------------------------------------------------------------- silence


async def test_a_silent_server_in_an_open_market_is_replaced(
    fake: FakeServer, client_of: Make
) -> None:
    fake.market_open = True
    client, states, errors = (
        client_of(fake.url, silence_s=0.05, request_timeout_s=0.2),
        Heard(),
        Heard(),
    )
    client.on_state(states)
    client.on_error(errors)
    await client.connect()
    fake.is_mute = True
    await states.until(lambda values: "reconnecting" in values)
    fake.is_mute = False
    await connected_after(states, 2)
    assert "silent in an open market" in str(errors.values[0])


async def test_a_server_that_answers_is_kept_though_no_data_comes(
    fake: FakeServer, client_of: Make
) -> None:
    fake.market_open = True
    statuses = Heard()
    client = client_of(fake.url, silence_s=0.05)
    client.on_status(statuses)
    await client.connect()
    await statuses.until(lambda values: len(values) >= 2)
    assert (client.state, fake.connects) == ("connected", 1)


async def test_a_closed_market_may_be_silent(fake: FakeServer, client_of: Make) -> None:
    client, statuses = client_of(fake.url, silence_s=0.01), Heard()
    client.on_status(statuses)
    await client.connect()
    await asyncio.sleep(0.1)
    assert "market_status" not in fake.actions()
