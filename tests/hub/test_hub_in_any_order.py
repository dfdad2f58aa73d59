"""The hub in any interleaving of what can happen, with sinks that break their contract."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from odin.hub import hub as hub_module
from odin.hub.hub import HIGH_WATER_BYTES, LOW_WATER_BYTES, Hub
from odin.metrics import Metrics
from tests.hub.fakes import Socket, turn

TOPICS = st.sampled_from("abcde")
WHO = st.integers(0, 3)


class Fragile(Socket):
    """A sink whose next calls raise when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_broken = False
        self.raised = 0

    def _break(self) -> None:
        if self.is_broken:
            self.raised += 1
            raise RuntimeError("a fault in the server")

    def write(self, data: bytes) -> int:
        self._break()
        return super().write(data)

    def backlog_bytes(self) -> int:
        self._break()
        return super().backlog_bytes()

    def on_stalled(self) -> None:
        self._break()


class HubMachine(RuleBasedStateMachine):
    """Against the simplest model there is: per subscriber, what it must have seen.

    Frames are `topic:number;`. A subscriber that was never late must have every frame published
    while it was subscribed, in order; one that was late must have the newest; nobody may have a
    frame of a topic after its unsubscribe was acknowledged. All of it whatever a sink does that
    breaks its contract, except to that one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.hub = Hub(Metrics())
        self.number = 0
        self.slice, hub_module.SLICE = hub_module.SLICE, 2  # rounds that span several turns
        self.probation_s, hub_module.PROBATION_S = hub_module.PROBATION_S, 0.0

    def teardown(self) -> None:
        hub_module.SLICE = self.slice
        hub_module.PROBATION_S = self.probation_s
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
        self.sockets = [Fragile() for _ in range(4)]
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
    def breaks_its_contract(self, who: int) -> None:
        self.sockets[who].is_broken = True

    @rule(who=WHO)
    def reconnect(self, who: int) -> None:
        self.run(self.hub.detach, self.members[who])
        self.sockets[who] = Fragile()
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
        self.loop.run_until_complete(turn())
        for who in range(4):
            socket = self.sockets[who]
            assert socket.faults == socket.raised <= 1, "it was used after it had raised"
            if socket.raised:
                continue
            seen = socket.text.split(";")[:-1]
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
