-- One row per message of the stream that is an event. Written by the ingester alone, read by the query service and,
-- through the view audit.events, by analysts.
CREATE TABLE IF NOT EXISTS event_log
(
    -- The pipeline's partition of the tenant: FNV-1a of its text modulo the number of partitions.
    partition     UInt16,
    tenant_id     UUID,
    -- By the producer's clock.
    created_at    DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    id            UUID CODEC(ZSTD(1)),
    actor_id      String CODEC(ZSTD(1)),
    actor_type    LowCardinality(String),
    action        LowCardinality(String),
    resource_type LowCardinality(String),
    resource_id   String CODEC(ZSTD(1)),
    -- The JSON text as the producer sent it: a JSON column would not give the same tokens back.
    metadata      String CODEC(ZSTD(3)),
    -- NULL: none given. An empty text is a text.
    reasoning     Nullable(String) CODEC(ZSTD(3)),
    -- The stream's own time of the message, so that a rebuild gives the same row.
    ingested_at   DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    -- The message's sequence in the stream: what recovery reads back, and the order of the feed.
    stream_seq    UInt64 CODEC(Delta, ZSTD(1)),
    -- The first copy of an event wins: ReplacingMergeTree keeps the highest version, so the lowest sequence has it.
    version       UInt64 MATERIALIZED bitNot(stream_seq) CODEC(Delta, ZSTD(1)),
    -- Recovery and the feed look for ranges of sequences.
    INDEX seq_range stream_seq TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
-- One insert of the ingester is one partition and so one part, written whole or not at all. A partition per tenant would
-- die of parts; the pipeline's partition lets a tenant's query read a sixteenth of a month.
PARTITION BY (partition, toYYYYMM(created_at))
-- A page is a range of this order. UUIDs sort by their second half first in ClickHouse; toUInt128 orders them by their
-- bytes, as every client does.
ORDER BY (tenant_id, created_at, toUInt128(id))
SETTINGS
    -- A page is 50 rows: small granules keep it from reading 8192.
    index_granularity = 512,
    -- Tokens of retried inserts; the default of 0 would ignore them.
    non_replicated_deduplication_window = 10000,
    -- What is answered is on disk, not in the page cache.
    fsync_after_insert = 1,
    fsync_part_directory = 1
