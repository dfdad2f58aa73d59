"""Everything a hostile or clumsy client may say: it is told so, and nothing else happens.

Each message of the corpus gets one answer of the catalogue; the connection goes on, another
client's quotes flow, the database stays as it was, and no log line can be forged.
"""

import asyncio
import json
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import odin
from odin.errors import CLIENT_ERRORS, MAX_ERROR_CHARS, MAX_REFLECTED_CHARS, STOCK_ERRORS
from odin.log import JsonLine, TextLine
from odin.model import Instrument, InstrumentKey
from tests.support.hostile import BAD_HTTP, BAD_IDS, CANARY, CORPUS, MAX_FLOAT, NOT_JSON
from tests.support.raw import BINARY, CONTINUATION, TEXT, Raw, frame, handshake
from tests.support.server import SBIN, TCS, Client, Server, running

LIMITS = {"requests_per_s": 10_000, "request_burst": 10_000}
CODE = Path(odin.__file__).parent.parent
INTERNALS = re.compile(
    rf'Traceback|File "|\.py\b|site-packages|{re.escape(str(CODE))}|msgspec|aiohttp|\bodin\.'
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path, limits=LIMITS) as started:
        yield started


def stored(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path / "odin.db")) as connection:
        return connection.execute(
            "select client_id, token from subscriptions union all select client_id, 0 from clients"
        ).fetchall()


def text_faults(text: str, said: str) -> Iterator[str]:
    """Say what is wrong with a text for people."""
    if len(text) > MAX_ERROR_CHARS:
        yield f"a text of {len(text)} characters"
    if not text.isprintable():
        yield f"control characters in {text!r}"
    if INTERNALS.search(text) and not INTERNALS.search(said):
        yield f"internals in {text!r}"
    size = MAX_REFLECTED_CHARS + 1
    if any(text[at : at + size] in said for at in range(len(text) - size + 1)):
        yield f"more than {MAX_REFLECTED_CHARS} characters of the input in {text!r}"


def faults(answer: dict[str, Any], said: str) -> Iterator[str]:
    """Say what is wrong with the answer to a message that cannot be carried out."""
    if answer["status"] != "error":
        yield f"not refused: {str(answer)[:200]}"
    yield from text_faults(answer.get("message", ""), said)
    if answer["type"] == "error":
        if answer["code"] not in CLIENT_ERRORS or answer["code"] == "internal":
            yield f"code {answer['code']}"
        return
    if answer["type"] != "subscription_response":
        yield f"type {answer['type']}"
        return
    data = answer["data"]
    if not data["failed_stocks"] or len(data["failed_stocks"]) != len(data["failed_details"]):
        yield "failed_stocks without a reason each"
    for stock, detail in zip(data["failed_stocks"], data["failed_details"], strict=False):
        if stock != detail["stock"] or len(stock) > MAX_REFLECTED_CHARS or not stock.isprintable():
            yield f"failed stock {stock!r}"
        if detail["code"] not in STOCK_ERRORS:
            yield f"reason {detail['code']}"
        yield from text_faults(detail["message"], said)


def log_faults(records: Iterable[logging.LogRecord]) -> Iterator[str]:
    """Say what is wrong with log lines: one event is one line, and clients are not quoted."""
    for record in records:
        if record.name.startswith("odin") and record.levelno >= logging.ERROR:
            yield f"logged as an error: {record.getMessage()}"
        for formatter in (TextLine(), JsonLine()):
            line = formatter.format(record)
            if not line.isprintable():
                yield f"control characters in the line {line!r}"
            if CANARY in line:
                yield f"a client's words in the line {line!r}"


# ---------------------------------------------------------------------- messages


def test_the_corpus_is_large() -> None:
    assert sum(map(len, CORPUS.values())) > 500
    assert len({message for messages in CORPUS.values() for message in messages}) > 500


