"""How settings are read, checked and shown; what there is to set is in settings.py.

A setting is read from `odin.toml`, then from the environment (`ODIN_SERVER__PORT`, and the plain
HOST, PORT and CORS_ORIGINS), then from command-line flags; the last one wins. Unknown names and
bad values are errors, and all of them are reported together.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec
import orjson
from msgspec import inspect

from odin.errors import ConfigError, reflect
from odin.settings import Settings

NOT_SETTINGS = {
    "ODIN_CONFIG": "The configuration file, where --config does not name one.",
    "ODIN_API_KEY": "The API key that `odin tail` sends.",
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


def check_access(settings: Settings) -> None:
    """Raise ConfigError where the settings would open the server to others unguarded, or name
    proxies or TLS files that cannot be used together."""
    server = settings.server
    problems = []
    is_guarded = settings.auth.mode == "required" or server.allow_anonymous
    if not is_guarded and not _is_loopback(server.host):
        problem = (
            f"{reflect(server.host)!r} can be reached by others and authentication is off: "
            "set auth.mode to required, or give --allow-anonymous"
        )
        problems.append(("server.host", problem))
    if bool(server.tls_cert) != bool(server.tls_key):
        missing = "server.tls_key" if server.tls_cert else "server.tls_cert"
        problems.append((missing, "must be set too: TLS needs the certificate and its key"))
    for text in server.trusted_proxies:
        try:
            ip_network(text)
        except ValueError:
            problem = f"{reflect(text)!r} is neither an address nor a network"
            problems.append(("server.trusted_proxies", problem))
    if problems:
        raise ConfigError(problems)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


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
