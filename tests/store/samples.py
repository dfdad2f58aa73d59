"""Values that the store's tests share."""

from odin.model import InstrumentKey, Subscription
from odin.store.journal import Change

SBIN = InstrumentKey("NSE", "CM", 3045)
RELIANCE = InstrumentKey("NSE", "CM", 2885)
NIFTY = InstrumentKey("NSE", "INDEX", 2885)
NOW_MS = 1_756_971_590_198


def subscription(key: InstrumentKey, symbol: str = "SBIN", at_ms: int = NOW_MS) -> Subscription:
    return Subscription(key, symbol, at_ms)


def change(client_id: str, *keys: InstrumentKey, now_ms: int = NOW_MS) -> Change:
    return Change(client_id, tuple(subscription(key) for key in keys), (), now_ms)
