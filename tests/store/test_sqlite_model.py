"""Journal and store together against a plain model."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from odin.metrics import Metrics
from odin.model import MODES, InstrumentKey, Mode, Subscription
from odin.store.journal import Journal
from odin.store.sqlite import SqliteStore
from tests.store.samples import subscription

clients = st.sampled_from(["alice", "bob"])
keys = st.builds(InstrumentKey, st.just("NSE"), st.sampled_from(["CM", "INDEX"]), st.integers(0, 3))
modes = st.sampled_from(MODES)
requests = st.tuples(
    clients,
    st.lists(keys, max_size=4),
    st.lists(keys, max_size=4),
    modes,
    st.lists(st.tuples(keys, modes), max_size=3),
)
Request = tuple[
    str, list[InstrumentKey], list[InstrumentKey], Mode, list[tuple[InstrumentKey, Mode]]
]


class StoreModel(RuleBasedStateMachine):
    """Journal and store on a file, against a dict of dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.model: dict[str, dict[InstrumentKey, Subscription]] = {}
        self.now_ms = 0
        self.runner.run(self._open())

    async def _open(self) -> None:
        self.store = await SqliteStore.open(Path(self.folder.name) / "odin.db")
        self.journal = Journal(self.store, Metrics())
        self.writer = asyncio.create_task(self.journal.run())

    async def _close(self) -> None:
        await self.journal.close()
        await self.writer
        await self.store.close()

    @rule(batch=st.lists(requests, min_size=1, max_size=5))
    def record_together(self, batch: list[Request]) -> None:
        self.now_ms += 1
        waiting = []
        for client, added, removed, mode, changed in batch:
            subscriptions = [
                subscription(key, "S", self.now_ms)._replace(mode=mode) for key in added
            ]
            waiting.append((client, subscriptions, removed, self.now_ms, None, changed))
            held = self.model.get(client, {})
            for key in removed:
                held.pop(key, None)
            for item in subscriptions:
                self.model.setdefault(client, held).pop(item.key, None)
                held[item.key] = item
            for key, new_mode in changed:
                if key in held:
                    held[key] = held[key]._replace(mode=new_mode)
            if removed and not held:
                self.model.pop(client, None)

        async def record() -> None:
            await asyncio.gather(*(self.journal.record(*request) for request in waiting))

        self.runner.run(record())

    @rule(client=clients)
    def forget(self, client: str) -> None:
        assert self.runner.run(self.store.forget(client)) == (client in self.model)
        self.model.pop(client, None)

    @rule()
    def restart(self) -> None:
        self.runner.run(self._close())
        self.runner.run(self._open())

    @invariant()
    def both_agree(self) -> None:
        stored = {row.client_id for row in self.runner.run(self.store.clients())}
        assert stored == set(self.model)
        for client in ("alice", "bob"):
            held = self.runner.run(self.store.load_subscriptions(client))
            assert held == list(self.model.get(client, {}).values())

    def teardown(self) -> None:
        self.runner.run(self._close())
        self.runner.close()
        self.folder.cleanup()


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(
    deadline=None,
    max_examples=20,
    stateful_step_count=15,
    suppress_health_check=[HealthCheck.too_slow],
)
