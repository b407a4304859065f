package clickhouse_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/clickhouse"
	"example.com/auditlog/services/query/internal/policy"
)

// fill writes n events of a tenant, a second apart, the newest first.
func (f *fixture) fill(tb testing.TB, tenant uuid.UUID, n int) {
	tb.Helper()
	must(tb, f.db.Exec(tb.Context(), fmt.Sprintf("INSERT INTO event_log SELECT %d, '%s', toDateTime64('2026-11-01 00:00:00', 6, 'UTC') - number, generateUUIDv4(), "+
		"'user_' || toString(number %% 1000), 'user', 'invoice.approve', 'invoice', toString(number), '{\"ip\":\"203.0.113.9\",\"n\":' || toString(number) || '}', NULL, now64(6), number + 1 FROM numbers(%d)",
		partitionOf(tenant), tenant, n)))
}

// Ensure an export holds every event once and in the order of the list, with equal times, unmerged copies and filters.
func TestExportIsTheList(outer *testing.T) {
	f := setup(outer, shared)
	rapid.Check(outer, func(t *rapid.T) {
		tenant := uuid.New()
		scope := f.scope(outer, tenant)
		var all []audit.Event
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			e := newEvent(noon.Add(-rapid.SampledFrom([]time.Duration{0, time.Microsecond, time.Hour, 40 * 24 * time.Hour}).Draw(t, "age")))
			e.ActorID = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "actor")
			all = append(all, e)
		}
		var copies []audit.Event
		for _, e := range all {
			if rapid.Bool().Draw(t, "again") {
				e.Seq, e.ActorID = sequences.Add(1), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "actor of a copy")
				copies = append(copies, e)
			}
		}
		for _, block := range [][]audit.Event{all, copies} {
			if len(block) > 0 {
				f.insert(outer, tenant, block...)
			}
		}
		var filter audit.Filter
		if rapid.Bool().Draw(t, "filtered") {
			filter.ActorIDs, filter.From = []string{"a"}, noon.Add(-24*time.Hour)
		}
		var got []audit.Event
		err := f.Export(outer.Context(), scope, filter, func(e *audit.Event) error { got = append(got, *e); return nil })
		if err != nil {
			t.Fatal(err)
		}
		want := slices.DeleteFunc(slices.Clone(all), func(e audit.Event) bool {
			return len(filter.ActorIDs) > 0 && (e.ActorID != "a" || e.CreatedAt.Before(filter.From))
		})
		slices.SortFunc(want, func(a, b audit.Event) int {
			if a.Position().Before(b.Position()) {
				return -1
			}
			return 1
		})
		if len(got) != len(want) {
			t.Fatalf("%d events, want %d", len(got), len(want))
		}
		for i := range want {
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Fatalf("event %d:\n got %+v\nwant %+v", i, got[i], want[i])
			}
		}
	})
}

// Ensure an export of several segments is whole, ends when its reader does, and leaves nothing running in ClickHouse.
func TestExportSegmentsAndEnds(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	const rows = 450_000
	f.fill(t, tenant, rows)
	scope := f.scope(t, tenant)
	var last *audit.Position
	n := 0
	began := time.Now()
	must(t, f.Export(t.Context(), scope, audit.Filter{}, func(e *audit.Event) error {
		at := e.Position()
		if last != nil && !last.Before(at) {
			return fmt.Errorf("%v after %v", at, last)
		}
		last = &at
		n++
		return nil
	}))
	t.Logf("%d events in %s", n, time.Since(began))
	if n != rows {
		t.Errorf("%d events, want %d", n, rows)
	}

	n = 0
	must(t, f.Export(t.Context(), scope, audit.Filter{ResourceTypes: []string{"invoice"}, From: last.CreatedAt, To: last.CreatedAt.Add(30_000 * time.Second)},
		func(*audit.Event) error { n++; return nil }))
	if n != 30_000 {
		t.Errorf("with a filter: %d events, want 30000", n)
	}

	full := errors.New("full")
	n = 0
	began = time.Now()
	if err := f.Export(t.Context(), scope, audit.Filter{}, func(*audit.Event) error {
		if n++; n == 10_000 {
			return full
		}
		return nil
	}); err != full { //nolint:errorlint // as it is
		t.Errorf("a sink that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	err := f.Export(ctx, scope, audit.Filter{}, func(*audit.Event) error {
		if n++; n == 5_000 {
			cancel()
			time.Sleep(20 * time.Millisecond) // blocks are on their way meanwhile
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that goes: %v after %d events", err, n)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("ending took %s", took)
	}
	waitFor(t, "the queries to end", func() bool { return running(t, f) == 0 })
}

// inMemory is what an export of the filter is: the first copies that match, newest first.
func inMemory(rows []audit.Event, match func(*audit.Event) bool) []audit.Event {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b audit.Event) int {
		switch {
		case a.Position().Before(b.Position()):
			return -1
		case b.Position().Before(a.Position()):
			return 1
		}
		return cmp.Compare(a.Seq, b.Seq)
	})
	rows = slices.CompactFunc(rows, func(a, b audit.Event) bool { return a.Position() == b.Position() })
	return slices.DeleteFunc(rows, func(e audit.Event) bool { return !match(&e) })
}

