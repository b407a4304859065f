package app

import (
	"context"
	"fmt"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/jetstream"
)

// preflight refuses settings with which a command would not do what was meant, before it does anything: a ClickHouse that does not answer or will not have
// us, and another number of partitions than the stream has, with which the events of some would be left out.
func preflight(ctx context.Context, cfg Config, js natsjs.JetStream, table *clickhouse.Store) error {
	if err := table.Ping(ctx); err != nil {
		return fmt.Errorf("reach ClickHouse (AUDIT_CLICKHOUSE_URL): %w", err)
	}
	return jetstream.CheckPartitions(ctx, js, cfg.shape())
}
