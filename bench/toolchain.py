"""Everything the benchmark needs that the project does not: compiled C, peers' packages.

All of it lives in bench/.cache, away from the project's own environment. What cannot be had is
remembered with the reason, so that the results can say what was skipped and why.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
CACHE = HERE / ".cache"
INSTALL_TIMEOUT_S = 600

C_PROGRAMS = {
    "load": HERE / "load.c",
    "c_server": SERVERS / "c_server.c",
    "nats_publisher": SERVERS / "nats_publisher.c",
}


class Unavailable(Exception):
    """A tool or package cannot be had on this machine; the text says why."""


class Toolchain:
    """Finds or makes programs, each once.

    folder: where compiled programs go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._compiled: dict[str, Path] = {}
        self._failures: dict[str, str] = {}

    def c(self, name: str) -> Path:
        """Return a compiled program of C_PROGRAMS. Raises Unavailable."""
        if name not in self._compiled:
            compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
            if compiler is None:
                raise Unavailable("there is no C compiler")
            target = self._folder / name
            run([compiler, "-O2", "-o", str(target), str(C_PROGRAMS[name])])
            self._compiled[name] = target
        return self._compiled[name]

    def python(self, package: str) -> Path:
        """Return the interpreter of an environment that has a package of requirements.txt."""
        environment = CACHE / "venv"
        python = environment / "bin" / "python"
        if not python.exists():
            run([sys.executable, "-m", "venv", str(environment)])
        for line in (HERE / "requirements.txt").read_text().split():
            name = line.partition("==")[0]
            if name in {package, "orjson", "uvloop"}:
                self._once(name, partial(pip_install, python, line))
        return python

    def node_modules(self, package: str) -> Path:
        """Return the folder of the packages of package.json, which contains the package."""
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("there is no npm")
        folder = CACHE / "node"
        folder.mkdir(parents=True, exist_ok=True)

        def install() -> None:
            shutil.copy(HERE / "package.json", folder)
            run([npm, "install", "--silent", "--no-package-lock", "--no-audit"], folder)

        self._once("npm", install)
        if not (folder / "node_modules" / package).exists():
            raise Unavailable(f"npm did not install {package}")
        return folder / "node_modules"

    def node(self) -> str:
        """Return Node's own program."""
        node = shutil.which("node")
        if node is None:
            raise Unavailable("there is no Node")
        return node

    def _once(self, name: str, install: Callable[[], None]) -> None:
        if name in self._failures:
            if self._failures[name]:
                raise Unavailable(self._failures[name])
            return
        self._failures[name] = ""
        try:
            install()
        except Unavailable as error:
            self._failures[name] = str(error)
            raise


def pip_install(python: Path, requirement: str) -> None:
    run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", requirement])


def run(command: list[str], folder: Path | None = None) -> str:
    """Run a command to its end and return what it printed. Raises Unavailable."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {error.returncode}"
        raise Unavailable(f"{Path(command[0]).name} failed: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    return done.stdout.strip()
