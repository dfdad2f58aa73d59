"""The client against the real server, in a process of its own."""

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from conftest import Heard
from real_server import RealServer

from odin_client import Format, Mode, OdinClient, Quote, RequestError, TakenOver

Make = Callable[..., OdinClient]
README = Path(__file__).resolve().parents[1] / "README.md"


async def test_quotes_arrive_by_stream_and_by_handler(odin: RealServer, client_of: Make) -> None:
    heard = Heard()
    async with client_of(odin.url) as client:
        client.on_quote(heard)
        stream = client.quotes()
        result = await client.subscribe(["SBIN", "2885"])
        assert result.subscribed == ("SBIN", "RELIANCE (NSE)")
        assert (result.failed, result.total_subscribed) == ((), 2)
        seen: set[str] = set()
        while seen != {"SBIN", "RELIANCE"}:
            quote = await anext(stream)
            assert quote.low is not None
            assert quote.high is not None
            assert quote.low <= quote.ltp <= quote.high
            assert (quote.exchange, quote.close) == ("NSE", quote.prev_close)
            seen.add(quote.symbol)
        await heard.until(lambda quotes: {q.token for q in quotes} == {"3045", "2885"})


def by_tick(quotes: list[Quote]) -> dict[tuple[str, int | None], Quote]:
    """The live quotes, by stock and the exchange's time."""
    return {(q.symbol, q.timestamp): q for q in quotes if not q.is_snapshot}


@pytest.mark.parametrize("mode", get_args(Mode))
async def test_every_format_gets_the_very_quotes_of_json(
    busy_odin: RealServer, client_of: Make, mode: Mode
) -> None:
    # ADANIENT and the index BANKNIFTY share the token 25.
    stocks = {"SBIN", "RELIANCE", "ADANIENT", "BANKNIFTY"}
    heard, states, errors = {}, {}, Heard()
    for encoding in get_args(Format):
        client = client_of(busy_odin.url, f"reads_{encoding}", format=encoding)
        heard[encoding], states[encoding] = Heard(), Heard()
        client.on_quote(heard[encoding])
        client.on_state(states[encoding])
        client.on_error(errors)
        await client.connect()
        assert client.welcome is not None
        assert client.welcome.format == encoding
        await client.subscribe(stocks, mode)

    async def compare() -> None:
        expected = heard["json"].values
        for encoding, quotes in heard.items():
            await quotes.until(lambda got: len(by_tick(got).keys() & by_tick(expected)) >= 100)
            got, whole = by_tick(quotes.values), by_tick(expected)
            shared = got.keys() & whole.keys()
            assert {symbol for symbol, _ in shared} == stocks
            assert {quote.mode for quote in got.values()} == {mode}
            with_depth = {q.symbol for q in got.values() if q.depth is not None}
            assert with_depth == (stocks - {"BANKNIFTY"} if mode == "full" else set())
            # repr tells 0 from 0.0 and every bit of a float.
            assert [t for t in shared if repr(got[t]) != repr(whole[t])] == [], encoding

    await compare()
    assert errors.values == []
    await busy_odin.kill()
    await busy_odin.start()
    for encoding, told in states.items():
        await told.until(lambda values: values.count("connected") == 2)
        heard[encoding].values.clear()
    await compare()
    assert [e for e in errors.values if "not understood" in str(e)] == []


async def test_what_failed_is_explained(odin: RealServer, client_of: Make) -> None:
    async with client_of(odin.url) as client:
        partial = await client.subscribe(["SBIN", "RELIANC", "999999999"])
        assert partial.subscribed == ("SBIN",)
        assert [(f.stock, f.code) for f in partial.failed] == [
            ("RELIANC", "unknown_symbol"),
            ("999999999", "unknown_token"),
        ]
        assert "RELIANCE" in partial.failed[0].suggestions
        nothing = await client.subscribe("NO_SUCH_STOCK")
        assert (nothing.subscribed, nothing.total_subscribed) == ((), 1)
        again = await client.subscribe("3045")
        assert again.already_subscribed == ("SBIN (NSE)",)
        with pytest.raises(RequestError, match="No stocks provided for subscription"):
            await client.subscribe([])


async def test_every_action_is_answered(odin: RealServer, client_of: Make) -> None:
    async with client_of(odin.url, "every_action") as client:
        assert client.welcome is not None
        assert client.welcome.client_id == "every_action"
        assert client.welcome.simulated
        assert client.welcome.limits["stocks_per_request"] == 1000
        await client.subscribe(["SBIN", "RELIANCE", "TCS"])
        gone = await client.unsubscribe(["2885", "INFY"])
        assert gone.total_subscribed == 2
        assert [f.code for f in gone.failed] == ["not_subscribed"]
        listed = await client.subscriptions()
        assert [(s.symbol, s.name) for s in listed] == [("SBIN", "NSE:SBIN"), ("TCS", "NSE:TCS")]
        status = await client.market_status()
        assert status.market_open
        assert status.feed is not None
        assert status.simulated
        assert 0 < await client.ping() < 5
        await anext(client.quotes("SBIN"))
        snapshot = await client.snapshot(["SBIN", "NO_SUCH_STOCK"])
        assert [q.symbol for q in snapshot.quotes] == ["SBIN"]
        assert [f.stock for f in snapshot.failed] == ["NO_SUCH_STOCK"]


