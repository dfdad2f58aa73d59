-- How many clients made their first subscription on each of the last 30 days (Indian dates)?
SELECT date(created_ms / 1000 + 19800, 'unixepoch') AS date_ist, count(*) AS new_clients
FROM clients
WHERE created_ms / 1000 > strftime('%s', 'now') - 30 * 86400
GROUP BY date_ist
ORDER BY date_ist DESC;
