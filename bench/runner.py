"""Runs one server on one core against the load generator on another, and reads what it cost.

CPU time is that of all threads of the server and its children, to the nanosecond where the
kernel keeps it (/proc/PID/task/*/schedstat). What others took of the two cores meanwhile is
measured too: a run on a busy machine says little.
"""

import contextlib
import json
import os
import resource
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.contenders import Contender
from bench.scenarios import Scenario
from bench.servers.source import TOPICS
from bench.toolchain import CACHE, Toolchain

SERVER_CORE = 0
LOAD_CORE = 1
START_TIMEOUT_S = 60.0
HEAD_START_MS = 300
"""Between the command and the first tick."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Report = dict[str, Any]


class RunFailed(Exception):
    """A run did not come to its end; the text says why."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run is, in ms."""

    warm_ms: int = 1_500
    measure_ms: int = 5_000


class Program:
    """A process on a core of its own that answers commands line by line."""

    def __init__(self, command: list[str], core: int, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors, on_core(core):
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )
        self._name = Path(command[0]).name
        self._log = log
        self._read = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(command.encode() + b"\n")
        except BrokenPipeError:
            raise RunFailed(f"{self._name} ended: see {self._log.name}") from None

    def line(self, timeout_s: float) -> str:
        """Return the next line it prints."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise RunFailed(f"{self._name} said nothing for {timeout_s:.0f} s")
            data = self.process.stdout.read(65536)
            if not data:
                raise RunFailed(f"{self._name} ended: see {self._log.name}")
            self._read += data
        text, _, self._read = self._read.partition(b"\n")
        return text.decode()

    def ask(self, command: str, timeout_s: float = 150.0) -> Report:
        self.tell(command)
        answer: Report = json.loads(self.line(timeout_s))
        return answer

    def close(self) -> None:
        """Let it end by itself, or kill it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in family(self.pid)[::-1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run on one core, and let what is started meanwhile inherit that."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def pair(
    tools: Toolchain, contender: Contender, clients: int, per_client: int, late_percent: int = 0
) -> Iterator[tuple[Program, Program]]:
    """Start a server and a load generator for it; the connections are yet to be made."""
    command = contender.command(tools)
    with Program(command, SERVER_CORE, CACHE / "log" / contender.name) as server:
        ready, _, port = server.line(START_TIMEOUT_S).partition(" ")
        if ready != "ready":
            raise RunFailed(f"{contender.name} did not start")
        shape = map(str, (clients, TOPICS, per_client, late_percent))
        kind = (contender.protocol, str(int(contender.has_welcome)))
        load = [str(tools.c("load")), port, contender.path, *shape, *kind]
        with Program(load, LOAD_CORE, CACHE / "log" / "load") as generator:
            yield server, generator


def measure(
    tools: Toolchain, contender: Contender, scenario: Scenario, rate: int, timing: Timing
) -> Report:
    """Run one server at one rate and return everything that was measured."""
    ticks_per_s = scenario.ticks_per_s(rate)
    shape = (scenario.clients, scenario.per_client, scenario.late_percent)
    with pair(tools, contender, *shape) as (server, generator):
        connected = generator.ask("connect")
        if connected["failed"]:
            problem = connected["first_bad"]
            raise RunFailed(f"{connected['failed']} connections were refused: {problem}")
        subscribed = generator.ask("subscribe")
        if subscribed["subscribed"] < scenario.clients:
            raise RunFailed(f"only {subscribed['subscribed']} clients were subscribed")
        t0_ns = (time.time_ns() // 1_000_000 + HEAD_START_MS) * 1_000_000
        total = ticks_per_s * (timing.warm_ms + timing.measure_ms) // 1000
        command = f"run {t0_ns} {ticks_per_s} {total}"
        server.tell(command)
        generator.tell(f"{command} {timing.warm_ms} {timing.measure_ms}")
        begin_ns = t0_ns + timing.warm_ms * 1_000_000
        sleep_until(begin_ns)
        before = Usage.now(server.pid)
        sleep_until(begin_ns + timing.measure_ms * 1_000_000)
        after = Usage.now(server.pid)
        rss_kib = sum(map(rss_kib_of, family(server.pid)))
        report: Report = json.loads(generator.line(timing.measure_ms / 1000 + 30))
    wall_s = (after.at_ns - before.at_ns) / 1e9
    cpu_s = (after.cpu_ns - before.cpu_ns) / 1e9
    cores_s = (after.core_ticks - before.core_ticks) / TICKS_PER_S
    load_s = report["generator_cpu"] * wall_s
    return report | {
        "cpu_s": cpu_s,
        "cpu_share": cpu_s / wall_s,
        "cpu_us": cpu_s / report["received"] * 1e6 if report["received"] else None,
        "others_share": max(0.0, cores_s - cpu_s - load_s) / wall_s,
        "rss_kib": rss_kib,
    }


@dataclass(frozen=True, slots=True)
class Usage:
    """What had been used up to a moment."""

    at_ns: int
    cpu_ns: int
    """By the process and its children."""
    core_ticks: int
    """By everybody on both cores, in clock ticks; includes what the hypervisor took."""

    @classmethod
    def now(cls, pid: int) -> Self:
        ticks = core_ticks(SERVER_CORE) + core_ticks(LOAD_CORE)
        return cls(time.monotonic_ns(), sum(map(cpu_ns_of, family(pid))), ticks)


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu_ns_of(pid: int) -> int:
    """Return the CPU time of all threads of a process."""
    total = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(stat.read_text().split()[0])
    return total


def rss_kib_of(pid: int) -> int:
    """Return the resident memory of a process."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def core_ticks(core: int) -> int:
    """Return the clock ticks that a core was not idle."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            return user + nice + system + irq + softirq + steal
    raise RunFailed(f"the machine has no core {core}")


def sleep_until(at_ns: int) -> None:
    time.sleep(max(0, at_ns - time.time_ns()) / 1e9)


def prepare_machine() -> None:
    """Keep this process off the server's core, and let it and its children open many files."""
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise RunFailed("two cores are needed: one for the server, one for the load")
    os.sched_setaffinity(0, {LOAD_CORE})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