@pytest.mark.parametrize("group", CORPUS)
async def test_bad_messages_are_answered_and_change_nothing(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, group: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="odin")
    caplog.set_level(logging.DEBUG, logger="aiohttp")
    wrong = []
    async with Client(server.ws, "witness") as witness, Client(server.ws, "hostile") as client:
        await witness.subscribe("SBIN")
        before = stored(tmp_path)
        for number, said in enumerate(CORPUS[group]):
            await client.send(said)
            # A message that gets no answer is found out by the answer to this one.
            await client.send({"action": "ping", "request_id": f"{number}"})
            answers = [await client.receive()]
            while answers[-1].get("request_id") != f"{number}":
                answers.append(await client.receive())
            found = [] if len(answers) == 2 else [f"{len(answers) - 1} answers"]
            for answer in answers[:-1]:
                found += faults(answer, said)
            if found:
                wrong.append(f"{said[:80]!r}: {'; '.join(found)}")
        server.tick(SBIN, 800.0)
        assert (await witness.quote("SBIN"))["data"]["ltp"] == 800.0
        data = (await client.ask("get_subscriptions"))["data"]
        assert data["total_subscribed"] == 0
    assert not wrong, "\n".join(wrong)
    assert server.node.metrics.faults == 0
    assert stored(tmp_path) == before
    assert not list(log_faults(caplog.records))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY), "binary_message"),
        (frame(BINARY, b'{"action":"subscribe","stocks":["SBIN"]}'), "binary_message"),
        (frame(BINARY, b"\xff" * 65_536), "binary_message"),
        (frame(TEXT), "invalid_json"),
        (frame(TEXT, final=False) + frame(CONTINUATION), "invalid_json"),
        (frame(TEXT, b"\x00" * 1000), "invalid_json"),
        (frame(TEXT, b"\xef\xbb\xbf{}"), "invalid_json"),
        (frame(TEXT, b'{"action":', final=False) + frame(CONTINUATION, b'"x"}'), "unknown_action"),
    ],
)
async def test_odd_frames_are_answered(server: Server, data: bytes, code: str) -> None:
    async with Raw(server.ws) as raw:
        await raw.open()
        raw.send(data)
        assert (await raw.message())["code"] == code
        raw.ask(action="ping")
        assert (await raw.message())["type"] == "pong"


@pytest.mark.parametrize(
    ("said", "echo"),
    [
        ('{"action":"ping","timestamp":-9223372036854775808}', {"request_timestamp": -(2**63)}),
        ('{"action":"ping","timestamp":1.7976931348623157e308}', {"request_timestamp": MAX_FLOAT}),
        ('{"action":"ping","timestamp":"now","request_id":0}', {"request_timestamp": "now"}),
        ('{"action":"ping","request_id":"\\u0000\\u2028"}', {"request_id": "\0\u2028"}),
        ('{"action":"ping","request_id":"\\ud83d\\ude00"}', {"request_id": "😀"}),
        ('{"action":"dance","action":"ping","x":1,"x":2}', {}),
        ('{"a":[1,{}],"\\u0061ction":"ping","stocks":["' + "x" * 60_000 + '"]}', {}),
        (' \t\r\n{ "action" : "ping" } \n', {}),
        ('{"action":"ping","x":' + "9" * 5000 + "}", {}),
        ('{"action":"ping","x":1e999}', {}),
    ],
)
async def test_strange_but_allowed(server: Server, said: str, echo: dict[str, object]) -> None:
    async with Client(server.ws, "me") as client:
        await client.send(said)
        answer = await client.receive()
        assert answer["type"] == "pong"
        assert answer | echo == answer


async def test_a_thousand_unknown_stocks_get_a_reason_each(server: Server) -> None:
    async with Client(server.ws, "me") as client, Client(server.ws, "other") as other:
        for names in (
            [f"NOPE{number}" for number in range(1000)],
            [f"{number:064d}" for number in range(950)],
            [f"SBINTCSRELIANCEINFY{number}" for number in range(1000)],
            ["\U000e0001" * 6 + str(number) for number in range(1000)],
            list(range(-1000, 0)),
        ):
            request = {"action": "subscribe", "stocks": names}
            await client.send(json.dumps(request, ensure_ascii=False))
            async with asyncio.timeout(2):
                assert (await other.ask("ping"))["status"] == "alive"
            answer = await client.receive()
            assert len(answer["data"]["failed_stocks"]) == len(names)
            assert not list(faults(answer, ""))
    assert await server.node.store.clients() == []


