"""Makes clients' changes durable before they are acknowledged.

Group commit: whatever waits when the writer is free goes into one transaction and is paid for with
one fsync. Invariants: `record` returns only when its change is on disk; a change is applied whole
or not at all; the changes of one client are applied in the order they were recorded.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from odin.errors import StoreError, StoreFull, StoreUnavailable
from odin.metrics import Metrics
from odin.model import InstrumentKey, Mode, Subscription

log = logging.getLogger("odin.store")

MAX_BATCH_ROWS = 20_000
"""Subscriptions in one transaction: about 0.1 s of work, so that nobody waits for a giant."""


class Change(NamedTuple):
    """What one request changes. Removals come before additions, and modes after both."""

    client_id: str
    add: tuple[Subscription, ...]
    remove: tuple[InstrumentKey, ...]
    now_ms: int
    resume_sha256: str | None = None
    """Of the client's resume token, kept with its row."""
    modes: tuple[tuple[InstrumentKey, Mode], ...] = ()
    """New modes of subscriptions that stay in their place; of others they are ignored."""


class ChangeStore(Protocol):
    """Where changes are put."""

    async def apply_changes(self, batch: Sequence[Change], *, may_wait: bool = True) -> None:
        """Commit all of the batch, or none of it and raise.

        may_wait: whether a locked store is waited for.

        Raises StoreUnavailable where the store is to blame, another StoreError where a change is.
        """
        ...


class _Entry(NamedTuple):
    change: Change
    done: asyncio.Future[None]


class Journal:
    """Queues changes for one writer. `run` is that writer's task; without it nothing is written."""

    def __init__(self, store: ChangeStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._waiting: deque[_Entry] = deque()
        self._singly = 0
        """How many of the first that wait must be written one by one."""
        self._wake = asyncio.Event()
        self._is_closing = False
        self._is_running = False
        self._stopped = asyncio.Event()
        self.is_failing = False
        """Whether the last attempt to write failed: nothing can be acknowledged for now."""

    async def record(
        self,
        client_id: str,
        add: Sequence[Subscription] = (),
        remove: Sequence[InstrumentKey] = (),
        now_ms: int = 0,
        resume_sha256: str | None = None,
        modes: Sequence[tuple[InstrumentKey, Mode]] = (),
    ) -> None:
        """Return when the change is on disk.

        resume_sha256: kept with a client's first subscription.
        modes: new modes of what is held, which keeps its place in the list.

        Subscribing again to what is held moves it to the end of the list. A call that is cancelled
        while it waits takes its change back; once it is being written it may still be committed.

        Raises StoreUnavailable where nothing of the change was applied: when it is locked after
        the store's busy timeout, or at once where others have waited for it in vain; at once when
        it is full or read-only. Raises StoreFull for a new client where no more are kept.
        """
        if not add and not remove and not modes:
            return
        if self._is_closing:
            raise StoreUnavailable("The journal is closed")
        done = asyncio.get_running_loop().create_future()
        change = Change(client_id, tuple(add), tuple(remove), now_ms, resume_sha256, tuple(modes))
        self._waiting.append(_Entry(change, done))
        self._wake.set()
        await done

    async def run(self) -> None:
        """Write what is recorded until the journal is closed and nothing is left to write."""
        self._is_running = True
        batch: list[_Entry] = []
        try:
            while True:
                batch = self._take()
                if batch:
                    await self._write(batch)
                elif self._is_closing:
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except asyncio.CancelledError:
            for entry in batch:
                entry.done.cancel()  # the store may be committing it: neither yes nor no is true
            raise
        finally:
            self._is_running = False
            self._is_closing = True
            self._refuse(batch, "The journal was stopped")
            self._refuse_waiting("The journal was stopped")
            self._stopped.set()

    async def close(self) -> None:
        """Take no more changes and return when those recorded so far are written or refused."""
        self._is_closing = True
        self._wake.set()
        if self._is_running:
            await self._stopped.wait()
        self._refuse_waiting("The journal was closed before it ran")

    def _take(self) -> list[_Entry]:
        """Remove the next batch from the queue, without what nobody waits for any more."""
        batch: list[_Entry] = []
        rows = 0
        most = 1 if self._singly else MAX_BATCH_ROWS
        while self._waiting and rows < most:
            entry = self._waiting.popleft()
            self._singly = max(0, self._singly - 1)
            if not entry.done.done():
                batch.append(entry)
                change = entry.change
                rows += len(change.add) + len(change.remove) + len(change.modes)  # never nothing
        return batch

    async def _write(self, batch: list[_Entry]) -> None:
        try:
            # One wait for a lock is enough: clients that ask several things would add them up.
            changes = [entry.change for entry in batch]
            await self._store.apply_changes(changes, may_wait=not self.is_failing)
        except StoreUnavailable as error:
            self.is_failing = True
            # Who came while the store was tried would wait as long again, and in vain.
            self._refuse(batch, str(error))
            self._refuse_waiting(str(error))
        except Exception as error:
            if not isinstance(error, StoreError):  # a fault of ours must not end the writer
                self._metrics.faults += 1
                log.exception("a change could not be written")
            if isinstance(error, StoreFull) and len(batch) == 1:
                self._metrics.store_failures += 1
                if not batch[0].done.done():
                    batch[0].done.set_exception(error)
            elif len(batch) == 1:
                self._refuse(batch, str(error))
            else:  # one of them is to blame, the others must not suffer
                self._waiting.extendleft(reversed(batch))
                self._singly = len(batch)
        else:
            self.is_failing = False
            self._metrics.store_commits += 1
            for entry in batch:
                if not entry.done.done():
                    entry.done.set_result(None)

    def _refuse_waiting(self, problem: str) -> None:
        self._refuse(self._waiting, problem)
        self._waiting.clear()
        self._singly = 0

    def _refuse(self, entries: Iterable[_Entry], problem: str) -> None:
        for entry in entries:
            if not entry.done.done():
                self._metrics.store_failures += 1
                entry.done.set_exception(StoreUnavailable(problem))
