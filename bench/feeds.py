"""What live feeds cost: `python -m bench.feeds` writes bench/FEEDS.md.

Messages as the venues send them are decoded and applied to a QuoteBoard on one core; the parser of
the package `kiteconnect`, which only decodes, gets the same bytes in turn with ours.
"""

import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.toolchain import CACHE, HERE, Toolchain, Unavailable
from odin.feeds.base import Decoder
from odin.feeds.kite import wire as kite
from odin.feeds.odinfeed import framing
from odin.feeds.odinfeed import wire as odinfeed
from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey
from odin.settings import KiteSettings, OdinFeedSettings

RESULTS = HERE / "FEEDS.md"
INSTRUMENTS = 2_000
PACKETS = 200_000
PACKETS_PER_MESSAGE = 50
ROUNDS = 5
NOW_MS = 1_756_957_500_000


class Row(NamedTuple):
    """One line of the table."""

    what: str
    decoded_per_s: float
    applied_per_s: float
    target_per_s: int
    peer_per_s: float | None = None


def decode(decoder: Decoder, messages: Sequence[bytes]) -> float:
    """Return the packets a second of one pass over all messages."""
    begin = time.perf_counter()
    count = sum(1 for message in messages for _ in filter(None, decoder.ticks(message, NOW_MS)))
    elapsed_s = time.perf_counter() - begin
    if count != PACKETS or decoder.malformed:
        raise RuntimeError(f"{count} ticks of {PACKETS}")
    return count / elapsed_s


def decode_and_apply(decoder: Decoder, messages: Sequence[bytes]) -> float:
    """Return the same with the ticks applied to a new board."""
    instruments = {
        key: Instrument(key, f"STOCK{key.token}")
        for key in (InstrumentKey("NSE", "CM", token) for token in range(1, INSTRUMENTS + 1))
    }
    metrics = Metrics()
    apply = QuoteBoard(instruments.get, metrics).apply
    now_ns = NOW_MS * 1_000_000
    count = 0
    begin = time.perf_counter()
    for message in messages:
        for tick in filter(None, decoder.ticks(message, NOW_MS)):
            apply(tick, now_ns)
            count += 1
    elapsed_s = time.perf_counter() - begin
    if count != PACKETS or metrics.ticks_invalid or metrics.ticks_unknown or decoder.malformed:
        raise RuntimeError(f"{count} ticks of {PACKETS}: {metrics}")
    return count / elapsed_s


def peer(python: Path, path: Path) -> float:
    """Return the packets a second of kiteconnect's parser."""
    command = [str(python), str(HERE / "peers" / "kite_parser.py"), str(path)]
    seconds, packets = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    if int(packets) != PACKETS:
        raise RuntimeError(f"kiteconnect parsed {packets} packets of {PACKETS}")
    return PACKETS / float(seconds)


def measure(
    what: str,
    target_per_s: int,
    decoder: Callable[[], Decoder],
    messages: Sequence[bytes],
    python: Path | None = None,
) -> Row:
    """Return the best of ROUNDS, ours and the peer's in turn."""
    decoded: list[float] = []
    applied: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "messages"
        path.write_bytes(b"".join(struct.pack("<I", len(m)) + m for m in messages))
        for _ in range(ROUNDS):
            decoded.append(decode(decoder(), messages))
            applied.append(decode_and_apply(decoder(), messages))
            if python is not None:
                theirs.append(peer(python, path))
    return Row(what, max(decoded), max(applied), target_per_s, max(theirs, default=None))


def kite_quotes(*, is_full: bool = False) -> list[bytes]:
    """Return messages of quote or full packets, in turn over all instruments."""
    side = tuple(kite.Entry(100 * n, 136_500 + n, n) for n in range(1, kite.DEPTH_LEVELS + 1))

    def packet(n: int) -> kite.Packet:
        token = (n % INSTRUMENTS + 1) << 8 | 1
        last = 136_550 + n * 7919 % 400
        prices = (137_180, 137_600, 135_530, 137_260)
        quote = kite.QuotePacket(token, last, 10, 136_800, 1000 + n, 5000, 6000, *prices)
        at_s = NOW_MS // 1000
        return kite.FullPacket(quote, at_s, 0, 0, 0, at_s, side, side) if is_full else quote

    return [
        kite.encode_message([packet(n) for n in range(begin, begin + PACKETS_PER_MESSAGE)])
        for begin in range(0, PACKETS, PACKETS_PER_MESSAGE)
    ]


