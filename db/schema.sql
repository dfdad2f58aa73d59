-- The whole schema as it is now, to be read by people. The server builds a database from
-- migrations/ alone; a test holds this file against them.
--
-- Names: `_ms` is milliseconds since 1970 UTC, `_ist` is text in Indian time. An instrument is
-- (exchange, segment, token): tokens are unique only inside an exchange's segment.

PRAGMA application_id = 1329875278;  -- "ODIN": tells this database from any other program's

-- One row for each step in migrations/ that has been applied.
CREATE TABLE schema_migration (
    version    INTEGER PRIMARY KEY CHECK (version > 0),
    name       TEXT    NOT NULL,
    sha256     TEXT    NOT NULL CHECK (length(sha256) = 64),  -- of the file that was applied
    applied_ms INTEGER NOT NULL
) STRICT;

-- Keys of programs. A key's text is shown once, when it is made; here is only its hash.
CREATE TABLE api_keys (
    id            TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 8),
    name          TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    scopes        TEXT    NOT NULL CHECK (scopes <> ''),  -- separated by commas
    secret_sha256 TEXT    NOT NULL CHECK (length(secret_sha256) = 64),
    created_ms    INTEGER NOT NULL,
    revoked_ms    INTEGER CHECK (revoked_ms >= created_ms)  -- NULL while it is valid
) STRICT;

-- Everybody who holds a subscription. Connecting alone writes nothing.
CREATE TABLE clients (
    client_id     TEXT    NOT NULL PRIMARY KEY  -- with authentication "<key id>/<client_id>"
        CHECK (length(client_id) BETWEEN 1 AND 137),
    created_ms    INTEGER NOT NULL,
    last_seen_ms  INTEGER NOT NULL CHECK (last_seen_ms >= created_ms),
    resume_sha256 TEXT    CHECK (length(resume_sha256) = 64)  -- of its resume token, if it has one
) STRICT;

CREATE INDEX clients_by_last_seen ON clients (last_seen_ms);

-- What each client is subscribed to. The row of a stock that left the master stays.
CREATE TABLE subscriptions (
    position      INTEGER PRIMARY KEY,  -- grows with every subscription: a client's list in order
    client_id     TEXT    NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    exchange      TEXT    NOT NULL CHECK (exchange <> ''),
    segment       TEXT    NOT NULL CHECK (segment <> ''),
    token         INTEGER NOT NULL CHECK (token >= 0),
    symbol        TEXT    NOT NULL CHECK (symbol <> ''),  -- when it was subscribed
    subscribed_ms INTEGER NOT NULL,
    mode          TEXT    NOT NULL DEFAULT 'quote'  -- how much of each quote is sent
        CHECK (mode = 'quote' OR mode = 'ltp' OR mode = 'full'),
    UNIQUE (client_id, exchange, segment, token)
) STRICT;

-- The instrument master. An empty table means that the shipped sample is in use.
CREATE TABLE instruments (
    exchange        TEXT    NOT NULL CHECK (exchange <> ''),
    segment         TEXT    NOT NULL CHECK (segment IN ('CM', 'INDEX', 'FO', 'CD', 'CO')),
    token           INTEGER NOT NULL CHECK (token >= 0),
    symbol          TEXT    NOT NULL CHECK (symbol <> ''),
    series          TEXT    NOT NULL,  -- "EQ", "BE" on NSE, "A", "B" on BSE, '' if none
    name            TEXT    NOT NULL,
    isin            TEXT    NOT NULL,
    kind            TEXT    NOT NULL
        CHECK (kind IN ('equity', 'etf', 'index', 'debt', 'future', 'option', 'other')),
    tick_size       REAL    NOT NULL CHECK (tick_size > 0),  -- rupees
    lot_size        INTEGER NOT NULL CHECK (lot_size > 0),
    reference_close REAL    CHECK (reference_close > 0),  -- rupees, if the master carries one
    PRIMARY KEY (exchange, segment, token)
) STRICT, WITHOUT ROWID;

-- One row for each import into `instruments`; a running server reloads when a new one appears.
CREATE TABLE instrument_imports (
    version     INTEGER PRIMARY KEY,
    source      TEXT    NOT NULL,  -- file name and format
    saved       INTEGER NOT NULL CHECK (saved >= 0),    -- instruments added or changed
    removed     INTEGER NOT NULL CHECK (removed >= 0),
    imported_ms INTEGER NOT NULL
) STRICT;

-- Daily prices in rupees, unadjusted, as the exchange published them.
CREATE TABLE daily_history (
    exchange TEXT    NOT NULL,
    segment  TEXT    NOT NULL,
    token    INTEGER NOT NULL,
    date     TEXT    NOT NULL
        CHECK (date GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]'),
    open     REAL    NOT NULL CHECK (open BETWEEN low AND high),
    high     REAL    NOT NULL,
    low      REAL    NOT NULL CHECK (low > 0),
    close    REAL    NOT NULL CHECK (close BETWEEN low AND high),
    volume   INTEGER NOT NULL CHECK (volume >= 0),  -- shares
    PRIMARY KEY (exchange, segment, token, date)
) STRICT, WITHOUT ROWID;

-- For people ---------------------------------------------------------------------------------

-- Every subscription with the symbol as it is now and as it was when it was subscribed.
CREATE VIEW client_subscriptions AS
SELECT
    s.client_id,
    row_number() OVER (PARTITION BY s.client_id ORDER BY s.position) AS position,
    s.exchange,
    s.segment,
    s.token,
    coalesce(i.symbol, s.symbol) AS symbol,
    s.symbol AS symbol_when_subscribed,
    i.token IS NOT NULL AS is_listed,  -- 0: not in the imported master
    s.mode,
    datetime(s.subscribed_ms / 1000 + 19800, 'unixepoch') AS subscribed_ist
FROM subscriptions AS s
LEFT JOIN instruments AS i USING (exchange, segment, token);

-- Clients that hold at least one subscription, the one seen last first.
CREATE VIEW active_clients AS
SELECT
    c.client_id,
    count(*) AS subscriptions,
    datetime(c.created_ms / 1000 + 19800, 'unixepoch') AS created_ist,
    datetime(c.last_seen_ms / 1000 + 19800, 'unixepoch') AS last_seen_ist
FROM clients AS c
JOIN subscriptions AS s USING (client_id)
GROUP BY c.client_id
ORDER BY c.last_seen_ms DESC, c.client_id;

-- Stocks by the number of clients that hold them.
CREATE VIEW popular_stocks AS
SELECT
    s.exchange,
    s.segment,
    s.token,
    coalesce(i.symbol, max(s.symbol)) AS symbol,
    count(*) AS clients
FROM subscriptions AS s
LEFT JOIN instruments AS i USING (exchange, segment, token)
GROUP BY s.exchange, s.segment, s.token
ORDER BY clients DESC, symbol, s.exchange, s.token;
