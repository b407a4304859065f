CREATE TABLE audit.event_hours_progress
(
    `partition` UInt16,
    `through` UInt64,
    `next_day` Date,
    `at` DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(at)
ORDER BY partition
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
