-- API keys, and what tells a client's owner from others who know its name.

-- Keys of programs. A key's text is shown once, when it is made; here is only its hash.
CREATE TABLE api_keys (
    id            TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 8),
    name          TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    scopes        TEXT    NOT NULL CHECK (scopes <> ''),  -- separated by commas
    secret_sha256 TEXT    NOT NULL CHECK (length(secret_sha256) = 64),
    created_ms    INTEGER NOT NULL,
    revoked_ms    INTEGER CHECK (revoked_ms >= created_ms)  -- NULL while it is valid
) STRICT;

-- SQLite cannot change a CHECK, so the table is made anew. Foreign keys are off meanwhile.
CREATE TEMPORARY TABLE kept AS SELECT * FROM clients;

DROP TABLE clients;

-- Everybody who holds a subscription. Connecting alone writes nothing.
CREATE TABLE clients (
    client_id     TEXT    NOT NULL PRIMARY KEY  -- with authentication "<key id>/<client_id>"
        CHECK (length(client_id) BETWEEN 1 AND 137),
    created_ms    INTEGER NOT NULL,
    last_seen_ms  INTEGER NOT NULL CHECK (last_seen_ms >= created_ms),
    resume_sha256 TEXT    CHECK (length(resume_sha256) = 64)  -- of its resume token, if it has one
) STRICT;

INSERT INTO clients (client_id, created_ms, last_seen_ms)
SELECT client_id, created_ms, last_seen_ms FROM temp.kept;

DROP TABLE temp.kept;

CREATE INDEX clients_by_last_seen ON clients (last_seen_ms);
