-- Which migrations were applied, and when?
SELECT version, name, datetime(applied_ms / 1000 + 19800, 'unixepoch') AS applied_ist, sha256
FROM schema_migration
ORDER BY version;
