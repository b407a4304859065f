package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	ingester "example.com/auditlog/services/ingester/app"
	query "example.com/auditlog/services/query/app"
)

// partitioned is a system whose services come and go.
type partitioned struct {
	*system
	log *slog.Logger
}

func (p *partitioned) env(partitions int) func(string) string {
	return func(name string) string {
		return map[string]string{
			"AUDIT_NATS_URL": p.NATSURL(), "AUDIT_CLICKHOUSE_URL": p.ClickHouseURL(), "AUDIT_PARTITIONS": fmt.Sprint(partitions),
			"AUDIT_HTTP_ADDR": "127.0.0.1:0", "AUDIT_OPS_ADDR": "127.0.0.1:0", "AUDIT_RATE_LIMIT": "0", "AUDIT_HOURLY_INTERVAL": "100ms",
		}[name]
	}
}

// ingest runs an ingester until stop is called.
func (p *partitioned) ingest(t *testing.T, partitions int) (stop func() error) {
	t.Helper()
	cfg, err := ingester.ConfigFromEnv(p.env(partitions))
	must(t, err)
	svc, err := ingester.New(t.Context(), cfg, ingester.Deps{Log: p.log, Registerer: prometheus.NewRegistry()})
	must(t, err)
	stop = until(t, svc.Run)
	waitReady(t, svc.Checks())
	return stop
}

// serve runs a query service, which p asks from then on, until stop is called.
func (p *partitioned) serve(t *testing.T, partitions int) (stop func() error) {
	t.Helper()
	cfg, err := query.ConfigFromEnv(p.env(partitions))
	must(t, err)
	svc, err := query.New(t.Context(), cfg, query.Deps{Log: p.log, Registerer: prometheus.NewRegistry()})
	must(t, err)
	stop = until(t, svc.Run)
	waitReady(t, svc.Checks())
	p.api = "http://" + svc.Addr() + "/v1/audit-log"
	return stop
}

