"""The root of the command line: exit codes, help, configuration, completion."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from odin import __version__
from odin.cli import main
from odin.config import dump_toml
from odin.errors import ConfigError, OdinError, StoreUnavailable
from odin.settings import Settings
from tests.cli.conftest import Run


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_of_the_product_is_there() -> None:
    assert {" ".join(path) for path in commands(main)} == {
        "serve",
        "demo",
        "replay",
        "tail",
        "config",
        "config show",
        "config check",
        "instruments",
        "instruments import",
        "instruments history",
        "instruments search",
        "instruments show",
        "calendar",
        "calendar show",
        "db",
        "db status",
        "db migrate",
        "db query",
        "db backup",
        "doctor",
        "feed",
        "feed check",
        "feed capture",
        "keys",
        "keys create",
        "keys list",
        "keys revoke",
        "clients",
        "clients list",
        "clients show",
        "clients forget",
        "completion",
        "docs",
    }


@pytest.mark.parametrize("path", [(), *commands(main)], ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...], run: Run) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    assert command.help.strip().splitlines()[0].endswith((".", ":"))
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_the_version(run: Run) -> None:
    assert run("--version").stdout == f"odin {__version__}\n"


def test_an_unknown_command_is_wrong_usage(run: Run) -> None:
    assert run("serv").exit_code == 2


def test_help_needs_none_of_the_heavy_modules() -> None:
    code = (
        "import sys; from odin.cli import main\n"
        "try: main(['replay', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'aiosqlite', 'msgspec', 'rich', 'asyncio', 'odin.node'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_a_server_imports_nothing_that_only_other_commands_or_a_scrape_need() -> None:
    code = (
        "import sys; import odin.cli, odin.server.run\n"
        "others = {'odin.server.tail', 'odin.server.docs', 'odin.feeds.recordings'}\n"
        "print(sorted((others | {'prometheus_client', 'rich'}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OdinError("it was wrong"), 1, "error: it was wrong\n"),
        (StoreUnavailable("locked"), 1, "error: locked\n"),
        (
            ConfigError([("odin.toml: a", "was wrong"), ("PORT", "was too")]),
            78,
            "error: odin.toml: a: was wrong\nerror: PORT: was too\n",
        ),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), 1,
         "error: x.csv: No such file or directory\n"),
        (OSError(28, "No space left on device"), 1, "error: system: No space left on device\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)  # fmt: skip
def test_errors_end_in_one_line_and_an_exit_code(
    error: BaseException, code: int, text: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("odin.server.tail.follow", fail)
    result = run("tail", "SBIN")
    assert (result.exit_code, result.stderr, result.stdout) == (code, text, "")


def test_a_bug_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("odin.server.tail.follow", fail)
    assert isinstance(run("tail", "SBIN").exception, ZeroDivisionError)


def test_a_reader_that_has_seen_enough_is_a_quiet_end() -> None:
    code = (
        "import sys, odin.server.tail as tail; from odin.cli import main\n"
        "def follow(*a, out, **k):\n"
        "    while True: out.write('x' * 80 + chr(10)); out.flush()\n"
        "tail.follow = follow; main(['tail', 'SBIN'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        first = program.stdout.readline()
        program.stdout.close()
        complaint = program.stderr.read()
    assert (first, complaint, program.returncode) == (b"x" * 80 + b"\n", b"", 0)


# -------------------------------------------------------------------- config


def test_config_show_prints_what_is_in_force(run: Run) -> None:
    Path("odin.toml").write_text("[server]\nport = 1\nbacklog = 5\n")
    result = run("config", "show", env={"PORT": "2"})
    assert result.exit_code == 0
    shown = tomllib.loads(result.stdout)
    assert (shown["server"]["port"], shown["server"]["backlog"]) == (2, 5)
    assert shown["log"] == {"level": "info", "format": "auto"}


def test_config_show_without_any_source_prints_the_defaults(run: Run) -> None:
    assert run("config", "show").stdout == dump_toml(Settings())


def test_config_check_is_satisfied(run: Run) -> None:
    result = run("config", "check")
    assert (result.exit_code, result.stdout) == (0, "The configuration is fine\n")


@pytest.mark.parametrize("command", ["config check", "config show", "serve", "demo"])
def test_all_problems_are_told_with_exit_code_78(command: str, run: Run) -> None:
    Path("mine.toml").write_text("[server]\nprot = 1\n[log]\nlevel = 'loud'\n")
    result = run(*command.split(), "--config", "mine.toml", env={"ODIN_SERVER__PORT": "x"})
    assert result.exit_code == 78
    assert result.stdout == ""
    assert result.stderr == (
        "error: mine.toml: server.prot: unknown setting, the nearest is server.port\n"
        'error: mine.toml: log.level: must be "debug", "info", "warning" or "error", was "loud"\n'
        'error: ODIN_SERVER__PORT: must be a whole number from 0 to 65535, was "x"\n'
    )


def test_a_configuration_file_that_is_not_there(run: Run) -> None:
    result = run("config", "check", "--config", "no.toml")
    assert (result.exit_code, result.stderr) == (78, "error: no.toml: the file does not exist\n")


# -------------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str, run: Run) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_ODIN_COMPLETE={shell}_complete" in result.stdout


def test_completion_knows_the_commands() -> None:
    variables = {"_ODIN_COMPLETE": "bash_complete", "COMP_WORDS": "odin cl", "COMP_CWORD": "1"}
    result = CliRunner().invoke(main, prog_name="odin", env=variables)
    assert result.stdout == "plain,clients\n"


def test_an_unknown_shell_is_wrong_usage(run: Run) -> None:
    assert run("completion", "powershell").exit_code == 2


# -------------------------------------------------------------------- docs


def test_docs_writes_the_reference_pages(run: Run) -> None:
    Path("docs").mkdir()
    assert run("docs").exit_code == 0
    assert {path.name for path in Path("docs").iterdir()} == {
        "cli.md",
        "configuration.md",
        "errors.md",
        "metrics.md",
    }
