"""serve, demo, replay and tail: what they make of their options."""

import sys
from pathlib import Path
from typing import Any

import pytest

from odin.node import ReplayOptions
from odin.settings import Settings
from tests.cli.conftest import Run


class Served:
    """Stands in for the server and remembers what it was started with."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.replay: ReplayOptions | None = None
        self.count = 0

    def __call__(self, settings: Settings, *, replay: ReplayOptions | None = None) -> None:
        self.settings, self.replay = settings, replay
        self.count += 1


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    fake = Served()
    monkeypatch.setattr("odin.server.run.serve", fake)
    return fake


def test_serve_without_options_has_the_defaults(run: Run, served: Served) -> None:
    assert run("serve").exit_code == 0
    assert (served.count, served.settings, served.replay) == (1, Settings(), None)


def test_serve_takes_its_options_before_all_other_sources(run: Run, served: Served) -> None:
    Path("odin.toml").write_text("[server]\nport = 1\nbacklog = 9\n[log]\nlevel = 'error'\n")
    options = [
        "--host",
        "::1",
        "--port",
        "9000",
        "--db",
        "my.db",
        "--gate",
        "always",
        "--log-level",
        "debug",
    ]
    assert run("serve", *options, env={"PORT": "2", "ODIN_SERVER__PORT": "3"}).exit_code == 0
    settings = served.settings
    assert (settings.server.host, settings.server.port) == ("::1", 9000)
    assert (settings.store.path, settings.market.gate) == ("my.db", "always")
    assert settings.log.level == "debug"
    assert settings.server.backlog == 9


def test_serve_reads_the_file_that_config_names(run: Run, served: Served) -> None:
    Path("mine.toml").write_text("[server]\nport = 1\n")
    assert run("serve", "--config", "mine.toml").exit_code == 0
    assert served.settings.server.port == 1


def test_open_market_is_gate_always(run: Run, served: Served) -> None:
    assert run("serve", "--open-market").exit_code == 0
    assert served.settings.market.gate == "always"


def test_demo_is_serve_with_a_simulated_session(run: Run, served: Served) -> None:
    Path("odin.toml").write_text("[feed]\nkind = 'none'\n[simulator]\nclock = 'wall'\nseed = 4\n")
    assert run("demo", "--rate", "20", "--port", "1").exit_code == 0
    settings = served.settings
    assert settings.feed.kind == "simulator"
    assert settings.simulator.clock == "session"
    assert (settings.simulator.rate_hz, settings.simulator.seed) == (20.0, 4)
    assert settings.server.port == 1
    run("demo", "--seed", "7")
    assert (served.settings.simulator.rate_hz, served.settings.simulator.seed) == (1.0, 7)


def test_a_rate_out_of_range_is_a_configuration_error(run: Run, served: Served) -> None:
    result = run("demo", "--rate", "0")
    assert result.exit_code == 78
    assert result.stderr == (
        "error: command line: simulator.rate_hz: must be a number above 0, at most 1000, was 0.0\n"
    )
    assert served.count == 0


@pytest.mark.parametrize(
    ("options", "speed", "symbol"),
    [
        ((), 1.0, None),
        (("--speed", "max"), None, None),
        (("--speed", "2.5", "--symbol", "SBIN"), 2.5, "SBIN"),
    ],
)
def test_replay(
    options: tuple[str, ...], speed: float | None, symbol: str | None, run: Run, served: Served
) -> None:
    for name in ("a.csv", "b.csv"):
        Path(name).touch()
    assert run("replay", "a.csv", "b.csv", *options, "--port", "5").exit_code == 0
    assert served.replay == ReplayOptions(("a.csv", "b.csv"), speed, symbol)
    assert served.settings.server.port == 5


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf", "fast", ""])
def test_replay_at_a_speed_that_is_none(speed: str, run: Run, served: Served) -> None:
    Path("a.csv").touch()
    result = run("replay", "a.csv", "--speed", speed)
    assert result.exit_code == 2
    assert "neither a number above 0 nor max" in result.stderr
    assert served.count == 0


@pytest.mark.parametrize("files", [(), ("missing.csv",)])
def test_replay_needs_files_that_exist(files: tuple[str, ...], run: Run, served: Served) -> None:
    assert run("replay", *files).exit_code == 2
    assert served.count == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"url": "ws://127.0.0.1:8080/enhanced-stream", "client_id": None, "is_json": False}),
        (
            ("--json", "--url", "ws://x/y", "--client-id", "me"),
            {"url": "ws://x/y", "client_id": "me", "is_json": True},
        ),
    ],
)
def test_tail(
    options: tuple[str, ...],
    expected: dict[str, object],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    monkeypatch.setattr("odin.server.tail.follow", lambda stocks, **o: asked.append((stocks, o)))
    assert run("tail", "SBIN", "2885", *options).exit_code == 0
    [(stocks, given)] = asked
    assert stocks == ("SBIN", "2885")
    assert {name: given[name] for name in expected} == expected
    assert given["out"] is not sys.stderr


def test_tail_sends_the_key_of_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("odin.server.tail.follow", lambda stocks, **o: asked.append(o))
    run("tail", "SBIN", env={"ODIN_API_KEY": "odin_1f2e3d4c_x"})
    run("tail", "SBIN")
    assert [given["api_key"] for given in asked] == ["odin_1f2e3d4c_x", None]


def test_access_options(run: Run, served: Served) -> None:
    for name in ("cert.pem", "key.pem"):
        Path(name).touch()
    run("serve", "--host", "0.0.0.0", "--allow-anonymous")
    assert served.settings.server.allow_anonymous
    run("serve", "--auth", "required", "--tls-cert", "cert.pem", "--tls-key", "key.pem")
    assert served.settings.auth.mode == "required"
    assert not served.settings.server.allow_anonymous
    assert (served.settings.server.tls_cert, served.settings.server.tls_key) == (
        "cert.pem",
        "key.pem",
    )


def test_tail_needs_a_stock(run: Run) -> None:
    assert run("tail").exit_code == 2
