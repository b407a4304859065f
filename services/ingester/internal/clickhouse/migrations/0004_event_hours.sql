-- How many events each actor did of each action in each hour, for analysts: docs/design/004-hourly-counts.md. Counted from the
-- event table by the ingester, after the insert and apart from it, as often as it likes: a count is a number that replaces
-- another, never one that is added to.
CREATE TABLE IF NOT EXISTS event_hours
(
    partition  UInt16,
    tenant_id  UUID,
    hour       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    actor_id   String CODEC(ZSTD(1)),
    action     LowCardinality(String),
    -- 0: there were some, and they are gone. Such rows are deleted after a while.
    events     UInt64 CODEC(ZSTD(1)),
    -- When this number took the place of the one before.
    counted_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(counted_at)
PARTITION BY (partition, toYear(hour))
ORDER BY (tenant_id, hour, action, actor_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- How far counting has come.
CREATE TABLE IF NOT EXISTS event_hours_progress
(
    partition UInt16,
    -- Every event up to this sequence is counted.
    through   UInt64,
    -- The day that the round over all days, which finds what was deleted or changed, looks at next.
    next_day  Date,
    at        DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(at)
ORDER BY partition
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- What analysts read. Both views run with the rights of who made them, and analysts have none on the tables: whoever may read a
-- table may read its index too, by table functions that no row policy holds in. So policies are on the views.
CREATE OR REPLACE VIEW events_hourly DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT tenant_id, hour, actor_id, action, events, counted_at
FROM event_hours FINAL
WHERE events > 0
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- As in 0002, where its columns are explained.
CREATE OR REPLACE VIEW events DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    tenant_id,
    id,
    created_at,
    actor_id,
    actor_type,
    action,
    resource_type,
    resource_id,
    coalesce(
        accurateCastOrNull(e.metadata, 'JSON'),
        accurateCastOrNull(replaceRegexpAll(e.metadata, '([:,\\[]\\s*)(-?[0-9]{19,})(\\s*)([,}\\]])', '\\1"\\2"\\3\\4'), 'JSON'),
        '{}'::JSON
    ) AS metadata,
    reasoning,
    ingested_at,
    stream_seq,
    e.metadata AS metadata_text
FROM event_log AS e FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1, type_json_skip_duplicated_paths = 1
