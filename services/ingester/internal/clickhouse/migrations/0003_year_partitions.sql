-- The table anew, for reading at scale: docs/design/002-reading.md has the measurements. Partition and granules of a table cannot be altered, so its
-- rows are copied to another table that takes its name. relayout.go runs these statements, copies rows after the first and the second, and
-- knows how to begin again.
CREATE TABLE event_log_next
(
    -- The pipeline's partition of the tenant: FNV-1a of its text modulo the number of partitions.
    partition     UInt16,
    tenant_id     UUID,
    -- By the producer's clock.
    created_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
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
    INDEX seq_range stream_seq TYPE minmax GRANULARITY 1,
    -- The same where late events have strayed into a granule: then its lowest and highest sequence say nothing.
    INDEX seq_blocks intDiv(stream_seq, 1024) TYPE set(64) GRANULARITY 1,
    -- Twenty bits of a hash stand for the id: a million lists instead of one for each event.
    INDEX ids substring(hex(cityHash64(id)), 1, 5) TYPE text(tokenizer = 'array'),
    -- One index over all filters, so that a combination of them is intersected in it. The letter keeps fields apart.
    INDEX tags ['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id] TYPE text(tokenizer = 'array', posting_list_block_size = 1000000000)
)
ENGINE = ReplacingMergeTree(version)
-- One insert of the ingester is one partition and so one part, written whole or not at all. A partition per tenant would
-- die of parts. Of a year, not a month: a query without a window looks into every part.
PARTITION BY (partition, toYear(created_at))
-- A page is a range of this order. UUIDs sort by their second half first in ClickHouse; toUInt128 orders them by their
-- bytes, as every client does.
ORDER BY (tenant_id, created_at, toUInt128(id))
SETTINGS
    -- A page is 50 rows, and with a sparse filter they are scattered: small granules, and blocks that are quick to read one of.
    index_granularity = 256,
    min_compress_block_size = 8192,
    max_compress_block_size = 16384,
    -- Tokens of retried inserts; the default of 0 would ignore them.
    non_replicated_deduplication_window = 10000,
    -- What is answered is on disk, not in the page cache.
    fsync_after_insert = 1,
    fsync_part_directory = 1;

EXCHANGE TABLES event_log_next AND event_log;

DROP TABLE IF EXISTS event_log_next SYNC SETTINGS max_table_size_to_drop = 0;
