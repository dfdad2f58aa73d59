"""What the product promises of its speed, and how each promise is judged by what was measured."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Any

Summary = dict[tuple[str, int, str], dict[str, Any]]
Judgement = tuple[str, bool]
"""What was measured, in words, and whether the promise was kept."""


@dataclass(frozen=True, slots=True)
class Target:
    """One promise."""

    text: str
    judge: Callable[[Summary, dict[str, Any]], Judgement]
    """Raises KeyError or TypeError where something it needs was not measured."""


def cpu_ratio(scenario: str, rate: int, base: str, most: float, name: str = "odin") -> Target:
    titles = {"c-send": "C with one send() a message", "c-coalesced": "C coalesced"}

    def judge(summary: Summary, _results: dict[str, Any]) -> Judgement:
        value = summary[scenario, rate, name]["cpu_us"] / summary[scenario, rate, base]["cpu_us"]
        return f"{value:.2f} ×", value <= most

    other = titles.get(base, "the bare hot path" if base == "odin-hub" else base)
    return Target(f"{scenario} at {rate:,}/s: CPU for a delivery ≤ {most:g} × {other}", judge)


def tail(scenario: str, rate: int, most_ms: float | None, *, must_hold: bool = True) -> Target:
    def judge(summary: Summary, _results: dict[str, Any]) -> Judgement:
        row = summary[scenario, rate, "odin"]
        is_fast = most_ms is None or row["p99"] <= most_ms
        held = "held" if row["held"] else "not held"
        p99 = "∞" if row["p99"] == inf else f"{row['p99']:,.2f} ms"
        return f"{held}, p99 {p99}", is_fast and (row["held"] or not must_hold)

    text = f"{scenario} at {rate:,}/s: held" if must_hold else f"{scenario} at {rate:,}/s:"
    if most_ms is not None:
        text += f"{' with' if must_hold else ''} p99 ≤ {most_ms:g} ms"
    return Target(text, judge)


def better_tail(rate: int, other: str, title: str) -> Target:
    def judge(summary: Summary, _results: dict[str, Any]) -> Judgement:
        ours, theirs = (summary["A", rate, name]["p99"] for name in ("odin", other))
        return f"{ours:.1f} against {theirs:.1f} ms", ours < theirs

    return Target(f"A at {rate:,}/s: a lower p99 than {title}", judge)


def alone(most_ms: float) -> Target:
    def judge(summary: Summary, _results: dict[str, Any]) -> Judgement:
        value = summary["D", 1_000, "odin"]["server_p50"]
        return f"{value * 1000:.0f} µs", value <= most_ms

    return Target(f"D: tick to socket ≤ {most_ms * 1000:.0f} µs at the median", judge)


def beside_late(most: float) -> Target:
    def judge(summary: Summary, _results: dict[str, Any]) -> Judgement:
        value = summary["E", 100_000, "odin"]["p99"] / summary["A", 100_000, "odin"]["p99"]
        return f"{value:.2f} ×", value <= most

    return Target(f"E: the others' p99 ≤ {most:g} × that of A", judge)


def capacity(text: str, kind: str, name: str, limit: float, *, is_most: bool) -> Target:
    def judge(_summary: Summary, results: dict[str, Any]) -> Judgement:
        reports = results[kind]["odin"]
        value = median(report[name] for report in reports)
        return f"{value:,.1f}", value <= limit if is_most else value >= limit

    return Target(text, judge)


def startup(most_s: float) -> Target:
    def judge(_summary: Summary, results: dict[str, Any]) -> Judgement:
        if not results["startup_s"]:
            raise KeyError("startup_s")
        value = median(results["startup_s"])
        return f"{value:.2f} s", value < most_s

    return Target(f"`odin serve` ready in < {most_s:g} s with 23,000 instruments", judge)


TARGETS = (
    cpu_ratio("A", 100_000, "c-send", 1.35),
    cpu_ratio("A", 100_000, "picows", 1.0),
    cpu_ratio("A", 100_000, "bun", 1.0),
    tail("A", 100_000, 2, must_hold=False),
    tail("A", 500_000, 25),
    tail("A", 1_000_000, 50),
    *(
        better_tail(rate, other, title)
        for rate in (500_000, 1_000_000)
        for other, title in (("bun", "Bun"), ("socketify", "socketify (uWebSockets)"))
    ),
    cpu_ratio("A", 100_000, "odin-hub", 1.15),
    tail("B", 50_000, 2, must_hold=False),
    tail("B", 100_000, 60),
    tail("B", 250_000, None),
    tail("C", 1_000_000, None),
    cpu_ratio("C", 1_000_000, "c-coalesced", 1.5),
    alone(0.150),
    beside_late(1.5),
    capacity("≤ 16 KiB for an idle connection", "connections", "idle_kib", 16, is_most=True),
    capacity("≥ 4,000 connects/s", "connections", "connects_per_s", 4_000, is_most=False),
    capacity(
        "≥ 2,000 durable subscribe requests/s of 100 stocks, 200 clients",
        "requests",
        "requests_per_s",
        2_000,
        is_most=False,
    ),
    startup(1.0),
)
