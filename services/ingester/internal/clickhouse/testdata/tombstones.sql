CREATE TABLE audit.tombstones
(
    `partition` UInt16,
    `stream_seq` UInt64 CODEC(Delta(8), ZSTD(1)),
    `cut` UInt64 CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY partition
ORDER BY (partition, stream_seq, cut)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