@pytest.mark.parametrize("is_listed", [True, False])
async def test_names_that_look_alike_are_not_the_same(server: Server, is_listed: bool) -> None:
    """Neither to subscribe nor to unsubscribe: ſ is no S, whatever upper() makes of it."""
    async with Client(server.ws, "me") as client:
        await client.subscribe("SBIN")
        if not is_listed:  # it has left the master since
            server.node.registry.replace([Instrument(TCS, "TCS")], aliases={})
        for name in ("ſbin", "ſBIN", "SBıN", "ＳＢＩＮ", "ЅBIN"):
            answer = await client.ask("unsubscribe", stocks=[name])
            assert answer["status"] == "error", name
        assert (await client.ask("get_subscriptions"))["data"]["total_subscribed"] == 1
        assert (await client.ask("unsubscribe", stocks=["sbin"]))["status"] == "success"


async def test_unsubscribing_what_nobody_knows_does_not_hold_up_the_others(
    server: Server,
) -> None:
    """The work of one request must not grow with its stocks times the subscriptions held."""
    many = [Instrument(InstrumentKey("NSE", "CM", 100_000 + n), f"STOCK{n}") for n in range(3000)]
    server.node.registry.replace(many, aliases={})
    loop = asyncio.get_running_loop()
    async with Client(server.ws, "me") as client:
        for start in range(0, 3000, 1000):
            answer = await client.subscribe(*(f"STOCK{n}" for n in range(start, start + 1000)))
        assert answer["data"]["total_subscribed"] == 3000
        took = []
        for _ in range(2):
            started = loop.time()
            answer = await client.ask("unsubscribe", stocks=[f"NOPE{n}" for n in range(1000)])
            took.append(loop.time() - started)
        assert len(answer["data"]["failed_stocks"]) == 1000
        assert min(took) < 0.3, took


async def test_subscribing_and_unsubscribing_in_haste_ends_as_asked_last(
    server: Server, tmp_path: Path
) -> None:
    async with Client(server.ws, "me") as client, Client(server.ws, "witness") as witness:
        await witness.subscribe("SBIN")
        stocks = ["SBIN", "TCS", "INFY"]
        for number in range(300):
            action = "unsubscribe" if number % 2 else "subscribe"
            await client.send({"action": action, "stocks": stocks, "request_id": number})
        await client.send({"action": "subscribe", "stocks": ["TCS"], "request_id": 300})
        ids = []
        async with asyncio.timeout(20):
            while 300 not in ids:
                server.tick(SBIN, 800.0)
                message = await client.receive()
                if message["type"] == "subscription_response":
                    assert message["status"] == "success"
                    ids.append(message["request_id"])
        assert ids == list(range(301)), "answers come in the order of their requests"
        server.tick(SBIN, 900.0)
        assert await client.nothing_but_pong() == []
        await witness.until(lambda message: message.get("data", {}).get("ltp") == 900.0)
    assert [row for row in stored(tmp_path) if row[0] == "me"] == [("me", 11536), ("me", 0)]


async def test_a_flood_is_answered_in_kind_and_others_are_served(tmp_path: Path) -> None:
    async with (
        running(tmp_path, limits={"requests_per_s": 50, "request_burst": 10}) as server,
        Client(server.ws, "witness") as witness,
        Raw(server.ws) as raw,
    ):
        await witness.subscribe("SBIN")
        await raw.open()
        said = [NOT_JSON[number % len(NOT_JSON)].encode() for number in range(2000)]
        raw.send(b"".join(frame(TEXT, text) for text in said))
        for number in range(20):
            server.tick(SBIN, 800.0 + number)
            assert (await witness.quote())["data"]["ltp"] == 800.0 + number
        codes = [(await raw.message())["code"] for _ in range(20)]
        assert set(codes[:10]) == {"invalid_json", "invalid_request"}
        assert "rate_limited" in codes
        assert server.node.metrics.requests < 200, "the rest waits unread"


# ---------------------------------------------------------------------- client ids


