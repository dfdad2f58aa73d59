"""The Autobahn testsuite, where there is a Python 2.7 to run it. On request: -m autobahn."""

import pytest

from tests.conformance import autobahn


@pytest.mark.autobahn
@pytest.mark.timeout(2 * autobahn.INSTALL_S + autobahn.RUN_S)
async def test_no_case_of_the_autobahn_testsuite_fails() -> None:
    try:
        program = autobahn.install(autobahn.find_python2(), autobahn.CACHE)
        results = await autobahn.run(program)
    except autobahn.CannotRunError as reason:
        pytest.skip(str(reason))
    assert len(results) == autobahn.CASES
    assert autobahn.failed(results) == []


def test_a_case_that_failed_is_named_and_counted() -> None:
    results = {
        "1.1.1": ("OK", "OK"),
        "6.4.1": ("NON-STRICT", "OK"),
        "7.1.6": ("INFORMATIONAL", "INFORMATIONAL"),
        "7.9.5": ("FAILED", "OK"),
        "7.9.6": ("OK", "WRONG CODE"),
        "10.1.1": ("UNIMPLEMENTED", "OK"),
    }
    assert [line.split(":")[0] for line in autobahn.failed(results)] == ["7.9.5", "7.9.6", "10.1.1"]
    lines = autobahn.table(results).splitlines()
    assert "| 1 framing | 1 | 1 | 0 | 0 | 0 |" in lines
    assert "| 7 closing | 3 | 1 | 0 | 1 | 1 |" in lines
    assert lines[-1] == "| **all** | 6 | 2 | 1 | 1 | 2 |"
