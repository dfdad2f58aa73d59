"""A recording made of captures: what feeds sent, through the decoders of those feeds.

Files of one feed follow each other; those of several are merged by time of arrival. Decoded while
it is iterated, so that a whole day needs no memory. Iterating twice gives the same ticks.
"""

import heapq
import logging
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import Path

from odin.clock import NS_PER_MS
from odin.errors import ReferenceDataError, reflect
from odin.feeds.base import Decoder
from odin.feeds.capture import SUFFIX, Record, is_capture, read_header, read_records
from odin.model import Instrument, Tick

log = logging.getLogger(__name__)


class CapturedRecording:
    """Ticks of captures, by the time they arrived."""

    instruments: tuple[Instrument, ...] = ()
    """None of its own: what the registry does not know is not played."""
    problems: tuple[object, ...] = ()

    def __init__(self, chains: "dict[str, list[Path]]", decoder: Callable[[str], Decoder]) -> None:
        self._chains = chains
        self._decoder = decoder
        first = [record.at_ns for paths in chains.values() for record in _first(paths)]
        if not first:
            raise ReferenceDataError("the captures held nothing")
        self.start_ms = min(first) // NS_PER_MS
        """When the first message arrived."""

    @classmethod
    def load(cls, paths: Iterable[Path], decoder: Callable[[str], Decoder]) -> "CapturedRecording":
        """Open captures, and all captures of folders.

        decoder: a new decoder of the feed with this name; raises KeyError for an unknown one, and
            ValueError where its settings cannot be used.
        Raises ReferenceDataError where nothing can be played. What is no capture is left out of a
        folder: a machine that lost its power may have left an empty file.
        """
        named = list(paths)
        chains: dict[str, list[tuple[int, Path]]] = {}
        for file in [file for path in named for file in _files(path)]:
            try:
                feed = read_header(file).feed
            except ReferenceDataError as error:
                if file in named:
                    raise
                log.error("a file was left out: %s", error)
                continue
            try:
                decoder(feed)
            except KeyError:
                raise ReferenceDataError(
                    f"{reflect(file.name)} is of {reflect(feed)}, which is no feed of this version"
                ) from None
            except ValueError as error:
                raise ReferenceDataError(
                    f"{reflect(file.name)} cannot be read with the settings of {reflect(feed)}: "
                    f"{error}"
                ) from None
            for record in _first([file]):
                chains.setdefault(feed, []).append((record.at_ns, file))
        return cls({f: [file for _, file in sorted(c)] for f, c in chains.items()}, decoder)

    def timeline(self) -> Iterator[tuple[int, Tick]]:
        """Yield every tick with the ms it arrived at, oldest first."""
        chains = [self._play(feed, paths) for feed, paths in self._chains.items()]
        return chains[0] if len(chains) == 1 else heapq.merge(*chains, key=itemgetter(0))

    def _play(self, feed: str, paths: list[Path]) -> Iterator[tuple[int, Tick]]:
        decoders: dict[int, Decoder] = {}
        at_ms = 0
        for at_ns, stream, data in _records(paths):
            decoder = decoders.get(stream)
            if decoder is None:
                decoder = decoders[stream] = self._decoder(feed)
            if data is None:
                decoder.reset()
                continue
            received_ms = at_ns // NS_PER_MS
            at_ms = max(at_ms, received_ms)  # the clock of the machine may have been set back
            for tick in decoder.ticks(data, received_ms):
                if tick is not None:
                    yield at_ms, tick
        malformed = sum(decoder.malformed for decoder in decoders.values())
        if malformed:
            log.warning("%d messages in the captures of %s made no sense", malformed, feed)


def _records(paths: list[Path]) -> Iterator[Record]:
    """Yield the records of all files; where one is damaged, go on with the next."""
    for path in paths:
        try:
            yield from read_records(path)
        except ReferenceDataError as error:
            log.error("the rest of a capture was left out: %s", error)


def holds_captures(path: Path) -> bool:
    """Whether a file is a capture, or a folder has some."""
    return is_capture(path) or (path.is_dir() and any(path.glob(f"*{SUFFIX}")))


def _files(path: Path) -> list[Path]:
    return sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]


def _first(paths: list[Path]) -> Iterator[Record]:
    """Yield the first record of the first file that has one."""
    for path in paths:
        for record in read_records(path):
            yield record
            return
