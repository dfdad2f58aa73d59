"""What waits for the sockets.

An Outbox holds the frames that all subscribers with the same set of topics have yet to get, in
order, once for all of them. A Backlog holds what waits for one subscriber that fell behind: the
newest frame of each topic, and every control frame.
"""

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Protocol

from odin.topics import Topic

if TYPE_CHECKING:
    from collections.abc import Iterable


_NOTHING: frozenset[Topic] = frozenset()  # Python makes a new empty one each time


class Sink(Protocol):
    """What the hub needs of a socket. None of these calls may block or raise.

    One that raises all the same is given up: it is told `on_fault`, and nothing else any more.
    """

    def write(self, data: bytes) -> int:
        """Hand bytes to the transport; return how many it held before."""
        ...

    def backlog_bytes(self) -> int:
        """Return how many bytes have yet to be sent, by the transport and, if known, the kernel."""
        ...

    def on_stalled(self) -> None:
        """The subscriber took nothing for too long, or owes too much: end the connection."""
        ...

    def on_fault(self) -> None:
        """One of these calls raised: end the connection."""
        ...


class DeadSink:
    """Stands in for a sink that raised, so that it does so once."""

    def write(self, data: bytes) -> int:
        return 0

    def backlog_bytes(self) -> int:
        return 0

    def on_stalled(self) -> None:
        return

    def on_fault(self) -> None:
        return


class Subscriber:
    """One socket's place in the hub. Made by `Hub.attach`; its fields belong to the hub."""

    __slots__ = ("backlog", "caught_up_at", "next_seq", "outbox", "sink", "topics")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.topics = _NOTHING
        self.outbox: Outbox | None = None
        self.next_seq = 0
        self.backlog: Backlog | None = None
        self.caught_up_at = -inf


class Outbox:
    """Frames for every subscriber whose topics are exactly `topics`.

    Frames are numbered from `first_seq`; a subscriber remembers the number it wants next. So one
    subscriber can be brought up to date alone (before its reply is written) while the others
    still wait, and nobody gets a frame twice. An only member wants all that is there.
    """

    __slots__ = ("first_seq", "frames", "members", "only", "topics")

    def __init__(self, topics: frozenset[Topic]) -> None:
        self.topics = topics
        self.frames: list[bytes] = []
        self.first_seq = 0
        self.members: dict[Subscriber, None] = {}
        self.only: Subscriber | None = None
        """The member, where there is one. Most outboxes have one, and their state is cold when
        they are written: every object that need not be looked at saves a delivery a cache miss."""

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber that gets what is appended from now on."""
        self.only = None if self.members else subscriber
        self.members[subscriber] = None
        subscriber.outbox = self
        subscriber.next_seq = self.first_seq + len(self.frames)

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, together with whatever it has not taken."""
        del self.members[subscriber]
        subscriber.outbox = None
        self.only = None
        if len(self.members) == 1:
            (self.only,) = self.members
            self.drop(self.only.next_seq)

    def take(self, subscriber: Subscriber) -> list[bytes]:
        """Return the frames the subscriber has not had, and count them as had."""
        frames = self.frames[subscriber.next_seq - self.first_seq :]
        subscriber.next_seq += len(frames)
        if subscriber is self.only:
            self.drop(subscriber.next_seq)
        return frames

    def drop(self, end_seq: int) -> None:
        """Forget the frames before a number, which every member has had."""
        if end_seq > self.first_seq:
            del self.frames[: end_seq - self.first_seq]
            self.first_seq = end_seq


class Backlog:
    """What a late subscriber is owed: the newest frame of each topic, and control frames.

    Data is bounded by the topics, and shared with others; `reply_count` and `reply_bytes` say what
    control frames hold of memory that is this subscriber's alone; `allowance_bytes` is what it gets
    at once.
    """

    __slots__ = (
        "allowance_bytes",
        "began_at",
        "control",
        "held_at",
        "newest",
        "progress_at",
        "reply_bytes",
        "reply_count",
        "seen_bytes",
    )

    def __init__(self, now: float, seen_bytes: int, allowance_bytes: int) -> None:
        self.newest: dict[Topic, bytes] = {}
        self.control: deque[bytes] = deque()
        self.reply_count = 0
        self.reply_bytes = 0
        self.began_at = self.held_at = self.progress_at = now
        self.seen_bytes = seen_bytes
        self.allowance_bytes = allowance_bytes

    def reply(self, frame: bytes) -> None:
        """Add a control frame."""
        self.control.append(frame)
        self.reply_count += 1
        self.reply_bytes += len(frame)

    def settle(self) -> None:
        """Give the data that waits its place before every later control frame."""
        self.control.extend(self.newest.values())
        self.newest.clear()

    def discard(self, topics: "Iterable[Topic]") -> None:
        """Forget what waits on these topics."""
        for topic in topics:
            self.newest.pop(topic, None)

    def take(self, max_bytes: int) -> list[bytes]:
        """Remove and return control frames, then data, until `max_bytes` is reached."""
        frames = []
        size = 0
        while self.control and size < max_bytes:
            frame = self.control.popleft()
            size += len(frame)
            frames.append(frame)
        if not self.control:
            self.reply_count = self.reply_bytes = 0
        newest = self.newest
        while newest and size < max_bytes:
            frame = newest.pop(next(iter(newest)))
            size += len(frame)
            frames.append(frame)
        return frames
