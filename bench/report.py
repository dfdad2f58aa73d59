"""Makes bench/RESULTS.md of what was measured. No figure in it is typed by hand."""

from collections.abc import Callable, Iterable, Sequence
from math import inf
from statistics import median
from typing import Any

from bench.capacity import (
    CONNECTIONS,
    MASTER_ROWS,
    REQUEST_CLIENTS,
    STOCKS_PER_REQUEST,
    SUBSCRIPTIONS,
)
from bench.contenders import C_COALESCED, C_SEND, CONTENDERS, ODIN
from bench.runner import Report
from bench.scenarios import SCENARIOS, Scenario
from bench.targets import TARGETS

HELD = 0.98
BUSY_GENERATOR = 0.9
BUSY_NEIGHBOURS = 0.05
GROWING_FROM_MS = 50.0
MISSING = "–"
RATE_COLUMNS = (
    "| server | delivered/s | held | bytes | CPU µs | × send | × coalesced | p50 | p99 | p99.9 "
    "| server p50 | skipped | MiB | flags |"
)
HEADLINE = (("A", 100_000), ("A", 500_000), ("A", 1_000_000), ("B", 100_000), ("C", 1_000_000))
LEFT_OUT_OF_HEADLINE = ("odin-hub", "c-send")
CONNECTIONS_TEXT = f"""\
{CONNECTIONS:,} connections, then {SUBSCRIPTIONS} subscriptions on each. Those of Odin Streamer are
made when the welcome has come, and subscribed when they are on disk. The kernel's own memory for
sockets is not included.
"""

INTRODUCTION = f"""# Benchmark

Written by `python -m bench`; every figure below was measured in that one run.

Every server got the same ticks on the same schedule and the same subscribe requests, and ran alone
on one core; the load generator, in C, ran on another, and counted, checked and timed every
message. The servers took turns, and each figure is the median of its repeats.

- **offered, delivered**: messages a second. **held**: at least {HELD:.0%} of them were delivered
  while they were offered, and the tail did not grow from second to second; with repeats, in how
  many of them.
- **bytes**: of one delivery, with the WebSocket header.
- **CPU**: µs of the server's core for one delivery, all its threads and kernel time included.
  **×**: the same as a multiple of the C program that makes one send() a message, and of the one
  that makes one write for each client and batch of ticks.
- **p50, p99, p99.9**: ms from when the tick was due in the source's schedule to when the client
  had read it: what a tick waits inside the server's own source counts too, as it would in the
  socket of a feed. Ticks are due in slices of 1 ms.
- **server p50**: ms from when the server took the tick in hand, which is its `last_updated`.
- **skipped**: messages that never came, because the server left them out for a late client or
  had not sent them 3 s after the end. Where that makes a quantile unknown it is ∞.
- Flags: **G** the load generator was more than {BUSY_GENERATOR:.0%} busy, so the server may be
  better than shown; **N** neighbours took more than {BUSY_NEIGHBOURS:.0%} of one of the cores, so
  it is better than shown; **O** messages came out of order; **C** connections were closed.
"""


def render(results: dict[str, Any]) -> str:
    """Return RESULTS.md. results: what bench.__main__ has gathered."""
    summary = summarise(results["runs"])
    parts = [INTRODUCTION, machine(results["machine"], results["options"])]
    parts.append(headline(summary))
    parts.append(targets(summary, results))
    for scenario in SCENARIOS:
        rates = sorted({rate for name, rate, _ in summary if name == scenario.name})
        if rates:
            parts.append(f"## {scenario.name}: {scenario.title}\n")
            parts += [rate_table(scenario, rate, summary) for rate in rates]
    parts.append(generator_limit(results["runs"]))
    parts.append(capacity(results))
    parts.append(problems(results))
    return "\n".join(part for part in parts if part)


Summary = dict[tuple[str, int, str], Report]


def summarise(runs: Iterable[Report]) -> Summary:
    """Return the median of each figure by (scenario, rate, contender)."""
    groups: dict[tuple[str, int, str], list[Report]] = {}
    for run in runs:
        groups.setdefault((run["scenario"], run["rate"], run["server"]), []).append(run)
    return {key: middle(group) for key, group in groups.items()}


