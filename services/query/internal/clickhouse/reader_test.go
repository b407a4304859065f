package clickhouse_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

func text(s string) *string { return &s }

// Ensure an event comes back as it was written, field by field.
func TestEventRoundTrip(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	for name, change := range map[string]func(*audit.Event){
		"Ordinary":       func(*audit.Event) {},
		"Reasoning":      func(e *audit.Event) { e.Reasoning = text("because") },
		"EmptyReasoning": func(e *audit.Event) { e.Reasoning = text("") },
		"Numbers":        func(e *audit.Event) { e.Metadata = []byte(`{"a":1.0,"b":12345678901234567890,"a":null}`) },
		"Unicode":        func(e *audit.Event) { e.ActorID, e.Metadata = "Zoë 💡", []byte(`{"\u00e9":"\ud83d\udca1"}`) },
		"Epoch":          func(e *audit.Event) { e.CreatedAt = time.Unix(0, 0).UTC() },
	} {
		t.Run(name, func(t *testing.T) {
			want := newEvent(noon)
			change(&want)
			f.insert(t, tenant, want)
			got, err := f.Event(t.Context(), f.scope(t, tenant), want.ID)
			must(t, err)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("\n got %+v\nwant %+v", got, want)
			}
		})
	}
}

// hostile are values that something between us and the column might read as more than text.
var hostile = []string{
	"plain", "Plain", "plain ", " plain", "'", `"`, "`", `\`, `\\`, `\'`, `'; DROP TABLE event_log; --`, "%", "_", "*", "pl%", "a\tb", "a\nb", "a\rb", "\x00",
	"a\x00b", "\x01", "\x7f", `\t`, `\n`, `\0`, `\N`, "NULL", "{tenant:UUID}", "{", "}", "?", "$1", "@p", "é", "e\u0301", "💡", "\u2028", "\ufeff", "ß", "ss",
	"0", "00", "[]", "['a']", "(1)", strings.Repeat("x", 256), strings.Repeat("💡", 64),
}

// wantHostile fails unless each value of hostile finds its own row alone.
func (f *fixture) wantHostile(t *testing.T, scope policy.Scope, rows []audit.Event) {
	t.Helper()
	for i, v := range hostile {
		for name, filter := range map[string]audit.Filter{
			"actor_id": {ActorIDs: []string{v}}, "action": {Actions: []string{v}}, "resource_type": {ResourceTypes: []string{v}},
			"resource_id": {ResourceIDs: []string{v}}, "all": {ActorIDs: []string{v}, Actions: []string{v}, ResourceTypes: []string{v}, ResourceIDs: []string{v}},
			"several": {ActorIDs: []string{v, "nobody"}, Actions: []string{"nothing", v}},
		} {
			for way, found := range f.everyWay(t, scope, filter) {
				if len(found) != 1 || found[0].ID != rows[i].ID {
					t.Errorf("%s %q: the %s has %d events, want its own one", name, v, way, len(found))
				}
			}
		}
	}
}

// everyWay is what list, feed and export have of a filter.
func (f *fixture) everyWay(t *testing.T, scope policy.Scope, filter audit.Filter) map[string][]audit.Event {
	t.Helper()
	feed, err := f.Feed(t.Context(), scope, audit.FeedQuery{Tenant: scope.Tenant(), Filter: filter, Through: sequences.Load(), Limit: audit.DefaultLimit})
	must(t, err)
	var exported []audit.Event
	must(t, f.Export(t.Context(), scope, filter, func(e *audit.Event) error { exported = append(exported, *e); return nil }))
	return map[string][]audit.Event{"list": f.page(t, scope, audit.PageQuery{Filter: filter}).Events, "feed": feed.Events, "export": exported}
}

// Ensure filters of list, feed and export compare byte for byte, whatever the bytes are, alone and together, with the index and where a part has none.
func TestFiltersCompareBytes(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	scope := f.scope(t, tenant)
	rows := make([]audit.Event, len(hostile))
	for i, v := range hostile {
		rows[i] = newEvent(noon.Add(time.Duration(i) * time.Second))
		rows[i].ActorID, rows[i].Action, rows[i].ResourceType, rows[i].ResourceID = v, v, v, v
	}
	f.insert(t, tenant, rows...)
	f.wantHostile(t, scope, rows)
	bare := setup(t, shared)
	must(t, bare.db.Exec(t.Context(), "ALTER TABLE event_log DROP INDEX tags"))
	bare.insert(t, tenant, rows...)
	bare.wantHostile(t, bare.scope(t, tenant), rows)
	if p := f.page(t, scope, audit.PageQuery{Filter: audit.Filter{ActorIDs: hostile[:20]}}); len(p.Events) != 20 {
		t.Errorf("20 values: %d events", len(p.Events))
	}
	if p := f.page(t, scope, audit.PageQuery{Filter: audit.Filter{ActorIDs: hostile[:1], Actions: hostile[1:2]}}); len(p.Events) != 0 {
		t.Errorf("filters that contradict each other: %d events", len(p.Events))
	}
}

// Ensure from is inclusive and to exclusive, at the microsecond, wherever the windows of the search lie.
func TestBoundsAreHalfOpen(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	scope := f.scope(t, tenant)
	var rows []audit.Event
	for _, d := range []time.Duration{0, time.Microsecond, time.Second, time.Hour, 16 * time.Hour, 17 * time.Hour, 20 * 24 * time.Hour, 400 * 24 * time.Hour} {
		rows = append(rows, newEvent(noon.Add(-d)))
	}
	f.insert(t, tenant, rows...)
	for i, a := range rows {
		for j, b := range rows {
			want := max(0, i-j)
			p := f.page(t, scope, audit.PageQuery{Filter: audit.Filter{From: a.CreatedAt, To: b.CreatedAt}})
			if len(p.Events) != want || p.More {
				t.Errorf("from %s to %s: %d events, want %d", a.CreatedAt, b.CreatedAt, len(p.Events), want)
			}
		}
	}
}

// Ensure another tenant's rows never come out, nor rows that the key's policies hide, and that a scope of nothing selects nothing.
func TestScopeIsPartOfTheQuery(t *testing.T) {
	f := setup(t, shared)
	ours, theirs := uuid.New(), uuid.New()
	mine, other := newEvent(noon), newEvent(noon)
	other.ResourceType = "payroll"
	f.insert(t, ours, mine, other)
	f.insert(t, theirs, newEvent(noon))
	if p := f.page(t, f.scope(t, ours), audit.PageQuery{}); len(p.Events) != 2 {
		t.Errorf("auditor sees %d events, want 2", len(p.Events))
	}
	limited := f.scope(t, ours, func(p *policy.Principal) { p.ResourceTypes = []string{"invoice"} })
	if p := f.page(t, limited, audit.PageQuery{Limit: 1}); len(p.Events) != 1 || p.Events[0].ID != mine.ID || p.More {
		t.Errorf("a limited key sees %+v", p)
	}
	if _, err := f.Event(t.Context(), limited, other.ID); err != audit.ErrNotFound { //nolint:errorlint // it must be exactly this
		t.Errorf("a hidden event: %v", err)
	}
	if p, err := f.Page(t.Context(), policy.Scope{}, audit.PageQuery{Tenant: ours, Limit: 10}); err != nil || len(p.Events) != 0 {
		t.Errorf("no scope: %d events, %v", len(p.Events), err)
	}
	if _, err := f.Page(t.Context(), f.scope(t, ours), audit.PageQuery{Tenant: theirs, Limit: 10}); err == nil {
		t.Error("a scope of one tenant answered for another")
	}
}

// Ensure that of copies nobody merged yet the first one counts, also where copies straddle what is read at once.
func TestCopiesAreFolded(t *testing.T) {
	f := setup(t, shared)
	tenant := uuid.New()
	scope := f.scope(t, tenant)
	want := make([]audit.Event, 5)
	for i := range want {
		want[i] = newEvent(noon) // all at the same moment
	}
	f.insert(t, tenant, want...)
	for n := range 40 { // far more copies than rows are read at once
		e := want[1+n%2]
		e.Seq, e.Action = sequences.Add(1), fmt.Sprintf("forged.%d", n)
		f.insert(t, tenant, e)
	}
	slices.SortFunc(want, func(a, b audit.Event) int {
		if a.Position().Before(b.Position()) {
			return -1
		}
		return 1
	})
	for limit := 1; limit <= 6; limit++ {
		if got := f.walk(t, scope, audit.Filter{}, limit, nil); !reflect.DeepEqual(got, want) {
			t.Fatalf("limit %d:\n got %+v\nwant %+v", limit, got, want)
		}
	}
	for _, e := range want {
		if got, err := f.Event(t.Context(), scope, e.ID); err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("one event: %+v, %v", got, err)
		}
	}
}

// Ensure any walk gives every event that was there when it began exactly once and in order, with equal times, unmerged copies, any limit and
// filter, while other events arrive.
func TestWalksAreComplete(outer *testing.T) {
	f := setup(outer, shared)
	gaps := []time.Duration{0, 0, time.Microsecond, time.Second, 50 * time.Minute, 15 * time.Hour, 11 * 24 * time.Hour, 100 * 24 * time.Hour}
	rapid.Check(outer, func(t *rapid.T) {
		tenant := uuid.New()
		scope := f.scope(outer, tenant)
		at := noon
		var all []audit.Event
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			at = at.Add(-rapid.SampledFrom(gaps).Draw(t, "gap"))
			e := newEvent(at)
			e.ActorID = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "actor")
			all = append(all, e)
		}
		blocks := [][]audit.Event{all}
		for i := range rapid.IntRange(0, 3).Draw(t, "copies") {
			var again []audit.Event
			for j, e := range all {
				if (i+j)%3 == 0 {
					e.Seq, e.ActorID = sequences.Add(1), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "actor of a copy")
					again = append(again, e)
				}
			}
			blocks = append(blocks, again)
		}
		for _, b := range rapid.Permutation(blocks).Draw(t, "blocks") {
			if len(b) > 0 {
				f.insert(outer, tenant, b...)
			}
		}
		var filter audit.Filter
		switch rapid.IntRange(0, 3).Draw(t, "filtered") {
		case 1:
			filter.ActorIDs = []string{"a"}
		case 2:
			filter.ActorIDs, filter.Actions = []string{"a", "c"}, []string{"x", "invoice.approve"}
		case 3: // by the key instead of the caller
			scope = f.scope(outer, tenant, func(p *policy.Principal) { p.Roles, p.ActorID = []string{"self"}, "a" })
		}
		only := len(filter.ActorIDs) > 0 || !scope.Whole()
		late := map[uuid.UUID]bool{}
		between := func() {
			e := newEvent(noon.Add(-rapid.SampledFrom(gaps).Draw(t, "late")))
			late[e.ID] = true
			f.insert(outer, tenant, e)
		}
		if rapid.Bool().Draw(t, "quiet") {
			between = nil
		}
		got := f.walk(t, scope, filter, rapid.IntRange(1, 70).Draw(t, "limit"), between)
		got = slices.DeleteFunc(got, func(e audit.Event) bool { return late[e.ID] })
		want := slices.DeleteFunc(slices.Clone(all), func(e audit.Event) bool { return only && e.ActorID != "a" })
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
			if one, err := f.Event(outer.Context(), scope, want[i].ID); err != nil || !reflect.DeepEqual(one, want[i]) {
				t.Fatalf("event %d alone:\n got %+v, %v\nwant %+v", i, one, err, want[i])
			}
		}
	})
}
