"""Every setting of the server, with the text that documents it.

A setting is read from `odin.toml`, then from the environment (`ODIN_SERVER__PORT`, and the plain
HOST, PORT and CORS_ORIGINS), then from command-line flags; the last one wins. Unknown names and
bad values are errors, and all of them are reported together. docs/configuration.md is generated
from this module.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
import orjson
from msgspec import Meta, inspect

from odin.errors import ConfigError, reflect


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server listens."""

    host: Annotated[
        str, Meta(description="Address to listen on. Loopback unless you open it on purpose.")
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port; 0 lets the system choose one.")
    ] = 8080
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of web pages that may connect or call the API, exactly as a "
            'browser sends them ("https://app.example.com"), or "*" for all. Pages from this '
            "server's own address and programs that send no Origin are always let in."
        ),
    ] = ()
    backlog: Annotated[
        int, Meta(ge=1, description="Connections the kernel may hold before they are accepted.")
    ] = 4096
    shutdown_grace_s: Annotated[
        float,
        Meta(ge=0, le=60, description="How long a stop waits for clients to close, seconds."),
    ] = 5.0


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one client, one address and all together may use. Announced in `welcome`."""

    connections: Annotated[
        int, Meta(ge=1, description="Connections in all; more get HTTP 503 with Retry-After.")
    ] = 10_000
    connections_per_address: Annotated[
        int, Meta(ge=1, description="Connections from one address; more get HTTP 429.")
    ] = 100
    connects_per_s: Annotated[
        float, Meta(gt=0, description="New connections a second from one address, on average.")
    ] = 5.0
    connect_burst: Annotated[
        int, Meta(ge=1, description="New connections one address may make at once.")
    ] = 20
    exempt_addresses: Annotated[
        tuple[str, ...],
        Meta(description="Addresses that the limits per address do not count."),
    ] = ("127.0.0.1", "::1")
    requests_per_s: Annotated[
        float, Meta(gt=0, description="Requests a second on one connection, on average.")
    ] = 20.0
    request_burst: Annotated[
        int, Meta(ge=1, description="Requests one connection may send at once.")
    ] = 60
    message_bytes: Annotated[
        int,
        Meta(ge=1024, le=16_777_216, description="Largest message; a larger one closes with 1009."),
    ] = 65_536
    stocks_per_request: Annotated[int, Meta(ge=1, description="Stocks in one request.")] = 1000
    subscriptions_per_client: Annotated[
        int, Meta(ge=1, description="Stocks one client_id may hold.")
    ] = 3000
    ping_interval_s: Annotated[
        float,
        Meta(gt=0, description="Seconds between pings; a pong must follow within half of it."),
    ] = 20.0
    progress_timeout_s: Annotated[
        float,
        Meta(gt=0, description="A client that takes nothing for so long is closed with 4408."),
    ] = 10.0


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The SQLite database of clients, subscriptions, instruments and daily history."""

    path: Annotated[str, Meta(min_length=1, description="File of the database.")] = "./odin.db"
    busy_timeout_s: Annotated[
        float,
        Meta(ge=0, le=30, description="How long a change waits while another process locks it."),
    ] = 3.0
    client_expiry_days: Annotated[
        float,
        Meta(gt=0, description="A client that has not connected for so long is forgotten."),
    ] = 30.0


class MarketSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the market is open."""

    gate: Annotated[
        Literal["calendar", "always"],
        Meta(
            description='"calendar": market_data flows in market hours only. "always": at any '
            "hour, for testing; every status message then says so."
        ),
    ] = "calendar"
    calendar_file: Annotated[
        str,
        Meta(
            description="TOML file that adds or overrides trading days; read again when it "
            "changes. Empty: none."
        ),
    ] = ""


class FeedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where market data comes from."""

    kind: Annotated[
        Literal["simulator", "none"],
        Meta(description='"simulator": a synthetic market, marked as such. "none": no data.'),
    ] = "simulator"
    stale_after_s: Annotated[
        float,
        Meta(
            gt=0,
            description="The feed counts as stale when nothing arrives for so long in an open "
            "market.",
        ),
    ] = 15.0
    linger_s: Annotated[
        float,
        Meta(ge=0, description="How long an instrument stays wanted after its last subscriber."),
    ] = 30.0


class SimulatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The synthetic market."""

    seed: Annotated[int, Meta(description="The same seed gives the same market.")] = 1
    rate_hz: Annotated[
        float, Meta(gt=0, le=1000, description="Ticks a second for each wanted instrument.")
    ] = 1.0
    clock: Annotated[
        Literal["wall", "session"],
        Meta(
            description='"wall": real market hours. "session": its own market clock that starts '
            "at 09:15 IST of the latest trading day and jumps from each close to the next opening."
        ),
    ] = "wall"


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server writes to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least level written.")
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description='"auto": text on a terminal, one JSON object a line otherwise.'),
    ] = "auto"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings; one attribute a section."""

    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    store: StoreSettings = StoreSettings()
    market: MarketSettings = MarketSettings()
    feed: FeedSettings = FeedSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    log: LogSettings = LogSettings()


