"""What one tick costs: `python -m bench.quotes` prints a Markdown table of ns a tick."""

import time
from collections.abc import Callable

import msgspec

from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey, Tick, YearSummary

INSTRUMENTS = 2_000
TICKS = 200_000
ROUNDS = 5
DAY = "2025-09-04"
START_MS = 1_756_957_500_000
SUMMARY = YearSummary(1551.0, "2025-07-09", 1115.55, "2025-04-07", 8_053_013, 1372.6, "2025-09-03")


def ticks(*, is_full: bool) -> list[Tick]:
    """Return TICKS ticks in turn over INSTRUMENTS; full ones carry all optional fields."""
    keys = [InstrumentKey("NSE", "CM", token) for token in range(1, INSTRUMENTS + 1)]
    made = []
    for n in range(TICKS):
        ltp = 1365.5 + (n * 7919 % 400 - 200) * 0.05
        extra = (1000 + n, 1371.8, 1376.0, 1355.3, 1372.6) if is_full else (1000 + n,)
        made.append(Tick(keys[n % INSTRUMENTS], START_MS + n, ltp, *extra))
    return made


def board() -> QuoteBoard:
    """Return a board that knows every instrument and its year."""
    instruments = {
        key: Instrument(key, f"STOCK{key.token}")
        for key in (InstrumentKey("NSE", "CM", token) for token in range(1, INSTRUMENTS + 1))
    }
    quotes = QuoteBoard(instruments.get, Metrics())
    quotes.load_history(dict.fromkeys(instruments, SUMMARY), DAY)
    return quotes


def best_ns(run: Callable[[QuoteBoard, list[Tick]], None], made: list[Tick]) -> float:
    """Return the ns a tick of the fastest of ROUNDS runs, each on a new board."""
    elapsed = []
    for _ in range(ROUNDS):
        quotes = board()
        begin = time.perf_counter_ns()
        run(quotes, made)
        elapsed.append((time.perf_counter_ns() - begin) / len(made))
    return min(elapsed)


def apply(quotes: QuoteBoard, made: list[Tick]) -> None:
    for tick in made:
        quotes.apply(tick, tick.exchange_ms * 1_000_000)


def apply_and_encode(quotes: QuoteBoard, made: list[Tick]) -> None:
    for tick in made:
        quote = quotes.apply(tick, tick.exchange_ms * 1_000_000)
        if quote is not None:
            msgspec.json.encode(quote)


def main() -> None:
    print("| tick | apply, ns | apply and encode, ns |")
    print("|---|---:|---:|")
    for name, is_full in (("price and volume", False), ("all fields", True)):
        made = ticks(is_full=is_full)
        print(f"| {name} | {best_ns(apply, made):.0f} | {best_ns(apply_and_encode, made):.0f} |")


if __name__ == "__main__":
    main()
