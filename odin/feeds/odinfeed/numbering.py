"""How one ODIN server numbers instruments: its settings, parsed once.

Servers agree on tokens, which are the exchanges', but not on the numbers of segments. Indices have
tokens of the server's own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from odin.errors import reflect
from odin.feeds.odinfeed.requests import MAX_UINT32, Scrip
from odin.model import InstrumentKey

_SEGMENT: Final = re.compile(r"\s*([0-9]{1,9})\s*=\s*([A-Z]{2,10}):([A-Z]{2,10})\s*")
_INDEX: Final = re.compile(r"([0-9]{1,9})_([0-9]{1,9})")


class Numbering:
    """Which instrument the server means by a segment and a token, and the other way around.

    segments: "1=NSE:CM". indices: the key of each "1_26000".
    Raises ValueError for a pair of another form, or a number given twice.
    """

    def __init__(self, segments: Iterable[str], indices: Mapping[str, InstrumentKey]) -> None:
        self._segments: dict[int, tuple[str, str]] = {}
        for text in segments:
            found = _SEGMENT.fullmatch(text)
            if found is None:
                raise ValueError(f"a segment must be like 1=NSE:CM, was {reflect(text)}")
            if int(found[1]) in self._segments:
                raise ValueError(f"segment {found[1]} was given twice")
            self._segments[int(found[1])] = (found[2], found[3])
        self._numbers: dict[tuple[str, str], int] = {}
        for number, pair in self._segments.items():
            self._numbers.setdefault(pair, number)  # the first of several is subscribed by
        self._indices = {parse_index(text): key for text, key in indices.items()}
        self._scrips = {key: scrip for scrip, key in self._indices.items()}

    def key(self, scrip: Scrip) -> InstrumentKey | None:
        """Return what a scrip is; None where the segment has no meaning here."""
        index = self._indices.get(scrip)
        if index is not None:
            return index
        pair = self._segments.get(scrip.segment)
        return None if pair is None else InstrumentKey(*pair, scrip.token)

    def scrip(self, key: InstrumentKey) -> Scrip | None:
        """Return how the server numbers an instrument; None where it cannot carry it."""
        index = self._scrips.get(key)
        if index is not None:
            return index
        number = self._numbers.get((key.exchange, key.segment))
        return None if number is None or not 0 <= key.token <= MAX_UINT32 else Scrip(number, key[2])


def parse_index(text: str) -> Scrip:
    """Return the scrip of "1_26000". Raises ValueError for another form."""
    found = _INDEX.fullmatch(text)
    if found is None:
        raise ValueError(f"an index must be like 1_26000=NSE:NIFTY 50, was {reflect(text)}")
    return Scrip(int(found[1]), int(found[2]))
