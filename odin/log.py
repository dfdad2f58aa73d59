"""What the server writes to standard error: one event, one line.

Text on a terminal, one JSON object a line otherwise. Control characters are escaped in both, a
stack trace becomes one field, so that no input can forge a line or colour a terminal. Extra
fields come from `extra=` of the logging call. Loggers are called "odin.…"; it never logs what
clients send, and an event that comes without end is left out but for a few, so that nobody can
fill a disk with it.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

import orjson

from odin.errors import mask_secrets

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
EVENT_BURST = 50
"""Lines of one event (its text before anything is filled in) that are written at once."""
EVENT_EVERY_S = 10.0
"""Afterwards one in so long, with the number of those left out."""
MAX_EVENTS = 1000

_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}


class LogSettings(Protocol):
    """The settings this module reads."""

    @property
    def level(self) -> str:
        """ "debug", "info", "warning" or "error"."""
        ...

    @property
    def format(self) -> str:
        """ "auto", "text" or "json"."""
        ...


def setup(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send every log record to the stream, standard error if None. Calling it again replaces it.

    The level holds for Odin's own loggers; other libraries are heard from warnings on.
    """
    stream = sys.stderr if stream is None else stream
    is_terminal = stream.isatty()
    handler = _Output(stream)
    if settings.format == "json" or (settings.format == "auto" and not is_terminal):
        handler.setFormatter(JsonLine())
    else:
        has_colour = is_terminal and not os.environ.get("NO_COLOR")
        handler.setFormatter(TextLine(has_colour=has_colour and os.environ.get("TERM") != "dumb"))
    level = getattr(logging, settings.level.upper())
    handler.addFilter(_ClientFaults(level))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Output)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("odin").setLevel(level)
    # It warns of every subprotocol that is not ours, and quotes it.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)


class JsonLine(logging.Formatter):
    """One JSON object: time (RFC 3339, UTC), level, logger, event, the extra fields, stack."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
        }
        extra = _extra(record)
        # A field may not take the place of one of those above.
        fields |= {f"{key}_" if key in fields else key: value for key, value in extra.items()}
        options = orjson.OPT_NON_STR_KEYS
        try:
            line = orjson.dumps(fields, default=str, option=options)
        except TypeError:  # a lone surrogate, an integer of more than 64 bits, a cycle
            plain = {escape(str(key)): escape(str(value)) for key, value in fields.items()}
            line = orjson.dumps(plain)
        text = mask_secrets(line.decode())
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else _json_escape(c) for c in text)


class TextLine(logging.Formatter):
    """`time LEVEL logger event key=value …`; values with spaces or quotes are quoted."""

    def __init__(self, *, has_colour: bool = False) -> None:
        super().__init__()
        self._has_colour = has_colour

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        shown = f"{record.levelname:<7}"
        if self._has_colour and level in _COLOURS:
            shown = f"\x1b[{_COLOURS[level]}m{shown}\x1b[0m"
        head = f"{_time(record)} {shown} {escape(record.name)}: {escape(_event(record))}"
        extra = _extra(record)
        fields = (f"{escape(k)}={_text_value(v)}" for k, v in extra.items())
        return mask_secrets(" ".join([head, *fields]))


def escape(text: str) -> str:
    """Return the text with control characters, line separators and lone surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Flood:
    """Decides which records of an event that comes often are written.

    Those of the level DEBUG all are, as somebody asked for them, and so are CRITICAL ones.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._events: dict[tuple[str, str], tuple[float, int]] = {}
        """When an event's allowance is whole again, and how many of it were left out."""

    def admits(self, record: logging.LogRecord) -> bool:
        """Whether to write the record; the first after a gap gets `left_out`, the gap's size."""
        if record.levelno <= logging.DEBUG or record.levelno >= logging.CRITICAL:
            return True
        if len(self._events) >= MAX_EVENTS:
            self._events.clear()
        event = (record.name, str(record.msg))
        now_s = self._now_s()
        whole_s, left_out = self._events.get(event, (now_s, 0))
        whole_s = max(whole_s, now_s) + EVENT_EVERY_S
        if whole_s > now_s + EVENT_BURST * EVENT_EVERY_S:
            self._events[event] = (whole_s - EVENT_EVERY_S, left_out + 1)
            return False
        if left_out:
            record.__dict__["left_out"] = left_out
        self._events[event] = (whole_s, 0)
        return True


class _Output(logging.StreamHandler[TextIO]):
    """The handler that setup() installs; a class of its own so that it can be found again."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._flood = Flood()

    def emit(self, record: logging.LogRecord) -> None:
        if self._flood.admits(record):
            super().emit(record)


class _ClientFaults(logging.Filter):
    """Turns aiohttp's errors with stack about unreadable requests into one short INFO line.

    Anybody can send bytes that are not HTTP; with a stack each they would fill the log. Nor does it
    say what was sent, as aiohttp's texts do: that may be a ticket in a URL or an API key in a
    header.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        fault = record.exc_info[1] if record.exc_info else None
        if fault is None or not _is_from_http_parser(fault):
            return True
        record.exc_info = None
        record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.__dict__["reason"] = _WORD_START.sub(" ", type(fault).__name__).lower()
        return self._level <= logging.INFO


def _is_from_http_parser(fault: BaseException) -> bool:
    return any(base.__module__ == "aiohttp.http_exceptions" for base in type(fault).__mro__)


def _time(record: logging.LogRecord) -> str:
    instant = datetime.fromtimestamp(record.created, UTC)
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


def _event(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # arguments that do not fit: still say something
        return f"{record.msg} {record.args!r}"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    if record.exc_info and record.exc_info[0] is not None:
        fields["stack"] = _STACKS.formatException(record.exc_info)
    elif record.stack_info:
        fields["stack"] = record.stack_info
    return fields


_STACKS = logging.Formatter()
_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")


def _text_value(value: object) -> str:
    text = escape(str(value))
    if text and not any(c in text for c in ' "='):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
