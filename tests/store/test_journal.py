"""The journal against a store whose every answer the test gives by hand."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from odin.errors import StoreError, StoreFull, StoreUnavailable
from odin.metrics import Metrics
from odin.model import InstrumentKey, Subscription
from odin.store.journal import MAX_BATCH_ROWS, Change, Journal

SBIN = Subscription(InstrumentKey("NSE", "CM", 3045), "SBIN", 5)


class FakeStore:
    """Commits when it is let to; refuses the clients it is told to refuse."""

    def __init__(self) -> None:
        self.committed: list[list[str]] = []
        self.tried: list[list[str]] = []
        self.waits: list[bool] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.bad_clients: set[str] = set()
        self.failure: Exception | None = None
        self.failures: list[Exception | None] = []
        """What the next calls fail with, one after the other."""

    async def apply_changes(self, batch: Sequence[Change], *, may_wait: bool = True) -> None:
        self.waits.append(may_wait)
        clients = [change.client_id for change in batch]
        self.tried.append(clients)
        await self.gate.wait()
        failure = self.failures.pop(0) if self.failures else self.failure
        if failure is not None:
            raise failure
        if self.bad_clients & set(clients):
            raise StoreError("A constraint failed")
        self.committed.append(clients)


class Bench:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.metrics = Metrics()
        self.journal = Journal(self.store, self.metrics)
        self.writer = asyncio.create_task(self.journal.run())

    def record(self, client_id: str) -> "asyncio.Task[None]":
        return asyncio.create_task(self.journal.record(client_id, add=[SBIN], now_ms=5))

    async def until_tried(self, batches: int) -> None:
        """Wait until the store has been asked so often."""
        async with asyncio.timeout(5):
            while len(self.store.tried) < batches:
                await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.store.gate.set()
    await made.journal.close()
    await asyncio.gather(made.writer, return_exceptions=True)


async def test_it_returns_only_after_the_commit(bench: Bench) -> None:
    bench.store.gate.clear()
    waiter = bench.record("a")
    await bench.until_tried(1)
    assert not waiter.done()
    bench.store.gate.set()
    await waiter
    assert bench.store.committed == [["a"]]
    assert bench.metrics.store_commits == 1


async def test_what_waits_goes_into_one_transaction(bench: Bench) -> None:
    bench.store.gate.clear()
    first = bench.record("a")
    await bench.until_tried(1)
    rest = [bench.record(client) for client in "bcdb"]
    await asyncio.sleep(0)
    bench.store.gate.set()
    await asyncio.gather(first, *rest)
    assert bench.store.committed == [["a"], ["b", "c", "d", "b"]]
    assert bench.metrics.store_commits == 2


async def test_a_change_carries_all_it_was_given(bench: Bench) -> None:
    seen: list[Change] = []

    async def keep(batch: Sequence[Change], *, may_wait: bool) -> None:
        seen.extend(batch)

    bench.store.apply_changes = keep  # type: ignore[method-assign]
    await bench.journal.record("a", add=[SBIN], remove=[SBIN.key], now_ms=7)
    await bench.journal.record("a", modes=[(SBIN.key, "full")])
    assert seen == [
        Change("a", (SBIN,), (SBIN.key,), 7),
        Change("a", (), (), 0, modes=((SBIN.key, "full"),)),
    ]


async def test_a_lock_is_waited_for_once_until_it_is_gone(bench: Bench) -> None:
    """Three requests that one client sent together would else take three times as long."""
    bench.store.failures = [StoreUnavailable("locked")] * 2
    for name in "ab":
        with pytest.raises(StoreUnavailable):
            await bench.record(name)
    await bench.record("c")
    await bench.record("d")
    assert bench.store.waits == [True, False, False, True]


async def test_a_client_too_many_is_told_apart(bench: Bench) -> None:
    bench.store.failure = StoreFull("full")
    with pytest.raises(StoreFull):
        await bench.record("a")
    assert bench.metrics.store_failures == 1
    assert not bench.journal.is_failing


async def test_nothing_to_change_needs_no_store(bench: Bench) -> None:
    bench.store.failure = StoreUnavailable("locked")
    await bench.journal.record("a")
    assert bench.store.tried == []


async def test_a_batch_does_not_grow_without_bound(bench: Bench) -> None:
    bench.store.gate.clear()
    first = bench.record("a")
    await bench.until_tried(1)
    giants = [
        asyncio.create_task(bench.journal.record(client, add=[SBIN] * MAX_BATCH_ROWS))
        for client in "bc"
    ]
    await asyncio.sleep(0)
    bench.store.gate.set()
    await asyncio.gather(first, *giants)
    assert bench.store.committed == [["a"], ["b"], ["c"]]


async def test_an_unavailable_store_refuses_all_who_wait(bench: Bench) -> None:
    bench.store.gate.clear()
    bench.store.failure = StoreUnavailable("The database is locked")
    first = bench.record("a")
    await bench.until_tried(1)
    late = bench.record("b")
    await asyncio.sleep(0)
    bench.store.gate.set()
    for waiter in (first, late):
        with pytest.raises(StoreUnavailable, match="locked"):
            await waiter
    assert bench.store.tried == [["a"]]
    assert bench.metrics.store_failures == 2
    bench.store.failure = None
    await bench.record("c")
    assert bench.store.committed == [["c"]]


async def test_one_bad_change_does_not_harm_the_others(bench: Bench) -> None:
    bench.store.bad_clients = {"bad"}
    bench.store.gate.clear()
    first = bench.record("a")
    await bench.until_tried(1)
    waiters = {client: bench.record(client) for client in ("b", "bad", "c")}
    await asyncio.sleep(0)
    bench.store.gate.set()
    await asyncio.gather(first, waiters["b"], waiters["c"])
    with pytest.raises(StoreUnavailable, match="constraint"):
        await waiters["bad"]
    assert bench.store.committed == [["a"], ["b"], ["c"]]
    assert bench.metrics.store_failures == 1
    await asyncio.gather(bench.record("d"), bench.record("e"))
    assert bench.store.committed[-1] == ["d", "e"]  # batches again


async def test_a_store_that_fails_while_one_by_one_refuses_the_rest(bench: Bench) -> None:
    bench.store.failures = [StoreError("constraint"), None, StoreUnavailable("full")]
    waiters = [bench.record(client) for client in "abcd"]
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert results[0] is None
    assert all(isinstance(result, StoreUnavailable) for result in results[1:])
    assert bench.store.tried == [["a", "b", "c", "d"], ["a"], ["b"]]
    await asyncio.gather(bench.record("e"), bench.record("f"))
    assert bench.store.committed == [["a"], ["e", "f"]]


async def test_a_cancelled_caller_takes_back_what_was_not_begun(bench: Bench) -> None:
    bench.store.gate.clear()
    first = bench.record("a")
    await bench.until_tried(1)
    gone, stays = bench.record("gone"), bench.record("stays")
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    bench.store.gate.set()
    await asyncio.gather(first, stays)
    assert bench.store.committed == [["a"], ["stays"]]


async def test_a_caller_cancelled_during_the_commit_harms_nobody(bench: Bench) -> None:
    bench.store.gate.clear()
    first = bench.record("first")
    await bench.until_tried(1)
    gone, stays = bench.record("gone"), bench.record("stays")
    await asyncio.sleep(0)
    bench.store.gate.set()
    await first
    bench.store.gate.clear()
    await bench.until_tried(2)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    bench.store.gate.set()
    await stays
    assert bench.store.committed == [["first"], ["gone", "stays"]]


async def test_closing_writes_what_waits_and_takes_nothing_new(bench: Bench) -> None:
    bench.store.gate.clear()
    waiters = [bench.record(client) for client in "ab"]
    await bench.until_tried(1)
    closing = asyncio.create_task(bench.journal.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="closed"):
        await bench.journal.record("c", add=[SBIN])
    assert not closing.done()
    bench.store.gate.set()
    await closing
    await asyncio.gather(*waiters)
    await bench.writer
    assert [client for batch in bench.store.committed for client in batch] == ["a", "b"]


async def test_closing_a_journal_that_never_ran_refuses_what_waits() -> None:
    journal = Journal(FakeStore(), Metrics())
    waiter = asyncio.create_task(journal.record("a", add=[SBIN]))
    await asyncio.sleep(0)
    await journal.close()
    with pytest.raises(StoreUnavailable, match="before it ran"):
        await waiter


async def test_a_writer_that_is_cancelled_leaves_nobody_waiting(bench: Bench) -> None:
    bench.store.gate.clear()
    in_flight = bench.record("a")
    await bench.until_tried(1)
    waiting = bench.record("b")
    await asyncio.sleep(0)
    bench.writer.cancel()
    results = await asyncio.gather(in_flight, waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)  # it may have been committed
    assert isinstance(results[1], StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await bench.journal.record("c", add=[SBIN])


async def test_a_fault_refuses_its_change_and_the_writer_goes_on(bench: Bench) -> None:
    bench.store.failure = ZeroDivisionError()
    with pytest.raises(StoreUnavailable):
        await bench.record("a")
    assert bench.metrics.faults == 1
    bench.store.failure = None
    await bench.record("b")
    assert bench.store.committed == [["b"]]
