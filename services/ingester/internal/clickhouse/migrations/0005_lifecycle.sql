-- The copy of the stream AUDIT_CONTROL: what was decided about events that are stored. A stream that has lost decisions is known by it, and can be
-- repaired from it: docs/design/007-lifecycle.md. There is no personal data in it.
CREATE TABLE IF NOT EXISTS control_log
(
    -- The decision's sequence in the stream.
    seq  UInt64,
    at   DateTime64(6, 'UTC'),
    -- SHA-256 of data, in hexadecimal. data holds the hash of the decision before.
    hash String,
    data String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY seq
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The rows that were removed from the event table, by the cut that removed them: what ledger, stream and table are compared by. A tombstone is written
-- before its row goes.
CREATE TABLE IF NOT EXISTS tombstones
(
    partition  UInt16,
    stream_seq UInt64 CODEC(Delta, ZSTD(1)),
    -- The mark of the cut, which the control log has.
    cut        UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY partition
ORDER BY (partition, stream_seq, cut)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
