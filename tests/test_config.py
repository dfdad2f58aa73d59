"""Loading the configuration: sources, precedence, and what is said of mistakes."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from odin.config import (
    NOT_SETTINGS,
    PLAIN_VARIABLES,
    check_access,
    dump_toml,
    env_name,
    load,
    settings_table,
)
from odin.errors import ConfigError
from odin.settings import Settings


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "odin.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def problems(
    text: str = "", environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> list[tuple[str, str]]:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load(environ=environ or {}, flags=flags or {})
    return list(caught.value.problems)


def test_without_any_source_every_setting_has_its_default() -> None:
    assert load(environ={}) == Settings()
    assert (Settings().server.host, Settings().server.port) == ("127.0.0.1", 8080)


# -------------------------------------------------------------------- precedence


@pytest.mark.parametrize(
    ("toml", "plain", "odin", "flag", "expected"),
    [
        (None, None, None, None, 8080),
        (1, None, None, None, 1),
        (None, 2, None, None, 2),
        (1, 2, None, None, 2),
        (None, None, 3, None, 3),
        (1, None, 3, None, 3),
        (None, 2, 3, None, 3),
        (1, 2, 3, None, 3),
        (None, None, None, 4, 4),
        (1, None, None, 4, 4),
        (None, 2, None, 4, 4),
        (1, 2, 3, 4, 4),
        (1, 2, 3, 0, 0),
    ],
)
def test_the_last_source_that_has_a_setting_wins(
    toml: int | None, plain: int | None, odin: int | None, flag: int | None, expected: int
) -> None:
    if toml is not None:
        write(f"[server]\nport = {toml}\n")
    environ = {}
    if plain is not None:
        environ["PORT"] = str(plain)
    if odin is not None:
        environ["ODIN_SERVER__PORT"] = str(odin)
    assert load(environ=environ, flags={"server.port": flag}).server.port == expected


def test_sources_are_merged_setting_by_setting() -> None:
    write('[server]\nhost = "a"\nbacklog = 7\n[log]\nlevel = "debug"\n')
    settings = load(environ={"HOST": "b"}, flags={"server.port": 9})
    assert (settings.server.host, settings.server.backlog, settings.server.port) == ("b", 7, 9)
    assert settings.log.level == "debug"
    assert settings.limits == Settings().limits


def test_the_plain_variables_of_hosting_platforms() -> None:
    environ = {"HOST": "0.0.0.0", "PORT": "80", "CORS_ORIGINS": "https://a.example, https://b"}
    server = load(environ=environ).server
    assert (server.host, server.port) == ("0.0.0.0", 80)
    assert server.cors_origins == ("https://a.example", "https://b")


def test_an_empty_plain_variable_counts_as_unset() -> None:
    assert load(environ={"HOST": "", "PORT": "", "CORS_ORIGINS": ""}) == Settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ()), ("a", ("a",)), (" a , b,", ("a", "b")), (",,", ()), ("*", ("*",))],
)
def test_lists_in_variables_are_separated_by_commas(text: str, expected: tuple[str, ...]) -> None:
    environ = {"ODIN_SERVER__CORS_ORIGINS": text}
    assert load(environ=environ).server.cors_origins == expected


def test_an_empty_variable_empties_a_list_that_the_file_fills() -> None:
    write('[server]\ncors_origins = ["https://a.example"]\n')
    assert load(environ={"ODIN_SERVER__CORS_ORIGINS": ""}).server.cors_origins == ()


def test_numbers_in_variables_may_be_surrounded_by_blanks() -> None:
    assert load(environ={"ODIN_FEED__LINGER_S": " 2.5 "}).feed.linger_s == 2.5


def test_text_in_variables_is_taken_as_it_is() -> None:
    assert load(environ={"ODIN_STORE__PATH": " 1 "}).store.path == " 1 "


def test_a_whole_number_will_do_where_a_number_is_wanted() -> None:
    write("[limits]\nping_interval_s = 5\n")
    value = load(environ={}).limits.ping_interval_s
    assert value == 5.0
    assert isinstance(value, float)


# -------------------------------------------------------------------- which file


def test_the_file_of_the_current_directory_is_read() -> None:
    write("[server]\nport = 1\n")
    assert load(environ={}).server.port == 1


def test_odin_config_names_the_file_and_the_argument_beats_it() -> None:
    write("[server]\nport = 1\n")
    write("[server]\nport = 2\n", "two.toml")
    three = write("[server]\nport = 3\n", "three.toml")
    assert load(environ={"ODIN_CONFIG": "two.toml"}).server.port == 2
    assert load(three, environ={"ODIN_CONFIG": "two.toml"}).server.port == 3
    assert load(environ={"ODIN_CONFIG": ""}).server.port == 1


@pytest.mark.parametrize(
    ("path", "environ"), [(Path("no.toml"), {}), (None, {"ODIN_CONFIG": "no.toml"})]
)
def test_a_file_that_was_named_must_exist(path: Path | None, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, environ=environ)
    assert caught.value.problems == (("no.toml", "the file does not exist"),)


def test_a_file_that_cannot_be_read_is_one_problem() -> None:
    Path("odin.toml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load(environ={})
    assert caught.value.problems == (("odin.toml", "the file could not be read: Is a directory"),)


def test_a_byte_order_mark_is_ignored() -> None:
    Path("odin.toml").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 5\r\n")
    assert load(environ={}).server.port == 5


def test_a_file_that_is_not_utf8() -> None:
    Path("odin.toml").write_bytes(b'[server]\nhost = "\xff"\n')
    with pytest.raises(ConfigError) as caught:
        load(environ={})
    assert caught.value.problems == (("odin.toml", "the file is not UTF-8: byte 17 was invalid"),)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = ", 1), ("[server]\nport 8080\n", 2), ("a = 1\n\n\nb = [1,\n2", 5), ("[a\n[b]", 1)],
)
def test_broken_toml_is_one_problem_that_names_its_line(text: str, line: int) -> None:
    [(path, problem)] = problems(text)
    assert path == "odin.toml"
    assert problem.startswith(f"line {line} is not valid TOML: ")
    assert "end of document" not in problem


def test_broken_toml_does_not_hide_the_problems_of_other_sources() -> None:
    found = problems("a = ", {"ODIN_SERVER__PORT": "x"}, {"feed.kind": "y"})
    assert [path for path, _ in found] == [
        "odin.toml",
        "ODIN_SERVER__PORT",
        "command line: feed.kind",
    ]


# -------------------------------------------------------------------- unknown names


@pytest.mark.parametrize(
    ("text", "path", "nearest"),
    [
        ("[server]\nprot = 1", "server.prot", "server.port"),
        ("[servr]\nport = 1\nhost = 2", "servr", "server"),
        ("port = 1", "port", "server.port"),
        ("[limits]\nport = 1", "limits.port", "server.port"),
        ("[server]\nbacklogs = 1", "server.backlogs", "server.backlog"),
        ("[stores]\npath = 'x'", "stores", "store"),
        ("[log]\nlvl = 'info'", "log.lvl", "log.level"),
    ],
)
def test_an_unknown_name_in_the_file_names_the_nearest(text: str, path: str, nearest: str) -> None:
    expected = (f"odin.toml: {path}", f"unknown setting, the nearest is {nearest}")
    assert problems(text) == [expected]


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("ODIN_SERVER__PROT", "ODIN_SERVER__PORT"),
        ("ODIN_SERVER_PORT", "ODIN_SERVER__PORT"),
        ("ODIN_PORT", "ODIN_SERVER__PORT"),
        ("ODIN_CONFIGS", "ODIN_CONFIG"),
        ("ODIN_LOG__LEVLE", "ODIN_LOG__LEVEL"),
    ],
)
def test_an_unknown_variable_names_the_nearest(variable: str, nearest: str) -> None:
    expected = (variable, f"unknown variable, the nearest is {nearest}")
    assert problems(environ={variable: "1"}) == [expected]


def test_an_unknown_flag_names_the_nearest() -> None:
    expected = ("command line: server.prot", "unknown setting, the nearest is server.port")
    assert problems(flags={"server.prot": None}) == [expected]


@pytest.mark.parametrize("variable", sorted(NOT_SETTINGS))
def test_variables_that_are_no_settings_are_no_mistakes(variable: str) -> None:
    write("", "x")
    assert load(environ={variable: "x"}) == Settings()


def test_what_kubernetes_adds_for_a_service_called_odin_is_no_mistake() -> None:
    environ = {
        "ODIN_SERVICE_HOST": "10.0.0.1",
        "ODIN_SERVICE_PORT": "8080",
        "ODIN_SERVICE_PORT_WS": "8080",
        "ODIN_PORT": "tcp://10.0.0.1:8080",
        "ODIN_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    }
    assert load(environ=environ) == Settings()


def test_variables_of_others_are_no_concern() -> None:
    assert load(environ={"ODINN": "1", "_ODIN_COMPLETE": "x", "PATH": "/bin"}) == Settings()


# -------------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("[server]\nport = 65536", "server.port", "a whole number from 0 to 65535, was 65536"),
        ("[server]\nport = '1'", "server.port", 'a whole number from 0 to 65535, was "1"'),
        ("[server]\nport = 1.5", "server.port", "a whole number from 0 to 65535, was 1.5"),
        ("[server]\nport = true", "server.port", "a whole number from 0 to 65535, was True"),
        ("[server]\nhost = 1", "server.host", "text, was 1"),
        ("[server]\ncors_origins = '*'", "server.cors_origins", 'a list of text, was "*"'),
        ("[server]\ncors_origins = [1]", "server.cors_origins", "a list of text, was [1]"),
        ("[server]\nbacklog = 0", "server.backlog", "a whole number of at least 1, was 0"),
        ("[store]\npath = ''", "store.path", 'text that is not empty, was ""'),
        ("[feed]\nlinger_s = -1", "feed.linger_s", "a number of at least 0, was -1"),
        ("[feed]\nlinger_s = nan", "feed.linger_s", "a number of at least 0, was nan"),
        ("[feed]\nstale_after_s = inf", "feed.stale_after_s", "a number above 0, was inf"),
        (
            "[simulator]\nrate_hz = 0",
            "simulator.rate_hz",
            "a number above 0, at most 1000, was 0",
        ),
        ("[market]\ngate = 'open'", "market.gate", '"calendar" or "always", was "open"'),
        (
            "[log]\nlevel = 'INFO'",
            "log.level",
            '"debug", "info", "warning" or "error", was "INFO"',
        ),
        ("server = 1", "server", "a table, was 1"),
        ("simulator.seed = {}", "simulator.seed", "a whole number, was {}"),
        ("simulator.seed = 1979-05-27", "simulator.seed",
         "a whole number, was datetime.date(1979, 5, 27)"),
    ],
)  # fmt: skip
def test_a_bad_value_says_what_it_must_be_and_what_it_was(
    text: str, path: str, problem: str
) -> None:
    assert problems(text) == [(f"odin.toml: {path}", f"must be {problem}")]


@pytest.mark.parametrize(
    ("variable", "value", "was"),
    [
        ("ODIN_SERVER__PORT", "99999", '"99999"'),
        ("ODIN_SERVER__PORT", "", '""'),
        ("PORT", "80a", '"80a"'),
        ("ODIN_SERVER__PORT", "1\n\x1b[31m", '"1\\n\\x1b[31m"'),
        ("ODIN_SERVER__PORT", "9" * 5000, '"' + "9" * 63 + '…"'),
    ],
)
def test_a_bad_variable_is_shown_safely(variable: str, value: str, was: str) -> None:
    expected = (variable, f"must be a whole number from 0 to 65535, was {was}")
    assert problems(environ={variable: value}) == [expected]


def test_bytes_that_are_no_text_are_refused() -> None:
    [(path, problem)] = problems(environ={"ODIN_STORE__PATH": "\udcff"})
    assert (path, problem) == (
        "ODIN_STORE__PATH",
        'must be text that is not empty, was "\\udcff"',
    )


def test_all_problems_of_all_sources_are_reported_together() -> None:
    found = problems(
        "[server]\nprot = 1\nport = -1\n[x]\ny = 1\n",
        {"ODIN_NONSENSE": "1", "ODIN_LOG__LEVEL": "loud", "PORT": "x"},
        {"server.port": "text", "server.host": None},
    )
    assert [path for path, _ in found] == [
        "odin.toml: server.prot",
        "odin.toml: server.port",
        "odin.toml: x",
        "PORT",
        "ODIN_LOG__LEVEL",
        "ODIN_NONSENSE",
        "command line: server.port",
    ]
    write("")
    with pytest.raises(ConfigError, match=r"^PORT: must be .*\nODIN_LOG__LEVEL: must be") as caught:
        load(environ={"ODIN_LOG__LEVEL": "loud", "PORT": "x"})
    assert caught.value.exit_code == 78


# -------------------------------------------------------------------- showing settings


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of the values that a setting's annotation allows."""
    if get_origin(hint) is Annotated:
        inner, meta = get_args(hint)
        bound = {
            "min_value": meta.ge if meta.ge is not None else meta.gt,
            "max_value": meta.le,
        }
        if inner is int:
            return st.integers(**bound)
        if inner is float:
            return st.floats(
                **bound, exclude_min=meta.gt is not None, allow_nan=False, allow_infinity=False
            )
        if inner is bool:
            return st.booleans()
        if inner is str:
            return st.text(st.characters(exclude_categories=["Cs"]), min_size=meta.min_length or 0)
        hint = inner
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    assert get_args(hint) == (str, ...)
    items = st.text(st.characters(exclude_categories=["Cs"]))
    return st.lists(items, max_size=3).map(tuple)


