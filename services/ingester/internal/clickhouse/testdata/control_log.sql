CREATE TABLE audit.control_log
(
    `seq` UInt64,
    `at` DateTime64(6, 'UTC'),
    `hash` String,
    `data` String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY seq
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
