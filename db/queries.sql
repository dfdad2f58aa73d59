-- The queries the program uses, by name. Results that may be long come as one JSON value a page:
-- Python takes its global lock anew for every row fetched, and a thread that streams ticks gives
-- it back so late that 3,000 rows would take seconds. The same goes for statements, which
-- is why rows are inserted by the hundred (queries of one row of VALUES are repeated for that).


-- Clients and subscriptions ------------------------------------------------------------------

-- name: load_subscriptions(client_ids)$
-- For each client its subscriptions in the order they were made, as text inside the JSON (that is
-- what || '' is for): each is decoded on its own, so that no ticks wait for many at once.
SELECT json_group_object(asked.value, (
    SELECT json_group_array(json_array(exchange, segment, token, symbol, subscribed_ms, mode)) || ''
    FROM (
        SELECT exchange, segment, token, symbol, subscribed_ms, mode
        FROM subscriptions
        WHERE client_id = asked.value
        ORDER BY position
    )
))
FROM json_each(:client_ids) AS asked;

-- name: remove_subscriptions(rows)!
-- rows: JSON array of [client_id, exchange, segment, token].
DELETE FROM subscriptions
WHERE (client_id, exchange, segment, token) IN (
    SELECT
        json_extract(value, '$[0]'), json_extract(value, '$[1]'),
        json_extract(value, '$[2]'), json_extract(value, '$[3]')
    FROM json_each(:rows)
);

-- name: drop_empty_clients(rows)!
-- rows: JSON array of [client_id, …]. Who holds nothing has nothing to come back to.
DELETE FROM clients
WHERE client_id IN (SELECT json_extract(value, '$[0]') FROM json_each(:rows))
AND NOT EXISTS (SELECT 1 FROM subscriptions AS s WHERE s.client_id = clients.client_id);

-- name: see_clients(rows)!
-- rows: JSON array of [client_id, now_ms, resume_sha256 or null]. A client's first subscription
-- makes its row; the resume token it has once is its for good.
INSERT INTO clients (client_id, created_ms, last_seen_ms, resume_sha256)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[1]'),
    json_extract(value, '$[2]')
FROM json_each(:rows)
WHERE true
ON CONFLICT (client_id) DO UPDATE SET
    last_seen_ms = max(last_seen_ms, excluded.last_seen_ms),
    resume_sha256 = coalesce(resume_sha256, excluded.resume_sha256);

-- name: add_subscriptions()!
-- Subscribing again moves to the end: REPLACE gives the row a new position.
INSERT OR REPLACE INTO subscriptions
    (client_id, exchange, segment, token, symbol, subscribed_ms, mode)
VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: set_modes(rows)!
-- rows: JSON array of [client_id, exchange, segment, token, mode]. The place in the list stays.
UPDATE subscriptions SET mode = json_extract(asked.value, '$[4]')
FROM json_each(:rows) AS asked
WHERE (client_id, exchange, segment, token) = (
    json_extract(asked.value, '$[0]'), json_extract(asked.value, '$[1]'),
    json_extract(asked.value, '$[2]'), json_extract(asked.value, '$[3]')
);

-- name: touch_clients(client_ids, now_ms)!
UPDATE clients SET last_seen_ms = max(last_seen_ms, :now_ms)
WHERE client_id IN (SELECT value FROM json_each(:client_ids));

-- name: expire_clients(before_ms, keep, most)!
DELETE FROM clients
WHERE client_id IN (
    SELECT client_id FROM clients
    WHERE last_seen_ms < :before_ms
        AND client_id NOT IN (SELECT value FROM json_each(:keep))
    LIMIT :most
);

-- name: forget_client(client_id)!
DELETE FROM clients WHERE client_id = :client_id;

-- name: count_clients()$
SELECT count(*) FROM clients;

-- name: clients()
SELECT client_id, created_ms, last_seen_ms, count(s.position)
FROM clients AS c LEFT JOIN subscriptions AS s USING (client_id)
GROUP BY client_id
ORDER BY last_seen_ms DESC, client_id;

-- name: client(client_id)^
SELECT client_id, created_ms, last_seen_ms FROM clients WHERE client_id = :client_id;

-- name: keep_resume_token(client_id, resume_sha256)!
UPDATE clients SET resume_sha256 = :resume_sha256
WHERE client_id = :client_id AND resume_sha256 IS NULL;

-- name: resume_sha256(client_id)$
SELECT resume_sha256 FROM clients WHERE client_id = :client_id;


-- API keys -----------------------------------------------------------------------------------

-- name: api_keys()
SELECT id, name, scopes, secret_sha256, created_ms, revoked_ms FROM api_keys
ORDER BY created_ms, id;

-- name: add_api_key(id, name, scopes, secret_sha256, created_ms)!
INSERT INTO api_keys (id, name, scopes, secret_sha256, created_ms)
VALUES (:id, :name, :scopes, :secret_sha256, :created_ms);

-- name: revoke_api_key(id, now_ms)!
UPDATE api_keys SET revoked_ms = max(created_ms, :now_ms) WHERE id = :id AND revoked_ms IS NULL;