def any_settings() -> st.SearchStrategy[Settings]:
    def section(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
        return st.builds(kind, **{f.name: values(f.type) for f in msgspec.structs.fields(kind)})

    return st.builds(
        Settings, **{f.name: section(f.type) for f in msgspec.structs.fields(Settings)}
    )


@given(any_settings())
def test_what_is_shown_loads_to_equal_settings(settings: Settings) -> None:
    path = write(dump_toml(settings), "shown.toml")
    assert load(path, environ={}) == settings


@given(any_settings())
def test_settings_put_into_variables_load_to_equal_settings(settings: Settings) -> None:
    environ = {}
    for row in settings_table():
        section, _, name = row.path.partition(".")
        value = getattr(getattr(settings, section), name)
        if isinstance(value, tuple):
            # A comma separates and blanks around it are dropped: what holds them needs the file.
            if any("," in item or item != item.strip() or not item for item in value):
                value = ("x", "y z")
                inner = msgspec.structs.replace(getattr(settings, section), **{name: value})
                settings = msgspec.structs.replace(settings, **{section: inner})
            value = ",".join(value)
        environ[row.env] = str(value)
    assert load(environ=environ) == settings


@given(st.dictionaries(st.text(), st.text()), st.text())
def test_whatever_the_sources_hold_it_loads_or_is_a_config_error(
    environ: dict[str, str], text: str
) -> None:
    path = write("")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    names = {f"ODIN_{key}": value for key, value in environ.items()}
    found: tuple[tuple[str, str], ...] = ()
    try:
        load(path, environ=names)
    except ConfigError as error:
        found = error.problems
    assert all(path.isprintable() and problem.isprintable() for path, problem in found)


class _Account(msgspec.Struct, frozen=True):
    """A section with a secret."""

    user: Annotated[str, Meta(description="Who.")] = "me"
    api_key: Annotated[str, Meta(description="Key.", extra={"secret": True})] = ""


class _WithSecret(msgspec.Struct, frozen=True):
    account: _Account = _Account()


def test_secrets_are_masked_where_they_are_shown() -> None:
    settings = _WithSecret(account=_Account(api_key="hunter2"))
    assert dump_toml(settings) == '[account]\nuser = "me"\napi_key = "********"\n'
    assert dump_toml(settings, mask=False) == '[account]\nuser = "me"\napi_key = "hunter2"\n'


def test_a_secret_that_is_not_set_is_shown_as_empty() -> None:
    assert dump_toml(_WithSecret()) == '[account]\nuser = "me"\napi_key = ""\n'


# -------------------------------------------------------------------- the table of settings


def test_the_table_describes_every_setting() -> None:
    rows = settings_table()
    expected = [
        f"{section.name}.{field.name}"
        for section in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(section.type)
    ]
    assert [row.path for row in rows] == expected
    for row in rows:
        assert row.description.endswith((".", "seconds.")), row.path
        assert row.type_text
        assert row.env == env_name(row.path)
    port = next(row for row in rows if row.path == "server.port")
    assert port == (
        "server.port",
        "a whole number from 0 to 65535",
        "8080",
        "ODIN_SERVER__PORT",
        "TCP port; 0 lets the system choose one.",
    )


def test_plain_variables_stand_for_settings_that_exist() -> None:
    assert set(PLAIN_VARIABLES.values()) <= {row.path for row in settings_table()}


def test_a_section_cannot_hold_what_cannot_be_documented() -> None:
    class Strange(msgspec.Struct, frozen=True):
        when: bytes = b""

    class Root(msgspec.Struct):
        strange: Strange = Strange()

    with pytest.raises(TypeError, match="a setting cannot have the type"):
        settings_table(Root)


# -------------------------------------------------------------------- who may reach it


def access_problems(**flags: object) -> list[tuple[str, str]]:
    settings = load(environ={}, flags={k.replace("__", "."): v for k, v in flags.items()})
    try:
        check_access(settings)
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_nothing_is_needed(host: str) -> None:
    assert access_problems(server__host=host) == []


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.5", "odin.example", "localhost.example", "127.1"]
)
def test_on_other_addresses_authentication_is_needed_or_a_word(host: str) -> None:
    ((path, problem),) = access_problems(server__host=host)
    assert path == "server.host"
    assert "--allow-anonymous" in problem
    assert access_problems(server__host=host, auth__mode="required") == []
    assert access_problems(server__host=host, server__allow_anonymous=True) == []


def test_tls_needs_both_files() -> None:
    assert [path for path, _ in access_problems(server__tls_cert="a")] == ["server.tls_key"]
    assert [path for path, _ in access_problems(server__tls_key="a")] == ["server.tls_cert"]
    assert access_problems(server__tls_cert="a", server__tls_key="b") == []


def test_proxies_are_addresses_or_networks() -> None:
    right = ("10.0.0.1", "10.0.0.0/8", "2001:db8::/32", "::1")
    assert access_problems(server__trusted_proxies=right) == []
    wrong = access_problems(server__trusted_proxies=("10.0.0.1/8", "proxy.example", ""))
    assert [path for path, _ in wrong] == ["server.trusted_proxies"] * 3
