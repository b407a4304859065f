CREATE VIEW audit.events_hourly
(
    `tenant_id` UUID,
    `hour` DateTime('UTC'),
    `actor_id` String,
    `action` LowCardinality(String),
    `events` UInt64,
    `counted_at` DateTime64(6, 'UTC')
)
DEFINER = default SQL SECURITY DEFINER
AS SELECT
    tenant_id,
    hour,
    actor_id,
    action,
    events,
    counted_at
FROM audit.event_hours
FINAL
WHERE events > 0
SETTINGS do_not_merge_across_partitions_select_final = 1
