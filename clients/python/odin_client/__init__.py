"""Client of the Odin Streamer market-data server."""

from odin_client.client import OdinClient
from odin_client.encodings import Format
from odin_client.errors import (
    ConnectFailed,
    ConnectionClosed,
    OdinError,
    RequestError,
    RequestTimeout,
    TakenOver,
)
from odin_client.handlers import State
from odin_client.messages import (
    Depth,
    FailedStock,
    Feed,
    Gap,
    Level,
    MarketStatus,
    Mode,
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
    "Depth",
    "FailedStock",
    "Feed",
    "Format",
    "Gap",
    "Level",
    "MarketStatus",
    "Mode",
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
