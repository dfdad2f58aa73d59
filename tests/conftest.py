"""What holds for every test: nothing may be left behind."""

import gc
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("odin", deadline=None)
settings.load_profile("odin")

FD_DIR = Path("/proc/self/fd")


def _open_files() -> dict[str, str]:
    found = {}
    for name in os.listdir(FD_DIR) if FD_DIR.is_dir() else []:
        try:
            found[name] = os.readlink(FD_DIR / name)
        except OSError:
            continue  # the descriptor of this very listing
    return found


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves threads or file descriptors (tasks end with each test's loop)."""
    threads = set(threading.enumerate())
    files = _open_files()
    yield
    left = [thread for thread in set(threading.enumerate()) - threads if thread.is_alive()]
    for thread in left:
        thread.join(timeout=2)
    assert not [t.name for t in left if t.is_alive()], "threads were left running"
    new = _new_files(files)
    if new:  # collecting is slow, and only a suspicion needs it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        new = _new_files(files)
    assert not new, f"file descriptors were left open: {new}"


def _new_files(before: dict[str, str]) -> dict[str, str]:
    return {fd: target for fd, target in _open_files().items() if before.get(fd) != target}
