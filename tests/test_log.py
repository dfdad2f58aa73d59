"""One event, one line: text for people, JSON for machines."""

import asyncio
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp.http_exceptions import BadStatusLine
from hypothesis import given
from hypothesis import strategies as st

from odin.log import (
    EVENT_BURST,
    EVENT_EVERY_S,
    MAX_EVENTS,
    Flood,
    JsonLine,
    TextLine,
    escape,
    setup,
)
from tests.support.server import start_server


class Chosen(NamedTuple):
    level: str = "info"
    format: str = "auto"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    root, odin = logging.getLogger(), logging.getLogger("odin")
    before = root.handlers[:], root.level, odin.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    odin.setLevel(before[2])


def record(message: str = "started", *args: object, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("odin.server").makeRecord(
        "odin.server", logging.INFO, __file__, 1, message, args, None, extra=extra
    )
    made.created = 1756971590.1985
    return made


def failed(error: Exception) -> logging.LogRecord:
    made = record("it failed")
    try:
        raise error
    except type(error):
        made.exc_info = sys.exc_info()
    return made


# -------------------------------------------------------------------- where it goes


def test_a_terminal_gets_text_with_colours() -> None:
    stream = Terminal()
    setup(Chosen(), stream)
    logging.getLogger("odin.server").warning("low")
    assert re.fullmatch(r"\S+Z \x1b\[33mWARNING\x1b\[0m odin\.server: low\n", stream.getvalue())


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    stream = Terminal()
    setup(Chosen(), stream)
    logging.getLogger("odin").error("x")
    assert "\x1b" not in stream.getvalue()


def test_anything_else_gets_json() -> None:
    stream = io.StringIO()
    setup(Chosen(), stream)
    logging.getLogger("odin.server").info("ready", extra={"port": 8080})
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"], line["event"]) == ("info", "odin.server", "ready")
    assert line["port"] == 8080


@pytest.mark.parametrize(
    ("stream", "form", "is_json"),
    [(Terminal(), "json", True), (io.StringIO(), "text", False), (Terminal(), "text", False)],
)
def test_the_format_can_be_chosen(stream: io.StringIO, form: str, is_json: bool) -> None:
    setup(Chosen(format=form), stream)
    logging.getLogger("odin").info("x")
    assert stream.getvalue().startswith("{") == is_json


def test_standard_error_is_where_it_goes_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Chosen())
    logging.getLogger("odin").info("x")
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["event"]) == ("", "x")


def test_setting_up_again_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup(Chosen(), first)
    setup(Chosen(), second)
    logging.getLogger("odin").info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("level", "logger", "heard"),
    [
        ("debug", "odin.hub", ["debug", "info", "warning", "error"]),
        ("info", "odin.hub", ["info", "warning", "error"]),
        ("warning", "odin.hub", ["warning", "error"]),
        ("error", "odin.hub", ["error"]),
        ("debug", "aiohttp.access", ["warning", "error"]),
        ("error", "asyncio", ["error"]),
    ],
)
def test_the_level_holds_for_odin_and_others_are_heard_from_warnings_on(
    level: str, logger: str, heard: list[str]
) -> None:
    stream = io.StringIO()
    setup(Chosen(level=level, format="json"), stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(logger), name)(name)
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == heard


# -------------------------------------------------------------------- JSON


def test_a_json_line_has_time_level_logger_event_and_the_extra_fields() -> None:
    line = JsonLine().format(record("%d clients", 3, peer_id=7, ok=True, share=0.5, none=None))
    assert line == (
        '{"time":"2025-09-04T07:39:50.198Z","level":"info","logger":"odin.server",'
        '"event":"3 clients","peer_id":7,"ok":true,"share":0.5,"none":null}'
    )


def test_an_extra_field_cannot_take_the_place_of_a_standard_one() -> None:
    line = json.loads(JsonLine().format(record(event="x", level="y", time="z", logger="w")))
    assert (line["event"], line["level"]) == ("started", "info")
    assert (line["event_"], line["level_"], line["time_"], line["logger_"]) == ("x", "y", "z", "w")


