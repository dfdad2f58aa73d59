"""The command as a user runs it, in an empty directory and environment."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from odin.cli import main

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `odin` with arguments; `env` adds variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOST", "PORT", "CORS_ORIGINS", "ODIN_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: object, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(main, list(map(str, arguments)), env=env)

    return invoke
