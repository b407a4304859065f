SELECT created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq
FROM event_log
WHERE partition = {partition:UInt16}
  AND tenant_id = {tenant:UUID}
  AND (tenant_id = {az0:UUID})
  AND (hasAll(['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id], [{tag_r0:String}, {tag_c0:String}, {tag_a0:String}]) OR hasAll(['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id], [{tag_r0:String}, {tag_c0:String}, {tag_a1:String}]) OR hasAll(['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id], [{tag_r0:String}, {tag_c1:String}, {tag_a0:String}]) OR hasAll(['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id], [{tag_r0:String}, {tag_c1:String}, {tag_a1:String}]) OR hasAll(['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id], [{tag_r0:String}, {tag_c2:String}, {tag_a0:String}]) OR hasAll(['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id], [{tag_r0:String}, {tag_c2:String}, {tag_a1:String}]))
ORDER BY tenant_id DESC, created_at DESC, toUInt128(id) DESC
LIMIT {limit:UInt32}

-- az0 = "11111111-2222-4333-8444-555555555555"
-- limit = "66"
-- partition = "7"
-- tag_a0 = "ao'brien"
-- tag_a1 = "aback\\slash"
-- tag_c0 = "ca"
-- tag_c1 = "cb"
-- tag_c2 = "cc"
-- tag_r0 = "r%"
-- tenant = "11111111-2222-4333-8444-555555555555"
