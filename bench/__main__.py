"""The fan-out benchmark: `python -m bench` measures all servers side by side.

It writes bench/RESULTS.md, and what was measured to bench/.cache/results.json. Needs Linux, two
cores and a C compiler; servers whose packages cannot be installed are left out and named.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import capacity
from bench.contenders import C_COALESCED, CONTENDERS, ODIN, Contender
from bench.report import render
from bench.runner import RunFailed, Timing, measure, prepare_machine
from bench.scenarios import SCENARIOS, Scenario
from bench.toolchain import CACHE, HERE, Toolchain, Unavailable, run

RESULTS = HERE / "RESULTS.md"
RAW = CACHE / "results.json"
STARTS = 5


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rates, short runs, once")
    parser.add_argument("--only", default="", help="scenarios, such as A,C; also: connections")
    parser.add_argument("--servers", default="", help="such as odin,c-send,bun")
    parser.add_argument("--rates", default="", help="deliveries a second, such as 100000,500000")
    parser.add_argument("--repeat", type=int, help="times each run is made; 3, or 1 if quick")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run, 5 if not quick")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--render", action="store_true", help="write the last results again")
    return parser.parse_args(arguments)


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def chosen(options: argparse.Namespace) -> tuple[list[Scenario], list[Contender]]:
    """Return what was asked for. Exits with a message where a name is unknown."""
    scenarios, servers = words(options.only.upper()), words(options.servers)
    known = {*(scenario.name for scenario in SCENARIOS), "CONNECTIONS"}
    unknown = {*scenarios} - known | {*servers} - {item.name for item in CONTENDERS}
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}")
    return (
        [item for item in SCENARIOS if not scenarios or item.name in scenarios],
        [item for item in CONTENDERS if not servers or item.name in servers],
    )


class Session:
    """One run of the benchmark: what is left to do, and what has been measured."""

    def __init__(self, options: argparse.Namespace, tools: Toolchain) -> None:
        self._options = options
        self._tools = tools
        self._scenarios, self._contenders = chosen(options)
        self._timing = (
            Timing(1_000, 2_000) if options.quick else Timing(measure_ms=options.seconds * 1_000)
        )
        self._repeat = options.repeat or (1 if options.quick else 3)
        self._begin = time.monotonic()
        self.results: dict[str, Any] = {
            "options": {
                "quick": options.quick,
                "repeat": self._repeat,
                "warm_ms": self._timing.warm_ms,
                "measure_ms": self._timing.measure_ms,
            },
            "machine": machine(),
            "runs": [],
            "connections": {},
            "requests": {},
            "startup_s": [],
            "skipped": {},
            "problems": [],
        }

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begin:5.0f} s] {text}", flush=True)

    def prepare(self) -> None:
        """Install and compile what the contenders need; leave out those that cannot be had."""
        for contender in list(self._contenders):
            self.say(f"preparing {contender.name}")
            try:
                contender.command(self._tools)
            except Unavailable as error:
                self.results["skipped"][contender.title] = str(error)
                self._contenders.remove(contender)

    def measure(self) -> None:
        """Measure everything, the servers in turn; each repeat begins with another one."""
        for repeat in range(self._repeat):
            shift = repeat % max(1, len(self._contenders))
            order = self._contenders[shift:] + self._contenders[:shift]
            for scenario in self._scenarios:
                for rate in self._rates(scenario):
                    for contender in order:
                        if scenario.is_for(contender):
                            self._run(scenario, rate, contender)
            self._measure_capacity(order)
            self.results["options"]["repeat"] = repeat + 1
            self.save()

    def _rates(self, scenario: Scenario) -> Sequence[int]:
        if self._options.rates and scenario.name in "ABC":
            return [int(rate) for rate in words(self._options.rates)]
        return scenario.quick_rates if self._options.quick else scenario.rates

    def _run(self, scenario: Scenario, rate: int, contender: Contender) -> None:
        what = f"{scenario.name} {rate:,}/s {contender.name}"
        report = self._attempt(
            what, lambda: measure(self._tools, contender, scenario, rate, self._timing)
        )
        if report is not None:
            row = {"scenario": scenario.name, "rate": rate, "server": contender.name}
            self.results["runs"].append(row | report)
            self.say(
                f"{what}: {report['received'] / report['offered']:.1%}, "
                f"{report['cpu_us'] or 0:.2f} µs, p99 {report['latency']['p99']:.1f} ms"
            )

    def _measure_capacity(self, order: Sequence[Contender]) -> None:
        if self._options.only and "CONNECTIONS" not in self._options.only.upper():
            return
        for contender in order:
            if contender.is_format:
                continue
            if self._options.quick and contender not in (ODIN, C_COALESCED):
                continue
            self._add("connections", contender, capacity.connections)
            if contender is ODIN:
                self._add("requests", contender, capacity.requests)
        if ODIN in order:
            self.results["startup_s"] += capacity.startup(STARTS)

    def _add(
        self, kind: str, contender: Contender, run: Callable[[Toolchain, Contender], dict[str, Any]]
    ) -> None:
        report = self._attempt(f"{kind} {contender.name}", lambda: run(self._tools, contender))
        if report is not None:
            self.results[kind].setdefault(contender.name, []).append(report)
            self.say(f"{kind} {contender.name}: {report}")

    def _attempt(self, what: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        try:
            return run()
        except RunFailed as error:
            self.results["problems"].append(f"{what}: {error}")
            self.say(f"{what}: {error}")
            return None

    def save(self) -> None:
        """Write what there is: a long run that is interrupted leaves its finished repeats."""
        RAW.write_text(json.dumps(self.results, indent=1))
        self._options.output.write_text(render(self.results))


def machine() -> dict[str, str]:
    """Return what the results depend on."""
    cpu = memory = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = f"{int(line.split()[1]) / 1024 / 1024:.0f} GiB"
    versions = [f"{platform.python_implementation()} {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "orjson")]
    for program in ("node", "cc"):
        try:
            first = run([program, "--version"]).splitlines()[0]
            versions.append(first if first.startswith(program) else f"{program} {first}")
        except Unavailable:
            continue
    peers = (HERE / "requirements.txt").read_text().split()
    packages = json.loads((HERE / "package.json").read_text())["dependencies"]
    peers += [f"{name}@{number}" for name, number in packages.items()]
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{cpu}, {os.cpu_count()} cores, {memory}",
        "kernel": f"{platform.system()} {platform.release()}",
        "programs": ", ".join(versions),
        "peers": ", ".join(peers),
    }


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    if options.render:
        options.output.write_text(render(json.loads(RAW.read_text())))
        return
    CACHE.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            tools = Toolchain(Path(folder))
            tools.c("load")
            session = Session(options, tools)
            prepare_machine()
            session.prepare()
            session.measure()
    except (Unavailable, RunFailed) as error:
        sys.exit(f"the benchmark cannot run: {error}")
    session.say(f"written: {options.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
