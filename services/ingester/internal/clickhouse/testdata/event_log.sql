CREATE TABLE audit.event_log
(
    `partition` UInt16,
    `tenant_id` UUID,
    `created_at` DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(3)),
    `id` UUID CODEC(ZSTD(1)),
    `actor_id` String CODEC(ZSTD(1)),
    `actor_type` LowCardinality(String) CODEC(ZSTD(1)),
    `action` LowCardinality(String) CODEC(ZSTD(1)),
    `resource_type` LowCardinality(String) CODEC(ZSTD(1)),
    `resource_id` String CODEC(ZSTD(1)),
    `metadata` String CODEC(ZSTD(5)),
    `reasoning` Nullable(String) CODEC(ZSTD(3)),
    `ingested_at` DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(3)),
    `stream_seq` UInt64 CODEC(DoubleDelta, ZSTD(1)),
    `version` UInt64 MATERIALIZED bitNot(stream_seq) CODEC(Delta(8), ZSTD(1)),
    INDEX seq_range stream_seq TYPE minmax GRANULARITY 1,
    INDEX seq_blocks intDiv(stream_seq, 1024) TYPE set(64) GRANULARITY 1,
    INDEX tags [concat('a', actor_id), concat('c', action), concat('t', resource_type), concat('r', resource_id)] TYPE text(tokenizer = 'array', posting_list_block_size = 1000000000) GRANULARITY 100000000,
    INDEX event_ids substring(hex(cityHash64(id)), 1, 5) TYPE text(tokenizer = 'array', posting_list_codec = 'bitpacking') GRANULARITY 100000000
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY (partition, toYear(created_at))
ORDER BY (tenant_id, created_at, toUInt128(id))
SETTINGS index_granularity = 256, min_compress_block_size = 8192, max_compress_block_size = 16384, non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, merge_selector_base = 10, string_serialization_version = 'single_stream', max_bytes_to_merge_at_max_space_in_pool = 1500000000