-- Instruments --------------------------------------------------------------------------------

-- name: markets()
SELECT DISTINCT exchange, segment FROM instruments;

-- name: load_instruments(exchange, segment, after, most)^
-- The next page of one market's instruments, column by column, and the last token on it; NULL
-- where none is left.
SELECT
    json_array(
        json_group_array(token),
        json_group_array(symbol),
        json_group_array(series),
        json_group_array(name),
        json_group_array(isin),
        json_group_array(kind),
        json_group_array(tick_size),
        json_group_array(lot_size),
        json_group_array(reference_close)
    ),
    max(token)
FROM (
    SELECT * FROM instruments
    WHERE exchange = :exchange AND segment = :segment AND token > :after
    ORDER BY token
    LIMIT :most
);

-- name: save_instruments()!
INSERT OR REPLACE INTO instruments
    (exchange, segment, token, symbol, series, name, isin, kind,
     tick_size, lot_size, reference_close)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: remove_instruments(rows)!
-- rows: JSON array of [exchange, segment, token].
DELETE FROM instruments
WHERE (exchange, segment, token) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
    FROM json_each(:rows)
);

-- name: note_import(source, saved, removed, now_ms)!
INSERT INTO instrument_imports (source, saved, removed, imported_ms)
VALUES (:source, :saved, :removed, :now_ms);

-- name: last_import()^
SELECT version, source FROM instrument_imports ORDER BY version DESC LIMIT 1;


-- Daily history ------------------------------------------------------------------------------

-- name: make_incoming()!
-- Bars are gathered and put in order here first, so that other programs, which wait for the
-- merge, wait a second and not a minute.
CREATE TEMPORARY TABLE incoming (
    exchange TEXT, segment TEXT, token INTEGER, date TEXT,
    open REAL, high REAL, low REAL, close REAL, volume INTEGER
);

-- name: add_incoming()!
INSERT INTO temp.incoming VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: order_incoming()!
CREATE TEMPORARY TABLE ordered AS
SELECT * FROM temp.incoming ORDER BY exchange, segment, token, date, rowid;

-- name: merge_incoming()!
-- Of several bars of one day the last counts.
INSERT INTO daily_history (exchange, segment, token, date, open, high, low, close, volume)
SELECT exchange, segment, token, date, open, high, low, close, volume FROM temp.ordered
WHERE true
ON CONFLICT DO UPDATE SET
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume
WHERE (open, high, low, close, volume)
    <> (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume);

-- name: drop_incoming()!
DROP TABLE IF EXISTS temp.incoming;

-- name: drop_ordered()!
DROP TABLE IF EXISTS temp.ordered;

-- name: year_summaries(from_date, until_date)$
-- One pass finds the extremes, the others walk each instrument's bars by the primary key.
WITH years AS (
    SELECT exchange, segment, token, max(high) AS high, min(low) AS low, max(date) AS last_date
    FROM daily_history
    WHERE date BETWEEN :from_date AND :until_date
    GROUP BY exchange, segment, token
)
SELECT json_group_array(json_array(
    exchange,
    segment,
    token,
    high,
    (
        SELECT max(date) FROM daily_history AS d
        WHERE (d.exchange, d.segment, d.token) = (y.exchange, y.segment, y.token)
            AND date BETWEEN :from_date AND :until_date AND d.high = y.high
    ),
    low,
    (
        SELECT max(date) FROM daily_history AS d
        WHERE (d.exchange, d.segment, d.token) = (y.exchange, y.segment, y.token)
            AND date BETWEEN :from_date AND :until_date AND d.low = y.low
    ),
    (
        SELECT (2 * sum(volume) + count(*)) / (2 * count(*))  -- the mean, halves rounded up
        FROM (
            SELECT volume FROM daily_history AS d
            WHERE (d.exchange, d.segment, d.token) = (y.exchange, y.segment, y.token)
                AND date BETWEEN :from_date AND :until_date
            ORDER BY date DESC
            LIMIT 5
        )
    ),
    (
        SELECT close FROM daily_history AS d
        WHERE (d.exchange, d.segment, d.token) = (y.exchange, y.segment, y.token)
            AND date = y.last_date
    ),
    last_date
))
FROM years AS y;

-- name: history_extent()^
SELECT min(date), max(date), count(*) FROM daily_history;


-- Status -------------------------------------------------------------------------------------

-- name: table_counts()^
SELECT
    (SELECT count(*) FROM clients),
    (SELECT count(*) FROM subscriptions),
    (SELECT count(*) FROM instruments);

-- name: newest_instant()$
-- The latest time, epoch ms, at which anything was noted down.
SELECT max(at_ms) FROM (
    SELECT max(last_seen_ms) AS at_ms FROM clients
    UNION ALL SELECT max(imported_ms) FROM instrument_imports
    UNION ALL SELECT max(applied_ms) FROM schema_migration
);

-- name: last_import_instant()$
SELECT imported_ms FROM instrument_imports ORDER BY version DESC LIMIT 1;
