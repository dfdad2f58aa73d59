"""Measures the instrument registry: `python -m bench.registry [MASTER]`.

Prints a Markdown table. Without MASTER the shipped sample stands in for a real instrument master;
the 200,000 synthetic instruments are measured either way. Memory is read from Linux's /proc.
"""

import gc
import random
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from time import perf_counter

from odin.market.instruments import InstrumentRegistry
from odin.market.masters import SAMPLE_ALIASES, parse_master, parse_sample
from odin.model import Instrument, InstrumentKey

ROUNDS = 7
SYNTHETIC = 200_000
LOOKUPS = 20_000


def best_s(run: Callable[[], object]) -> float:
    """Return the shortest of several rounds in seconds: the others measure the neighbours."""
    times = []
    for _ in range(ROUNDS):
        gc.collect()
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times)


def loop_ns(call: Callable[[str], object], names: Sequence[str]) -> float:
    """Return nanoseconds a call, the cost of the loop itself taken off."""

    def calls() -> None:
        for name in names:
            call(name)

    def bare() -> None:
        for _ in names:
            pass

    return (best_s(calls) - best_s(bare)) / len(names) * 1e9


def rss_mb() -> float | None:
    """Return the resident memory of this process in MB, None where it cannot be told."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 / 1e6 if statm.exists() else None


def synthetic(count: int) -> list[Instrument]:
    """Return distinct instruments, three in four on NSE and the rest on BSE under the same name."""
    return [
        Instrument(
            InstrumentKey("BSE", "CM", 1_000_000 + n)
            if n % 4 == 0
            else InstrumentKey("NSE", "CM", n),
            f"STOCK{n - n % 4 // 3}",
            "EQ",
            f"Synthetic company number {n} limited",
            f"INE{n:08d}0",
        )
        for n in range(count)
    ]


def load(arguments: Sequence[str]) -> tuple[str, list[Instrument], list[tuple[str, str]]]:
    """Return the name of the master, its instruments and what reading it cost."""
    if not arguments:
        text = files("odin.market").joinpath("sample_instruments.csv").read_text("utf-8")
        return "the sample registry", parse_sample(text), []
    path = Path(arguments[0])
    data = path.read_bytes()
    took = best_s(lambda: parse_master(data))
    master = parse_master(data, name=path.name)
    return path.name, master.instruments, [(f"parse {path.name}", f"{took * 1e3:.0f} ms")]


def main(arguments: Sequence[str]) -> None:
    name, instruments, rows = load(arguments)
    registry = InstrumentRegistry(
        instruments, aliases={k: v for k, v in SAMPLE_ALIASES.items() if not arguments}
    )
    pick = random.Random(1)
    chosen = [i for i in instruments if registry.lookup(i.symbol) and registry.lookup(i.token)]
    some = pick.choices(chosen, k=LOOKUPS)
    symbols, tokens = [i.symbol for i in some], [i.token for i in some]
    build = best_s(lambda: InstrumentRegistry(instruments))
    rows.append((f"build of {len(instruments):,} instruments ({name})", f"{build * 1e3:.0f} ms"))
    for what, call in (("lookup", registry.lookup), ("resolve", registry.resolve)):
        by_token, by_symbol = loop_ns(call, tokens), loop_ns(call, symbols)
        rows.append((f"{what} by token", f"{by_token:.0f} ns"))
        rows.append((f"{what} by symbol", f"{by_symbol:.0f} ns"))
        ratio = max(by_token, by_symbol) / min(by_token, by_symbol)
        rows.append((f"{what}, dearer / cheaper", f"{ratio:.2f}"))
    mixed: list[object] = [
        pick.choice((i.symbol, i.token, i.key.token, i.label, f"{i.exchange}:{i.symbol}"))
        for i in pick.choices(chosen, k=1000)
    ]
    many = best_s(lambda: registry.resolve_many(mixed))
    rows.append(("resolve_many of 1,000 in all forms", f"{many * 1e3:.2f} ms"))
    unknown = [f"{symbol}Q" for symbol in symbols[:1000]]
    many = best_s(lambda: registry.resolve_many(unknown))
    rows.append(("resolve_many of 1,000 unknown names", f"{many * 1e3:.2f} ms"))
    slowest = max(best_s(lambda n=n: registry.resolve(n)) for n in unknown[:50])  # type: ignore[misc]
    rows.append(("one unknown name with suggestions, dearest of 50", f"{slowest * 1e3:.2f} ms"))
    search = best_s(lambda: registry.search("bank"))
    rows.append(('search "bank"', f"{search * 1e3:.1f} ms"))

    gc.collect()
    before = rss_mb()
    big = synthetic(SYNTHETIC)
    start = perf_counter()
    big_registry = InstrumentRegistry(big)
    took = perf_counter() - start
    after = rss_mb()
    rows.append((f"build of {len(big_registry):,} synthetic instruments", f"{took:.2f} s"))
    if before is not None and after is not None:
        rows.append(("their memory, instruments and registry", f"{after - before:.0f} MB"))
    print("| measured | result |\n|---|---|")
    for what, result in rows:
        print(f"| {what} | {result} |")


if __name__ == "__main__":
    main(sys.argv[1:])
