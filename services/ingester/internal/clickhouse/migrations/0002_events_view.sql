-- What analysts read: no event twice, whether or not merges have happened yet. One event always lies in one partition of
-- the table, so partitions need not be merged with each other.
--
-- metadata is typed, for subcolumns (metadata.a.b) as well as the JSON functions; metadata_text is the text as it came.
-- ClickHouse's JSON holds numbers of 64 bits: where a longer integer makes a row's text unreadable to it, such integers are
-- read as strings, and of repeated keys the first counts.
CREATE OR REPLACE VIEW events AS
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
