package clickhouse_test

import (
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
