"""The values that travel through the server.

Everything here is immutable and free of I/O. Per-message values are NamedTuples or structs (cheap
to build); long-lived ones are frozen structs. Units are in the names: `_ms` is integer
milliseconds since the Unix epoch, prices are rupees as float, quantities are whole shares.
"""

from typing import Final, Literal, NamedTuple, get_args

import msgspec

Segment = Literal["CM", "INDEX", "FO", "CD", "CO"]
"""Exchange segments: cash market, indices, equity derivatives, currency, commodity."""

MAX_PRICE: Final = 1e9
"""Rupees. No price of any instrument is near it; one above it is an error of its source."""

Phase = Literal["closed", "pre_open", "open", "closing_auction", "post_close"]

Mode = Literal["ltp", "quote", "full"]
"""How much of an instrument is wanted: its last price, its quote, or the order book as well."""
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
"""Each holds all that those before it do."""


class ApiKey(NamedTuple):
    """One API key as it is kept: its secret cannot be read from it."""

    id: str
    """Public: it names the key in lists and in the database."""
    name: str
    scopes: frozenset[str]
    secret_sha256: str
    created_ms: int
    revoked_ms: int | None = None


class InstrumentKey(NamedTuple):
    """What identifies an instrument: tokens are unique only inside (exchange, segment)."""

    exchange: str
    segment: str
    token: int


class Instrument(msgspec.Struct, frozen=True, gc=False):
    """One tradable instrument or index, as an instrument master lists it."""

    key: InstrumentKey
    symbol: str
    """Trading symbol without series suffix, upper case: "SBIN", "M&M", "NIFTY 50"."""
    series: str = ""
    """Exchange series or group: "EQ", "BE", "SM" on NSE; "A", "B", "X" on BSE; "" if none."""
    name: str = ""
    isin: str = ""
    kind: str = "equity"
    """ "equity", "etf", "index", "debt", "future", "option" or "other"."""
    tick_size: float = 0.05
    """Smallest price step in rupees."""
    lot_size: int = 1
    reference_close: float | None = None
    """A recent close in rupees where the master carries one; a start for the simulator only."""

    @property
    def exchange(self) -> str:
        return self.key.exchange

    @property
    def token(self) -> str:
        """The exchange token as text, the form every message carries."""
        return str(self.key.token)

    @property
    def label(self) -> str:
        """The display name "SBIN (NSE)"."""
        return f"{self.symbol} ({self.key.exchange})"


class Tick(NamedTuple):
    """One update from a feed. Optional fields are None where the feed does not carry them."""

    key: InstrumentKey
    exchange_ms: int
    """Exchange time of the update."""
    ltp: float
    """Last traded price."""
    volume: int | None = None
    """Shares traded today so far (cumulative, not the size of one trade)."""
    open: float | None = None
    high: float | None = None
    """Day high as the feed states it."""
    low: float | None = None
    prev_close: float | None = None
    """Close of the previous trading day."""
    detail: "Detail | None" = None
    """What only the full mode shows, where the feed carries any of it."""


class Level(msgspec.Struct, frozen=True, gc=False):
    """One price of the order book."""

    price: float
    quantity: int
    orders: int


class Depth(msgspec.Struct, frozen=True, gc=False):
    """The best levels of the order book, best first; empty ones are left out."""

    buy: tuple[Level, ...]
    sell: tuple[Level, ...]


class Detail(msgspec.Struct, frozen=True, gc=False):
    """What the full mode adds to a quote. None means not known."""

    avg_price: float | None = None
    """Average traded price of the day."""
    total_buy_qty: int | None = None
    """Quantity of all buy orders in the book."""
    total_sell_qty: int | None = None
    oi: int | None = None
    """Open interest of a derivative."""
    depth: Depth | None = None


class Quote(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The state of one instrument after a tick: the `data` object of a `market_data` message.

    The fields and their order are those of the public protocol: encoding the struct is encoding
    the object. None means not known (never a made-up number). A struct, not a NamedTuple like its
    neighbours: it is made and encoded once per tick, in half the time.
    """

    symbol: str
    token: str
    exchange: str
    ltp: float
    open: float
    high: float
    low: float
    close: float | None
    """Previous trading day's close, as the protocol defines it; equal to `prev_close`."""
    prev_close: float | None
    volume: int
    percent_change: float
    """`ltp` against `prev_close`, not rounded; 0.0 while `prev_close` is not known, because clients
    of this protocol format it as a number."""
    week_52_high: float | None
    week_52_low: float | None
    week_52_high_date: str | None
    """ISO date."""
    week_52_low_date: str | None
    day_high: float
    day_low: float
    avg_volume_5d: int | None
    timestamp: int
    """Exchange time of the tick, ms."""
    last_updated: str
    """When the server applied the tick: RFC 3339, nanoseconds, +05:30."""
    is_new_week_52_high: bool
    is_new_week_52_low: bool
    source: str = ""
    """The feed it came from, where there are several; left out of messages otherwise."""


class DailyBar(NamedTuple):
    """One trading day of one instrument, unadjusted."""

    key: InstrumentKey
    date: str
    """ISO date of the trading day."""
    open: float
    high: float
    low: float
    close: float
    volume: int


class YearSummary(NamedTuple):
    """What a year of daily bars says, ending with the last trading day before today."""

    high: float
    high_date: str
    low: float
    low_date: str
    avg_volume_5d: int
    """Mean volume of the last five recorded days, rounded to a whole share."""
    prev_close: float
    prev_date: str
    """Date of the newest bar, whose close `prev_close` is."""


class MarketStatus(NamedTuple):
    """Where one exchange is in its trading day at one instant."""

    exchange: str
    is_open: bool
    """Whether the instant lies in the half-open data window [open, close)."""
    phase: Phase
    holiday: str | None
    """Name of today's holiday or weekend day ("Saturday"); None on a trading day."""
    session: str | None
    """Name of today's special session (Muhurat, budget day); None on an ordinary day."""
    market_hours: str
    """Today's data window, "09:15 - 15:30 IST"; the regular one when today has none."""
    next_open_ms: int | None
    """None where no opening lies within the next two years."""
    next_close_ms: int | None
    """Close of the running session, or of the next one."""
    next_change_ms: int
    """First instant at which any field but these may differ."""
    is_calendar_known: bool
    """False past the last date the calendar has facts for: weekday rule, not knowledge."""


class Subscription(NamedTuple):
    """One instrument on one client's list."""

    key: InstrumentKey
    symbol: str
    """The instrument's symbol when it was subscribed; shown when the master no longer has it."""
    subscribed_ms: int
    mode: Mode = "quote"


FeedState = Literal[
    "idle",
    "connecting",
    "authenticating",
    "streaming",
    "stale",
    "backoff",
    "rejected",
    "stopped",
]


class FeedStatus(NamedTuple):
    """What clients and operators are told about where the data comes from."""

    name: str
    state: FeedState
    is_stale: bool
    last_tick_ms: int | None
    problem: str = ""
    """Why it is in backoff or rejected, for operators; "" while all is well."""


class FeedGap(NamedTuple):
    """A stretch of an open market of which a feed delivered nothing, because it had broken off."""

    feed: str
    from_ms: int
    """Market time of the last tick before it, or of the opening if that came later."""
    to_ms: int
    """Market time of the first tick after it."""
