"""Where the program may touch files, addresses and SQL: few places, and none that a client names.

A new place is no mistake in itself, but has to be looked at: then it is added here.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ODIN = Path(__file__).resolve().parents[1] / "odin"

WRITERS = {
    "feeds/capture.py",  # captures, in the folder of the settings, named by the feed and the time
    "server/docs.py",  # the reference pages, in a folder the developer names
    "server/run.py",  # the lock beside the database
    "store/operations.py",  # the database, and the backup an operator names
}
CALLERS = {
    "doctor.py",  # /health of the server that its own settings describe
    "feeds/socket.py",  # the venue of the settings, whose redirects are refused
    "server/tail.py",  # the server an operator names
    "server/notify.py",  # the supervisor's socket
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ODIN.rglob("*.py")):
        yield path.relative_to(ODIN).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the last part of what is called: "open" of `path.open()`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    yield name, node


def writes(name: str, call: ast.Call) -> bool:
    """Whether a call makes or changes a file."""
    if name in {"write_text", "write_bytes", "mkdir", "NamedTemporaryFile"}:
        return True
    if name != "open":
        return False
    texts = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [item.value for item in texts if isinstance(item, ast.Constant)]
    flags = [ast.unparse(item) for item in texts if not isinstance(item, ast.Constant)]
    return any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes) or any(
        "O_CREAT" in flag for flag in flags
    )


def test_files_are_written_in_few_places() -> None:
    """S25: no symbol, session or client_id ever becomes the name of a file."""
    found = {
        name
        for name, tree in modules()
        if any(writes(called, call) for called, call in calls(tree))
    }
    assert found == WRITERS


def test_no_spreadsheet_is_written() -> None:
    """S26: where text of others never goes into a cell, no formula can."""
    for name, tree in modules():
        named = {called for called, _ in calls(tree)}
        assert not named & {"writer", "DictWriter"}, name


def test_nothing_is_fetched_that_others_name() -> None:
    """S28: the server opens no connection at all but to what its settings name."""
    outgoing = {
        "ClientSession",
        "HTTPConnection",
        "HTTPSConnection",
        "create_connection",
        "open_connection",
        "urlopen",
        "sendto",
        "connect_tcp",
    }
    found = {name for name, tree in modules() if {called for called, _ in calls(tree)} & outgoing}
    assert found <= CALLERS


def test_sql_is_never_made_of_values() -> None:
    """S24: only PRAGMA and BEGIN, which take no parameters, have anything filled in."""
    looked_at = 0
    for name, tree in modules():
        for called, call in calls(tree):
            if called not in {"execute", "executemany", "executescript"} or not call.args:
                continue
            looked_at += 1
            for part in ast.walk(call.args[0]):
                place = f"{name}:{call.lineno}"
                if isinstance(part, ast.JoinedStr):
                    head = part.values[0]
                    assert isinstance(head, ast.Constant), place
                    assert head.value.startswith(("PRAGMA ", "BEGIN ")), place
                assert not isinstance(getattr(part, "op", None), ast.Mod), place
                assert getattr(part, "attr", "") not in {"format", "format_map", "replace"}, place
    assert looked_at > 10
