"""An empty database for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from odin.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "odin.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(path, busy_timeout_s=0.05) as opened:
        yield opened
