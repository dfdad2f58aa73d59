"""Runs the Autobahn testsuite, groups 1 to 7 and 10, against the product's WebSocket edge.

    python -m tests.conformance.autobahn [--python2 PATH] [--cache FOLDER]

The testsuite needs CPython 2.7 (found under pyenv or on PATH) and, the first time, a package
index to install it from, into a folder that is kept. Exit code 0: nothing failed. 1: a case
failed. 77: the testsuite cannot be run here.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

GROUPS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    10: "automatic fragmentation",
}
CASES = 247
PASSED = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
"""NON-STRICT: invalid UTF-8 is refused at the end of its message, not in the middle."""
CACHE = Path(__file__).parent / ".cache"
CANNOT = 77
INSTALL_S = 240
RUN_S = 240


class CannotRunError(Exception):
    """Why the testsuite cannot be run on this machine."""


def find_python2() -> str:
    """Return the path of a CPython 2.7 that works."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [str(path) for path in sorted(pyenv.glob("2.7*/bin/python2.7"), reverse=True)]
    for path in [*found, shutil.which("python2.7"), shutil.which("python2")]:
        if path and _version_of(path).startswith("Python 2.7"):
            return path
    raise CannotRunError("there is no CPython 2.7, which the Autobahn testsuite needs")


def _version_of(path: str) -> str:
    done = subprocess.run([path, "-V"], capture_output=True, text=True, check=False)
    return (done.stderr + done.stdout).strip() if done.returncode == 0 else ""


def install(python2: str, cache: Path) -> Path:
    """Return the path of the testsuite's program, installed into `cache` if it is not there."""
    program = cache / "python2" / "bin" / "wstest"
    if program.exists():
        return program
    shutil.rmtree(cache, ignore_errors=True)
    steps = [
        [sys.executable, "-m", "venv", str(cache / "tool")],
        [str(cache / "tool/bin/pip"), "install", "-q", "virtualenv<20.22"],
        [str(cache / "tool/bin/virtualenv"), "-q", "-p", python2, str(cache / "python2")],
        [str(cache / "python2/bin/pip"), "install", "-q", "autobahntestsuite==0.8.2"],
    ]
    for step in steps:
        try:
            done = subprocess.run(
                step, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise CannotRunError(f"installing took too long: {' '.join(step)}") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise CannotRunError(f"{' '.join(step[-2:])} could not be installed: {last}")
    return program


async def run(program: Path) -> dict[str, tuple[str, str]]:
    """Return what each case says of the edge, and of how it closed."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance.echo_server", stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(10):
            port = int(await server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            return await _run_cases(program, port, Path(folder))
    finally:
        server.kill()
        await server.wait()


async def _run_cases(program: Path, port: int, folder: Path) -> dict[str, tuple[str, str]]:
    plan = {
        "outdir": str(folder / "reports"),
        "servers": [{"agent": "odin", "url": f"ws://127.0.0.1:{port}"}],
        "cases": [f"{group}.*" for group in GROUPS],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    client = await asyncio.create_subprocess_exec(
        str(program), "-m", "fuzzingclient", "-s", str(folder / "plan.json"),
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(RUN_S):
            printed, _ = await client.communicate()
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
    index = folder / "reports" / "index.json"
    if not index.exists():
        raise CannotRunError(f"the testsuite wrote no report: {printed[-300:].decode()}")
    cases = json.loads(index.read_text())["odin"]
    return {name: (case["behavior"], case["behaviorClose"]) for name, case in cases.items()}


def failed(results: dict[str, tuple[str, str]]) -> list[str]:
    """Return the cases that did not pass, with what was said of them."""
    return [
        f"{name}: {' / '.join(said)}" for name, said in results.items() if not {*said} <= PASSED
    ]


def table(results: dict[str, tuple[str, str]]) -> str:
    """Return the counts of each group as a Markdown table."""
    lines = ["| group | cases | OK | NON-STRICT | INFO | FAILED |", "|---|---|---|---|---|---|"]
    rows = [(f"{group} {title}", f"{group}.") for group, title in GROUPS.items()]
    for title, prefix in [*rows, ("**all**", "")]:
        counts = Counter(said for name, (said, _) in results.items() if name.startswith(prefix))
        wrong = sum(counts.values()) - sum(counts[said] for said in PASSED)
        cells = [counts.total(), counts["OK"], counts["NON-STRICT"], counts["INFORMATIONAL"], wrong]
        lines.append(f"| {title} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the Autobahn testsuite against the edge.")
    parser.add_argument("--python2", help="a CPython 2.7; looked for if not given")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the testsuite is kept")
    options = parser.parse_args()
    try:
        program = install(options.python2 or find_python2(), options.cache.absolute())
        results = asyncio.run(run(program))
    except CannotRunError as reason:
        print(f"The Autobahn testsuite was not run: {reason}")
        return CANNOT
    print(table(results))
    wrong = failed(results)
    print("\n".join(wrong))
    return 1 if wrong or len(results) != CASES else 0


if __name__ == "__main__":
    sys.exit(main())
