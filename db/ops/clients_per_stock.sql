-- Which stocks are held by how many clients? The 100 most popular first.
SELECT exchange, segment, token, symbol, clients
FROM popular_stocks
LIMIT 100;
