-- How large is the database, and how many rows has each table?
SELECT 'file, bytes' AS what, page_count * page_size AS amount
FROM pragma_page_count, pragma_page_size
UNION ALL
SELECT 'free for reuse, bytes', freelist_count * page_size
FROM pragma_freelist_count, pragma_page_size
UNION ALL SELECT 'clients, rows', count(*) FROM clients
UNION ALL SELECT 'subscriptions, rows', count(*) FROM subscriptions
UNION ALL SELECT 'instruments, rows', count(*) FROM instruments
UNION ALL SELECT 'daily_history, rows', count(*) FROM daily_history
UNION ALL SELECT 'instrument_imports, rows', count(*) FROM instrument_imports;
