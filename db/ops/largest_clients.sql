-- Which clients hold the most subscriptions? The 50 largest.
SELECT client_id, subscriptions, created_ist, last_seen_ist
FROM active_clients
ORDER BY subscriptions DESC, client_id
LIMIT 50;