def middle(group: Sequence[Report]) -> Report:
    """Return the medians of some runs of the same thing."""

    def of(read: Callable[[Report], float | None]) -> float | None:
        values = [value for run in group if (value := read(run)) is not None]
        return median(values) if values else None

    seconds = group[0]["seconds"]
    held = [is_held(run) for run in group]
    return {
        "runs": len(group),
        "offered": group[0]["offered"] / seconds,
        "delivered": of(lambda run: run["received"] / seconds),
        "bytes": of(lambda run: run["bytes"] / seconds),
        "held_runs": sum(held),
        "held": sum(held) * 2 > len(held),
        "cpu_us": of(lambda run: run["cpu_us"]),
        "cpu_share": of(lambda run: run["cpu_share"]),
        "p50": of(lambda run: quantile(run, "p50", 0.5)),
        "p99": of(lambda run: quantile(run, "p99", 0.99)),
        "p999": of(lambda run: quantile(run, "p999", 0.999)),
        "server_p50": of(lambda run: run["server_latency"]["p50"]),
        "rss_mib": of(lambda run: run["rss_kib"] / 1024),
        "skipped": of(lambda run: run["wanted_total"] - run["received_total"]),
        "flags": "".join(sorted({flag for run in group for flag in flags_of(run)})),
    }


def quantile(run: Report, name: str, share: float) -> float:
    """Return a quantile of the latency in ms; infinite where too few messages ever came."""
    latency = run["latency"]
    is_known = latency["count"] >= share * run["offered"]
    return float(latency[name]) if is_known else inf


def is_held(run: Report) -> bool:
    """Whether the server delivered what was offered, with a tail that stayed where it was."""
    by_second = run["p99_by_second"]
    half = len(by_second) // 2
    is_growing = half > 0 and (
        median(by_second[-half:]) > max(GROWING_FROM_MS, 2 * median(by_second[:half]))
    )
    is_whole = not run["closed"] and not run["bad"]
    return is_whole and not is_growing and run["received"] >= HELD * run["offered"]


def flags_of(run: Report) -> str:
    flags = "G" if run["generator_cpu"] > BUSY_GENERATOR else ""
    flags += "N" if run["others_share"] > BUSY_NEIGHBOURS else ""
    flags += "O" if run["out_of_order"] else ""
    return flags + ("C" if run["closed"] else "")


# ---------------------------------------------------------------------- parts


def machine(facts: dict[str, str], options: dict[str, Any]) -> str:
    lines = ["## The machine\n", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines.append(
        f"| this run | {options['repeat']} repeats of {options['measure_ms'] / 1000:g} s after "
        f"{options['warm_ms'] / 1000:g} s of warming up{', --quick' if options['quick'] else ''} |"
    )
    return "\n".join(lines) + "\n"


def headline(summary: Summary) -> str:
    """Return the comparison in five lines, which README.md shows too."""
    servers = [
        contender
        for contender in CONTENDERS
        if any((scenario, rate, contender.name) in summary for scenario, rate in HEADLINE)
        and contender.name not in LEFT_OUT_OF_HEADLINE
    ]
    lines = [
        "## In five lines\n",
        f"| load | {' | '.join(contender.title for contender in servers)} |",
        f"|---|{'---|' * len(servers)}",
    ]
    for name, rate in HEADLINE:
        scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
        cells = [f"{scenario.title}, {rate:,}/s"]
        for contender in servers:
            row = summary.get((name, rate, contender.name))
            cells.append(MISSING if row is None else in_short(row))
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        "\nCPU for a delivery and p99 from tick to client; where a server could not hold the load, "
        "what it delivered.\n"
    )
    return "\n".join(lines)


def in_short(row: Report) -> str:
    if row["held"]:
        return f"{figure(row['cpu_us'])} µs, {figure(row['p99'])} ms"
    return f"not held: {row['delivered'] / 1000:,.0f}k/s"


def targets(summary: Summary, results: dict[str, Any]) -> str:
    lines = ["## What it is held against\n", "| promise | measured | |", "|---|---|---|"]
    for target in TARGETS:
        try:
            measured, is_met = target.judge(summary, results)
        except (KeyError, TypeError, ZeroDivisionError):
            lines.append(f"| {target.text} | not measured | {MISSING} |")
        else:
            lines.append(f"| {target.text} | {measured} | {'met' if is_met else '**missed**'} |")
    return "\n".join(lines) + "\n"


