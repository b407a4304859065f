package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/clickhouse"
)

const patience = 20 * time.Second

// Ensure a store that is gone is an error soon, sooner still once the circuit breaker is open, and that reading goes on when it is back, over
// connections that have died meanwhile.
func TestStoreGoneAndBack(t *testing.T) {
	s := stacktest.Start(t)
	f := setup(t, s)
	tenant := uuid.New()
	want := newEvent(noon)
	f.insert(t, tenant, want)
	scope := f.scope(t, tenant)
	ask := func() error {
		_, err := f.Page(t.Context(), scope, audit.PageQuery{Tenant: tenant, Limit: 1})
		return err
	}
	for range 3 {
		must(t, ask())
	}
	must(t, s.StopClickHouse())
	began := time.Now()
	for range 10 {
		if err := ask(); !errors.Is(err, audit.ErrUnavailable) {
			t.Fatalf("without a store: %v", err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("ten refusals took %s", took)
	}
	if err := f.Ping(t.Context()); err == nil {
		t.Error("the store is gone and looks ready")
	}
	must(t, s.StartClickHouse(t.Context()))
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := ask()
		if err == nil {
			break
		}
		if !errors.Is(err, audit.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatalf("the store is back: %v", err)
		}
	}
	must(t, f.Ping(t.Context()))
}

// Ensure a store that hangs costs no more than the time budget.
func TestStoreHangs(t *testing.T) {
	s := stacktest.Start(t)
	const budget, patience = 300 * time.Millisecond, 20 * time.Second
	f := setup(t, s, func(c *clickhouse.Config) { c.QueryTimeout = budget })
	tenant := uuid.New()
	scope := f.scope(t, tenant)
	ask := func() error {
		_, err := f.Page(t.Context(), scope, audit.PageQuery{Tenant: tenant, Limit: 1})
		return err
	}
	must(t, ask())
	must(t, s.PauseClickHouse())
	began := time.Now()
	err := ask()
	took := time.Since(began)
	must(t, s.ResumeClickHouse())
	if !errors.Is(err, audit.ErrTimeout) {
		t.Errorf("a hanging store: %v", err)
	}
	if took > patience { // far below what the paused server would take, far above what a busy machine adds
		t.Errorf("it took %s, the budget is %s", took, budget)
	}
}

// Ensure ClickHouse stops working for a caller that has gone.
func TestCancelledQueriesEnd(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	must(t, f.db.Exec(t.Context(), fmt.Sprintf("INSERT INTO event_log SELECT %d, '%s', now64(6) - number, generateUUIDv4(), 'a', 'u', 'x', 'r', toString(number), '{}', NULL, now64(6), number FROM numbers(200000)",
		partitionOf(tenant), tenant)))
	// A view in the table's place makes every row slow.
	must(t, f.db.Exec(t.Context(), "RENAME TABLE event_log TO fast"))
	must(t, f.db.Exec(t.Context(), "CREATE VIEW event_log AS SELECT *, sleepEachRow(0.01) AS slow FROM fast WHERE slow = 0 SETTINGS function_sleep_max_microseconds_per_block = 100000000"))
	scope := f.scope(t, tenant)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := f.Page(ctx, scope, audit.PageQuery{Tenant: tenant, Limit: 10})
		done <- err
	}()
	waitFor(t, "the query to run", func() bool { return running(t, f) > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled query: %v", err)
	}
	waitFor(t, "the query to end", func() bool { return running(t, f) == 0 })
}

func running(t *testing.T, f *fixture) (n uint64) {
	t.Helper()
	must(t, f.db.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE query_id LIKE 'audit-%' AND current_database = currentDatabase()").Scan(&n))
	return n
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// Ensure a missing table is said to be missing, and is an unavailable store rather than an empty log.
func TestNoTable(t *testing.T) {
	f := setup(t, shared)
	must(t, f.db.Exec(t.Context(), "DROP TABLE event_log"))
	tenant := uuid.New()
	if _, err := f.Page(t.Context(), f.scope(t, tenant), audit.PageQuery{Tenant: tenant, Limit: 1}); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("without a table: %v", err)
	}
	if err := f.Ping(t.Context()); err == nil {
		t.Error("no table, and ready")
	}
}
