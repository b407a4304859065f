SELECT created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq
FROM event_log
WHERE partition = {partition:UInt16}
  AND tenant_id = {tenant:UUID}
  AND (tenant_id = {az0:UUID} AND resource_type IN ({az1:String}, {az2:String}))
  AND hasAny(['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id], [{tag_t0:String}, {tag_t1:String}])
ORDER BY tenant_id DESC, created_at DESC, toUInt128(id) DESC
LIMIT {limit:UInt32}

-- az0 = "11111111-2222-4333-8444-555555555555"
-- az1 = "invoice"
-- az2 = "it's"
-- limit = "66"
-- partition = "7"
-- tag_t0 = "tinvoice"
-- tag_t1 = "tit's"
-- tenant = "11111111-2222-4333-8444-555555555555"