NOT_SETTINGS = {
    "ODIN_CONFIG": "The configuration file, where --config does not name one.",
    "ODIN_LOOP": 'The event loop: "uvloop" or "asyncio". Unset: uvloop where it is installed.',
}
"""ODIN_ variables that are no settings, with what they are for."""

PLAIN_VARIABLES = {
    "HOST": "server.host",
    "PORT": "server.port",
    "CORS_ORIGINS": "server.cors_origins",
}
"""Variables that hosting platforms set; the ODIN_ form of the same setting wins."""

MASK = "********"

# Kubernetes and Docker links set such variables for a service that is called "odin".
_SERVICE_LINK = re.compile(r"(?s)ODIN_SERVICE_(HOST|PORT\w*)=.*|ODIN_PORT(_\d+_\w+)?=\w+://.*")
_TOML_PLACE = re.compile(r"(?s)(.*) \(at (?:line (\d+), column \d+|end of document)\)")


class SettingRow(NamedTuple):
    """One setting as the documentation shows it."""

    path: str
    """ "server.port" """
    type_text: str
    """What a value must be, with its range: "a whole number from 0 to 65535"."""
    default: str
    """In TOML notation."""
    env: str
    """ "ODIN_SERVER__PORT" """
    description: str


class _Leaf(NamedTuple):
    """One setting as the loader sees it."""

    hint: Any
    kind: inspect.Type
    default: object
    description: str
    is_secret: bool


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] = {},
) -> Settings:
    """Return the settings: defaults, overridden by file, environment and flags in that order.

    path: the TOML file; None means what ODIN_CONFIG names, or else ./odin.toml if there is one.
    flags: values by dotted path ("server.port"); those that are None were not given.
    Raises ConfigError with every problem of every source; each path in it names its source:
    "odin.toml: server.prot", "ODIN_SERVER__PORT", "command line: server.port".
    """
    leaves = _leaves(Settings)
    problems: list[tuple[str, str]] = []
    values: dict[str, object] = {}

    def accept(name: str, source: str, value: object, *, is_text: bool = False) -> None:
        try:
            values[name] = _convert(leaves[name], value, is_text=is_text)
        except ValueError as error:
            problems.append((source, str(error)))

    if path is None:
        path = Path(environ.get("ODIN_CONFIG") or "odin.toml")
        is_optional = not environ.get("ODIN_CONFIG")
    else:
        is_optional = False
    for name, value in _flatten(_read_toml(path, problems, is_optional=is_optional), leaves):
        source = f"{path}: {reflect(name)}"
        if name in leaves:
            accept(name, source, value)
        elif name in _sections(leaves):
            problems.append((source, f"must be a table, was {_shown(value)}"))
        else:
            problems.append((source, _unknown("setting", name, [*leaves, *_sections(leaves)])))

    for variable, name in PLAIN_VARIABLES.items():
        if environ.get(variable):
            accept(name, variable, environ[variable], is_text=True)
    variables = {env_name(name): name for name in leaves}
    for variable in sorted(v for v in environ if v.startswith("ODIN_")):
        if variable in variables:
            accept(variables[variable], variable, environ[variable], is_text=True)
        elif variable not in NOT_SETTINGS and not _SERVICE_LINK.fullmatch(
            f"{variable}={environ[variable]}"
        ):
            known = [*variables, *NOT_SETTINGS]
            problems.append((reflect(variable), _unknown("variable", variable, known)))

    for name, value in flags.items():
        if name not in leaves:
            problems.append((f"command line: {name}", _unknown("setting", name, list(leaves))))
        elif value is not None:
            accept(name, f"command line: {name}", value)

    if problems:
        raise ConfigError(problems)
    tree: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = value
    return msgspec.convert(tree, Settings)


def env_name(path: str) -> str:
    """Return the variable of a setting: "server.port" is ODIN_SERVER__PORT."""
    return "ODIN_" + path.upper().replace(".", "__")


def settings_table(of: type[msgspec.Struct] = Settings) -> list[SettingRow]:
    """Return every setting in the order of this module."""
    return [
        SettingRow(name, _type_text(leaf), _toml(leaf.default), env_name(name), leaf.description)
        for name, leaf in _leaves(of).items()
    ]


def dump_toml(settings: msgspec.Struct, *, mask: bool = True) -> str:
    """Return settings as the TOML that `load` reads back to the same values.

    mask: show a secret (a field whose Meta has extra={"secret": True}) as asterisks if it is set.
    """
    lines: list[str] = []
    section = ""
    for name, leaf in _leaves(type(settings)).items():
        table, _, key = name.partition(".")
        if table != section:
            lines += [*([""] if lines else []), f"[{table}]"]
            section = table
        value = getattr(getattr(settings, table), key)
        lines.append(f"{key} = {_toml(MASK if mask and leaf.is_secret and value else value)}")
    return "\n".join(lines) + "\n"


