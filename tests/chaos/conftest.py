"""Figures of the chaos suite: what each scenario measured, shown at the end of the run."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

_FIGURES: dict[str, dict[str, object]] = {}

Figures = Callable[..., None]


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Note what the scenario measured: `figures(clients=1000, lost=0)`."""

    def note(**values: object) -> None:
        found = _FIGURES.setdefault(request.node.nodeid.rpartition("/")[2], {})
        found.update(
            (name, round(value, 3) if isinstance(value, float) else value)
            for name, value in values.items()
        )

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures with -v, and write them to the file that CHAOS_FIGURES names."""
    if path := os.environ.get("CHAOS_FIGURES"):
        Path(path).write_text(json.dumps(_FIGURES, indent=2) + "\n")
    if not _FIGURES or terminalreporter.config.option.verbose < 0:
        return
    terminalreporter.section("chaos figures")
    for name, values in _FIGURES.items():
        terminalreporter.write_line(name)
        terminalreporter.write_line(
            "    " + ", ".join(f"{key} {value}" for key, value in values.items())
        )