def odin_records() -> list[bytes]:
    """Return frames of binary touchlines, in turn over all instruments."""

    def record(n: int) -> bytes:
        at_s = odinfeed.encode_record_time(NOW_MS)
        last = 136_550 + n * 7919 % 400
        return odinfeed.encode_record_message(
            odinfeed.Record(
                segment=1,
                token=n % INSTRUMENTS + 1,
                lut=at_s,
                ltt=at_s,
                ltp=last,
                bid_quantity=100,
                bid_price=last - 5,
                ask_quantity=200,
                ask_price=last + 5,
                open=137_180,
                high=137_600,
                low=135_530,
                close=137_260,
                divisor=100,
                prev_close=137_260,
                indicative_close=0,
            )
        )

    return odin_frames(record)


def odin_texts() -> list[bytes]:
    """Return frames of touchlines in text, in turn over all instruments."""
    at = odinfeed.encode_time(NOW_MS)

    def text(n: int) -> bytes:
        last = 136_550 + n * 7919 % 400
        return odinfeed.encode_message(
            odinfeed.TOUCHLINE,
            (
                *((1, 1), (7, n % INSTRUMENTS + 1), (8, last), (73, at), (74, at)),
                *((79, 1000 + n), (54, "-0.52"), (9, 10), (2, 100), (3, last - 5), (5, 200)),
                *((6, last + 5), (80, 136_800), (81, 5000), (82, 6000), (76, 137_260)),
                *((75, 137_180), (77, 137_600), (78, 135_530), (399, 100)),
            ),
        )

    return odin_frames(text)


def odin_frames(message: Callable[[int], bytes]) -> list[bytes]:
    """Return PACKETS messages, as many to a frame as to a message of Kite."""
    return [
        framing.encode_frame(
            framing.encode_messages(map(message, range(begin, begin + PACKETS_PER_MESSAGE)))
        )
        for begin in range(0, PACKETS, PACKETS_PER_MESSAGE)
    ]


def cases() -> list[tuple[str, int, Callable[[], Decoder], list[bytes]]]:
    """Return what is measured: name, target, decoder and messages."""
    return [
        (
            "Kite quote packets",
            150_000,
            lambda: kite.KiteDecoder(KiteSettings(), {}),
            kite_quotes(),
        ),
        (
            "Kite full packets, with the order book",
            50_000,
            lambda: kite.KiteDecoder(KiteSettings(), {}),
            kite_quotes(is_full=True),
        ),
        (
            "ODIN binary touchlines",
            60_000,
            lambda: odinfeed.OdinDecoder(OdinFeedSettings(), {}),
            odin_records(),
        ),
        (
            "ODIN touchlines in text",
            60_000,
            lambda: odinfeed.OdinDecoder(OdinFeedSettings(), {}),
            odin_texts(),
        ),
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the Markdown table."""
    lines = [
        "| packets a second, one core | decoded | kiteconnect | ratio | and applied | target |",
        "|---|---|---|---|---|---|",
    ]
    for what, decoded, applied, target, peer_per_s in rows:
        theirs = "-" if peer_per_s is None else f"{peer_per_s:,.0f}"
        ratio = "-" if peer_per_s is None else f"{decoded / peer_per_s:.1f} ×"
        lines.append(
            f"| {what} | {decoded:,.0f} | {theirs} | {ratio} | {applied:,.0f} | {target:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    python = None
    CACHE.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            python = Toolchain(Path(folder)).python("kiteconnect")
    except Unavailable as error:
        print(f"kiteconnect is left out: {error}", file=sys.stderr)
    rows = [measure(*case, python=python if "Kite" in case[0] else None) for case in cases()]
    RESULTS.write_text(
        "# Feeds\n\n"
        "`python -m bench.feeds`: messages as the venues send them, "
        f"{PACKETS:,} packets of {INSTRUMENTS:,} instruments, best of {ROUNDS} rounds. Decoded "
        "into ticks, and applied to the quote board; the parser of the package kiteconnect decodes "
        f"the same bytes in the same run.\n\n{table(rows)}\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