def rate_table(scenario: Scenario, rate: int, summary: Summary) -> str:
    rows = [
        (contender, summary[scenario.name, rate, contender.name])
        for contender in CONTENDERS
        if (scenario.name, rate, contender.name) in summary
    ]
    send, coalesced = (
        summary.get((scenario.name, rate, c.name), {}).get("cpu_us") for c in (C_SEND, C_COALESCED)
    )
    offered = rows[0][1]["offered"]
    lines = [
        f"### {rate:,} deliveries/s\n",
        f"Offered to clients that read: {offered:,.0f}/s\n" if scenario.late_percent else "",
        RATE_COLUMNS,
        "|---|--:|:-:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for contender, row in rows:
        held = "yes" if row["held"] else "no"
        if row["runs"] > 1 and row["held_runs"] not in (0, row["runs"]):
            held += f" ({row['held_runs']}/{row['runs']})"
        cells = [
            contender.title,
            f"{row['delivered']:,.0f}",
            held,
            f"{row['bytes'] / row['delivered']:,.0f}" if row["delivered"] else MISSING,
            figure(row["cpu_us"]),
            ratio(row["cpu_us"], send),
            ratio(row["cpu_us"], coalesced),
            *(figure(row[name]) for name in ("p50", "p99", "p999", "server_p50")),
            f"{row['skipped']:,.0f}",
            f"{row['rss_mib']:,.0f}",
            row["flags"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(line for line in lines if line) + "\n"


def generator_limit(runs: Sequence[Report]) -> str:
    """Return the most that the load generator has taken, checked and timed."""
    if not runs:
        return ""
    most = max(runs, key=lambda run: run["received"] / run["seconds"])
    return (
        f"The most the load generator took was {most['received'] / most['seconds']:,.0f} "
        f"messages/s ({most['bytes'] / most['seconds'] / 1e6:,.0f} MB/s), from {most['server']} in "
        f"scenario {most['scenario']}, while {most['generator_cpu']:.0%} busy.\n"
    )


def capacity(results: dict[str, Any]) -> str:
    connections, requests = results["connections"], results["requests"]
    if not connections:
        return ""
    lines = [
        "## Connections\n",
        CONNECTIONS_TEXT,
        "| server | connects/s | first subscribes/s | KiB each, idle | KiB each, subscribed |",
        "|---|--:|--:|--:|--:|",
    ]
    for contender in CONTENDERS:
        row = middle_of_reports(connections.get(contender.name, []))
        if row:
            cells = [
                contender.title,
                f"{row['connects_per_s']:,.0f}",
                f"{row['subscribes_per_s']:,.0f}",
                f"{row['idle_kib']:.1f}",
                f"{row['subscribed_kib']:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    row = middle_of_reports(requests.get(ODIN.name, []))
    if row:
        lines.append(
            f"\nSubscribe requests of {STOCKS_PER_REQUEST} stocks each, with a durable "
            f"acknowledgement, by {REQUEST_CLIENTS} clients: {row['requests_per_s']:,.0f}/s."
        )
    if results["startup_s"]:
        lines.append(
            f"\n`odin serve` listened {median(results['startup_s']):.2f} s after its start, with a "
            f"master of {MASTER_ROWS:,} instruments."
        )
    return "\n".join(lines) + "\n"


def middle_of_reports(reports: Sequence[Report]) -> Report:
    """Return the medians of the plain figures of some reports."""
    names = [name for name, value in (reports[0] if reports else {}).items() if is_number(value)]
    return {name: median(report[name] for report in reports) for name in names}


def problems(results: dict[str, Any]) -> str:
    lines = [f"- {name}: {reason}" for name, reason in results["skipped"].items()]
    lines += [f"- {problem}" for problem in results["problems"]]
    return "\n".join(["## Not measured\n", *lines]) + "\n" if lines else ""


# ---------------------------------------------------------------------- figures


def is_number(value: object) -> bool:
    return isinstance(value, int | float)


def figure(value: float | None) -> str:
    """Return a number with about three digits that mean something."""
    if value is None:
        return MISSING
    if value == inf:
        return "∞"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value and base else MISSING