def test_a_stack_trace_is_one_field_of_the_line() -> None:
    text = JsonLine().format(failed(ValueError("first\nsecond")))
    assert "\n" not in text
    stack = json.loads(text)["stack"]
    assert stack.startswith("Traceback (most recent call last):\n")
    assert stack.endswith("ValueError: first\nsecond")


def test_json_escapes_what_a_terminal_or_a_line_reader_would_act_on() -> None:
    text = JsonLine().format(record("\x1b[31m\n\r\x00\x7f\x85\u2028\u202e\U000e0001", key="\x9b"))
    assert text.isprintable()
    line = json.loads(text)
    assert line["event"] == "\x1b[31m\n\r\x00\x7f\x85\u2028\u202e\U000e0001"
    assert line["key"] == "\x9b"


def test_printable_text_of_any_language_stays_readable() -> None:
    assert "भारत ₹1,365" in JsonLine().format(record("भारत ₹1,365"))


@pytest.mark.parametrize("value", ["\udcff", 2**70, {"a": {1, 2}}, object(), {1: 2}, float("nan")])
def test_json_has_a_line_for_any_value(value: object) -> None:
    line = json.loads(JsonLine().format(record(value=value)))
    assert "value" in line
    assert line["event"] == "started"


# -------------------------------------------------------------------- text


def test_a_text_line_is_readable_and_can_be_taken_apart() -> None:
    line = TextLine().format(record("ready", port=8080, host="::1", who="a b", empty="", q='"'))
    assert line == (
        "2025-09-04T07:39:50.198Z INFO    odin.server: ready "
        'port=8080 host=::1 who="a b" empty="" q="\\""'
    )


def test_text_escapes_control_characters_everywhere() -> None:
    line = TextLine().format(record("a\nb\x1b[31m", **{"k\ney": "v\r\nINFO odin: forged"}))
    assert line.isprintable()
    assert r"a\nb\x1b[31m" in line
    assert r'k\ney="v\r\nINFO odin: forged"' in line


def test_a_value_cannot_pose_as_another_field() -> None:
    line = TextLine().format(record(client_id="a level=error"))
    assert line.endswith('client_id="a level=error"')


def test_a_stack_trace_is_folded_into_the_line() -> None:
    line = TextLine().format(failed(ValueError("first\nsecond")))
    assert line.isprintable()
    assert r'ValueError: first\nsecond"' in line
    assert r'stack="Traceback (most recent call last):\n' in line


def test_a_stack_without_an_exception_is_a_field_too() -> None:
    made = record()
    made.stack_info = "Stack:\n  here"
    assert TextLine().format(made).endswith(r'stack="Stack:\n  here"')


# -------------------------------------------------------------------- whatever happens


@pytest.mark.parametrize("formatter", [JsonLine(), TextLine()])
def test_arguments_that_do_not_fit_the_text_are_still_told(formatter: logging.Formatter) -> None:
    line = formatter.format(record("%d clients", "many"))
    assert "%d clients" in line
    assert "many" in line


@given(st.text(), st.dictionaries(st.from_regex(r"x\w*", fullmatch=True), st.text()))
def test_any_event_is_one_printable_line(message: str, extra: dict[str, str]) -> None:
    for formatter in (JsonLine(), TextLine()):
        made = record(message, **extra)
        made.args = ()
        assert formatter.format(made).isprintable()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_keeps_the_text_of_an_event(message: str) -> None:
    assert json.loads(JsonLine().format(record(message)))["event"] == message


@given(st.text())
def test_escaping_leaves_printable_text_alone(text: str) -> None:
    assert escape(text).isprintable()
    assert escape(escape(text)) == escape(text)
    assert (escape(text) == text) == text.isprintable()


# -------------------------------------------------------------------- noise of strangers


@pytest.mark.parametrize("form", ["text", "json"])
def test_bytes_that_are_no_http_cost_one_short_line(form: str) -> None:
    stream = io.StringIO()
    setup(Chosen(format=form), stream)
    fault = BadStatusLine("\x16\x03\x01" + "A" * 5000)
    logging.getLogger("aiohttp.server").error(
        "Error handling request from %s", "::1", exc_info=fault
    )
    [line] = stream.getvalue().splitlines()
    assert "Traceback" not in line
    assert "Error handling request from ::1" in line
    assert "BadStatusLine" not in line
    assert "info" in line.lower()
    assert len(line) < 500


