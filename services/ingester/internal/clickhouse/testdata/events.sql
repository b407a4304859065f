CREATE VIEW audit.events
(
    `tenant_id` UUID,
    `id` UUID,
    `created_at` DateTime64(6, 'UTC'),
    `actor_id` String,
    `actor_type` LowCardinality(String),
    `action` LowCardinality(String),
    `resource_type` LowCardinality(String),
    `resource_id` String,
    `metadata` JSON,
    `reasoning` Nullable(String),
    `ingested_at` DateTime64(6, 'UTC'),
    `stream_seq` UInt64,
    `metadata_text` String
)
DEFINER = default SQL SECURITY DEFINER
AS SELECT
    tenant_id,
    id,
    created_at,
    actor_id,
    actor_type,
    action,
    resource_type,
    resource_id,
    coalesce(accurateCastOrNull(e.metadata, 'JSON'), accurateCastOrNull(replaceRegexpAll(e.metadata, '([:,\\[]\\s*)(-?[0-9]{19,})(\\s*)([,}\\]])', '\\1"\\2"\\3\\4'), 'JSON'), CAST('{}', 'JSON')) AS metadata,
    reasoning,
    ingested_at,
    stream_seq,
    e.metadata AS metadata_text
FROM audit.event_log AS e
FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1, type_json_skip_duplicated_paths = 1
