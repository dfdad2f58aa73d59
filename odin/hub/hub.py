"""Fan-out: one frame in, one write per subscriber and flush out.

Invariants: a topic's frames keep their order; nothing of a topic follows its unsubscribe; a
healthy subscriber misses nothing; a late one always gets the newest frame of each topic and owes
bounded memory; a fault at one sink ends that one alone. Publishing never awaits, locks, copies or
looks at a frame.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from time import monotonic

from odin.hub.outbox import Backlog, DeadSink, Outbox, Sink, Subscriber
from odin.metrics import Metrics
from odin.topics import Topic

log = logging.getLogger("odin.hub")

HIGH_WATER_BYTES = 64 * 1024
"""A subscriber whose transport held more than this before a write is late from then on."""
ROOM_BYTES = 16 * 1024
"""A subscriber has room for more, in a recording at full speed, with no more than this unsent."""
LOW_WATER_BYTES = 4 * 1024
"""A late subscriber gets more when no more than this has yet to be sent to it."""
CATCH_UP_BYTES = 16 * 1024
MAX_CATCH_UP_BYTES = 128 * 1024
"""What a late subscriber gets at once: little, because it can no longer be conflated, and twice as
much with each check that finds all of it sent."""
RELAPSE_S = 60.0
PROBATION_S = 1.0
"""Who is late again within RELAPSE_S must have had nothing unsent for PROBATION_S, or a reader that
is slow in large bites would have all its buffers filled with each of them."""
MAX_REPLIES = 256
MAX_REPLY_BYTES = 1024 * 1024
"""Control frames a late subscriber may be owed before it is given up."""
SLICE = 256
"""Writes in one turn of the event loop, so that reading never starves behind a large flush."""
LATE_CHECK_S = 0.01
CHECK_REST = 4
"""Late subscribers are looked at every LATE_CHECK_S, but with a rest of so many times what the last
look took: thousands of them must leave the others their share."""


def _ignore(_topics: Sequence[Topic]) -> None:
    return


class Hub:
    """Routes frames from topics to subscribers.

    on_wanted, on_unwanted: told the topics that got their first, or lost their last, subscriber.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        stall_timeout_s: float = 10.0,
        on_wanted: Callable[[Sequence[Topic]], None] = _ignore,
        on_unwanted: Callable[[Sequence[Topic]], None] = _ignore,
    ) -> None:
        self._metrics = metrics
        self._stall_timeout_s = stall_timeout_s
        self.on_wanted = on_wanted
        self.on_unwanted = on_unwanted
        self._subscribers: dict[Subscriber, None] = {}
        self._interest: dict[Topic, int] = {}
        self._outboxes: dict[frozenset[Topic], Outbox] = {}
        self._routes: dict[Topic, dict[Outbox, None]] = {}
        self._late: dict[Subscriber, None] = {}
        self._late_routes: dict[Topic, dict[Subscriber, None]] = {}
        self._dirty: list[Outbox] = []
        self._round: Iterator[None] | None = None
        self._is_scheduled = False
        self._late_timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ subscribers

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def late_count(self) -> int:
        """How many subscribers are late now."""
        return len(self._late)

    @property
    def has_room(self) -> bool:
        """Whether every subscriber's transport could take more at once."""
        return not self._late and all(
            subscriber.sink.backlog_bytes() <= ROOM_BYTES for subscriber in self._subscribers
        )

    @property
    def topics(self) -> Collection[Topic]:
        """The topics that have a subscriber."""
        return self._interest.keys()

    def attach(self, sink: Sink) -> Subscriber:
        """Add a socket, subscribed to nothing."""
        subscriber = Subscriber(sink)
        self._subscribers[subscriber] = None
        return subscriber

    def detach(self, subscriber: Subscriber, last_word: bytes = b"") -> None:
        """Remove a socket and all it subscribed; harmless when repeated.

        last_word: a control frame that goes out in any case, after what waits for a healthy
        subscriber, and instead of what a late one is owed.
        """
        if subscriber not in self._subscribers:
            return
        del self._subscribers[subscriber]
        if last_word:
            self._write(subscriber, [*self._pending(subscriber), last_word])
        topics = subscriber.topics
        if subscriber.backlog is not None:
            self._unroute_late(subscriber, topics)
            del self._late[subscriber]
            subscriber.backlog = None
        elif subscriber.outbox is not None:
            self._leave(subscriber)
        subscriber.topics = frozenset()
        self._lose_interest(topics)

    def subscribe(self, subscriber: Subscriber, topics: Iterable[Topic]) -> None:
        """Add topics. What is published before this call never reaches the subscriber."""
        added = frozenset(topics) - subscriber.topics
        if not added or subscriber not in self._subscribers:
            return
        if subscriber.backlog is not None:
            self._route_late(subscriber, added)
            subscriber.topics |= added
        else:
            self._move(subscriber, subscriber.topics | added)
        wanted = []
        for topic in added:
            count = self._interest.get(topic, 0)
            self._interest[topic] = count + 1
            if not count:
                wanted.append(topic)
        if wanted:
            self.on_wanted(wanted)

    def unsubscribe(self, subscriber: Subscriber, topics: Iterable[Topic]) -> None:
        """Remove topics. Frames that wait are written before this returns, none after."""
        removed = subscriber.topics.intersection(topics)
        if not removed:
            return
        if subscriber.backlog is not None:
            self._unroute_late(subscriber, removed)
            subscriber.backlog.discard(removed)
            subscriber.topics -= removed
        else:
            self._move(subscriber, subscriber.topics - removed)
        self._lose_interest(removed)

    def _lose_interest(self, topics: Iterable[Topic]) -> None:
        unwanted = []
        for topic in topics:
            count = self._interest[topic] - 1
            if count:
                self._interest[topic] = count
            else:
                del self._interest[topic]
                unwanted.append(topic)
        if unwanted:
            self.on_unwanted(unwanted)

    # ------------------------------------------------------------------ frames

    def publish(self, topic: Topic, frame: bytes, late_frame: bytes = b"") -> None:
        """Give a frame to every subscriber of the topic. Runs once per tick: keep it bare.

        late_frame: what late ones get instead, where `frame` means nothing without the one before.
        """
        outboxes = self._routes.get(topic)
        if outboxes:
            dirty = self._dirty
            for outbox in outboxes:
                frames = outbox.frames
                if not frames:
                    dirty.append(outbox)
                frames.append(frame)
            if not self._is_scheduled:
                self._schedule()
        if self._late_routes:
            late = self._late_routes.get(topic)
            if late:
                for subscriber in late:
                    self._hold(subscriber, topic, late_frame or frame)

    def has_late(self, topic: Topic) -> bool:
        """Whether a subscriber of the topic is late now."""
        return topic in self._late_routes

    def put(self, subscriber: Subscriber, frame: bytes) -> None:
        """Send a control frame (reply, notice) to one subscriber: in order, never conflated.

        Data published before it is written before it.
        """
        backlog = subscriber.backlog
        if backlog is None:
            self._write(subscriber, [*self._pending(subscriber), frame])
            return
        backlog.reply(frame)
        if backlog.reply_count > MAX_REPLIES or (
            backlog.reply_bytes > MAX_REPLY_BYTES and backlog.reply_count > 1
        ):
            self._report_stalled(subscriber)

    def deliver(self, subscriber: Subscriber, items: Sequence[tuple[Topic, bytes]]) -> None:
        """Send data frames to one subscriber only, such as the last known values."""
        if not items:
            return
        if subscriber.backlog is None:
            self._write(subscriber, [*self._pending(subscriber), *(frame for _, frame in items)])
            return
        for topic, frame in items:
            self._hold(subscriber, topic, frame)

    def put_all(self, frame: bytes) -> None:
        """Send a control frame to every subscriber, after all data published before it."""
        for subscriber in list(self._subscribers):
            if subscriber.backlog is not None:
                subscriber.backlog.settle()
            self.put(subscriber, frame)

    def _hold(self, subscriber: Subscriber, topic: Topic, frame: bytes) -> None:
        backlog = subscriber.backlog
        assert backlog is not None
        if topic in backlog.newest:
            self._metrics.frames_conflated += 1
        backlog.newest[topic] = frame

    def _pending(self, subscriber: Subscriber) -> list[bytes]:
        outbox = subscriber.outbox
        return outbox.take(subscriber) if outbox is not None else []

    def _write(self, subscriber: Subscriber, frames: list[bytes]) -> None:
        self._send(subscriber, b"".join(frames), len(frames))

    def _send(self, subscriber: Subscriber, data: bytes, count: int) -> None:
        metrics = self._metrics
        metrics.frames_delivered += count
        metrics.bytes_delivered += len(data)
        try:
            # Judged by what it held before this write: a large batch alone makes nobody late.
            if subscriber.sink.write(data) > HIGH_WATER_BYTES and subscriber in self._subscribers:
                self._fall_behind(subscriber)
        except Exception:  # noqa: BLE001 - logged in there
            self._give_up(subscriber)

    def _report_stalled(self, subscriber: Subscriber) -> None:
        try:
            subscriber.sink.on_stalled()
        except Exception:  # noqa: BLE001 - logged in there
            self._give_up(subscriber)

    def _give_up(self, subscriber: Subscriber) -> None:
        """Contain a fault of a sink, called where it was caught: the round must go on for others.

        The subscriber stays until its owner detaches it, so that no caller finds it gone halfway.
        """
        self._metrics.faults += 1
        log.exception("a subscriber was given up for a fault in the server")
        sink, subscriber.sink = subscriber.sink, DeadSink()
        asyncio.get_running_loop().call_soon(sink.on_fault)

    # ------------------------------------------------------------------ routes

    def _move(self, subscriber: Subscriber, topics: frozenset[Topic]) -> None:
        """Bring the subscriber up to date, then into the outbox of its new set of topics."""
        outbox = subscriber.outbox
        if outbox is not None:
            pending = outbox.take(subscriber)
            if pending:
                self._write(subscriber, pending)
                if subscriber.backlog is not None:  # that write found it late
                    self._route_late(subscriber, topics - subscriber.topics)
                    self._unroute_late(subscriber, subscriber.topics - topics)
                    subscriber.topics = topics
                    return
            if len(outbox.members) == 1 and topics and topics not in self._outboxes:
                self._rekey(outbox, topics)
                subscriber.topics = topics
                return
            self._leave(subscriber)
        subscriber.topics = topics
        if topics:
            self._join(subscriber)

    def _rekey(self, outbox: Outbox, topics: frozenset[Topic]) -> None:
        """Change the topics of an outbox with one member: only the difference is routed anew."""
        del self._outboxes[outbox.topics]
        self._unroute(outbox, outbox.topics - topics)
        for topic in topics - outbox.topics:
            self._routes.setdefault(topic, {})[outbox] = None
        outbox.topics = topics
        self._outboxes[topics] = outbox

    def _join(self, subscriber: Subscriber) -> None:
        outbox = self._outboxes.get(subscriber.topics)
        if outbox is None:
            outbox = self._outboxes[subscriber.topics] = Outbox(subscriber.topics)
            for topic in outbox.topics:
                self._routes.setdefault(topic, {})[outbox] = None
        outbox.join(subscriber)
        subscriber.topics = outbox.topics  # share one set among all its members

    def _leave(self, subscriber: Subscriber) -> None:
        outbox = subscriber.outbox
        assert outbox is not None
        outbox.leave(subscriber)
        if not outbox.members:
            del self._outboxes[outbox.topics]
            self._unroute(outbox, outbox.topics)

    def _unroute(self, outbox: Outbox, topics: Iterable[Topic]) -> None:
        for topic in topics:
            outboxes = self._routes[topic]
            del outboxes[outbox]
            if not outboxes:
                del self._routes[topic]

    def _route_late(self, subscriber: Subscriber, topics: Iterable[Topic]) -> None:
        for topic in topics:
            self._late_routes.setdefault(topic, {})[subscriber] = None

    def _unroute_late(self, subscriber: Subscriber, topics: Iterable[Topic]) -> None:
        for topic in topics:
            subscribers = self._late_routes[topic]
            del subscribers[subscriber]
            if not subscribers:
                del self._late_routes[topic]

    # ------------------------------------------------------------------ flushing

    def _schedule(self) -> None:
        self._is_scheduled = True
        # A tick leaves at the end of this turn of the loop. Ticks that arrive in the same turn
        # share its writes, so batches grow with the load by themselves; and between two rounds
        # the loop reads.
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write one slice; the rest of the round follows in later turns of the loop."""
        if self._round is None:
            self._round = self._write_round(self._take_dirty())
        if next(self._round, self) is None:
            asyncio.get_running_loop().call_soon(self._flush)
            return
        self._round = None
        self._is_scheduled = False
        if self._dirty:
            self._schedule()

    def flush_now(self) -> None:
        """Write everything that waits for subscribers that are not late."""
        while self._dirty or self._round is not None:
            for _ in self._round or self._write_round(self._take_dirty()):
                pass
            self._round = None

    def _take_dirty(self) -> list[Outbox]:
        dirty, self._dirty = self._dirty, []
        return dirty

    def _write_round(self, dirty: list[Outbox]) -> Iterator[None]:
        """Write what waits in these outboxes, yielding after every SLICE writes."""
        left = SLICE
        for outbox in dirty:
            frames = outbox.frames
            count = len(frames)
            if not count:
                continue  # a reply brought its only member up to date
            data = frames[0] if count == 1 else b"".join(frames)
            subscriber = outbox.only
            if subscriber is None:
                left = yield from self._write_shared(outbox, count, data, left)
                continue
            outbox.frames = []
            self._send(subscriber, data, count)
            left -= 1
            if not left:
                left = SLICE
                yield

    def _write_shared(
        self, outbox: Outbox, count: int, data: bytes, left: int
    ) -> Generator[None, None, int]:
        """Write an outbox of several members; return how many writes are left of the slice."""
        end_seq = outbox.first_seq + count
        for subscriber in tuple(outbox.members):
            missed = end_seq - subscriber.next_seq
            if subscriber.outbox is not outbox or missed <= 0:
                continue  # left, or brought up to date by a reply, since the round began
            if missed == count:
                subscriber.next_seq = end_seq
                self._send(subscriber, data, count)
            else:
                self._write(subscriber, outbox.take(subscriber))
            left -= 1
            if not left:
                left = SLICE
                yield
        outbox.drop(end_seq)
        if outbox.frames:  # published to while this round was writing
            self._dirty.append(outbox)
        return left

    # ------------------------------------------------------------------ late subscribers

    def _fall_behind(self, subscriber: Subscriber) -> None:
        """From now on keep only the newest frame of each topic for this subscriber."""
        self._metrics.peers_late += 1
        pending = self._pending(subscriber)
        if pending:
            subscriber.sink.write(b"".join(pending))
        held = subscriber.sink.backlog_bytes()
        if subscriber.outbox is not None:
            self._leave(subscriber)
        subscriber.backlog = Backlog(monotonic(), held, CATCH_UP_BYTES)
        self._late[subscriber] = None
        self._route_late(subscriber, subscriber.topics)
        if self._late_timer is None:
            loop = asyncio.get_running_loop()
            self._late_timer = loop.call_later(LATE_CHECK_S, self._check_late)

    def _check_late(self) -> None:
        """Give late subscribers what they can take; end those that take nothing."""
        now = monotonic()
        for subscriber in list(self._late):
            backlog = subscriber.backlog
            if backlog is None:
                continue
            try:
                self._check(subscriber, backlog, now)
            except Exception:  # noqa: BLE001 - logged in there
                self._give_up(subscriber)
        self._late_timer = None
        if self._late:
            rest_s = max(LATE_CHECK_S, CHECK_REST * (monotonic() - now))
            loop = asyncio.get_running_loop()
            self._late_timer = loop.call_later(rest_s, self._check_late)

    def _check(self, subscriber: Subscriber, backlog: Backlog, now: float) -> None:
        held = subscriber.sink.backlog_bytes()
        if held:
            backlog.held_at = now
            backlog.allowance_bytes = CATCH_UP_BYTES
        if not held or held < backlog.seen_bytes:
            backlog.progress_at = now
        backlog.seen_bytes = held
        if now - backlog.progress_at > self._stall_timeout_s:
            backlog.progress_at = now  # reported once in a while, not at every check
            self._report_stalled(subscriber)
        elif held <= LOW_WATER_BYTES:
            frames = backlog.take(backlog.allowance_bytes)
            backlog.allowance_bytes = min(2 * backlog.allowance_bytes, MAX_CATCH_UP_BYTES)
            if frames:
                self._write(subscriber, frames)
                backlog.seen_bytes = subscriber.sink.backlog_bytes()
            is_relapse = backlog.began_at - subscriber.caught_up_at < RELAPSE_S
            is_clear = not held and now - backlog.held_at >= (PROBATION_S if is_relapse else 0)
            if is_clear and not backlog.newest and not backlog.control:
                self._catch_up(subscriber, now)

    def _catch_up(self, subscriber: Subscriber, now: float) -> None:
        subscriber.caught_up_at = now
        self._unroute_late(subscriber, subscriber.topics)
        del self._late[subscriber]
        subscriber.backlog = None
        if subscriber.topics:
            self._join(subscriber)
