SELECT created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq
FROM event_log
WHERE partition = {partition:UInt16}
  AND tenant_id = {tenant:UUID}
  AND (tenant_id = {az0:UUID})
  AND actor_id IN ({actor_id0:String}, {actor_id1:String})
  AND resource_type = {resource_type0:String}
  AND resource_id = {resource_id0:String}
  AND action IN ({action0:String}, {action1:String}, {action2:String})
ORDER BY tenant_id DESC, created_at DESC, toUInt128(id) DESC, stream_seq
LIMIT {limit:UInt32}

-- action0 = "a"
-- action1 = "b"
-- action2 = "c"
-- actor_id0 = "o'brien"
-- actor_id1 = "back\\slash"
-- az0 = "11111111-2222-4333-8444-555555555555"
-- limit = "66"
-- partition = "7"
-- resource_id0 = "%"
-- resource_type0 = "invoice"
-- tenant = "11111111-2222-4333-8444-555555555555"
