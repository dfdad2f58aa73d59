"""What a feed is: the contract between a source of ticks and the rest of the server.

A feed knows one venue's protocol and nothing else: when it runs, what it carries and what happens
when it fails is the supervisor's. docs/writing-a-feed.md holds the cards a feed must pass.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

from odin.model import Instrument, InstrumentKey, Mode, Tick

LinkEvent = Literal["login", "ready", "heard"]
"""What a feed with a connection says about it. login: it is open, credentials have been sent.
ready: they were accepted, whatever is wanted flows from now on. heard: a sign of life that is not
a tick, such as a heartbeat."""

Emit = Callable[[Tick], None]
Report = Callable[[LinkEvent], None]


def ignore(_event: LinkEvent) -> None:
    """Report to nobody."""


class Feed(Protocol):
    """A source of ticks."""

    name: str
    """A short lower-case name, shown to clients: "simulator"."""
    is_simulated: bool
    """True where what it delivers is not the live market."""

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        """Deliver ticks until cancelled; return when the source has ended for good.

        Ticks of one instrument come in the order of their exchange time. May be called again
        after it has raised. A feed without a connection reports nothing.

        Raises FeedUnavailable where trying again may help, FeedRejected where it cannot before
        the credentials change.
        """
        ...

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        """Carry these too, at least in this mode; those that are carried change to it. Cheap and
        idempotent; may be called before and during `run`."""
        ...

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Carry these no longer; unknown keys are ignored. May be called at any time."""
        ...


class Decoder(Protocol):
    """What one connection of a feed receives, as ticks.

    Without I/O or a clock, so that a capture of the connection gives the same ticks again.
    """

    malformed: int
    """Messages, or parts of them, that could not be understood and were passed over."""

    def reset(self) -> None:
        """A new connection begins: forget what belonged to the one before."""
        ...

    def ticks(self, data: bytes | str, received_ms: int) -> Iterable[Tick | None]:
        """Yield the ticks of one message, and None for each part of it that is none, so that others
        may run between any two. `received_ms` stands in where the venue sends no time."""
        ...