async def test_a_client_id_is_taken_as_it_is_or_refused(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="odin")
    caplog.set_level(logging.DEBUG, logger="aiohttp")
    assert len(BAD_IDS) > 50
    wrong = []
    for client_id in BAD_IDS:
        async with Raw(server.ws) as raw:
            raw.send(handshake(f"/enhanced-stream?client_id={client_id}"))
            status, headers, body = await raw.answer()
            text = body.decode()
            found = [] if status == 400 else [f"status {status}"]
            if headers.get("content-type", "").startswith("application/json"):
                message = json.loads(text)
                found += faults(message, client_id)
                found += [] if message["code"] == "invalid_client_id" else [message["code"]]
            elif " " not in client_id:  # then it is not even HTTP
                found.append(f"no JSON: {text[:100]!r}")
            if found:
                wrong.append(f"{client_id[:60]!r}: {'; '.join(found)}")
    assert not wrong, "\n".join(wrong)
    assert server.node.enhanced.connection_count == 0
    assert server.node.metrics.connections == 0
    assert server.node.metrics.faults == 0
    assert await server.node.store.clients() == []
    assert not [line for line in log_faults(caplog.records) if "as an error" in line]


async def test_client_ids_are_never_folded_trimmed_or_shortened(server: Server) -> None:
    ids = ["me", "ME", "Me", "me.", ".me", "me_", "-me", "m:e", "m@e", "..", "-", "0", "00", "CON"]
    ids += ["null", "None", "__proto__", "a.b.c", "a@b.c", "x" * 127, "x" * 128]
    assert len(set(ids)) == len(ids)
    for number, client_id in enumerate(ids):
        async with Client(server.ws, client_id) as client:
            assert client.welcome["client_id"] == client_id
            assert client.welcome["data"]["subscribed_stocks"] == 0
            stocks = ["SBIN", "TCS", "INFY"][: number % 3 + 1]
            await client.subscribe(*stocks)
    for number, client_id in enumerate(ids):
        async with Client(server.ws, client_id) as client:
            assert client.welcome["data"]["subscribed_stocks"] == number % 3 + 1
    assert server.node.metrics.takeovers == 0


async def test_without_a_client_id_everybody_gets_one_that_nobody_guesses(server: Server) -> None:
    made = set()
    for query in ("", "?", "?client_id=", "?CLIENT_ID=me", "?id=me&client=me", "?client_id"):
        async with Client(server.ws + query) as client:
            made.add(client.welcome["client_id"])
            assert len(client.welcome["client_id"]) >= 22, "128 bits in base 64"
    assert len(made) == 6
    assert "me" not in made


# ---------------------------------------------------------------------- before the upgrade


async def test_bad_http_is_refused_shortly_and_shows_nothing(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="odin")
    caplog.set_level(logging.DEBUG, logger="aiohttp")
    wrong = []
    async with Client(server.ws, "witness") as witness:
        await witness.subscribe("SBIN")
        for said in BAD_HTTP:
            caplog.clear()
            async with Raw(server.ws) as raw:
                raw.send(said.encode("latin-1"))
                status, headers, body = await raw.answer()
            text = body.decode("latin-1")
            found = [] if 400 <= status < 500 else [f"status {status}"]
            if headers.get("content-type", "").startswith("application/json"):
                found += text_faults(json.loads(text)["message"], said)
            elif INTERNALS.search(text) or len(text) > 400:
                found.append(f"answered with {text[:300]!r}")
            found += [line for line in log_faults(caplog.records) if "forged" in line]
            found += [f"the log has a stack: {record.getMessage()}" for record in caplog.records
                      if record.exc_info and not _is_known_client_fault(record)]  # fmt: skip
            if found:
                wrong.append(f"{said[-120:]!r}: {'; '.join(found)}")
        server.tick(SBIN, 800.0)
        assert (await witness.quote())["data"]["ltp"] == 800.0
    assert not wrong, "\n".join(wrong)
    assert server.node.metrics.faults == 0


def _is_known_client_fault(record: logging.LogRecord) -> bool:
    """Whether `odin.log` turns the record's stack into one line (see tests/test_log.py)."""
    fault = record.exc_info[1] if record.exc_info else None
    return fault is not None and type(fault).__module__ == "aiohttp.http_exceptions"
