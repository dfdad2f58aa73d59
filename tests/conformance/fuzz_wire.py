"""Coverage-guided fuzzing of everything that reads a client's text: a value or a ClientError.

    pip install atheris && python -m tests.conformance.fuzz_wire [SECONDS]

Not part of the tests: atheris exists for few platforms, and tests/protocols/enhanced/test_wire.py
holds the same statement against Hypothesis in every run. Exit code 77 where atheris is missing.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.stderr.write("atheris is not installed: nothing was fuzzed\n")
    sys.exit(77)

with atheris.instrument_imports(include=["odin", "json"]):
    from odin.errors import ClientError
    from odin.protocols.enhanced import wire

from tests.support.hostile import CORPUS

SECONDS = "60"


def read_all(data: bytes) -> None:
    """Fail for whatever a client could say that ends in anything but a value or a ClientError."""
    text = data.decode("utf-8", "ignore")
    for read in (wire.decode_request, wire.decode_credentials, wire.echo_of_refused):
        try:
            read(text)
        except ClientError as error:
            assert len(error.message) <= 200
            assert error.message.isprintable()
    with suppress(ClientError):
        wire.client_id_of([text])


def main() -> None:
    seconds = sys.argv[1] if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as seeds:
        messages = [message for kind in CORPUS.values() for message in kind]
        for number, message in enumerate(messages):
            Path(seeds, str(number)).write_bytes(message.encode("utf-8", "surrogatepass"))
        options = [f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=1024"]
        atheris.Setup([sys.argv[0], *options, seeds], read_all)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
