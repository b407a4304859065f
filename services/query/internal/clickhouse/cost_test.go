package clickhouse_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// skewed writes a month of one tenant, the newest event at top: 20 common actors, one of 800 events and one of ten, four actions that each have
// their own type.
func (f *fixture) skewed(t *testing.T, tenant uuid.UUID, top time.Time, rows int) {
	t.Helper()
	must(t, f.db.Exec(t.Context(), fmt.Sprintf("INSERT INTO event_log SELECT %d, '%s', toDateTime64('%s', 6, 'UTC') - number * 6, reinterpretAsUUID(sipHash128(number)), "+
		"multiIf(number %% 40000 = 7, 'rare', number %% 500 = 3, 'medium', 'user_' || toString(number %% 20)), 'user', 'act_' || toString(intDiv(number, 20) %% 4), 'type_' || toString(intDiv(number, 20) %% 4), "+
		"toString(intDiv(number, 10)), '{}', NULL, now64(6), number + 1 FROM numbers(%d)",
		partitionOf(tenant), tenant, top.Format("2006-01-02 15:04:05"), rows)))
}

// Ensure a page reads little at any depth, for any filter and any key, values and combinations included that match nothing.
func TestPagesReadLittle(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	const rows, spacing = 400_000, 6 * time.Second
	top := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f.skewed(t, tenant, top, rows)
	auditor := f.scope(t, tenant)
	self := func(actor string) func(*policy.Principal) {
		return func(p *policy.Principal) { p.Roles, p.ActorID = []string{"self"}, actor }
	}
	depth := func(n int) *audit.Position {
		return &audit.Position{CreatedAt: top.Add(-time.Duration(n) * spacing), ID: tenant}
	}
	for name, c := range map[string]struct {
		query audit.PageQuery
		key   func(*policy.Principal)
		want  int    // events
		limit uint64 // rows read
	}{
		"FirstPage":     {want: 50, limit: 2_000},
		"Depth1000":     {query: audit.PageQuery{After: depth(50_000)}, want: 50, limit: 2_000},
		"DepthAll":      {query: audit.PageQuery{After: depth(390_000)}, want: 50, limit: 2_000},
		"LongAgo":       {query: audit.PageQuery{After: &audit.Position{CreatedAt: top.AddDate(60, 0, 0), ID: tenant}}, want: 50, limit: 2_000},
		"Narrow":        {query: audit.PageQuery{Filter: audit.Filter{From: top.Add(-10 * time.Hour), To: top.Add(-9 * time.Hour)}}, want: 50, limit: 2_000},
		"CommonActor":   {query: audit.PageQuery{Filter: audit.Filter{ActorIDs: []string{"user_7"}}}, want: 50, limit: 10_000},
		"CommonAction":  {query: audit.PageQuery{Filter: audit.Filter{Actions: []string{"act_2"}}}, want: 50, limit: 5_000},
		"MediumActor":   {query: audit.PageQuery{Filter: audit.Filter{ActorIDs: []string{"medium"}}}, want: 50, limit: 80_000},
		"RareActor":     {query: audit.PageQuery{Filter: audit.Filter{ActorIDs: []string{"rare"}}}, want: 10, limit: 10_000},
		"AbsentActor":   {query: audit.PageQuery{Filter: audit.Filter{ActorIDs: []string{"nobody"}}}, want: 0, limit: 0},
		"Resource":      {query: audit.PageQuery{Filter: audit.Filter{ResourceTypes: []string{"type_2"}, ResourceIDs: []string{"1234"}}}, want: 0, limit: 0},
		"TwoFilters":    {query: audit.PageQuery{Filter: audit.Filter{ActorIDs: []string{"medium"}, Actions: []string{"act_1"}}}, want: 50, limit: 80_000},
		"NeverMeet":     {query: audit.PageQuery{Filter: audit.Filter{Actions: []string{"act_1"}, ResourceTypes: []string{"type_2"}}}, want: 0, limit: 0},
		"SetsNeverMeet": {query: audit.PageQuery{Filter: audit.Filter{Actions: []string{"act_0", "act_1"}, ResourceTypes: []string{"type_2", "type_3"}}}, want: 0, limit: 0},
		"AnyOf":         {query: audit.PageQuery{Filter: audit.Filter{ActorIDs: []string{"rare", "nobody"}}}, want: 10, limit: 10_000},
		"SelfRare":      {key: self("rare"), want: 10, limit: 10_000},
		"SelfAbsent":    {key: self("nobody"), want: 0, limit: 0},
		"TypesAbsent":   {key: func(p *policy.Principal) { p.ResourceTypes = []string{"type_8", "type_9"} }, want: 0, limit: 0},
		"TypesFiltered": {key: func(p *policy.Principal) { p.ResourceTypes = []string{"type_1", "type_9"} },
			query: audit.PageQuery{Filter: audit.Filter{Actions: []string{"act_2"}}}, want: 0, limit: 0},
	} {
		scope := auditor
		if c.key != nil {
			scope = f.scope(t, tenant, c.key)
		}
		f.readRows(t)
		p := f.page(t, scope, c.query)
		if len(p.Events) != c.want {
			t.Errorf("%s: %d events, want %d", name, len(p.Events), c.want)
		}
		f.wantRead(t, name, c.limit)
		if again := f.page(t, scope, c.query); !reflect.DeepEqual(again, p) {
			t.Errorf("%s, once more: %d events instead of %d", name, len(again.Events), len(p.Events))
		}
		if queries := f.wantRead(t, name+", once more", max(c.limit, 10_000)); queries > 2 {
			t.Errorf("%s, once more: %d queries, want one for the page and one for copies: it is known how far apart the events lie", name, queries)
		}
	}
}

// Ensure one event is found by its id without looking through the log, and so that it is absent.
func TestOneEventReadsLittle(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	f.skewed(t, tenant, time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), 400_000)
	var id uuid.UUID
	must(t, f.db.QueryRow(t.Context(), "SELECT id FROM event_log WHERE stream_seq = 123456").Scan(&id))
	scope := f.scope(t, tenant)
	f.readRows(t)
	e, err := f.Event(t.Context(), scope, id)
	if err != nil || e.Seq != 123456 {
		t.Errorf("%+v, %v", e, err)
	}
	f.wantRead(t, "there", 2_000)
	for name, absent := range map[string]uuid.UUID{"absent": uuid.New(), "absent, with a time": uuid.Must(uuid.NewV7())} {
		if _, err := f.Event(t.Context(), scope, absent); !errors.Is(err, audit.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		f.wantRead(t, name, 2_000)
	}
}

// wantRead fails when the queries since the last look read more rows than limit.
func (f *fixture) wantRead(t *testing.T, name string, limit uint64) (queries uint64) {
	t.Helper()
	read, queries := f.readRows(t)
	t.Logf("%s: %d rows read by %d queries", name, read, queries)
	if read > limit {
		t.Errorf("%s: %d rows read, want at most %d", name, read, limit)
	}
	return queries
}

// readRows is how many rows the reader's queries have read since it was last asked.
func (f *fixture) readRows(t *testing.T) (rows, queries uint64) {
	t.Helper()
	must(t, f.db.Exec(t.Context(), "SYSTEM FLUSH LOGS"))
	must(t, f.db.QueryRow(t.Context(), "SELECT sum(read_rows), count() FROM system.query_log WHERE type = 'QueryFinish' AND query_id LIKE 'audit-%' AND current_database = currentDatabase()").Scan(&rows, &queries))
	rows, queries, f.rows, f.queries = rows-f.rows, queries-f.queries, rows, queries
	return rows, queries
}
