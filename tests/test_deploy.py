"""The files of deploy/ against the program: what they name exists, what they set is valid."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from prometheus_client.parser import text_string_to_metric_families

from odin.config import load
from odin.node import Node
from odin.server.run import SPARE_FILES
from odin.settings import Settings
from tests.support.process import odin
from tests.support.server import settings_for

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "odin-streamer.service"
ALERTS = DEPLOY / "prometheus" / "odin-alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "odin-streamer.json"
DOCKERFILE = DEPLOY / "Dockerfile"
LOCKS = (DEPLOY / "requirements.txt", DEPLOY / "requirements-build.txt")

METRIC = re.compile(r"\bodin_\w+\b")


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(UNIT)
    return parser


@pytest.fixture
async def exported(tmp_path: Path) -> set[str]:
    """The names of everything /metrics says."""
    node = await Node.start(settings_for(tmp_path, feed={"kind": "simulator"}))
    text = node.exposition.render().decode()
    await node.stop()
    return {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


# ---------------------------------------------------------------------- settings and systemd


def test_the_example_of_a_configuration_can_be_used() -> None:
    settings = load(DEPLOY / "odin.toml", environ={})
    assert settings.server.host == "127.0.0.1"
    assert settings.market.gate == "calendar"
    assert settings.auth.mode == "required"


def test_the_settings_that_the_example_leaves_out_can_be_used_too(tmp_path: Path) -> None:
    text = (DEPLOY / "odin.toml").read_text()
    whole = re.sub(r"(?m)^# (?=\w+ = )", "", text)
    assert whole.count("\n# ") < text.count("\n# ")
    path = tmp_path / "odin.toml"
    path.write_text(whole)
    settings = load(path, environ={})
    assert settings.server.trusted_proxies == ("127.0.0.1",)
    assert settings.market.calendar_file


def test_the_unit_and_the_example_agree() -> None:
    service = unit()["Service"]
    settings = load(DEPLOY / "odin.toml", environ={})
    assert service["ExecStart"].endswith("odin serve --config /etc/odin-streamer/odin.toml")
    state = f"/var/lib/{service['StateDirectory']}"
    assert settings.store.path == f"{state}/odin.db"
    assert service["WorkingDirectory"] == state
    assert int(service["LimitNOFILE"]) > settings.limits.connections + SPARE_FILES
    assert f"u {service['User']} " in (DEPLOY / "systemd/odin-streamer.sysusers.conf").read_text()


def test_the_unit_waits_for_what_the_server_says() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "always"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(service["WatchdogSec"]) >= 10
    assert int(service["TimeoutStopSec"]) > Settings().server.shutdown_grace_s + 5
    assert service["RestartPreventExitStatus"] == "78"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/odin-streamer/bin/odin", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True
    )
    # A machine without systemd running may have more to say; what it says of us must be nothing.
    assert UNIT.name not in done.stderr


# ---------------------------------------------------------------------- Docker


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile with its arguments on one line."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text())
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(line.split(" ", 1)) for line in lines if line and line[0] != "#"]  # type: ignore


def environment() -> dict[str, str]:
    [variables] = [rest for word, rest in instructions() if word == "ENV"]
    return dict(pair.split("=", 1) for pair in variables.split())


def test_the_image_is_built_of_all_that_the_wheel_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {*wheel["packages"], *wheel["force-include"]}
    needed |= {f"deploy/{path.name}" for path in LOCKS}
    copied = {
        name
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }
    assert copied == needed
    kept = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line[0] == "!"
    }
    assert kept == needed


def test_the_variables_of_the_image_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(environ=environment())
    assert settings.server.host == "0.0.0.0"
    assert settings.auth.mode == "required", "strangers reach the port of a container"
    assert settings.log.format == "json"
    exposed = [rest for word, rest in instructions() if word == "EXPOSE"]
    assert exposed == [str(settings.server.port)]
    [volume] = [rest for word, rest in instructions() if word == "VOLUME"]
    assert Path(settings.store.path).parent == Path(volume)


def test_the_image_does_not_run_as_root() -> None:
    words = [word for word, _ in instructions()]
    assert ("USER", "odin") in instructions()
    assert words.index("USER") < words.index("CMD")


async def test_the_health_check_of_the_image_tells_a_server_from_none(tmp_path: Path) -> None:
    [check] = [rest for word, rest in instructions() if word == "HEALTHCHECK"]
    command = [sys.executable, *json.loads(check.split(" CMD ", 1)[1])[1:]]
    async with odin("demo", "--port", "0", "--db", tmp_path / "odin.db") as server:
        environ = {"ODIN_SERVER__PORT": server.http.rsplit(":", 1)[1]}
        assert subprocess.run(command, env=environ).returncode == 0
        assert await server.stop() == 0
    assert subprocess.run(command, env=environ, stderr=subprocess.DEVNULL).returncode == 1


# ---------------------------------------------------------------------- dependencies


def pinned(path: Path) -> dict[str, str]:
    """The version of every package of a lock; each has hashes."""
    found = {}
    for line in re.sub(r"\\\n\s*", "", path.read_text()).splitlines():
        if line.startswith("#"):
            continue
        name, version, rest = re.fullmatch(r"([\w.-]+)==([\w.]+)(.*)", line).groups()  # type: ignore
        assert re.search(r"--hash=sha256:[0-9a-f]{64}$", rest), name
        found[name] = version
    return found


def test_all_that_is_needed_is_pinned_to_a_version_that_will_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needs = (project["project"]["dependencies"], project["build-system"]["requires"])
    for path, texts in zip(LOCKS, needs, strict=True):
        versions = pinned(path)
        for text in texts:
            requirement = Requirement(text)
            assert versions[requirement.name] in requirement.specifier, text


def test_the_image_takes_nothing_that_is_not_pinned() -> None:
    commands = [rest for word, rest in instructions() if word == "RUN"]
    installs = [part for rest in commands for part in rest.split("&&") if "pip " in part]
    assert len(installs) == 4
    for install in installs:
        is_pinned = "--require-hashes -r deploy/requirements" in install
        assert is_pinned or "--no-deps --no-build-isolation" in install or "--no-index" in install


# ---------------------------------------------------------------------- Prometheus and Grafana


def alerts() -> dict[str, str]:
    """The alerts by name with the text of their rule."""
    blocks = re.split(r"(?m)^ +- alert: ", ALERTS.read_text())[1:]
    return {block.split("\n", 1)[0]: block for block in blocks}


def test_every_alert_is_whole() -> None:
    assert len(alerts()) >= 10
    for name, block in alerts().items():
        assert name.startswith("Odin")
        for part in (r"expr: \S", r"labels: \{severity: (page|ticket)\}", r"summary: [A-Z].*\.$"):
            assert re.search(rf"(?m)^ +{part}", block), (name, part)


def test_alerts_ask_for_metrics_that_exist(exported: set[str]) -> None:
    expressions = re.findall(r"(?m)^ +expr: (.*)$", ALERTS.read_text())
    assert len(expressions) == len(alerts())
    asked = {name for text in expressions for name in METRIC.findall(text)}
    assert len(asked) > 8
    assert asked <= exported


def test_panels_ask_for_metrics_that_exist(exported: set[str]) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for text in expressions for name in METRIC.findall(text)}
    assert asked <= exported
    assert len(asked) > 20
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_counters_are_asked_for_their_rate() -> None:
    """The bare value of a counter only says how long the server has run."""
    texts = [ALERTS.read_text(), DASHBOARD.read_text()]
    for text in texts:
        for found in re.finditer(r"odin_\w+_total", text):
            assert text[: found.start()].endswith(("rate(", "increase(")), found[0]
