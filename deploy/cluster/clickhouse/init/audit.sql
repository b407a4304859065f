-- Run by the image at a replica's first start: the replicas of a shard share the database, and run its migrations together.
CREATE DATABASE IF NOT EXISTS audit ENGINE = Replicated('/clickhouse/databases/audit/{shard}', '{shard}', '{replica}');
