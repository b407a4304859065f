package app_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/query/app"
)

// Ensure a service that was told another number of partitions than the stream has does not start: every log would look empty to it.
func TestOtherNumberOfPartitions(t *testing.T) {
	own := stacktest.Start(t)
	nc, err := nats.Connect(own.NATSURL())
	must(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	must(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: events.StreamAudit, Subjects: []string{"audit.events.*"},
		SubjectTransform: &jetstream.SubjectTransformConfig{Source: "audit.events.*", Destination: "audit.p.{{partition(8,1)}}.{{wildcard(1)}}"},
	})
	must(t, err)
	env := map[string]string{
		"AUDIT_NATS_URL": own.NATSURL(), "AUDIT_CLICKHOUSE_URL": fmt.Sprintf("clickhouse://127.0.0.1:%d/audit", own.ClickHousePort()), "AUDIT_HTTP_ADDR": "127.0.0.1:0",
	}
	cfg, err := app.ConfigFromEnv(func(name string) string { return env[name] })
	must(t, err)
	_, err = app.New(t.Context(), cfg, app.Deps{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err == nil || !strings.Contains(err.Error(), "AUDIT_PARTITIONS is 16") || !strings.Contains(err.Error(), "made with 8") {
		t.Errorf("with 16 instead of 8 partitions: %v", err)
	}
}
