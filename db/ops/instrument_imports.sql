-- When was which instrument master imported, the latest first?
SELECT
    version, source, saved, removed,
    datetime(imported_ms / 1000 + 19800, 'unixepoch') AS imported_ist
FROM instrument_imports
ORDER BY version DESC
LIMIT 50;