// exported is what an export gives; atFirst happens at its first event.
func (f *fixture) exported(t *testing.T, scope policy.Scope, filter audit.Filter, atFirst func()) []audit.Event {
	t.Helper()
	var got []audit.Event
	must(t, f.Export(t.Context(), scope, filter, func(e *audit.Event) error {
		if len(got) == 0 && atFirst != nil {
			atFirst()
		}
		got = append(got, *e)
		return nil
	}))
	return got
}

func wantSame(t *testing.T, what string, got, want []audit.Event) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("%s: event %d:\n got %+v\nwant %+v", what, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d events, want %d", what, len(got), len(want))
	}
}

// Ensure a filtered export leaves out what matches as a later copy alone, and nothing else, where thousands of events are checked at once: matches next to
// each other and far apart, batches that end in the middle of a moment, and copies that are merged away meanwhile.
func TestExportChecksCopies(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	scope := f.scope(t, tenant)
	const perMoment, rows = 7, 60_000
	var first, copies []audit.Event
	for i := range rows {
		e := newEvent(noon.Add(-time.Duration(i/perMoment) * time.Second))
		e.ActorID = []string{"other", "dense", "dense"}[i%3]
		if i%2_000 < 4 {
			e.ResourceType = "sparse"
		}
		first = append(first, e)
	}
	for i, e := range first {
		if i%5 == 0 {
			e.Seq, e.ActorID, e.ResourceType = sequences.Add(1), []string{"dense", "other"}[i%2], "invoice"
			if i%1_000 < 10 {
				e.ResourceType = "sparse"
			}
			copies = append(copies, e)
		}
	}
	f.insert(t, tenant, first...)
	f.insert(t, tenant, copies...)
	all := slices.Concat(first, copies)
	dense := func(e *audit.Event) bool { return e.ActorID == "dense" }
	for _, way := range []struct {
		name   string
		filter audit.Filter
		match  func(*audit.Event) bool
		near   bool // all between the first and the last of a batch is read
	}{
		{"dense", audit.Filter{ActorIDs: []string{"dense"}}, dense, true},
		{"everything", audit.Filter{ActorIDs: []string{"dense", "other"}}, func(*audit.Event) bool { return true }, true},
		{"one moment", audit.Filter{ActorIDs: []string{"dense"}, From: noon}, func(e *audit.Event) bool { return dense(e) && e.CreatedAt.Equal(noon) }, true},
		{"sparse", audit.Filter{ResourceTypes: []string{"sparse"}}, func(e *audit.Event) bool { return e.ResourceType == "sparse" }, false},
	} {
		before := f.tooManyRows(t)
		wantSame(t, way.name, f.exported(t, scope, way.filter, nil), inMemory(all, way.match))
		if near := f.tooManyRows(t) == before; near != way.near {
			t.Errorf("%s: all between is read: %v, want %v", way.name, near, way.near)
		}
	}
	must(t, f.db.Exec(t.Context(), "SYSTEM START MERGES event_log"))
	wantSame(t, "merged meanwhile", f.exported(t, scope, audit.Filter{ActorIDs: []string{"dense"}}, func() { // all but the first batch is checked after that
		must(t, f.db.Exec(t.Context(), "OPTIMIZE TABLE event_log FINAL"))
	}), inMemory(all, dense))
	var left uint64
	must(t, f.db.QueryRow(t.Context(), "SELECT count() FROM event_log WHERE tenant_id = ?", tenant).Scan(&left))
	if left != rows {
		t.Errorf("%d rows after the merge, want %d", left, rows)
	}
}

// tooManyRows is how many queries the server has refused because of what they would have read.
func (f *fixture) tooManyRows(t *testing.T) (n uint64) {
	t.Helper()
	must(t, f.db.Exec(t.Context(), "SYSTEM FLUSH LOGS"))
	must(t, f.db.QueryRow(t.Context(), "SELECT count() FROM system.query_log WHERE exception_code = 158 AND current_database = currentDatabase()").Scan(&n))
	return n
}

