-- Which clients have not been connected for more than a day, the longest absent first?
-- They are forgotten after store.client_expiry_days.
SELECT
    client_id,
    round((strftime('%s', 'now') - last_seen_ms / 1000) / 86400.0, 1) AS idle_days,
    datetime(last_seen_ms / 1000 + 19800, 'unixepoch') AS last_seen_ist,
    (SELECT count(*) FROM subscriptions AS s WHERE s.client_id = c.client_id) AS subscriptions
FROM clients AS c
WHERE last_seen_ms / 1000 < strftime('%s', 'now') - 86400
ORDER BY last_seen_ms, client_id
LIMIT 1000;
