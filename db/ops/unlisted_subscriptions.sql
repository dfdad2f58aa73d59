-- Which subscriptions are of stocks that the imported master does not have (delisted, or never
-- imported)? Nothing to see while the shipped sample is in use, as no master is imported then.
SELECT
    exchange, segment, token, symbol_when_subscribed AS symbol,
    count(*) AS clients,
    min(subscribed_ist) AS first_subscribed_ist
FROM client_subscriptions
WHERE NOT is_listed AND EXISTS (SELECT 1 FROM instruments)
GROUP BY exchange, segment, token
ORDER BY clients DESC, symbol
LIMIT 1000;