// until runs f; stop ends it, or waits for its own end, and returns its error.
func until(t *testing.T, f func(context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			return errors.New("it does not stop")
		}
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// command runs the ingester's command line.
func (p *partitioned) command(t *testing.T, partitions int, args ...string) (status int, out string) {
	t.Helper()
	var text bytes.Buffer
	status = ingester.Main(t.Context(), args, p.env(partitions), nil, &text, &text)
	return status, text.String()
}

// said is what a command has said so far.
type said struct {
	mu   sync.Mutex
	text string
	on   map[string]func()
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += string(b)
	for line, f := range s.on {
		if strings.Contains(string(b), line) {
			go f()
		}
	}
	return len(b), nil
}

// Ensure the number of partitions can be changed while producers go on: no event is lost or doubled, each tenant's log is whole and in order before,
// meanwhile and after, cursors from before go on, and nothing that knows the old number, or the new one too early, runs.
func TestRepartition(t *testing.T) {
	const from, to, tenants = 4, 6, 12
	p := &partitioned{system: &system{Stack: stacktest.Start(t)}, log: slog.New(slog.NewJSONHandler(&testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))}
	stopIngester := p.ingest(t, from)
	stopQuery := p.serve(t, from)
	var err error
	p.nc, err = nats.Connect(p.NATSURL(), nats.MaxReconnects(-1))
	must(t, err)
	t.Cleanup(p.nc.Close)

	// A producer that never stops, of events in the order of their times for each tenant.
	var ids, keys [tenants]string
	var all [tenants][]uuid.UUID
	pub, err := events.NewPublisher(p.nc)
	must(t, err)
	var mu sync.Mutex
	began := time.Now().Add(-time.Hour)
	publish := func(ctx context.Context, n int) error {
		mu.Lock()
		defer mu.Unlock()
		for i := range n {
			tenant := tenantNumber(i % tenants)
			e := someEvent(tenant, i)
			e.ID, e.CreatedAt = uuid.New(), began.Add(time.Duration(len(all[i%tenants]))*time.Millisecond).Truncate(time.Microsecond)
			for err := pub.Publish(ctx, e); err != nil; err = pub.Publish(ctx, e) { // it keeps the event
				if ctx.Err() != nil {
					return err
				}
			}
			all[i%tenants] = append(all[i%tenants], e.ID)
		}
		return nil
	}
	must(t, publish(t.Context(), 25*tenants))
	for i := range tenants {
		ids[i] = tenantNumber(i).String()
		keys[i] = p.key(t, tenantNumber(i))
		p.walkUntil(t, keys[i], tenantNumber(i), 1000, 25)
	}
	// Cursors from before: of a list that is half read, and of a feed that has read everything.
	half := p.get(t, keys[0], tenantNumber(0), url.Values{"limit": {"10"}})
	feed, err := p.pull(t.Context(), keys[0], tenantNumber(0), url.Values{"limit": {"1000"}})
	must(t, err)
	if len(feed.Data) != 25 || *half.NextCursor == "" {
		t.Fatalf("%d events in the feed", len(feed.Data))
	}

	producing, stopProducing := context.WithCancel(t.Context())
	produced := make(chan error, 1)
	go func() {
		var err error
		for err == nil && producing.Err() == nil {
			err = publish(t.Context(), tenants)
			time.Sleep(20 * time.Millisecond) // a log that can be walked in no time
		}
		produced <- err
	}()

	if status, out := p.command(t, from, "repartition", "--to", fmt.Sprint(to), "--wait", "1ms"); status != 1 || !strings.Contains(out, "nothing was changed") {
		t.Errorf("with an ingester that is not stopped: %d %s", status, out)
	}
	ledgerFile := filepath.Join(t.TempDir(), "ledger.ndjson")
	if status, out := p.command(t, from, "repartition", "--to", fmt.Sprint(to), "--finish", "--keep-ledger", ledgerFile); status != 1 || !strings.Contains(out, "not now") {
		t.Errorf("finish before anything was copied: %d %s", status, out)
	}
	out := &said{on: map[string]func(){"Stop all ingesters now": func() { _ = stopIngester() }}}
	if status := ingester.Main(t.Context(), []string{"repartition", "--to", fmt.Sprint(to)}, p.env(from), nil, out, out); status != 0 {
		t.Fatalf("%d %s", status, out.text)
	}
	// In between readers have what was there, and nothing else may work.
	for i := range tenants {
		if got := p.walk(t, keys[i], tenantNumber(i), url.Values{"limit": {"7"}}); len(got) < 25 {
			t.Errorf("between the two runs a tenant has %d events", len(got))
		}
	}
	for _, partitions := range []int{from, to} {
		cfg, err := ingester.ConfigFromEnv(p.env(partitions))
		must(t, err)
		if svc, err := ingester.New(t.Context(), cfg, ingester.Deps{Log: p.log, Registerer: prometheus.NewRegistry()}); err == nil || !strings.Contains(err.Error(), "being changed from 4 to 6") {
			t.Errorf("an ingester with %d partitions starts in between: %v, %v", partitions, svc, err)
		}
		if status, out := p.command(t, partitions, "verify"); status != 1 || !strings.Contains(out, "being changed") {
			t.Errorf("verify in between: %d %s", status, out)
		}
	}
	if _, err := query.New(t.Context(), queryConfig(t, p.env(to)), query.Deps{Log: p.log, Registerer: prometheus.NewRegistry()}); err == nil {
		t.Error("a query service with the new number starts before the table has it")
	}

	status, text := p.command(t, from, "repartition", "--to", fmt.Sprint(to), "--finish", "--keep-ledger", ledgerFile)
	if status != 0 || !strings.Contains(text, "AUDIT_PARTITIONS=6") {
		t.Fatalf("%d %s", status, text)
	}
	if err := stopQuery(); err == nil || !strings.Contains(err.Error(), "being changed") && !strings.Contains(err.Error(), "AUDIT_PARTITIONS is 4") {
		t.Errorf("a query service that was forgotten ended with %v", err)
	}
	if kept, err := os.ReadFile(ledgerFile); err != nil || bytes.Count(kept, []byte("\n")) < from {
		t.Errorf("the old ledger has %d bytes: %v", len(kept), err)
	}
	if status, text := p.command(t, from, "repartition", "--to", fmt.Sprint(to), "--finish", "--keep-ledger", ledgerFile); status == 0 {
		t.Errorf("it was finished twice: %s", text)
	}

	p.ingest(t, to)
	p.serve(t, to)
	stopProducing()
	must(t, <-produced)
	must(t, publish(t.Context(), tenants))
	must(t, pub.Close(t.Context()))
	for i, tenant := range ids {
		id := uuid.MustParse(tenant)
		got := p.walkUntil(t, keys[i], id, 100, len(all[i]))
		if len(got) != len(all[i]) {
			t.Errorf("tenant %d has %d events, %d were acknowledged", i, len(got), len(all[i]))
			continue
		}
		for k, e := range got { // newest first
			if want := all[i][len(all[i])-1-k]; e.ID != want {
				t.Fatalf("tenant %d: event %d is %s, want %s", i, k, e.ID, want)
			}
		}
	}
	rest := p.walk(t, keys[0], tenantNumber(0), url.Values{"limit": {"10"}, "cursor": {*half.NextCursor}})
	if len(rest) != 15 || rest[14].ID != all[0][0] {
		t.Errorf("the cursor from before gives %d events more", len(rest))
	}
	p.feedFrom(t, keys[0], tenantNumber(0), feed.NextCursor, all[0][25:])
	if status, text := p.command(t, to, "verify", "--deep"); status != 0 || !strings.Contains(text, "OK") {
		t.Errorf("verify: %d %s", status, text)
	}
	if left := p.clickhouse(t, "SELECT count() FROM system.tables WHERE database = 'audit' AND (name LIKE '%building%' OR name LIKE '%next%' OR comment != '')"); left != "0" {
		t.Errorf("%s tables are left over or marked", left)
	}
	total := 0
	for i := range tenants {
		total += len(all[i])
	}
	p.waitFor(t, "the counts by hour are right", func() bool {
		return p.clickhouse(t, "SELECT sum(events) FROM audit.events_hourly") == fmt.Sprint(total)
	})
	if n := p.clickhouse(t, "SELECT count() FROM (SELECT tenant_id FROM audit.event_hours GROUP BY tenant_id HAVING uniqExact(partition) > 1)"); n != "0" {
		t.Errorf("the counts by hour of %s tenants lie in two partitions", n)
	}
}

func queryConfig(t *testing.T, getenv func(string) string) query.Config {
	t.Helper()
	cfg, err := query.ConfigFromEnv(getenv)
	must(t, err)
	return cfg
}

// tenantNumber is one of a few tenants, spread over the partitions.
func tenantNumber(i int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, []byte{byte(i)}) }

// feedFrom pulls from a cursor until the events have come, each once and no other, in their order.
func (p *partitioned) feedFrom(t *testing.T, key string, tenant uuid.UUID, cursor string, want []uuid.UUID) {
	t.Helper()
	var got []uuid.UUID
	p.waitFor(t, "the feed goes on", func() bool {
		page, err := p.pull(t.Context(), key, tenant, url.Values{"limit": {"1000"}, "cursor": {cursor}})
		must(t, err)
		cursor = page.NextCursor
		for _, e := range page.Data {
			got = append(got, e.ID)
		}
		return len(got) >= len(want)
	})
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the feed goes on with %d events, want %d, or in another order", len(got), len(want))
	}
}
