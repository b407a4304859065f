package app

import (
	"context"
	"log/slog"
	"math"
	"time"

	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/pkg/service/settings"
	"example.com/auditlog/pkg/service/shard"
	"example.com/auditlog/pkg/service/telemetry"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/hourly"
	"example.com/auditlog/services/ingester/internal/pipeline"
)

// Defaults of the settings.
const (
	DefaultClickHouseURL = "clickhouse://127.0.0.1:9000/audit"
	DefaultOpsAddr       = "127.0.0.1:9101"
	DefaultPartitions    = 16
	DefaultReplicas      = 1
	// DefaultRetention is how long a committed event stays in the stream: from there the table is built anew.
	DefaultRetention = 14 * 24 * time.Hour
	// DefaultRetentionEvery is how often what is kept for too long is removed from the table.
	DefaultRetentionEvery = 24 * time.Hour
)

// maxPartitions bounds AUDIT_PARTITIONS: each has its own parts in the table.
const maxPartitions = 256

// Config is everything the ingester can be told. ConfigFromEnv fills it.
type Config struct {
	// NATS says where NATS is (AUDIT_NATS_*).
	NATS natsconn.Config
	// ClickHouseURL is a clickhouse-go DSN, native protocol (AUDIT_CLICKHOUSE_URL). It may hold a password: do not log it.
	ClickHouseURL string
	// OpsAddr is where serve answers /healthz, /readyz and /metrics (AUDIT_OPS_ADDR).
	OpsAddr string
	// LogLevel is AUDIT_LOG_LEVEL.
	LogLevel slog.Level
	// Telemetry says where traces go (OTEL_*).
	Telemetry telemetry.Config
	// Partitions is into how many partitions the stream sorts tenants (AUDIT_PARTITIONS); `ingester repartition` changes it. Too few, and few
	// ingesters can share the work; too many, and the table has many small parts.
	Partitions int
	// Shard is which of several ClickHouse servers ClickHouseURL is (AUDIT_SHARD), and so which partitions this process is about.
	Shard shard.Shard
	// Replicas is how many NATS servers keep each stream (AUDIT_NATS_REPLICAS): 1, 3 or 5.
	Replicas int
	// StreamMaxBytes bounds the stream of events; -1 leaves it to the disk (AUDIT_STREAM_MAX_BYTES). A full stream refuses publishes.
	StreamMaxBytes int64
	// Retention is how long the stream keeps events that are in the table (AUDIT_RETENTION). What is not in the table stays in any case.
	Retention time.Duration
	// BatchMaxEvents and BatchMaxBytes bound a batch (AUDIT_BATCH_MAX_EVENTS, AUDIT_BATCH_MAX_BYTES), in events and bytes of payload.
	BatchMaxEvents, BatchMaxBytes int
	// BatchMaxWait is how long an event waits for a batch to fill when many come, unless the reader is behind (AUDIT_BATCH_MAX_WAIT). Few go at once.
	BatchMaxWait time.Duration
	// Memory bounds the rows and dead letters in memory (AUDIT_MEMORY_BYTES), in bytes. The process takes about twice that at most, and 60 MiB.
	Memory int
	// Flushers is how many batches are written at the same time (AUDIT_FLUSHERS).
	Flushers int
	// TrimEvery is how often the stream is trimmed (AUDIT_TRIM_INTERVAL).
	TrimEvery time.Duration
	// HourlyEvery is how often new events are counted by hours for analysts (AUDIT_HOURLY_INTERVAL).
	HourlyEvery time.Duration

	// RetentionEvery is how often what is kept for too long is removed from the table (AUDIT_RETENTION_RUN); 0 for never.
	RetentionEvery time.Duration

	// heartbeat replaces lease.DefaultHeartbeat in tests that wait for a process to count as dead.
	heartbeat time.Duration
}

// ConfigFromEnv reads the settings from environment variables. The error names every one that is wrong.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	r := settings.New(getenv)
	c := Config{
		NATS:           natsconn.FromSettings(r),
		ClickHouseURL:  r.String("AUDIT_CLICKHOUSE_URL", DefaultClickHouseURL),
		OpsAddr:        r.Addr("AUDIT_OPS_ADDR", DefaultOpsAddr),
		LogLevel:       r.LogLevel(),
		Telemetry:      telemetry.FromSettings(r),
		Partitions:     r.Int("AUDIT_PARTITIONS", DefaultPartitions, 1, maxPartitions),
		Shard:          shard.FromSettings(r),
		Replicas:       r.Int("AUDIT_NATS_REPLICAS", DefaultReplicas, 1, 5),
		StreamMaxBytes: int64(r.Int("AUDIT_STREAM_MAX_BYTES", -1, -1, math.MaxInt)),
		Retention:      r.Duration("AUDIT_RETENTION", DefaultRetention, time.Minute, 10*365*24*time.Hour),
		BatchMaxEvents: r.Int("AUDIT_BATCH_MAX_EVENTS", pipeline.DefaultBatchMaxEvents, 1, 500_000),
		BatchMaxBytes:  r.Int("AUDIT_BATCH_MAX_BYTES", pipeline.DefaultBatchMaxBytes, 1<<10, 128<<20),
		BatchMaxWait:   r.Duration("AUDIT_BATCH_MAX_WAIT", pipeline.DefaultLingerMax, pipeline.DefaultLingerMin, time.Minute),
		Memory:         r.Int("AUDIT_MEMORY_BYTES", pipeline.DefaultMemory, 1<<20, 16<<30),
		Flushers:       r.Int("AUDIT_FLUSHERS", pipeline.DefaultFlushers, 1, 64),
		TrimEvery:      r.Duration("AUDIT_TRIM_INTERVAL", 10*time.Minute, time.Second, 24*time.Hour),
		RetentionEvery: r.Duration("AUDIT_RETENTION_RUN", DefaultRetentionEvery, 0, 31*24*time.Hour),
		HourlyEvery:    r.Duration("AUDIT_HOURLY_INTERVAL", hourly.DefaultEvery, 100*time.Millisecond, 24*time.Hour),
	}
	if c.Shard.Of > c.Partitions {
		r.Faultf("AUDIT_SHARD", "%d shards cannot share %d partitions (AUDIT_PARTITIONS)", c.Shard.Of, c.Partitions)
	}
	if c.Replicas%2 == 0 {
		r.Faultf("AUDIT_NATS_REPLICAS", "%d must be 1, 3 or 5", c.Replicas)
	}
	if c.StreamMaxBytes >= 0 && c.StreamMaxBytes < 1<<20 {
		r.Faultf("AUDIT_STREAM_MAX_BYTES", "%d must be -1 or at least %d", c.StreamMaxBytes, 1<<20)
	}
	// The error may hold the password.
	if store, err := clickhouse.Open(context.Background(), c.ClickHouseURL, slog.New(slog.DiscardHandler)); err != nil {
		r.Faultf("AUDIT_CLICKHOUSE_URL", "must be a DSN of the native protocol, such as clickhouse://user:password@host:9000/database")
	} else {
		_ = store.Close()
	}
	return c, r.Err()
}