async def test_a_killed_server_comes_back_with_everything(
    odin: RealServer, client_of: Make
) -> None:
    client, states = client_of(odin.url), Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe(["SBIN", "TCS"])
    stream = client.quotes()
    await anext(stream)
    await odin.kill()
    await states.until(lambda values: "reconnecting" in values)
    asking = asyncio.ensure_future(client.subscriptions())
    await odin.start()
    assert [s.symbol for s in await asking] == ["SBIN", "TCS"]
    assert client.welcome is not None
    assert client.welcome.restored == 2
    assert (await anext(stream)).symbol in {"SBIN", "TCS"}


async def test_a_server_that_lost_its_database_is_told_again(
    odin: RealServer, client_of: Make
) -> None:
    client, states = client_of(odin.url), Heard()
    client.on_state(states)
    await client.connect()
    # ADANIENT and the index BANKNIFTY share the token 25.
    await client.subscribe(["SBIN", "TCS", "BANKNIFTY"])
    await client.unsubscribe("11536")
    await odin.kill()
    odin.database = odin.database.with_name("other.db")
    await odin.start()
    await states.until(lambda values: values.count("connected") == 2)
    assert client.welcome is not None
    assert client.welcome.restored == 0
    assert {s.symbol for s in await client.subscriptions()} == {"SBIN", "BANKNIFTY"}
    assert (await anext(client.quotes("BANKNIFTY"))).symbol == "BANKNIFTY"


async def test_the_newest_connection_has_the_session(odin: RealServer, client_of: Make) -> None:
    first, second = client_of(odin.url, "shared"), client_of(odin.url, "shared")
    errors, quotes = Heard(), Heard()
    first.on_error(errors)
    second.on_quote(quotes)
    await first.connect()
    await first.subscribe("SBIN")
    await second.connect()
    with pytest.raises(TakenOver) as caught:
        await first.wait_closed()
    assert caught.value.code == 4409
    assert [getattr(e, "code", None) for e in errors.values] == ["session_taken_over", 4409]
    await quotes.until(len)
    assert second.state == "connected"


async def test_a_program_without_client_id_keeps_its_session(
    odin: RealServer, client_of: Make
) -> None:
    client, states = client_of(odin.url, None), Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe("SBIN")
    made_up = client.client_id
    assert made_up is not None
    assert len(made_up) >= 22
    await odin.kill()
    await odin.start()
    await states.until(lambda values: values.count("connected") == 2)
    assert client.client_id == made_up
    assert [s.symbol for s in await client.subscriptions()] == ["SBIN"]


async def test_a_frozen_server_is_noticed_by_its_missing_pongs(
    odin: RealServer, client_of: Make
) -> None:
    client = client_of(odin.url, heartbeat_s=0.4, request_timeout_s=1.0)
    states = Heard()
    client.on_state(states)
    await client.connect()
    await client.subscribe("SBIN")
    odin.freeze()
    await states.until(lambda values: "reconnecting" in values)
    odin.thaw()
    await states.until(lambda values: values.count("connected") == 2)
    assert [s.symbol for s in await client.subscriptions()] == ["SBIN"]


async def test_a_burst_over_the_limit_fails_clearly(odin: RealServer, client_of: Make) -> None:
    async with client_of(odin.url) as client:
        answers = await asyncio.gather(*(client.ping() for _ in range(80)), return_exceptions=True)
        refused = [a for a in answers if isinstance(a, BaseException)]
        assert {getattr(a, "code", a) for a in refused} == {"rate_limited"}
        assert len(refused) < 40


async def test_the_readmes_example_runs(odin: RealServer, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    program = tmp_path / "example.py"
    assert "ws://localhost:8080" in code[1]
    program.write_text(code[1].replace("ws://localhost:8080", f"ws://127.0.0.1:{odin.port}"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
    )
    out, err = await process.communicate()
    assert err == b""
    lines = out.decode().splitlines()
    assert lines[0] == ("subscribed ('SBIN', 'RELIANCE (NSE)') failed ['NO_SUCH_STOCK']")
    assert re.fullmatch(r"(SBIN|RELIANCE): [\d.]+ \([+-][\d.]+%\)", lines[1])