@cache
def _leaves(of: type[msgspec.Struct]) -> dict[str, _Leaf]:
    """Return every setting by its dotted path, in order of definition."""
    leaves = {}
    for section in msgspec.structs.fields(of):
        for field in msgspec.structs.fields(section.type):
            kind = inspect.type_info(field.type)
            schema: dict[str, Any] = {}
            extra: dict[str, Any] = {}
            if isinstance(kind, inspect.Metadata):
                schema, extra = kind.extra_json_schema or {}, kind.extra or {}
                kind = kind.type
            leaves[f"{section.name}.{field.name}"] = _Leaf(
                field.type,
                kind,
                field.default,
                schema.get("description", ""),
                bool(extra.get("secret")),
            )
    return leaves


def _sections(leaves: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in leaves))


def _read_toml(
    path: Path, problems: list[tuple[str, str]], *, is_optional: bool
) -> dict[str, object]:
    """Return the file's tables; an empty dict where it cannot be read, with the reason noted."""
    text = ""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        if not is_optional:
            problems.append((str(path), "the file does not exist"))
    except OSError as error:
        problems.append((str(path), f"the file could not be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        problems.append((str(path), f"the file is not UTF-8: byte {error.start} was invalid"))
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.fullmatch(str(error))
        reason, line = place.groups() if place else (str(error), None)
        line = line or max(1, len(text.splitlines()))
        problems.append((str(path), f"line {line} is not valid TOML: {reflect(reason, 120)}"))
    return {}


def _flatten(
    tree: Mapping[str, object], leaves: Mapping[str, _Leaf]
) -> Iterator[tuple[str, object]]:
    """Yield (dotted path, value) for each key of known tables, whole for unknown ones."""
    sections = _sections(leaves)
    for section, value in tree.items():
        if section in sections and isinstance(value, dict):
            for key, inner in value.items():
                yield f"{section}.{key}", inner
        else:
            yield section, value


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    """Say which known name is nearest: one that ends the same, or else the most similar."""
    last = re.split(r"\.|__", name)[-1]
    if what == "variable":
        last = last.removeprefix("ODIN_")
    twins = [k for k in known if re.split(r"\.|__", k)[-1] == last]
    nearest = difflib.get_close_matches(name, twins or known, 1, cutoff=0.0)[0]
    return f"unknown {what}, the nearest is {nearest}"


def _convert(leaf: _Leaf, value: object, *, is_text: bool) -> object:
    """Return the value in its setting's type; is_text: it comes from an environment variable.

    Raises ValueError that says what the value must be and what it was.
    """
    raw = value
    if is_text and isinstance(value, str):
        if isinstance(leaf.kind, inspect.VarTupleType):
            raw = [part for part in map(str.strip, value.split(",")) if part]
        elif not isinstance(leaf.kind, inspect.StrType):
            raw = value.strip()
    try:
        str(raw).encode()  # an argument or variable may hold bytes that are not UTF-8
        result: object = msgspec.convert(raw, leaf.hint, strict=not is_text)
        if not isinstance(result, float) or math.isfinite(result):
            return result
    except (msgspec.ValidationError, UnicodeEncodeError):
        pass
    was = "something else" if leaf.is_secret else _shown(value)
    raise ValueError(f"must be {_type_text(leaf)}, was {was}")


def _type_text(leaf: _Leaf) -> str:
    match leaf.kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() as kind:
            return f"a whole number{_range_text(kind)}"
        case inspect.FloatType() as kind:
            return f"a number{_range_text(kind)}"
        case inspect.StrType(min_length=int(length)) if length > 0:
            return "text that is not empty"
        case inspect.StrType():
            return "text"
        case inspect.LiteralType():
            *others, last = map(_toml, _literals(leaf.hint))
            return f"{', '.join(others)} or {last}"
        case inspect.VarTupleType():
            return "a list of text"
    raise TypeError(f"a setting cannot have the type {leaf.hint}")


def _range_text(kind: inspect.IntType | inspect.FloatType) -> str:
    match kind.gt, kind.ge, kind.le:
        case None, None, None:
            return ""
        case None, least, None:
            return f" of at least {least}"
        case None, least, most:
            return f" from {least} to {most}"
        case above, _, None:
            return f" above {above}"
        case above, _, most:
            return f" above {above}, at most {most}"


def _literals(hint: Any) -> tuple[object, ...]:
    """Return the choices in the order they were written; msgspec sorts them."""
    while get_origin(hint) is not Literal:
        hint = get_args(hint)[0]
    return get_args(hint)


def _shown(value: object) -> str:
    return f'"{reflect(value)}"' if isinstance(value, str) else reflect(repr(value))


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
            return orjson.dumps(value).decode().replace("\x7f", "\\u007f")
        case tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
    raise TypeError(f"a setting cannot hold a value of {type(value)}")
