"""Which instruments the feeds must carry, and how much of each.

Demand turns many subscribers into one set of wanted instruments. Invariant: an instrument is
wanted, in the fullest mode that anybody asked for, from its first subscriber until `linger_s`
after its last. Nothing here knows a venue.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from odin.model import MODES, Instrument, InstrumentKey, Mode


class Want(NamedTuple):
    """One instrument in one mode."""

    key: InstrumentKey
    mode: Mode = "quote"


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not make the call."""
        ...


class _Departure:
    """Wants that lost their last subscriber together, and the timer that lets them go."""

    __slots__ = ("timer", "wants")

    def __init__(self, wants: set[Want]) -> None:
        self.wants = wants
        self.timer: Timer | None = None


class Demand:
    """Counts the subscribers of every instrument and keeps upstream wanting the right set.

    find: the instrument of a key, or None where the master has none now.
    want, unwant: what is told, once for each mode of a batch that changes something.
    linger_s: how long an instrument stays wanted after its last subscriber, so that a client that
        reconnects finds it flowing.
    call_later: the event loop's, unless a test brings its own.
    """

    def __init__(
        self,
        find: Callable[[InstrumentKey], Instrument | None],
        want: Callable[[Sequence[Instrument], Mode], None],
        unwant: Callable[[Sequence[InstrumentKey]], None],
        *,
        linger_s: float,
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        self._find = find
        self._want = want
        self._unwant = unwant
        self._linger_s = linger_s
        self._call_later = call_later
        self._counts: dict[Want, int] = {}
        self._lingering: dict[Want, _Departure] = {}
        self._asked: dict[InstrumentKey, tuple[Instrument, Mode]] = {}
        """What upstream was last asked for."""

    @property
    def wanted(self) -> frozenset[InstrumentKey]:
        """Every key with a subscriber, or that lingers after its last one."""
        return frozenset(want.key for want in self._counts.keys() | self._lingering.keys())

    def add(self, wants: Iterable[Want]) -> None:
        """Count one more subscriber of each; upstream hears at once of what is new."""
        fresh = []
        for want in wants:
            count = self._counts.get(want, 0)
            self._counts[want] = count + 1
            if count:
                continue
            departure = self._lingering.pop(want, None)
            if departure is None:
                fresh.append(want.key)
                continue
            departure.wants.discard(want)
            if not departure.wants and departure.timer is not None:
                departure.timer.cancel()
        self._ask(fresh)

    def remove(self, wants: Iterable[Want]) -> None:
        """Count one subscriber less of each; what has none is ignored."""
        gone = set()
        for want in wants:
            count = self._counts.get(want, 0)
            if count > 1:
                self._counts[want] = count - 1
            elif count:
                del self._counts[want]
                gone.add(want)
        if not gone:
            return
        departure = _Departure(gone)
        self._lingering.update(dict.fromkeys(gone, departure))
        if self._linger_s > 0:
            call_later = self._call_later or asyncio.get_running_loop().call_later
            departure.timer = call_later(self._linger_s, lambda: self._let_go(departure))
        else:
            self._let_go(departure)

    def refresh(self) -> None:
        """Ask again for what a new instrument master has added or changed."""
        self._ask(sorted(self.wanted))

    def close(self) -> None:
        """Cancel all timers; nothing is told upstream."""
        for departure in set(self._lingering.values()):
            if departure.timer is not None:
                departure.timer.cancel()
        self._lingering.clear()

    def _mode(self, key: InstrumentKey) -> Mode | None:
        """Return the fullest mode that is wanted, None where none is."""
        for mode in reversed(MODES):
            want = Want(key, mode)
            if want in self._counts or want in self._lingering:
                return mode
        return None

    def _ask(self, keys: Iterable[InstrumentKey]) -> None:
        """Tell upstream of each key in the mode that is wanted now, where it was told otherwise."""
        batches: dict[Mode, list[Instrument]] = {}
        for key in keys:
            instrument, mode = self._find(key), self._mode(key)
            if instrument is None or mode is None or self._asked.get(key) == (instrument, mode):
                continue
            self._asked[key] = (instrument, mode)
            batches.setdefault(mode, []).append(instrument)
        for mode, instruments in batches.items():
            self._want(instruments, mode)

    def _let_go(self, departure: _Departure) -> None:
        for want in departure.wants:
            del self._lingering[want]
        keys = sorted({want.key for want in departure.wants})
        gone = [key for key in keys if self._mode(key) is None]
        asked = [key for key in gone if self._asked.pop(key, None) is not None]
        if asked:
            self._unwant(asked)
        self._ask(key for key in keys if key in self._asked)
