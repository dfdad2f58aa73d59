"""What every session works with, and what it asks of the store, the journal and the market."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from odin.hub.hub import Hub
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.model import InstrumentKey, Mode, Subscription
from odin.protocols.accounts import Accounts
from odin.protocols.enhanced.publisher import QuotePublisher
from odin.protocols.enhanced.resume import TokenStore
from odin.protocols.enhanced.wire import MarketView
from odin.settings import LimitSettings


class SubscriptionStore(TokenStore, Protocol):
    """Reads a client's subscriptions."""

    async def load_subscriptions(self, client_id: str) -> list[Subscription]:
        """Return them in the order they were made; empty for an unknown client."""
        ...


class SubscriptionJournal(Protocol):
    """Makes changes durable."""

    async def record(
        self,
        client_id: str,
        add: Sequence[Subscription] = (),
        remove: Sequence[InstrumentKey] = (),
        now_ms: int = 0,
        resume_sha256: str | None = None,
        modes: Sequence[tuple[InstrumentKey, Mode]] = (),
    ) -> None:
        """Return when the change is on disk; raise StoreUnavailable if it is not."""
        ...


class Market(Protocol):
    """What sessions ask about the market."""

    def view(self) -> MarketView:
        """Return everything clients are told, now."""
        ...

    def is_streaming(self, exchange: str) -> bool:
        """Whether market_data of this exchange flows now."""
        ...

    def is_stale(self, key: InstrumentKey) -> bool:
        """Whether the instrument had no tick for long, in an open market."""
        ...


class Services(NamedTuple):
    """What every session works with."""

    hub: Hub
    quotes: QuotePublisher
    registry: InstrumentRegistry
    board: QuoteBoard
    store: SubscriptionStore
    journal: SubscriptionJournal
    market: Market
    limits: LimitSettings
    announced_limits: Mapping[str, object]
    now_ms: Callable[[], int]
    """Market time, for messages."""
    wall_ms: Callable[[], int]
    """Real time, for the database."""
    metrics: Metrics
    accounts: Accounts
