"""Finds the project's reference data, which lies beside a checkout and is not shipped."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def shared(relative: str) -> Path:
    """Return the path of a reference file, or skip the test where the data is not there.

    A relative path may hold a glob pattern; it must then match exactly one file.
    """
    if not SHARED.is_dir():
        pytest.skip("the reference data (../shared) is not beside this checkout")
    matches = sorted(SHARED.glob(relative))
    assert len(matches) == 1, f"{relative} matches {len(matches)} files"
    return matches[0]
