-- Which subscribed shares have no daily history, so that their 52-week fields are null?
SELECT exchange, segment, token, symbol, clients
FROM popular_stocks AS p
WHERE segment = 'CM' AND NOT EXISTS (
    SELECT 1 FROM daily_history AS d
    WHERE (d.exchange, d.segment, d.token) = (p.exchange, p.segment, p.token)
)
LIMIT 1000;
