package clickhouse_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"example.com/auditlog/services/query/internal/audit"
)

// Ensure a feed read page by page gives every event once, at its first copy and in the order of the stream, whatever the times, copies, filters,
// limits and gaps in the sequences, and shows nothing beyond what is committed.
func TestFeedIsComplete(outer *testing.T) {
	f := setup(outer, shared)
	rapid.Check(outer, func(t *rapid.T) {
		tenant := uuid.New()
		scope := f.scope(outer, tenant)
		seq := uint64(0)
		var want, block []audit.Event
		var all []audit.Event
		filter := audit.Filter{}
		if rapid.Bool().Draw(t, "filtered") {
			filter.ActorIDs = []string{"a"}
		}
		for range rapid.IntRange(0, 80).Draw(t, "rows") {
			seq += rapid.SampledFrom([]uint64{1, 1, 1, 3, 5000, 200_000, 1 << 32}).Draw(t, "gap")
			e := newEvent(noon.Add(-rapid.SampledFrom([]time.Duration{0, 0, time.Microsecond, time.Hour, 40 * 24 * time.Hour}).Draw(t, "late")))
			again := len(all) > 0 && rapid.IntRange(0, 3).Draw(t, "kind") == 0
			if again {
				e = all[rapid.IntRange(0, len(all)-1).Draw(t, "of")]
			}
			e.Seq, e.ActorID = seq, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "actor")
			if !again {
				all = append(all, e)
				if len(filter.ActorIDs) == 0 || e.ActorID == "a" {
					want = append(want, e)
				}
			}
			block = append(block, e)
			if rapid.IntRange(0, 5).Draw(t, "flush") == 0 {
				f.insert(outer, tenant, block...)
				block = nil
			}
		}
		if len(block) > 0 {
			f.insert(outer, tenant, block...)
		}
		through := seq
		f.insert(outer, tenant, func() audit.Event { e := newEvent(noon); e.Seq, e.ActorID = seq+1, "a"; return e }())
		q := audit.FeedQuery{Tenant: tenant, Filter: filter, Through: through}
		var got []audit.Event
		for {
			q.Limit = rapid.IntRange(1, 30).Draw(t, "limit")
			p, err := f.Feed(outer.Context(), scope, q)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Events) > q.Limit || p.Through > through || (p.More && p.Through <= q.After) || p.More != (p.Through < through) {
				t.Fatalf("after %d of %d, limit %d: %d events, through %d, more %v", q.After, through, q.Limit, len(p.Events), p.Through, p.More)
			}
			got = append(got, p.Events...)
			q.After = p.Through
			if !p.More {
				break
			}
		}
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

// Ensure a page of the feed reads about as much wherever it is, in a log with late events and gaps.
func TestFeedReadsLittle(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	const rows = 400_000 // about a month; one in a hundred comes up to ten days late
	must(t, f.db.Exec(t.Context(), fmt.Sprintf("INSERT INTO event_log SELECT %d, '%s', toDateTime64('2026-11-01 00:00:00', 6, 'UTC') + number * 6 - if(number %% 100 = 0, cityHash64(number) %% 864000, 0), "+
		"generateUUIDv4(), 'user_' || toString(number %% 1000), 'user', 'invoice.approve', 'invoice', toString(number), '{}', NULL, now64(6), number + 1 FROM numbers(%d)",
		partitionOf(tenant), tenant, rows)))
	scope := f.scope(t, tenant)
	for name, after := range map[string]uint64{"Beginning": 0, "Middle": rows / 2, "Newest": rows - 20} {
		began := time.Now()
		p, err := f.Feed(t.Context(), scope, audit.FeedQuery{Tenant: tenant, After: after, Through: rows, Limit: audit.DefaultLimit})
		must(t, err)
		took := time.Since(began)
		if len(p.Events) != min(audit.DefaultLimit, int(rows-after)) || p.Events[0].Seq != after+1 {
			t.Errorf("%s: %d events", name, len(p.Events))
		}
		read, queries := f.readRows(t)
		t.Logf("%s: %s, %d rows read by %d queries", name, took, read, queries)
		if read > 20_000 { // a granule for each late event in the range
			t.Errorf("%s: %d of %d rows read", name, read, rows)
		}
	}
	f.wantRangesAlone(t)
}

// wantRangesAlone fails when the index of ranges is asked by anything but ranges in a query of the feed: it would be for each granule, which reads no row and takes long.
func (f *fixture) wantRangesAlone(t *testing.T) {
	t.Helper()
	var query string
	must(t, f.db.QueryRow(t.Context(), "SELECT any(query) FROM system.query_log WHERE type = 'QueryFinish' AND query LIKE '%ORDER BY stream_seq%' "+
		"AND query LIKE '%intDiv(stream_seq%' AND query_id LIKE 'audit-%' AND current_database = currentDatabase()").Scan(&query))
	ctx := chgo.Context(t.Context(), chgo.WithSettings(chgo.Settings{"enable_analyzer": 0, "use_skip_indexes_on_data_read": 0}))
	lines, err := f.db.Query(ctx, "EXPLAIN indexes = 1 "+query)
	must(t, err)
	defer func() { must(t, lines.Close()) }()
	index, conditions := "", map[string]string{}
	for lines.Next() {
		var line string
		must(t, lines.Scan(&line))
		if name, is := strings.CutPrefix(strings.TrimSpace(line), "Name: "); is {
			index = name
		}
		if condition, is := strings.CutPrefix(strings.TrimSpace(line), "Condition: "); is && index != "" {
			conditions[index] = condition
		}
	}
	must(t, lines.Err())
	if c := conditions["seq_range"]; !strings.Contains(c, "stream_seq in") || strings.Contains(c, "intDiv") || conditions["seq_blocks"] == "" {
		t.Errorf("the indexes are asked %q", conditions)
	}
}
