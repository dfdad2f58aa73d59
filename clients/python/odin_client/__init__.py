"""Client of the Odin Streamer market-data server."""

from odin_client.client import OdinClient, State
from odin_client.encodings import Format
from odin_client.errors import (
    ConnectFailed,
    ConnectionClosed,
    OdinError,
    RequestError,
    RequestTimeout,
    TakenOver,
)
from odin_client.messages import (
    FailedStock,
    Feed,
    MarketStatus,
    Quote,
    Snapshot,
    SubscribeResult,
    Subscription,
    UnsubscribeResult,
    Welcome,
)
from odin_client.quotes import QuoteStream

__version__ = "0.1.0"
__all__ = [
    "ConnectFailed",
    "ConnectionClosed",
    "FailedStock",
    "Feed",
    "Format",
    "MarketStatus",
    "OdinClient",
    "OdinError",
    "Quote",
    "QuoteStream",
    "RequestError",
    "RequestTimeout",
    "Snapshot",
    "State",
    "SubscribeResult",
    "Subscription",
    "TakenOver",
    "UnsubscribeResult",
    "Welcome",
]
