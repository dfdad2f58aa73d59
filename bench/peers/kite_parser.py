"""Parses messages with the parser of the client package `kiteconnect`.

Run by bench/feeds.py in an environment that has the package: reads a file of messages (u32 length
and bytes, little-endian) and prints the seconds that parsing all of them took.
"""

import struct
import sys
import time
from pathlib import Path

from kiteconnect import KiteTicker


def main(path: str) -> None:
    data = Path(path).read_bytes()
    messages = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        messages.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    parse = KiteTicker("", "")._parse_binary
    begin = time.perf_counter()
    packets = sum(len(parse(message)) for message in messages)
    print(time.perf_counter() - begin, packets)


if __name__ == "__main__":
    main(sys.argv[1])
