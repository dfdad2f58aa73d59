"""What every session works with, and what it asks of the store, the journal and the market."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from odin.hub.hub import Hub
from odin.market.instruments import InstrumentRegistry
from odin.market.quotes import QuoteBoard
from odin.metrics import Metrics
from odin.model import InstrumentKey, Subscription
from odin.protocols.enhanced.publisher import QuotePublisher
from odin.protocols.enhanced.wire import MarketView
from odin.protocols.newcomers import Newcomers
from odin.settings import LimitSettings


class SubscriptionStore(Protocol):
    """Reads a client's subscriptions."""

    async def load_subscriptions(self, client_id: str) -> list[Subscription]:
        """Return them in the order they were made; empty for an unknown client."""
        ...

    async def resume_sha256(self, client_id: str) -> str | None:
        """Return the hash of the client's resume token, None where it has none."""
        ...

    async def keep_resume_token(self, client_id: str, resume_sha256: str) -> None:
        """Keep the hash of a known client's first resume token."""
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
    newcomers: Newcomers
