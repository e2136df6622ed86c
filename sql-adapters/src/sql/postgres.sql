CREATE TABLE "{table}" (
    id UUID PRIMARY KEY,
    global_position BIGINT NOT NULL UNIQUE CHECK (global_position > 0),
    tenant VARCHAR COLLATE "C" NOT NULL DEFAULT '',
    aggregate_id VARCHAR COLLATE "C" NOT NULL,
    aggregate_type VARCHAR COLLATE "C" NOT NULL,
    event_type VARCHAR COLLATE "C" NOT NULL,
    event_version BIGINT NOT NULL,
    aggregate_version BIGINT NOT NULL,
    event_data JSONB NOT NULL,
    event_data_type VARCHAR NOT NULL DEFAULT 'json',
    event_bytes BYTEA,
    metadata JSONB NOT NULL,
    metadata_bytes BYTEA,
    tags TEXT[],
    timestamp TIMESTAMPTZ NOT NULL,
    timestamp_micros BIGINT,
    epoch BIGINT NOT NULL,
    UNIQUE (aggregate_id, tenant, aggregate_version)
);
CREATE INDEX "idx_{table}_aggregate_type" ON "{table}" (aggregate_type);
CREATE INDEX "idx_{table}_timestamp" ON "{table}" (timestamp);
CREATE TABLE "{table}_state" (
    id SMALLINT PRIMARY KEY CHECK (id = 1),
    store_id UUID NOT NULL,
    epoch BIGINT NOT NULL,
    head BIGINT NOT NULL,
    last_commit BIGINT NOT NULL,
    source_store_id UUID,
    source_epoch BIGINT,
    source_position BIGINT
);
INSERT INTO "{table}_state" (id, store_id, epoch, head, last_commit) VALUES (1, gen_random_uuid(), 1, 0, 0);
