-- Compress better what compressed badly: docs/design/002-reading.md has the measurements. Nothing is rewritten: parts that are written from now on, by
-- inserts and merges, have the new codecs, and parts of both kinds live side by side.
ALTER TABLE event_log
    MODIFY COLUMN created_at CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN actor_type CODEC(ZSTD(1)),
    MODIFY COLUMN action CODEC(ZSTD(1)),
    MODIFY COLUMN resource_type CODEC(ZSTD(1)),
    MODIFY COLUMN ingested_at CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN stream_seq CODEC(DoubleDelta, ZSTD(1));
