"""Every setting of the server, with the text that documents it.

One struct a section, one field a setting; how they are read is config.py's. docs/configuration.md
is generated from this module.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server listens."""

    host: Annotated[
        str, Meta(description="Address to listen on. Loopback unless you open it on purpose.")
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port; 0 lets the system choose one.")
    ] = 8080
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of web pages that may connect or call the API, exactly as a "
            'browser sends them ("https://app.example.com"), or "*" for all. Pages from this '
            "server's own address and programs that send no Origin are always let in."
        ),
    ] = ()
    host_names: Annotated[
        tuple[str, ...],
        Meta(
            description="Names that this server is reached by. Pages it serves itself may connect "
            "and browsers read the API when its address is a number, localhost, `server.host` or "
            "one of these; with authentication any name will do. A foreign page can have a name "
            "of its own point here."
        ),
    ] = ()
    allow_anonymous: Annotated[
        bool,
        Meta(
            description="Listen on an address that others can reach though authentication is off."
        ),
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses or networks of proxies whose X-Forwarded-For is believed. The "
            "last address in it that is not one of these counts for limits."
        ),
    ] = ()
    tls_cert: Annotated[
        str,
        Meta(
            description="File of the TLS certificate chain, PEM. Empty: no TLS. 1.2 is the oldest "
            "version spoken."
        ),
    ] = ""
    tls_key: Annotated[str, Meta(description="File of the certificate's private key, PEM.")] = ""
    compression: Annotated[
        bool,
        Meta(
            description="Take compressed messages from clients that offer permessage-deflate. What "
            "the server sends is never compressed: the short encodings cost less and save more."
        ),
    ] = False
    backlog: Annotated[
        int, Meta(ge=1, description="Connections the kernel may hold before they are accepted.")
    ] = 4096
    shutdown_grace_s: Annotated[
        float,
        Meta(ge=0, le=60, description="How long a stop waits for clients to close, seconds."),
    ] = 5.0


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may use the server; see authentication.md."""

    mode: Annotated[
        Literal["off", "required"],
        Meta(
            description='"required": clients need an API key, made with `odin keys create`. "off": '
            "everybody who reaches the server is served."
        ),
    ] = "off"
    require_resume_token: Annotated[
        bool,
        Meta(
            description="Give each client_id a token with its first welcome, and let only those "
            "who have it continue the session."
        ),
    ] = False


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one client, one address and all together may use. Announced in `welcome`."""

    connections: Annotated[
        int, Meta(ge=1, description="Connections in all; more get HTTP 503 with Retry-After.")
    ] = 10_000
    connections_per_address: Annotated[
        int, Meta(ge=1, description="Connections from one address; more get HTTP 429.")
    ] = 100
    connections_per_key: Annotated[
        int, Meta(ge=1, description="Connections with one API key; more get HTTP 429.")
    ] = 1000
    connects_per_s: Annotated[
        float, Meta(gt=0, description="New connections a second from one address, on average.")
    ] = 5.0
    connect_burst: Annotated[
        int, Meta(ge=1, description="New connections one address may make at once.")
    ] = 20
    exempt_addresses: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses that the limits per address do not count. Of other IPv6 "
            "addresses all of a /64 count as one."
        ),
    ] = ("127.0.0.1", "::1")
    requests_per_s: Annotated[
        float, Meta(gt=0, description="Requests a second on one connection, on average.")
    ] = 20.0
    request_burst: Annotated[
        int, Meta(ge=1, description="Requests one connection may send at once.")
    ] = 60
    requests_per_s_per_key: Annotated[
        float,
        Meta(
            gt=0,
            description="Requests a second with one API key, or without authentication from one "
            "address, on average: on all its connections and to the API.",
        ),
    ] = 200.0
    request_burst_per_key: Annotated[
        int, Meta(ge=1, description="Requests with one API key or from one address at once.")
    ] = 600
    message_bytes: Annotated[
        int,
        Meta(ge=1024, le=16_777_216, description="Largest message; a larger one closes with 1009."),
    ] = 65_536
    stocks_per_request: Annotated[int, Meta(ge=1, description="Stocks in one request.")] = 1000
    subscriptions_per_client: Annotated[
        int, Meta(ge=1, description="Stocks one client_id may hold.")
    ] = 3000
    subscriptions_per_key: Annotated[
        int,
        Meta(
            ge=1,
            description="Stocks that all client_ids connected with one API key, or without "
            "authentication from one address, may hold together; one whose own would pass it is "
            "closed with 4429, and keeps them.",
        ),
    ] = 100_000
    stored_clients: Annotated[
        int,
        Meta(
            ge=1,
            description="client_ids with subscriptions that the database keeps; a new one beyond "
            "it cannot subscribe.",
        ),
    ] = 100_000
    new_clients_per_day: Annotated[
        int,
        Meta(
            ge=1,
            description="New client_ids that one address or one API key may subscribe with in a "
            "day.",
        ),
    ] = 1000
    ping_interval_s: Annotated[
        float,
        Meta(gt=0, description="Seconds between pings; a pong must follow within half of it."),
    ] = 20.0
    progress_timeout_s: Annotated[
        float,
        Meta(gt=0, description="A client that takes nothing for so long is closed with 4408."),
    ] = 10.0


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The SQLite database of clients, subscriptions, instruments and daily history."""

    path: Annotated[str, Meta(min_length=1, description="File of the database.")] = "./odin.db"
    busy_timeout_s: Annotated[
        float,
        Meta(ge=0, le=30, description="How long a change waits while another process locks it."),
    ] = 3.0
    client_expiry_days: Annotated[
        float,
        Meta(gt=0, description="A client that has not connected for so long is forgotten."),
    ] = 30.0


class MarketSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the market is open."""

    gate: Annotated[
        Literal["calendar", "always"],
        Meta(
            description='"calendar": market_data flows in market hours only. "always": at any '
            "hour, for testing; every status message then says so."
        ),
    ] = "calendar"
    calendar_file: Annotated[
        str,
        Meta(
            description="TOML file that adds or overrides trading days; read again when it "
            "changes. Empty: none."
        ),
    ] = ""


class FeedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where market data comes from."""

    kind: Annotated[
        Literal["simulator", "none", "odin", "kite"],
        Meta(
            description='"simulator": a synthetic market, marked as such. "odin": the broadcast '
            'feed of an ODIN broker, see feeds/odin.md. "kite": Zerodha, see feeds/kite.md. '
            '"none": no data.'
        ),
    ] = "simulator"
    routes: Annotated[
        tuple[str, ...],
        Meta(
            description="Exchanges and segments that come from another feed than `feed.kind`: "
            '"BSE=kite", "NSE:FO=kite". The longer name goes first.'
        ),
    ] = ()
    standby: Annotated[
        Literal["", "odin", "kite"],
        Meta(
            description="Feed that takes over the instruments of one that is silent, broken or "
            "rejected, until it has been well for a minute. Empty: none."
        ),
    ] = ""
    stale_after_s: Annotated[
        float,
        Meta(
            gt=0,
            description="The feed counts as stale when nothing arrives for so long in an open "
            "market, and chance cannot explain it.",
        ),
    ] = 15.0
    instrument_stale_after_s: Annotated[
        float,
        Meta(
            gt=0,
            description="An instrument without a tick for so long in an open market is listed as "
            "stale in `get_subscriptions`, and counted in the metrics.",
        ),
    ] = 300.0
    linger_s: Annotated[
        float,
        Meta(ge=0, description="How long an instrument stays wanted after its last subscriber."),
    ] = 30.0
    allow_plaintext: Annotated[
        bool,
        Meta(description="Let a feed on another machine be reached without TLS (ws://)."),
    ] = False
    capture_dir: Annotated[
        str,
        Meta(
            description="Folder in which all that feeds send is kept, byte for byte, for `odin "
            "replay`. Empty: nothing is kept."
        ),
    ] = ""
    capture_max_mb: Annotated[
        int, Meta(ge=1, description="What that folder may hold; the oldest files are deleted.")
    ] = 4096


class OdinFeedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ODIN broadcast feed of a broker."""

    url: Annotated[
        str, Meta(description="Address of the broker's broadcast server, wss://HOST:PORT.")
    ] = ""
    credentials: Annotated[
        str,
        Meta(
            min_length=1,
            description="Where user and api_key come from on every connect: env:PREFIX (variables "
            "PREFIX_USER and PREFIX_API_KEY), file:PATH or command:PROGRAM.",
        ),
    ] = "env:ODINFEED"
    login: Annotated[
        Literal["password", "token"],
        Meta(description="How the server knows you: by an API key or password, or by a token."),
    ] = "token"
    dialect: Annotated[
        Literal["plain", "padded"],
        Meta(
            description='How requests state their length: "padded" adds four zero bytes, as some '
            "servers expect."
        ),
    ] = "plain"
    version: Annotated[
        Literal["FT3.0", "FIX3.0"], Meta(description="Version of the protocol, its tag 63.")
    ] = "FT3.0"
    is_binary: Annotated[
        bool,
        Meta(description="Ask for binary touchlines: half the bytes, but without the volume."),
    ] = False
    segments: Annotated[
        tuple[str, ...],
        Meta(description="What each segment number of the server means; servers differ."),
    ] = (
        "1=NSE:CM",
        "2=NSE:FO",
        "3=BSE:CM",
        "4=BSE:FO",
        "5=MCX:CO",
        "13=NSE:CD",
        "38=BSE:CD",
    )
    indices: Annotated[
        tuple[str, ...],
        Meta(description='Indices by segment and token of the server: "1_26000=NSE:NIFTY 50".'),
    ] = ("1_26000=NSE:NIFTY 50", "1_26009=NSE:NIFTY BANK")


class KiteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Zerodha's Kite ticker."""

    url: Annotated[str, Meta(min_length=1, description="Address of the ticker.")] = (
        "wss://ws.kite.trade"
    )
    credentials: Annotated[
        str,
        Meta(
            min_length=1,
            description="Where api_key and access_token come from on every connect: env:PREFIX "
            "(variables PREFIX_API_KEY and PREFIX_ACCESS_TOKEN), file:PATH or command:PROGRAM.",
        ),
    ] = "env:KITE"
    connections: Annotated[
        int,
        Meta(ge=1, le=3, description="Connections at most, of 3,000 instruments each."),
    ] = 3
    indices: Annotated[
        tuple[str, ...],
        Meta(description='Indices by instrument_token: "256265=NSE:NIFTY 50".'),
    ] = ("256265=NSE:NIFTY 50", "260105=NSE:NIFTY BANK", "265=BSE:SENSEX")


class SimulatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The synthetic market."""

    seed: Annotated[int, Meta(description="The same seed gives the same market.")] = 1
    rate_hz: Annotated[
        float, Meta(gt=0, le=1000, description="Ticks a second for each wanted instrument.")
    ] = 1.0
    clock: Annotated[
        Literal["wall", "session"],
        Meta(
            description='"wall": real market hours. "session": its own market clock that starts '
            "at 09:15 IST of the latest trading day and jumps from each close to the next opening."
        ),
    ] = "wall"


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server writes to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least level written.")
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description='"auto": text on a terminal, one JSON object a line otherwise.'),
    ] = "auto"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings; one attribute a section."""

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    store: StoreSettings = StoreSettings()
    market: MarketSettings = MarketSettings()
    feed: FeedSettings = FeedSettings()
    odin: OdinFeedSettings = OdinFeedSettings()
    kite: KiteSettings = KiteSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    log: LogSettings = LogSettings()
