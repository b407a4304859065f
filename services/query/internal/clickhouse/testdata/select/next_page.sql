SELECT created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq
FROM event_log
WHERE partition = {partition:UInt16}
  AND tenant_id = {tenant:UUID}
  AND (tenant_id = {az0:UUID})
  AND created_at <= {after:DateTime64(6, 'UTC')}
  AND (created_at, toUInt128(id)) < ({after:DateTime64(6, 'UTC')}, toUInt128({after_id:UUID}))
ORDER BY tenant_id DESC, created_at DESC, toUInt128(id) DESC
LIMIT {limit:UInt32}

-- after = "2026-11-23 11:00:00.123456"
-- after_id = "01937b7e-0000-7000-8000-000000000001"
-- az0 = "11111111-2222-4333-8444-555555555555"
-- limit = "66"
-- partition = "7"
-- tenant = "11111111-2222-4333-8444-555555555555"
