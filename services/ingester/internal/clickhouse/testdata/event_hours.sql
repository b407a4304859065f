CREATE TABLE audit.event_hours
(
    `partition` UInt16,
    `tenant_id` UUID,
    `hour` DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    `actor_id` String CODEC(ZSTD(1)),
    `action` LowCardinality(String),
    `events` UInt64 CODEC(ZSTD(1)),
    `counted_at` DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree(counted_at)
PARTITION BY (partition, toYear(hour))
ORDER BY (tenant_id, hour, action, actor_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