def test_strangers_are_not_heard_at_all_from_level_warning_on() -> None:
    stream = io.StringIO()
    setup(Chosen(level="warning"), stream)
    logging.getLogger("aiohttp.server").error("Error", exc_info=BadStatusLine("x"))
    assert stream.getvalue() == ""


def test_our_own_faults_under_aiohttp_keep_their_stack() -> None:
    stream = io.StringIO()
    setup(Chosen(), stream)
    logging.getLogger("aiohttp.server").error("Error", exc_info=failed(KeyError("x")).exc_info)
    line = json.loads(stream.getvalue())
    assert line["level"] == "error"
    assert "KeyError" in line["stack"]


SECRET = "tHe-SeCrEt"
UNREADABLE = [
    f"GET /enhanced-stream?ticket={SECRET}\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    f"GET /enhanced-stream?ticket={SECRET} HTTP/9.9\r\n\r\n",
    f"{SECRET} / HTTP/1.1\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer {SECRET}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \x01{SECRET}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\nX: {SECRET}{'A' * 9000}\r\n\r\n",
    f"GET http://[{SECRET}/ HTTP/1.1\r\nHost: a\r\n\r\n",
    f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SECRET}\r\n\r\n",
]


async def test_a_request_that_cannot_be_read_is_not_quoted_in_the_log(tmp_path: Path) -> None:
    """aiohttp would: its errors show the line that they are about."""
    stream = io.StringIO()
    setup(Chosen(level="debug", format="json"), stream)
    server = await start_server(tmp_path)
    host, port = server.http.removeprefix("http://").split(":")
    for request in UNREADABLE:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request.encode("latin-1"))
        status = int((await reader.readline()).split()[1])
        assert status in {400, 414, 431}
        writer.close()
    await server.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    reasons = [line["reason"] for line in lines if line["logger"] == "aiohttp.server"]
    assert {"bad status line", "bad http message", "line too long"} <= set(reasons)
    assert all(re.fullmatch("[a-z ]+", reason) for reason in reasons)
    assert SECRET.lower() not in stream.getvalue().lower()


# -------------------------------------------------------------------- no flood


def test_an_event_without_end_is_written_now_and_then_and_the_rest_counted() -> None:
    now_s = 1000.0
    flood = Flood(lambda: now_s)
    written = [flood.admits(record("client %d", n)) for n in range(10_000)]
    assert written == [True] * EVENT_BURST + [False] * (10_000 - EVENT_BURST)
    now_s += EVENT_EVERY_S
    late = record("client %d", 10_000)
    assert flood.admits(late)
    assert vars(late)["left_out"] == 10_000 - EVENT_BURST
    assert not flood.admits(record("client %d", 10_001))
    now_s += EVENT_BURST * EVENT_EVERY_S
    assert [flood.admits(record("client %d", n)) for n in range(100)].count(True) == EVENT_BURST


def test_a_flood_of_one_event_hides_no_other() -> None:
    flood = Flood(lambda: 0.0)
    while flood.admits(record("noise from %s", "somebody")):
        pass
    assert flood.admits(record("something else"))
    ended = record("noise from %s", "the server")
    ended.levelno = logging.CRITICAL
    assert flood.admits(ended)


def test_what_is_remembered_of_events_is_bounded() -> None:
    flood = Flood(lambda: 0.0)
    for n in range(3 * MAX_EVENTS):
        flood.admits(record(f"event {n}"))
    assert len(flood._events) <= MAX_EVENTS


def test_a_client_cannot_fill_the_disk_with_requests_nobody_can_read() -> None:
    stream = io.StringIO()
    setup(Chosen(), stream)
    fault = BadStatusLine("x" * 5000)
    for _ in range(20_000):
        logging.getLogger("aiohttp.server").error("Error from %s", "::1", exc_info=fault)
    assert len(stream.getvalue()) < 200 * (EVENT_BURST + 5)


def test_debug_is_whole() -> None:
    flood = Flood(lambda: 0.0)
    made = record("detail")
    made.levelno = logging.DEBUG
    assert all(flood.admits(made) for _ in range(10 * EVENT_BURST))
