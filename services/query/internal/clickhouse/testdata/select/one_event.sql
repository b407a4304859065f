SELECT created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq
FROM event_log
PREWHERE toString(id) = {id:String}
  AND substring(hex(cityHash64(id)), 1, 5) = substring(hex(cityHash64(toUUID({id:String}))), 1, 5)
WHERE partition = {partition:UInt16}
  AND tenant_id = {tenant:UUID}
  AND (tenant_id = {az0:UUID})
ORDER BY tenant_id DESC, created_at DESC, toUInt128(id) DESC
LIMIT {limit:UInt32}

-- az0 = "11111111-2222-4333-8444-555555555555"
-- id = "01937b7e-0000-7000-8000-000000000001"
-- limit = "66"
-- partition = "7"
-- tenant = "11111111-2222-4333-8444-555555555555"
