package clickhouse_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// Ensure a page reads about as much at any depth, and no more than a small part of the tenant's log.
func TestPagesReadLittle(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	const rows, spacing = 400_000, 6 // events, seconds between them: about a month
	must(t, f.db.Exec(t.Context(), fmt.Sprintf("INSERT INTO event_log SELECT %d, '%s', toDateTime64('2026-11-23 12:00:00', 6, 'UTC') - number * %d, generateUUIDv4(), "+
		"'user_' || toString(number %% 1000), 'user', 'invoice.approve', 'invoice', toString(number), '{}', NULL, now64(6), number FROM numbers(%d)",
		partitionOf(tenant), tenant, spacing, rows)))
	scope := f.scope(t, tenant)
	top := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for name, q := range map[string]audit.PageQuery{
		"FirstPage":   {},
		"Depth1000":   {After: &audit.Position{CreatedAt: top.Add(-50_000 * spacing * time.Second), ID: tenant}},
		"DepthAll":    {After: &audit.Position{CreatedAt: top.Add(-390_000 * spacing * time.Second), ID: tenant}},
		"CommonActor": {Filter: audit.Filter{ActorIDs: []string{"user_7"}}, Limit: 10},
		"Narrow":      {Filter: audit.Filter{From: top.Add(-10 * time.Hour), To: top.Add(-9 * time.Hour)}},
	} {
		began := time.Now()
		p := f.page(t, scope, q)
		took := time.Since(began)
		want := q.Limit
		if want == 0 {
			want = audit.DefaultLimit
		}
		if len(p.Events) != want {
			t.Errorf("%s: %d events, want %d", name, len(p.Events), want)
		}
		read, queries := f.readRows(t)
		t.Logf("%s: %s, %d rows read by %d queries", name, took, read, queries)
		if limit := uint64(30_000); read > limit {
			t.Errorf("%s: %d rows read, want at most %d", name, read, limit)
		}
	}
}

// readRows is how many rows the reader's queries have read since it was last asked.
func (f *fixture) readRows(t *testing.T) (rows, queries uint64) {
	t.Helper()
	must(t, f.db.Exec(t.Context(), "SYSTEM FLUSH LOGS"))
	must(t, f.db.QueryRow(t.Context(), "SELECT sum(read_rows), count() FROM system.query_log WHERE type = 'QueryFinish' AND query_id LIKE 'audit-%' AND current_database = currentDatabase()").Scan(&rows, &queries))
	rows, queries, f.rows, f.queries = rows-f.rows, queries-f.queries, rows, queries
	return rows, queries
}
