"""The hub: routing, order, sharing, who is late, and what a fault of one sink costs the others."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from odin.hub import hub as hub_module
from odin.hub.hub import (
    CATCH_UP_BYTES,
    HIGH_WATER_BYTES,
    LOW_WATER_BYTES,
    MAX_CATCH_UP_BYTES,
    MAX_REPLIES,
    MAX_REPLY_BYTES,
    PROBATION_S,
    RELAPSE_S,
    Hub,
)
from odin.hub.outbox import Subscriber
from odin.metrics import Metrics
from tests.hub.fakes import Socket, turn


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


async def test_the_loop_reads_between_two_rounds_and_nothing_else_delays_the_second(
    hub: Hub,
) -> None:
    class Endless(Socket):
        def write(self, data: bytes) -> int:
            hub.publish("a", b"2")
            return super().write(data)

    socket = Endless()
    hub.subscribe(hub.attach(socket), ["a"])
    hub.publish("a", b"1")
    written = []
    for _ in range(4):
        await asyncio.sleep(0)
        written.append(len(socket.writes))
    assert written == [1, 2, 3, 4]


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
        for _ in range(MAX_REPLIES - 1):
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
    socket.held = 0
    async with asyncio.timeout(5):
        while subscriber.backlog is not None:
            await asyncio.sleep(0.005)
    assert socket.text == "1"


async def test_who_still_has_something_unsent_gets_more_but_stays_late(hub: Hub) -> None:
    """Or a slow reader would soon have all its buffers full of what cannot be conflated."""
    socket, subscriber = add(hub, "a")
    make_late(hub, socket, subscriber)
    hub.publish("a", b"1")
    socket.held = LOW_WATER_BYTES + 1
    hub._check_late()
    assert socket.text == ""
    socket.held = LOW_WATER_BYTES
    hub._check_late()
    assert socket.text == "1"
    assert subscriber.backlog is not None
    socket.held = 0
    hub._check_late()
    assert subscriber.backlog is None


async def test_who_falls_behind_again_must_have_had_nothing_unsent_for_a_while(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(hub_module, "monotonic", lambda: now[0])
    socket, subscriber = add(hub, "a")

    def is_late_after(*, seconds: float, held: int) -> bool:
        now[0] += seconds
        socket.held = held
        hub._check_late()
        return subscriber.backlog is not None

    make_late(hub, socket, subscriber)
    assert not is_late_after(seconds=0.01, held=0), "the first time it is believed at once"
    now[0] += RELAPSE_S / 2
    make_late(hub, socket, subscriber)
    assert is_late_after(seconds=PROBATION_S, held=LOW_WATER_BYTES + 1)
    assert is_late_after(seconds=PROBATION_S / 2, held=0)
    assert is_late_after(seconds=0.01, held=1), "a bite, and it is full again"
    hub.publish("a", b"1")
    assert is_late_after(seconds=PROBATION_S / 2, held=0)
    assert socket.text == "1", "it gets the newest all the while"
    assert not is_late_after(seconds=PROBATION_S / 2 + 0.01, held=0)
    now[0] += RELAPSE_S
    make_late(hub, socket, subscriber)
    assert not is_late_after(seconds=0.01, held=0), "long ago is forgiven"


async def test_many_late_subscribers_leave_the_others_their_share(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(hub_module, "monotonic", lambda: now[0])

    class Slow(Socket):
        def backlog_bytes(self) -> int:
            now[0] += 0.5
            return super().backlog_bytes()

    for _ in range(4):
        socket = Slow()
        make_late(hub, socket, hub.attach(socket))
    hub._check_late()
    assert hub._late_timer is not None
    assert hub._late_timer.when() - asyncio.get_running_loop().time() > 4 * 2 - 1


async def test_a_late_subscriber_gets_more_at_once_the_faster_it_takes(hub: Hub) -> None:
    socket, subscriber = add(hub)
    topics = [f"t{number}" for number in range(1000)]
    hub.subscribe(subscriber, topics)
    make_late(hub, socket, subscriber)
    for topic in topics:
        hub.publish(topic, b"x" * 1024)
    for held in (1, 0, 0, 0, 0, 1, 0):
        socket.held = held
        hub._check_late()
    sizes = [len(data) / CATCH_UP_BYTES for data in socket.writes]
    most = MAX_CATCH_UP_BYTES / CATCH_UP_BYTES
    assert sizes == [1, 2, 4, most, most, 1, 2]


# ---------------------------------------------------------------------- faults


class Faulty(Socket):
    """A sink that breaks its contract."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.call = call

    def write(self, data: bytes) -> int:
        if self.call == "write":
            raise RuntimeError("a fault in the server")
        return super().write(data)

    def backlog_bytes(self) -> int:
        if self.call == "backlog_bytes":
            raise RuntimeError("a fault in the server")
        return super().backlog_bytes()

    def on_stalled(self) -> None:
        raise RuntimeError("a fault in the server")


@pytest.mark.parametrize("call", ["write", "backlog_bytes", "on_stalled"])
async def test_a_fault_at_one_sink_ends_it_and_nobody_else_misses_a_frame(
    hub: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    now = [0.0]
    monkeypatch.setattr(hub_module, "monotonic", lambda: now[0])
    before, _ = add(hub, "a")
    faulty = Faulty(call)
    subscriber = hub.attach(faulty)
    hub.subscribe(subscriber, ["a"])
    late, other = add(hub, "a")
    after, _ = add(hub, "a", "b")
    faulty.held = HIGH_WATER_BYTES + 1
    make_late(hub, late, other)
    for frame in (b"1", b"2", b"3"):
        hub.publish("a", frame)
        await turn()
        now[0] += 20
        late.held = 0
        hub._check_late()
    await turn()
    assert (before.text, after.text, late.text) == ("123", "123", "123")
    assert faulty.faults == 1
    assert hub._metrics.faults == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    hub.detach(subscriber)
    assert len(hub) == 3


async def test_what_is_said_to_all_passes_over_a_late_sink_that_raises(hub: Hub) -> None:
    faulty = Faulty("on_stalled")
    subscriber = hub.attach(faulty)
    make_late(hub, faulty, subscriber)
    healthy, _ = add(hub)
    for _ in range(MAX_REPLIES + 1):
        hub.put_all(b"!")
    await turn()
    assert (healthy.text, faulty.faults) == ("!" * (MAX_REPLIES + 1), 1)


async def test_a_last_word_to_a_sink_that_raises_leaves_no_route(hub: Hub) -> None:
    faulty = Faulty("write")
    subscriber = hub.attach(faulty)
    hub.subscribe(subscriber, ["a"])
    hub.detach(subscriber, b"BYE")
    await turn()
    assert faulty.faults == 1
    assert not hub._routes
    assert len(hub) == 0
