-- How many daily bars are there for each of the latest 400 dates? A day that was forgotten is
-- missing, one that was cut short has few.
SELECT date, exchange, count(*) AS bars
FROM daily_history
GROUP BY date, exchange
ORDER BY date DESC, exchange
LIMIT 400;
