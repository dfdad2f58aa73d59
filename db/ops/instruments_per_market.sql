-- How many instruments of which kind has the imported master?
SELECT exchange, segment, kind, count(*) AS instruments
FROM instruments
GROUP BY exchange, segment, kind
ORDER BY exchange, segment, instruments DESC;
