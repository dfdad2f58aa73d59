"""Encodings over connections: what is asked for, merged, and forgotten, on a scripted server."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgpack
import pytest
from conftest import Heard, connected_after
from fake_server import NOW_MS, FakeServer, market_data, quote

from odin_client import Format, OdinClient, OdinError

Make = Callable[..., OdinClient]
FORMATS = get_args(Format)
VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "encodings"
DELTAS: dict[str, Callable[[dict[str, Any]], str | bytes]] = {
    "json-delta": json.dumps,
    "msgpack-delta": msgpack.packb,
}


def delta(symbol: str, **changes: Any) -> dict[str, Any]:
    return {**market_data(quote(symbol)), "data": changes, "delta": True}


class Reader:
    """A client of one encoding, and everything it told."""

    def __init__(self, fake: FakeServer, client: OdinClient, encoding: Format) -> None:
        self.fake, self.client = fake, client
        self.encode = DELTAS.get(encoding, json.dumps)
        self.quotes, self.states, self.errors = Heard(), Heard(), Heard()
        client.on_quote(self.quotes)
        client.on_state(self.states)
        client.on_error(self.errors)

    async def reconnect(self) -> None:
        times = self.states.values.count("connected")
        self.fake.drop()
        await connected_after(self.states, times + 1)

    async def push(self, *pushed: dict[str, Any]) -> None:
        for message in pushed:
            await self.fake.push(self.encode(message))

    def not_understood(self) -> list[str]:
        return [str(e) for e in self.errors.values if "not understood" in str(e)]


@pytest.fixture(params=DELTAS)
async def reader(request: pytest.FixtureRequest, fake: FakeServer, client_of: Make) -> Reader:
    """A connected reader of each encoding of deltas."""
    encoding: Format = request.param
    reader = Reader(fake, client_of(fake.url, format=encoding), encoding)
    await reader.client.connect()
    return reader


# ---------------------------------------------------------------- what is asked for


def test_an_unknown_format_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="json, json-delta, msgpack, msgpack-delta, binary"):
        OdinClient("ws://localhost:8080", format="xml")  # type: ignore[arg-type]


def test_a_missing_msgpack_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ImportError, match=r"odin-streamer-client\[msgpack\]"):
        OdinClient("ws://localhost:8080", format="msgpack")
    OdinClient("ws://localhost:8080")


@pytest.mark.parametrize("encoding", FORMATS)
async def test_the_format_is_asked_for_at_each_connect(
    fake: FakeServer, client_of: Make, encoding: Format
) -> None:
    reader = Reader(fake, client_of(fake.url, format=encoding), encoding)
    await reader.client.connect()
    await reader.reconnect()
    assert (fake.formats, fake.client_ids) == ([encoding, encoding], ["me", "me"])
    assert reader.client.welcome is not None
    assert reader.client.welcome.format == encoding


async def test_json_is_the_default(fake: FakeServer, client_of: Make) -> None:
    await client_of(f"{fake.url}?format=binary&colour=blue").connect()
    assert fake.formats == ["json"]


@pytest.mark.parametrize("encoding", FORMATS)
async def test_an_older_server_is_read_in_every_format(
    fake: FakeServer, client_of: Make, encoding: Format
) -> None:
    fake.is_older = True
    fake.last_quotes = [quote("SBIN", 1.0)]
    reader = Reader(fake, client_of(fake.url, format=encoding), encoding)
    await reader.client.connect()
    await fake.push_quote("SBIN", 2.0)
    await reader.quotes.until(lambda quotes: len(quotes) == 2)
    assert [q.ltp for q in reader.quotes.values] == [1.0, 2.0]
    assert reader.client.welcome is not None
    assert reader.client.welcome.format == "json"
    assert reader.errors.values == []


# ---------------------------------------------------------------- deltas


async def test_programs_get_whole_quotes_of_deltas(reader: Reader) -> None:
    stream = reader.client.quotes("SBIN")
    await reader.push(
        market_data(quote("SBIN", 1.0)),
        delta("SBIN", volume=5),
        delta("SBIN", ltp=2.0, last_updated="u2"),
    )
    await reader.quotes.until(lambda quotes: len(quotes) == 3)
    assert [(q.ltp, q.volume, q.last_updated) for q in reader.quotes.values] == [
        (1.0, None, "u0"),
        (1.0, 5, "u0"),
        (2.0, 5, "u2"),
    ]
    assert (await anext(stream)) == reader.quotes.values[-1]
    assert (reader.quotes.values[-1].sent_ms, stream.skipped) == (NOW_MS, 2)


async def test_what_was_held_ends_with_its_connection(reader: Reader) -> None:
    await reader.push(market_data(quote("SBIN", 1.0)), delta("SBIN", volume=5))
    await reader.quotes.until(lambda quotes: len(quotes) == 2)
    await reader.reconnect()
    await reader.push(delta("SBIN", ltp=2.0))
    await reader.errors.until(lambda _: reader.not_understood())
    assert reader.not_understood() == [
        "a message was not understood: a delta of NSE:SBIN without a whole quote before it"
    ]
    await reader.push(market_data(quote("SBIN", 3.0)), delta("SBIN", ltp=4.0))
    await reader.quotes.until(lambda quotes: len(quotes) == 4)
    assert [(q.ltp, q.volume) for q in reader.quotes.values[2:]] == [(3.0, None), (4.0, None)]
    assert reader.client.state == "connected"


async def test_a_last_quote_that_is_no_news_is_what_deltas_change(reader: Reader) -> None:
    """After a reconnect the known quote is not told again, but later deltas are of it."""
    await reader.push(market_data({**quote("SBIN", 1.0, "u1"), "volume": 5}))
    await reader.quotes.until(len)
    reader.fake.last_quotes = [{**quote("SBIN", 1.0, "u1"), "volume": 5}]
    await reader.reconnect()
    assert len(reader.quotes.values) == 1
    await reader.push(delta("SBIN", ltp=2.0, last_updated="u2"))
    await reader.quotes.until(lambda quotes: len(quotes) == 2)
    assert (reader.quotes.values[1].ltp, reader.quotes.values[1].volume) == (2.0, 5)
    assert not reader.quotes.values[1].is_snapshot
    assert reader.not_understood() == []


# ---------------------------------------------------------------- binary messages


async def test_binary_quotes_need_the_instruments_of_their_connection(
    fake: FakeServer, client_of: Make
) -> None:
    content = json.loads((VECTORS / "binary_live.json").read_text())
    frame = bytes.fromhex(content["frames"][0])
    named = {"type": "instruments", "data": {"instruments": content["instruments"]}}
    reader = Reader(fake, client_of(fake.url, format="binary"), "binary")
    await reader.client.connect()
    await fake.push(named)
    await fake.push(b"\x02" + frame[1:])
    await fake.push(frame)
    await reader.quotes.until(len)
    assert reader.errors.values == []
    await reader.reconnect()
    await fake.push(frame)
    await reader.errors.until(lambda _: reader.not_understood())
    await fake.push(named)
    await fake.push(frame)
    await reader.quotes.until(lambda quotes: len(quotes) == 2)
    assert len(reader.not_understood()) == 1
    for got in reader.quotes.values:
        told = got._asdict()
        assert {name: told[name] for name in content["quote"]} == content["quote"]


@pytest.mark.parametrize("encoding", ["msgpack", "msgpack-delta"])
async def test_damaged_messages_are_told_and_passed_over(
    fake: FakeServer, client_of: Make, encoding: Format
) -> None:
    reader = Reader(fake, client_of(fake.url, format=encoding), encoding)
    await reader.client.connect()
    whole = msgpack.packb(market_data(quote("SBIN", 1.0)))
    for damaged in (whole[:-1], whole + b"\0", b"", b"\xc1", b"\x93\1\2\3"):
        await fake.push(damaged)
    await fake.push(whole)
    await reader.quotes.until(len)
    assert len(reader.not_understood()) == 5
    assert all(type(error) is OdinError for error in reader.errors.values)


async def test_binary_messages_to_a_reader_of_text_mean_nothing(
    fake: FakeServer, client_of: Make
) -> None:
    reader = Reader(fake, client_of(fake.url), "json")
    await reader.client.connect()
    await fake.push(b"\x01\x02")
    await fake.push_quote("SBIN", 1.0)
    await reader.quotes.until(len)
    assert reader.errors.values == []
