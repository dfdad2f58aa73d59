-- How many subscriptions and clients are there in each mode?
SELECT mode, count(*) AS subscriptions, count(DISTINCT client_id) AS clients
FROM subscriptions
GROUP BY mode
ORDER BY subscriptions DESC, mode;
