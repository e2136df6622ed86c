CREATE TABLE "{table}" (
    global_position INTEGER PRIMARY KEY CHECK (global_position > 0),
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL DEFAULT '',
    aggregate_id TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    event_type TEXT NOT NULL,
    event_version INTEGER NOT NULL,
    aggregate_version INTEGER NOT NULL,
    event_data TEXT NOT NULL,
    event_data_type TEXT NOT NULL DEFAULT 'json',
    event_bytes BLOB,
    metadata TEXT NOT NULL,
    tags TEXT,
    timestamp TEXT NOT NULL,
    timestamp_micros INTEGER,
    epoch INTEGER NOT NULL,
    UNIQUE (aggregate_id, tenant, aggregate_version)
) STRICT;
CREATE INDEX "idx_{table}_aggregate_type" ON "{table}" (aggregate_type);
CREATE INDEX "idx_{table}_timestamp" ON "{table}" (timestamp);
CREATE TABLE "{table}_state" (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    store_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    head INTEGER NOT NULL,
    last_commit INTEGER NOT NULL,
    source_store_id TEXT,
    source_epoch INTEGER,
    source_position INTEGER
) STRICT;
INSERT INTO "{table}_state" (id, store_id, epoch, head, last_commit) VALUES (1, lower(hex(randomblob(16))), 1, 0, 0);
