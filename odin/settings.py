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
            "when its address is a number, localhost, `server.host` or one of these; with "
            "authentication any name will do. A foreign page can have a name of its own point here."
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
        Meta(description="Addresses that the limits per address do not count."),
    ] = ("127.0.0.1", "::1")
    requests_per_s: Annotated[
        float, Meta(gt=0, description="Requests a second on one connection, on average.")
    ] = 20.0
    request_burst: Annotated[
        int, Meta(ge=1, description="Requests one connection may send at once.")
    ] = 60
    message_bytes: Annotated[
        int,
        Meta(ge=1024, le=16_777_216, description="Largest message; a larger one closes with 1009."),
    ] = 65_536
    stocks_per_request: Annotated[int, Meta(ge=1, description="Stocks in one request.")] = 1000
    subscriptions_per_client: Annotated[
        int, Meta(ge=1, description="Stocks one client_id may hold.")
    ] = 3000
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
        Literal["simulator", "none"],
        Meta(description='"simulator": a synthetic market, marked as such. "none": no data.'),
    ] = "simulator"
    stale_after_s: Annotated[
        float,
        Meta(
            gt=0,
            description="The feed counts as stale when nothing arrives for so long in an open "
            "market.",
        ),
    ] = 15.0
    linger_s: Annotated[
        float,
        Meta(ge=0, description="How long an instrument stays wanted after its last subscriber."),
    ] = 30.0


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
    simulator: SimulatorSettings = SimulatorSettings()
    log: LogSettings = LogSettings()
