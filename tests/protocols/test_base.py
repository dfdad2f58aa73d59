"""The heartbeat that peers share; what a Peer does with it is in test_peer.py."""

import asyncio
from time import monotonic

from odin.protocols.base import BEATS, Heartbeat

INTERVAL_S = 0.02 * BEATS
"""Beats of 20 ms: long enough that what is asked for in one test falls into few of them."""


class Looked:
    """Stands for a peer: remembers when it was looked at."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.seen = asyncio.Event()

    def look(self) -> None:
        self.at.append(monotonic())
        self.seen.set()


async def test_everybody_is_looked_at_once_and_not_before_the_time() -> None:
    heartbeat = Heartbeat(INTERVAL_S)
    peers = [Looked() for _ in range(5)]
    begin = monotonic()
    for number, peer in enumerate(peers):
        heartbeat.look_later(peer, 0.03 * number)
    async with asyncio.timeout(5):
        for peer in peers:
            await peer.seen.wait()
    assert [len(peer.at) for peer in peers] == [1] * 5
    assert all(peer.at[0] - begin >= 0.03 * number for number, peer in enumerate(peers))


async def test_who_is_forgotten_is_not_looked_at() -> None:
    heartbeat = Heartbeat(INTERVAL_S)
    gone, stays = Looked(), Looked()
    heartbeat.forget(gone, heartbeat.look_later(gone, 0.0))
    heartbeat.look_later(stays, 0.05)
    async with asyncio.timeout(5):
        await stays.seen.wait()
    assert gone.at == []


async def test_a_look_may_forget_itself_and_ask_for_the_next() -> None:
    heartbeat = Heartbeat(INTERVAL_S)

    class Again(Looked):
        def look(self) -> None:
            heartbeat.forget(self, beat)
            self.at.append(monotonic())
            if len(self.at) < 3:
                heartbeat.look_later(self, 0.0)
            else:
                self.seen.set()

    peer = Again()
    beat = heartbeat.look_later(peer, 0.0)
    async with asyncio.timeout(5):
        await peer.seen.wait()
    assert len(peer.at) == 3


async def test_it_beats_again_after_it_had_nobody() -> None:
    heartbeat = Heartbeat(INTERVAL_S)
    for _ in range(2):
        peer = Looked()
        heartbeat.look_later(peer, 0.0)
        async with asyncio.timeout(5):
            await peer.seen.wait()
            while heartbeat._is_beating:
                await asyncio.sleep(0)


async def test_a_fault_at_one_peer_leaves_the_heart_beating_for_the_others() -> None:
    heartbeat = Heartbeat(INTERVAL_S)
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: faults.append(told))

    class Faulty(Looked):
        def look(self) -> None:
            raise RuntimeError("a fault in the server")

    before, after, later = Looked(), Looked(), Looked()
    for peer in (before, Faulty(), after):
        heartbeat.look_later(peer, 0.0)
    heartbeat.look_later(later, 0.05)
    async with asyncio.timeout(5):
        for peer in (before, after, later):
            await peer.seen.wait()
    assert len(faults) == 1
