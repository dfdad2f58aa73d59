"""The hub: routing, order, sharing, pacing, and what happens to a subscriber that is late."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from odin.hub import hub as hub_module
from odin.hub.hub import (
    HIGH_WATER_BYTES,
    LOW_WATER_BYTES,
    MAX_REPLIES,
    MAX_REPLY_BYTES,
    Hub,
)
from odin.hub.outbox import Subscriber
from odin.metrics import Metrics


class Socket:
    """A sink whose transport holds what the test says."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.held = 0
        self.stalls = 0

    def write(self, data: bytes) -> int:
        self.writes.append(data)
        return self.held

    def backlog_bytes(self) -> int:
        return self.held

    def on_stalled(self) -> None:
        self.stalls += 1

    @property
    def text(self) -> str:
        return b"".join(self.writes).decode()


async def turn(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    made = Hub(Metrics())
    yield made
    for subscriber in list(made._subscribers):
        made.detach(subscriber)
    timer = made._late_timer
    if timer is not None:
        timer.cancel()


def add(hub: Hub, *topics: str) -> tuple[Socket, Subscriber]:
    socket = Socket()
    subscriber = hub.attach(socket)
    hub.subscribe(subscriber, topics)
    return socket, subscriber


async def test_only_subscribers_of_a_topic_get_its_frames(hub: Hub) -> None:
    one, _ = add(hub, "a")
    both, _ = add(hub, "a", "b")
    none, _ = add(hub)
    hub.publish("a", b"1")
    hub.publish("b", b"2")
    hub.publish("c", b"3")
    await turn()
    assert (one.text, both.text, none.text) == ("1", "12", "")


async def test_frames_of_one_turn_leave_in_one_write(hub: Hub) -> None:
    socket, _ = add(hub, "a")
    for frame in (b"1", b"2", b"3"):
        hub.publish("a", frame)
    await turn()
    assert socket.writes == [b"123"]


async def test_subscribers_with_the_same_topics_share_the_joined_bytes(hub: Hub) -> None:
    first, _ = add(hub, "a", "b")
    second, other = add(hub, "b")
    hub.subscribe(other, ["a"])
    hub.publish("a", b"x" * 300)
    hub.publish("b", b"y" * 300)
    await turn()
    assert first.writes[0] is second.writes[0]


async def test_a_reply_follows_the_data_before_it_and_precedes_the_data_after(hub: Hub) -> None:
    socket, subscriber = add(hub, "a")
    hub.publish("a", b"1")
    hub.put(subscriber, b"R")
    hub.publish("a", b"2")
    await turn()
    assert socket.text == "1R2"


async def test_a_reply_to_one_does_not_disturb_the_others_of_its_outbox(hub: Hub) -> None:
    one, subscriber = add(hub, "a")
    other, _ = add(hub, "a")
    hub.publish("a", b"1")
    hub.put(subscriber, b"R")
    hub.publish("a", b"2")
    await turn()
    assert (one.text, other.text) == ("1R2", "12")


async def test_nothing_published_before_a_subscribe_arrives(hub: Hub) -> None:
    _, first = add(hub, "a")
    hub.publish("a", b"1")
    late_comer, _ = add(hub, "a")
    hub.publish("a", b"2")
    await turn()
    assert late_comer.text == "2"
    assert first.topics == {"a"}


async def test_nothing_follows_an_unsubscribe(hub: Hub) -> None:
    socket, subscriber = add(hub, "a", "b")
    hub.publish("a", b"1")
    hub.unsubscribe(subscriber, ["a"])
    hub.put(subscriber, b"R")
    hub.publish("a", b"2")
    hub.publish("b", b"3")
    await turn()
    assert socket.text == "1R3"


async def test_subscribing_and_unsubscribing_twice_changes_nothing(hub: Hub) -> None:
    socket, subscriber = add(hub, "a")
    hub.subscribe(subscriber, ["a"])
    hub.unsubscribe(subscriber, ["z"])
    hub.publish("a", b"1")
    await turn()
    assert socket.text == "1"
    hub.unsubscribe(subscriber, ["a"])
    hub.unsubscribe(subscriber, ["a"])
    assert "a" not in hub.topics


async def test_a_detached_socket_gets_nothing_and_leaves_no_route(hub: Hub) -> None:
    socket, subscriber = add(hub, "a")
    hub.publish("a", b"1")
    hub.detach(subscriber)
    hub.detach(subscriber)
    hub.subscribe(subscriber, ["a"])
    hub.publish("a", b"2")
    await turn()
    assert socket.text == ""
    assert len(hub) == 0
    assert not hub._routes
    assert not hub._outboxes


async def test_a_last_word_follows_what_waits(hub: Hub) -> None:
    socket, subscriber = add(hub, "a")
    hub.publish("a", b"1")
    hub.detach(subscriber, b"BYE")
    hub.publish("a", b"2")
    await turn()
    assert socket.text == "1BYE"


async def test_a_last_word_to_a_late_subscriber_replaces_what_it_is_owed(hub: Hub) -> None:
    socket, subscriber = add(hub, "a")
    make_late(hub, socket, subscriber)
    hub.publish("a", b"1")
    hub.put(subscriber, b"R")
    hub.detach(subscriber, b"BYE")
    assert socket.text == "BYE"
    assert hub.late_count == 0


async def test_first_and_last_subscribers_are_announced() -> None:
    calls: list[tuple[str, list[object]]] = []
    hub = Hub(
        Metrics(),
        on_wanted=lambda topics: calls.append(("want", sorted(map(str, topics)))),
        on_unwanted=lambda topics: calls.append(("unwant", sorted(map(str, topics)))),
    )
    _, one = add(hub, "a", "b")
    _, two = add(hub, "b", "c")
    hub.unsubscribe(one, ["b"])
    hub.detach(two)
    hub.detach(one)
    assert calls == [
        ("want", ["a", "b"]),
        ("want", ["c"]),
        ("unwant", ["b", "c"]),
        ("unwant", ["a"]),
    ]


async def test_put_all_reaches_everybody_once(hub: Hub) -> None:
    sockets = [add(hub, *topics)[0] for topics in (["a"], ["a"], ["b"], [])]
    hub.put_all(b"!")
    assert [socket.text for socket in sockets] == ["!"] * 4


async def test_a_large_flush_leaves_room_for_the_loop(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SLICE", 2)
    sockets = [add(hub, "a")[0] for _ in range(5)]
    hub.publish("a", b"1")
    written = []
    for _ in range(5):
        await asyncio.sleep(0)
        written.append(sum(bool(socket.writes) for socket in sockets))
    assert written[0] == 2
    assert written[-1] == 5


async def test_frames_published_between_two_slices_are_neither_lost_nor_reordered(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SLICE", 1)
    pairs = [add(hub, "a") for _ in range(4)]
    hub.publish("a", b"1")
    await asyncio.sleep(0)
    hub.publish("a", b"2")
    hub.put(pairs[3][1], b"R")
    hub.unsubscribe(pairs[2][1], ["a"])
    hub.publish("a", b"3")
    await turn(20)
    assert [socket.text for socket, _ in pairs] == ["123", "123", "12", "12R3"]


async def test_a_slow_flush_is_followed_by_a_pause(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(hub_module, "perf_counter", lambda: now[0])

    class Slow(Socket):
        def write(self, data: bytes) -> int:
            now[0] += 0.008
            return super().write(data)

    socket = Slow()
    hub.subscribe(hub.attach(socket), ["a"])
    hub.publish("a", b"1")
    await turn()
    assert socket.text == "1"
    hub.publish("a", b"2")
    await turn()
    assert socket.text == "1", "the second flush came without the pause"
    now[0] += 0.0021
    await asyncio.sleep(0.005)
    assert socket.text == "12"


# ---------------------------------------------------------------------- late subscribers


def make_late(hub: Hub, socket: Socket, subscriber: Subscriber) -> None:
    socket.held = HIGH_WATER_BYTES + 1
    hub.put(subscriber, b"^")
    assert subscriber.backlog is not None
    socket.writes.clear()


async def test_a_late_subscriber_keeps_the_newest_frame_of_each_topic(hub: Hub) -> None:
    socket, subscriber = add(hub, "a", "b")
    healthy, _ = add(hub, "a", "b")
    make_late(hub, socket, subscriber)
    for number in range(3):
        hub.publish("a", f"a{number}".encode())
        hub.publish("b", f"b{number}".encode())
    await turn()
    assert socket.text == ""
    assert healthy.text == "a0b0a1b1a2b2"
    socket.held = 0
    hub._check_late()
    assert socket.text == "a2b2"
    assert hub.late_count == 0
    hub.publish("a", b"a9")
    await turn()
    assert socket.text == "a2b2a9"
    assert hub._metrics.frames_conflated == 4


async def test_replies_to_a_late_subscriber_are_kept_in_order_and_come_first(hub: Hub) -> None:
    socket, subscriber = add(hub, "a")
    make_late(hub, socket, subscriber)
    hub.publish("a", b"1")
    hub.put(subscriber, b"R")
    hub.put(subscriber, b"S")
    hub.deliver(subscriber, [("a", b"2")])
    socket.held = 0
    hub._check_late()
    assert socket.text == "RS2"


async def test_an_unsubscribe_drops_what_waits_for_a_late_subscriber(hub: Hub) -> None:
    socket, subscriber = add(hub, "a", "b")
    make_late(hub, socket, subscriber)
    hub.publish("a", b"1")
    hub.publish("b", b"2")
    hub.unsubscribe(subscriber, ["a"])
    hub.subscribe(subscriber, ["c"])
    hub.publish("a", b"3")
    hub.publish("c", b"4")
    socket.held = 0
    hub._check_late()
    assert socket.text == "24"
    assert subscriber.topics == {"b", "c"}


async def test_a_late_subscriber_that_owes_too_many_replies_is_ended(hub: Hub) -> None:
    socket, subscriber = add(hub)
    make_late(hub, socket, subscriber)
    for _ in range(MAX_REPLIES):
        hub.put(subscriber, b"R")
    assert socket.stalls == 0
    hub.put(subscriber, b"R")
    assert socket.stalls == 1


async def test_a_late_subscriber_that_owes_too_many_bytes_of_replies_is_ended(hub: Hub) -> None:
    socket, subscriber = add(hub)
    make_late(hub, socket, subscriber)
    hub.put(subscriber, b"R" * 3 * MAX_REPLY_BYTES)
    assert socket.stalls == 0, "one answer may be large"
    hub.put(subscriber, b"R")
    assert socket.stalls == 1


async def test_what_is_said_to_all_keeps_its_place_behind_the_data_of_a_late_one(hub: Hub) -> None:
    socket, subscriber = add(hub, "a", "b")
    make_late(hub, socket, subscriber)
    hub.publish("a", b"1")
    hub.publish("b", b"2")
    hub.put_all(b"CLOSED")
    hub.publish("a", b"3")
    socket.held = 0
    hub._check_late()
    assert socket.text == "12CLOSED3"
    assert hub.late_count == 0


async def test_replies_that_were_taken_are_owed_no_more(hub: Hub) -> None:
    socket, subscriber = add(hub)
    for _ in range(3):
        make_late(hub, socket, subscriber)
        for _ in range(MAX_REPLIES):
            hub.put(subscriber, b"R")
        socket.held = 0
        hub._check_late()
    assert socket.stalls == 0


async def test_only_a_subscriber_without_progress_is_ended(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(hub_module, "monotonic", lambda: now[0])
    stuck, one = add(hub, "a")
    slow, two = add(hub, "a")
    make_late(hub, stuck, one)
    make_late(hub, slow, two)
    for _ in range(12):
        now[0] += 1
        slow.held -= 100
        hub._check_late()
    assert (stuck.stalls, slow.stalls) == (1, 0)


async def test_a_large_batch_alone_makes_nobody_late(hub: Hub) -> None:
    socket, subscriber = add(hub, "a")
    hub.publish("a", b"x" * (4 * HIGH_WATER_BYTES))
    await turn()
    assert subscriber.backlog is None
    assert len(socket.text) == 4 * HIGH_WATER_BYTES


async def test_a_late_subscriber_catches_up_by_itself(hub: Hub) -> None:
    socket, subscriber = add(hub, "a")
    make_late(hub, socket, subscriber)
    hub.publish("a", b"1")
    socket.held = LOW_WATER_BYTES
    async with asyncio.timeout(5):
        while subscriber.backlog is not None:
            await asyncio.sleep(0.005)
    assert socket.text == "1"


# ---------------------------------------------------------------------- any interleaving

TOPICS = st.sampled_from("abcde")
WHO = st.integers(0, 3)


class HubMachine(RuleBasedStateMachine):
    """Against the simplest model there is: per subscriber, what it must have seen.

    Frames are `topic:number;`. A subscriber that was never late must have every frame published
    while it was subscribed, in order; one that was late must have the newest; nobody may have a
    frame of a topic after its unsubscribe was acknowledged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.hub = Hub(Metrics())
        self.number = 0
        self.slice, hub_module.SLICE = hub_module.SLICE, 2  # rounds that span several turns

    def teardown(self) -> None:
        hub_module.SLICE = self.slice
        timer = self.hub._late_timer
        if timer is not None:
            timer.cancel()
        self.loop.close()

    def run(self, call, *args) -> None:
        async def inside() -> None:
            call(*args)

        self.loop.run_until_complete(inside())

    @initialize()
    def connect_all(self) -> None:
        self.sockets = [Socket() for _ in range(4)]
        self.members = [self.hub.attach(socket) for socket in self.sockets]
        self.topics: list[set[str]] = [set() for _ in range(4)]
        self.expected: list[list[str]] = [[] for _ in range(4)]
        self.was_late = [False] * 4
        self.newest: list[dict[str, str]] = [{} for _ in range(4)]

    @rule(topic=TOPICS)
    def publish(self, topic: str) -> None:
        self.number += 1
        frame = f"{topic}:{self.number};"
        self.run(self.hub.publish, topic, frame.encode())
        for who in range(4):
            if topic in self.topics[who]:
                self.expected[who].append(frame)
                self.newest[who][topic] = frame

    @rule(who=WHO, topics=st.sets(TOPICS, min_size=1))
    def subscribe(self, who: int, topics: set[str]) -> None:
        self.run(self.hub.subscribe, self.members[who], topics)
        self.topics[who] |= topics

    @rule(who=WHO, topics=st.sets(TOPICS, min_size=1))
    def unsubscribe(self, who: int, topics: set[str]) -> None:
        gone = self.topics[who] & topics
        self.run(self.hub.unsubscribe, self.members[who], topics)
        self.number += 1
        mark = f"-{''.join(sorted(gone))}:{self.number};"
        self.run(self.hub.put, self.members[who], mark.encode())
        self.topics[who] -= topics
        self.expected[who].append(mark)
        for topic in gone:
            self.newest[who].pop(topic, None)

    @rule(who=WHO)
    def reply(self, who: int) -> None:
        self.number += 1
        mark = f"!:{self.number};"
        self.run(self.hub.put, self.members[who], mark.encode())
        self.expected[who].append(mark)

    @rule(who=WHO, held=st.sampled_from([0, LOW_WATER_BYTES, HIGH_WATER_BYTES + 1]))
    def transport_holds(self, who: int, held: int) -> None:
        self.sockets[who].held = held

    @rule(who=WHO)
    def reconnect(self, who: int) -> None:
        self.run(self.hub.detach, self.members[who])
        self.sockets[who] = Socket()
        self.members[who] = self.hub.attach(self.sockets[who])
        self.topics[who] = set()
        self.expected[who] = []
        self.newest[who] = {}
        self.was_late[who] = False

    @rule(turns=st.integers(1, 3))
    def loop_turns(self, turns: int) -> None:
        self.loop.run_until_complete(turn(turns))

    @rule()
    def late_check(self) -> None:
        self.run(self.hub._check_late)

    @invariant()
    def late_is_noted(self) -> None:
        for who, member in enumerate(getattr(self, "members", [])):
            if member.backlog is not None:
                self.was_late[who] = True
                assert len(member.backlog.newest) <= len(self.topics[who])

    @rule()
    def everything_arrives(self) -> None:
        for socket in self.sockets:
            socket.held = 0
        self.run(self.hub.flush_now)
        for _ in range(3):
            self.run(self.hub._check_late)
        self.run(self.hub.flush_now)
        for who in range(4):
            seen = self.sockets[who].text.split(";")[:-1]
            seen = [f"{part};" for part in seen]
            if not self.was_late[who]:
                assert seen == self.expected[who]
                continue
            for topic, frame in self.newest[who].items():
                assert [s for s in seen if s.startswith(f"{topic}:")][-1] == frame
            assert [s for s in seen if s[0] in "!-"] == [
                s for s in self.expected[who] if s[0] in "!-"
            ]
            for topic in "abcde":
                numbers = [int(s[2:-1]) for s in seen if s.startswith(f"{topic}:")]
                assert numbers == sorted(set(numbers))
            self.nothing_after_unsubscribe(seen, self.expected[who])

    @staticmethod
    def nothing_after_unsubscribe(seen: list[str], published: list[str]) -> None:
        """A frame published before an unsubscribe may not be seen after its mark."""
        for mark in (s for s in seen if s[0] == "-"):
            gone, number = mark[1:-1].split(":")
            for frame in seen[seen.index(mark) + 1 :]:
                if frame[0] in gone:
                    assert int(frame[2:-1]) > int(number)
        assert set(seen) <= set(published)


HubMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHubInAnyOrder = HubMachine.TestCase
