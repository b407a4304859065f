CREATE TABLE audit.event_log
(
    `partition` UInt16,
    `tenant_id` UUID,
    `created_at` DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    `id` UUID CODEC(ZSTD(1)),
    `actor_id` String CODEC(ZSTD(1)),
    `actor_type` LowCardinality(String),
    `action` LowCardinality(String),
    `resource_type` LowCardinality(String),
    `resource_id` String CODEC(ZSTD(1)),
    `metadata` String CODEC(ZSTD(3)),
    `reasoning` Nullable(String) CODEC(ZSTD(3)),
    `ingested_at` DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    `stream_seq` UInt64 CODEC(Delta(8), ZSTD(1)),
    `version` UInt64 MATERIALIZED bitNot(stream_seq) CODEC(Delta(8), ZSTD(1)),
    INDEX seq_range stream_seq TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY (partition, toYYYYMM(created_at))
ORDER BY (tenant_id, created_at, toUInt128(id))
SETTINGS index_granularity = 512, non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
