"""The benchmark's own honesty: it counts everything, and notices what is wrong."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bench.contenders import C_COALESCED, FORMATS, ODIN, Contender
from bench.report import is_held, quantile, render
from bench.runner import LOAD_CORE, SERVER_CORE, Timing, measure
from bench.scenarios import Scenario
from bench.servers.source import FIRST_TOKEN, TOPICS
from bench.toolchain import Toolchain, Unavailable

SHORT = Timing(warm_ms=200, measure_ms=1_800)
ALL = Scenario("C", "few clients with all stocks", 3, TOPICS, (3_000,), (3_000,))
SOME = Scenario("A", "few clients with stocks of their own", 20, 100, (2_000,), (2_000,))
LATE = Scenario("E", "one of the clients is late", 20, 100, (2_000,), (2_000,), late_percent=5)


BYTES = {
    "odin-json-delta": (200, 500),
    "odin-msgpack": (508, 532),
    "odin-msgpack-delta": (160, 400),
    "odin-binary": (122, 122),
}
"""Of one delivery, where it is not JSON. A short run has many whole quotes among its deltas."""


@pytest.fixture
def tools(tmp_path: Path) -> Toolchain:
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        pytest.skip("the benchmark needs two cores")
    made = Toolchain(tmp_path)
    try:
        made.c("load")
    except Unavailable as error:
        pytest.skip(f"the benchmark needs a C compiler: {error}")
    return made


@pytest.mark.bench
@pytest.mark.parametrize(
    ("contender", "scenario"),
    [
        (ODIN, ALL),
        (ODIN, LATE),
        (C_COALESCED, SOME),
        *((contender, SOME) for contender in FORMATS),
    ],
    ids=lambda value: value.name,
)
def test_every_message_is_counted_and_in_order(
    tools: Toolchain, contender: Contender, scenario: Scenario
) -> None:
    report = measure(tools, contender, scenario, scenario.rates[0], SHORT)
    readers = scenario.clients - (1 if scenario.late_percent else 0)
    ticks = scenario.ticks_per_s(scenario.rates[0]) * 2
    assert report["wanted_total"] == ticks * readers * scenario.per_client // TOPICS
    assert report["received_total"] == report["wanted_total"]
    assert report["offered"] == report["latency"]["count"]
    assert report["offered"] == pytest.approx(report["wanted_total"] * 0.9, rel=0.01)
    for trouble in ("gaps", "out_of_order", "bad", "closed", "late_out_of_order"):
        assert report[trouble] == 0, report["first_bad"]
    least, most = BYTES.get(contender.name, (602, 626))
    assert least <= report["bytes"] / report["received"] <= most
    assert 0 < report["latency"]["p50"] <= report["latency"]["p99"] <= report["latency"]["max"]
    assert report["cpu_us"] > 0
    assert report["rss_kib"] > 0


async def faulty_run(tools: Toolchain, numbers: list[int]) -> dict[str, Any]:
    """Return what the generator says of a server that sends these tick numbers to one client."""
    asked = asyncio.Event()
    begin = asyncio.Event()

    async def handle(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"type":"subscription_response","status":"success"}')
        asked.set()
        await begin.wait()
        for n in numbers:
            token = FIRST_TOKEN + n % TOPICS
            await connection.send(
                f'{{"type":"market_data","token":"{token}","data":{{"volume":{n},'
                f'"last_updated":"2026-01-01T00:00:00.000000001+05:30"}}}}'
            )
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        generator = await asyncio.create_subprocess_exec(
            *(str(tools.c("load")), str(port), "/", "1", str(TOPICS), str(TOPICS), "0"),
            *("json", "0"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert generator.stdin is not None
        assert generator.stdout is not None
        for command in ("connect", "subscribe"):
            generator.stdin.write(f"{command}\n".encode())
            await generator.stdout.readline()
        await asked.wait()
        t0_ns = time.time_ns() // 1_000_000 * 1_000_000
        generator.stdin.write(f"run {t0_ns} 1000000 {2 * TOPICS} 0 100\n".encode())
        await generator.stdin.drain()
        begin.set()
        report: dict[str, Any] = json.loads(await generator.stdout.readline())
        generator.stdin.close()
        await generator.wait()
    return report


@pytest.mark.bench
async def test_a_gap_a_repeat_and_a_stranger_are_noticed(tools: Toolchain) -> None:
    whole = list(range(TOPICS))
    lost = [n for n in (*whole, *range(TOPICS, 2 * TOPICS)) if n != 5]
    report = await faulty_run(tools, [*lost, 7, 10 * TOPICS])
    assert report["gaps"] == 1
    assert report["out_of_order"] == 1
    assert report["bad"] == 1
    assert report["received_total"] == len(lost)


def run_report(**changes: Any) -> dict[str, Any]:
    latency = {"count": 1000, "p50": 1.0, "p90": 1.5, "p99": 2.0, "p999": 3.0, "max": 4.0}
    return {
        "scenario": "A",
        "rate": 100_000,
        "server": "odin",
        "offered": 1000,
        "received": 1000,
        "bytes": 614_000,
        "seconds": 1.0,
        "generator_cpu": 0.4,
        "wanted_total": 1000,
        "received_total": 1000,
        "gaps": 0,
        "out_of_order": 0,
        "bad": 0,
        "closed": 0,
        "first_bad": "",
        "latency": latency,
        "server_latency": latency,
        "p99_by_second": [2.0, 2.0, 2.0, 2.0],
        "cpu_us": 5.0,
        "cpu_share": 0.5,
        "others_share": 0.0,
        "rss_kib": 65_536,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, True),
        ({"received": 980}, True),
        ({"received": 979}, False),
        ({"closed": 1}, False),
        ({"bad": 1}, False),
        ({"p99_by_second": [20.0, 40.0, 60.0, 80.0]}, False),
        ({"p99_by_second": [5.0, 5.0, 40.0, 40.0]}, True),
    ],
)
def test_held_means_delivered_with_a_tail_that_stays(changes: dict[str, Any], held: bool) -> None:
    assert is_held(run_report(**changes)) is held


def test_a_quantile_of_what_never_came_is_infinite() -> None:
    report = run_report(offered=2000)
    assert quantile(report, "p50", 0.5) == 1.0
    assert quantile(report, "p99", 0.99) == float("inf")


def test_results_are_written_with_ratios_and_verdicts() -> None:
    runs = [
        run_report(),
        run_report(server="c-send", cpu_us=4.0),
        run_report(server="bun", cpu_us=4.5, generator_cpu=0.95),
    ]
    text = render(
        {
            "options": {"quick": True, "repeat": 1, "warm_ms": 1000, "measure_ms": 1000},
            "machine": {"CPU": "one"},
            "runs": runs,
            "connections": {"odin": [dict.fromkeys(CONNECTION_FIGURES, 4_500.0)]},
            "requests": {"odin": [{"requests_per_s": 1_500.0}]},
            "startup_s": [0.7, 0.8, 0.9],
            "skipped": {"picows": "pip failed: no network"},
            "problems": [],
        }
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    ours = "| **Odin Streamer** | 1,000 | yes | 614 | 5.00 | 1.25 |"
    assert any(row.startswith(ours) for row in rows)
    assert (
        "| 1,000 clients × 50 of 2,000 stocks, 100,000/s | 5.00 µs, 2.00 ms | 4.50 µs, 2.00 ms |"
    ) in rows
    assert any(row.startswith("| Bun") and row.endswith("| G |") for row in rows)
    assert verdict(rows, "1.35 × C") == "met"
    assert verdict(rows, "1 × bun") == "**missed**"
    assert verdict(rows, "1 × picows") == "–"
    assert verdict(rows, "connects/s") == "met"
    assert verdict(rows, "subscribe requests/s") == "**missed**"
    assert verdict(rows, "`odin serve`") == "met"
    assert "- picows: pip failed: no network" in text


def test_the_readme_shows_the_results() -> None:
    root = Path(__file__).resolve().parents[2]
    results = (root / "bench" / "RESULTS.md").read_text("utf-8")
    table = results.partition("## In five lines\n")[2].partition("\n\n")[0].strip()
    assert table.count("\n") == 6, "a head, a rule and five lines"
    assert f"<!-- bench -->\n{table}\n" in (root / "README.md").read_text("utf-8")


def test_the_readme_has_the_table_of_the_feeds() -> None:
    root = Path(__file__).parents[2]
    table = (root / "bench" / "FEEDS.md").read_text("utf-8").partition("\n|")[2].rstrip()
    assert table.count("\n") == 5, "a head, a rule and four lines"
    assert f"<!-- bench-feeds -->\n|{table}\n" in (root / "README.md").read_text("utf-8")


CONNECTION_FIGURES = ("connects_per_s", "subscribes_per_s", "idle_kib", "subscribed_kib")


def verdict(rows: list[str], words: str) -> str:
    (row,) = (row for row in rows if words in row and row.count("|") == 4)
    return row.split("|")[3].strip()
