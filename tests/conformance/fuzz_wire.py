"""Coverage-guided fuzzing of everything that reads what others send: a value, or the error that
the contract names.

    pip install atheris && python -m tests.conformance.fuzz_wire client|kite|odin [SECONDS]

Not part of the tests: atheris exists for few platforms, and the tests of each `wire.py` hold the
same statement against Hypothesis in every run. Exit code 77 where atheris is missing.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.stderr.write("atheris is not installed: nothing was fuzzed\n")
    sys.exit(77)

with atheris.instrument_imports(include=["odin", "json"]):
    from odin.errors import ClientError, RemoteWireError
    from odin.feeds.base import Decoder
    from odin.feeds.kite import text as kite_text
    from odin.feeds.kite import wire as kite_wire
    from odin.feeds.odinfeed import framing, requests
    from odin.feeds.odinfeed import wire as odin_wire
    from odin.protocols.enhanced import wire

from odin.model import InstrumentKey
from odin.settings import KiteSettings, OdinFeedSettings
from tests.support.hostile import CORPUS

SECONDS = "60"
NOW_MS = 1_756_971_591_651
NIFTY = {"NIFTY 50": InstrumentKey("NSE", "INDEX", 26000)}


def read_client(data: bytes) -> None:
    """What a client may say: a value or a ClientError that is safe to show."""
    text = data.decode("utf-8", "ignore")
    for read in (wire.decode_request, wire.decode_credentials, wire.echo_of_refused):
        try:
            read(text)
        except ClientError as error:
            assert len(error.message) <= 200
            assert error.message.isprintable()
    with suppress(ClientError):
        wire.client_id_of([text])


def read_kite(data: bytes) -> None:
    """What Kite may send: packets or a RemoteWireError; ticks that can be, the rest counted."""
    with suppress(RemoteWireError):
        packets = kite_wire.decode_message(data)
        assert kite_wire.decode_message(kite_wire.encode_message(packets)) == packets
    text = data.decode("utf-8", "surrogateescape")
    for read in (kite_text.decode_text, kite_text.decode_request):
        with suppress(RemoteWireError):
            read(text)
    check_ticks(kite_wire.KiteDecoder(KiteSettings(indices=()), {}), [data, text])


def read_odin(data: bytes) -> None:
    """What an ODIN server may send, framed and not, whole and in pieces."""
    for read in (requests.decode_request, odin_wire.decode_record, odin_wire.decode_time_ms):
        with suppress(RemoteWireError):
            read(data)
    with suppress(RemoteWireError):
        framing.inflate(data)
    framed = framing.encode_plain_frame(framing.encode_messages([data[:4096]]))
    for pieces in ([data], [data[:7], data[7:]], [framed]):
        check_ticks(odin_wire.OdinDecoder(OdinFeedSettings(indices=()), {}), pieces)


def check_ticks(decoder: Decoder, pieces: Iterable[bytes | str]) -> None:
    for piece in pieces:
        for tick in filter(None, decoder.ticks(piece, NOW_MS)):
            assert math.isfinite(tick.ltp)
            assert tick.ltp > 0


def seeds_of_clients() -> list[bytes]:
    messages = [message for kind in CORPUS.values() for message in kind]
    return [message.encode("utf-8", "surrogatepass") for message in messages]


def seeds_of_kite() -> list[bytes]:
    packets: list[kite_wire.Packet] = [
        kite_wire.LtpPacket(779_521, 80_005),
        kite_wire.QuotePacket(779_521, 80_005, 1, 80_000, 9, 7, 8, 1, 2, 3, 4),
        kite_wire.IndexQuotePacket(256_265, 2_400_000, 3, 2, 1, 1, 1),
    ]
    return [
        *(kite_wire.encode_message([packet]) for packet in packets),
        kite_wire.encode_message(packets),
        b"\0",
        b'{"type":"error","data":"x"}',
        b'{"a":"mode","v":["full",[1]]}',
    ]


def seeds_of_odin() -> list[bytes]:
    touchline = odin_wire.encode_message(209, ((1, 1), (7, 22), (8, 100), (399, 100)))
    return [
        touchline,
        framing.encode_frame(framing.encode_messages([touchline])),
        framing.encode_plain_frame(framing.encode_messages([touchline] * 3)),
        b"63=FT3.0|64=128|65=1|1=1|7=22|8=100|50=" + bytes(64),
        b"63=FT3.0|64=206|65=84|66=x|1=1$7=22|230=1",
        b"2012-09-04 152908",
    ]


READERS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "client": (read_client, seeds_of_clients),
    "kite": (read_kite, seeds_of_kite),
    "odin": (read_odin, seeds_of_odin),
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(f"say what to fuzz: {', '.join(READERS)}")
    read, seeds_of = READERS[sys.argv[1]]
    seconds = sys.argv[2] if len(sys.argv) > 2 else SECONDS
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(seeds_of()):
            Path(seeds, str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=1024"]
        atheris.Setup([sys.argv[0], *options, seeds], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
