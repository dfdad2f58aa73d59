-- Which stocks were renamed since clients subscribed to them?
SELECT exchange, segment, token, symbol_when_subscribed, symbol, count(*) AS clients
FROM client_subscriptions
WHERE symbol <> symbol_when_subscribed
GROUP BY exchange, segment, token, symbol_when_subscribed
ORDER BY clients DESC, symbol;
