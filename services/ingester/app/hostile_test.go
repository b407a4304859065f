package app

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// Ensure a producer that spreads its events over all the years there are, so that each batch of it becomes dozens of parts, keeps nobody else waiting and
// leaves the table far from its limits.
func TestEventsOverAllYears(t *testing.T) {
	r := newRig(t)
	svc, _ := r.serve(t, nil)
	waitDriven(t, svc, 16, 10*time.Second)
	hostile := tenantOf(1000)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := events.NewPublisher(r.nc)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(57, 1970))
	const n, others = 1500, 200 // one batch of these is as many parts as there are years
	var futures []*events.Future
	publish := func(tenant uuid.UUID, at time.Time) {
		f, err := p.PublishAsync(ctx, events.Event{TenantID: tenant, ActorID: "a", ActorType: "user", Action: "thing.do", ResourceType: "thing", ResourceID: "r", CreatedAt: at})
		if err != nil {
			t.Fatal(err)
		}
		futures = append(futures, f)
	}
	for range n {
		publish(hostile, time.Unix(rng.Int64N(time.Now().Unix()), 0))
	}
	for i := range others {
		tenant := tenantOf(i)
		for events.Partition(tenant, 16) == events.Partition(hostile, 16) {
			tenant = uuid.New()
		}
		publish(tenant, time.Now())
	}
	for _, f := range futures {
		if _, err := f.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	r.wantValue(t, fmt.Sprintf("SELECT count() FROM audit.event_log WHERE tenant_id != '%s'", hostile), others, 20*time.Second)
	t.Logf("the others' events are there after %s", time.Since(began))
	r.wantValue(t, "SELECT count() FROM audit.event_log", n+others, 3*time.Minute)
	t.Logf("all events are there after %s", time.Since(began))
	r.wantBlocks(t, svc, time.Now().Year()-1969)
	// ClickHouse delays inserts from 1000 parts of a partition on and refuses them from 3000 on, and from 100,000 parts of the table.
	for sql, limit := range map[string]int{
		"SELECT max(n) FROM (SELECT count() AS n FROM system.parts WHERE database = 'audit' AND table = 'event_log' AND active GROUP BY partition)": 300,
		"SELECT count() FROM system.parts WHERE database = 'audit' AND table = 'event_log' AND active":                                              3000,
	} {
		lines, err := r.query(sql)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := strconv.Atoi(lines[0]); err != nil || got > limit {
			t.Errorf("%s: %s, want at most %d", sql, lines[0], limit)
		} else {
			t.Logf("%s: %d", sql, got)
		}
	}
}

// wantBlocks fails if a batch is more blocks than there are years, or if the service made more than an insert for each, and some more for those it had
// to repeat.
func (r *rig) wantBlocks(t *testing.T, svc *Service, years int) {
	t.Helper()
	l, err := ledger.Open(t.Context(), r.js)
	if err != nil {
		t.Fatal(err)
	}
	most, all := 0, 0
	for p := range r.cfg.Partitions {
		if err := l.Walk(t.Context(), p, func(e ledger.Record) error {
			most, all = max(most, len(e.Blocks)), all+len(e.Blocks)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	inserts := r.metric(t, svc, "audit_ingester_insert_duration_seconds")
	t.Logf("%d blocks, at most %d of a batch, %.0f inserts", all, most, inserts)
	if most < years/2 || most > years || inserts > 1.5*float64(all) {
		t.Errorf("a batch is %d blocks, want at most %d, and %.0f inserts were made of %d blocks", most, years, inserts, all)
	}
}

// wantValue waits until a query's one number is want.
func (r *rig) wantValue(t *testing.T, sql string, want int, within time.Duration) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if lines, err := r.query(sql); err != nil {
			last = err.Error()
		} else if last = lines[0]; last == strconv.Itoa(want) {
			return
		}
	}
	t.Fatalf("%s: %s, want %d", sql, last, want)
}