// Ensure copies on both sides of where a segment ends are one event, with and without a filter, and none where only later ones match.
func TestExportCopiesAcrossSegments(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	scope := f.scope(t, tenant)
	const rows, copies = 46_000, 9 // of each, of which the 200,000 rows of a segment are no multiple: the first copy is likely to be cut off
	f.fill(t, tenant, rows)
	must(t, f.db.Exec(t.Context(), "CREATE TABLE first ENGINE = MergeTree ORDER BY tuple() AS SELECT * FROM event_log"))
	must(t, f.db.Exec(t.Context(), "TRUNCATE TABLE event_log"))
	for n := 1; n <= copies; n++ { // the first copies are in the fifth part, which is not the first to be read
		must(t, f.db.Exec(t.Context(), fmt.Sprintf("INSERT INTO event_log SELECT * REPLACE (stream_seq + %[1]d AS stream_seq, if(%[1]d = 0, action, 'forged') AS action) FROM first", (n+4)%copies*rows)))
	}
	for name, filter := range map[string]audit.Filter{"whole": {}, "filtered": {ResourceTypes: []string{"invoice"}}} {
		var last *audit.Position
		n := 0
		must(t, f.Export(t.Context(), scope, filter, func(e *audit.Event) error {
			at := e.Position()
			if last != nil && !last.Before(at) {
				return fmt.Errorf("%v after %v", at, last)
			}
			if e.Action == "forged" {
				return fmt.Errorf("%+v is not the first copy", e)
			}
			last = &at
			n++
			return nil
		}))
		if n != rows {
			t.Errorf("%s: %d events, want %d", name, n, rows)
		}
	}
	if got := f.exported(t, scope, audit.Filter{Actions: []string{"forged"}}, nil); len(got) != 0 {
		t.Errorf("%d events that match as later copies alone", len(got))
	}
}

// Ensure an export goes on, without a gap or an event twice, when the store is restarted under it.
func TestExportSurvivesARestart(t *testing.T) {
	s := stacktest.Start(t)
	f := setup(t, s)
	tenant := uuid.New()
	const rows = 300_000
	f.fill(t, tenant, rows)
	var last *audit.Position
	n := 0
	must(t, f.Export(t.Context(), f.scope(t, tenant), audit.Filter{}, func(e *audit.Event) error {
		at := e.Position()
		if last != nil && !last.Before(at) {
			return fmt.Errorf("%v after %v", at, last)
		}
		last = &at
		if n++; n == 100_000 {
			must(t, s.StopClickHouse())
			must(t, s.StartClickHouse(t.Context()))
		}
		return nil
	}))
	if n != rows {
		t.Errorf("%d events, want %d", n, rows)
	}
}

// Ensure a client may take longer for what it has than the store may for a row, and that a store that stands still ends the export.
func TestExportStalls(t *testing.T) {
	s := stacktest.Start(t)
	const stall = 100 * time.Millisecond
	f := setup(t, s, func(c *clickhouse.Config) { c.ExportStall = stall })
	tenant := uuid.New()
	const rows = 60_000
	f.fill(t, tenant, rows)
	for name, filter := range map[string]audit.Filter{"whole": {}, "filtered": {Actions: []string{"invoice.approve"}}} {
		n := 0
		if err := f.Export(t.Context(), f.scope(t, tenant), filter, func(*audit.Event) error {
			if n++; n%20_000 == 10 {
				time.Sleep(5 * stall)
			}
			return nil
		}); err != nil || n != rows {
			t.Errorf("%s, a slow client: %d events of %d, %v", name, n, rows, err)
		}
	}
	n := 0
	if err := f.Export(t.Context(), f.scope(t, tenant), audit.Filter{}, func(*audit.Event) error {
		if n++; n == 1 {
			must(t, s.PauseClickHouse())
			time.AfterFunc(time.Second, func() { _ = s.ResumeClickHouse() })
		}
		return nil
	}); !errors.Is(err, audit.ErrTimeout) {
		t.Errorf("the store stands still: %v", err)
	}
}

// BenchmarkExport compares an export with the bare SELECT of the same columns.
func BenchmarkExport(b *testing.B) {
	f := setup(b, shared)
	tenant := uuid.New()
	const rows = 400_000
	f.fill(b, tenant, rows)
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			r, err := f.db.Query(chgo.Context(b.Context(), chgo.WithSettings(chgo.Settings{"max_threads": 1})),
				"SELECT created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq FROM event_log WHERE tenant_id = ? ORDER BY created_at DESC", tenant)
			must(b, err)
			for r.Next() {
				var e audit.Event
				var metadata string
				must(b, r.Scan(&e.CreatedAt, &e.ID, &e.ActorID, &e.ActorType, &e.Action, &e.ResourceType, &e.ResourceID, &metadata, &e.Reasoning, &e.IngestedAt, &e.Seq))
			}
			must(b, r.Close())
		}
		b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
	b.Run("export", func(b *testing.B) {
		for b.Loop() {
			must(b, f.Export(b.Context(), f.scope(b, tenant), audit.Filter{}, func(*audit.Event) error { return nil }))
		}
		b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}
