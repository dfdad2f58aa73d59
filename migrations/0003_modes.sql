-- How much of each quote a client wants. IN instead of OR made an insert cost half as much again.

ALTER TABLE subscriptions ADD COLUMN
    mode          TEXT    NOT NULL DEFAULT 'quote'  -- how much of each quote is sent
        CHECK (mode = 'quote' OR mode = 'ltp' OR mode = 'full');

-- Every subscription with the symbol as it is now and as it was when it was subscribed.
DROP VIEW client_subscriptions;

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
