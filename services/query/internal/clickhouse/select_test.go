package clickhouse

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Ensure the SQL of each kind of question stays what somebody has read and found right.
func TestStatements(t *testing.T) {
	engine, err := policy.Open("", slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	tenant := uuid.MustParse("11111111-2222-4333-8444-555555555555")
	id := uuid.MustParse("01937b7e-0000-7000-8000-000000000001")
	noon := time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.FixedZone("", 3600))
	for name, c := range map[string]struct {
		types  []string
		build  func(*statement)
		filter audit.Filter
	}{
		"first_page":           {build: func(s *statement) { s.during(span{}); s.after(nil) }},
		"window":               {build: func(s *statement) { s.during(span{from: noon.Add(-time.Hour), to: noon}) }},
		"next_page":            {build: func(s *statement) { s.after(&audit.Position{CreatedAt: noon, ID: id}) }},
		"one_event":            {build: func(s *statement) { s.is(id) }},
		"limited_key":          {types: []string{"invoice", "it's"}},
		"all_filters":          {filter: audit.Filter{ActorIDs: []string{"o'brien"}, ResourceTypes: []string{"invoice"}, ResourceIDs: []string{"%"}, Actions: []string{"a", "b", "c"}}},
		"combinations":         {filter: audit.Filter{ActorIDs: []string{"o'brien", `back\slash`}, Actions: []string{"a", "b", "c"}, ResourceIDs: []string{"%"}}},
		"many_combinations":    {filter: audit.Filter{ActorIDs: []string{"a", "b", "c", "d", "e"}, Actions: []string{"a", "b", "c", "d"}}},
		"limited_key_filtered": {types: []string{"bill", "invoice", "order"}, filter: audit.Filter{ResourceTypes: []string{"invoice", "payroll"}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := engine.Decide(t.Context(), policy.Request{Action: policy.QueryLog, Tenant: tenant,
				Principal: policy.Principal{KeyID: "k", Tenant: tenant, Roles: []string{"auditor"}, ResourceTypes: c.types}})
			if !d.Allowed {
				t.Fatalf("denied: %+v", d)
			}
			s := newStatement(d.Scope, 7)
			s.filter(&c.filter, d.Scope)
			if c.build != nil {
				c.build(s)
			}
			golden(t, filepath.Join("testdata", "select", name+".sql"), describe(s))
		})
	}
}

func describe(s *statement) string {
	var b strings.Builder
	b.WriteString(s.sql(66) + "\n\n")
	for _, name := range slices.Sorted(maps.Keys(s.args)) {
		fmt.Fprintf(&b, "-- %s = %q\n", name, s.args[name])
	}
	return b.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (-update writes it anew)\n got:\n%s\nwant:\n%s", path, got, want)
	}
}

// Ensure stretches follow each other without gap or overlap, newest first, and end with everything that is left; and that they are as long as what was
// found says.
func TestSearch(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	hour := func(n int) time.Time { return now.Add(-time.Duration(n) * time.Hour) }
	for name, c := range map[string]struct {
		query   audit.PageQuery
		indexed bool
		pace    float64 // seconds
		found   []int   // before each stretch, in all
		want    []span
	}{
		"Nothing":         {want: []span{{from: hour(1)}, {hour(257), hour(1)}, {to: hour(257)}}},
		"NothingFiltered": {indexed: true, want: []span{{from: hour(64)}, {to: hour(64)}}},
		"NextPage": {query: audit.PageQuery{After: &audit.Position{CreatedAt: hour(100)}}, found: []int{0, 50},
			want: []span{{from: hour(101)}, {hour(103), hour(101)}, {to: hour(103)}}},
		"Sparse":     {indexed: true, found: []int{0, 10}, want: []span{{from: hour(64)}, {hour(704), hour(64)}, {to: hour(704)}}},
		"Narrow":     {query: audit.PageQuery{Filter: audit.Filter{From: hour(1), To: hour(0)}}, want: []span{{hour(1), hour(0)}}},
		"FromInside": {query: audit.PageQuery{Filter: audit.Filter{From: hour(10)}}, want: []span{{from: hour(1)}, {hour(10), hour(1)}}},
		"LongAgo":    {query: audit.PageQuery{Filter: audit.Filter{From: hour(1010), To: hour(1000)}}, want: []span{{hour(1001), hour(1000)}, {hour(1010), hour(1001)}}},
		"Paced":      {query: audit.PageQuery{Limit: 49}, indexed: true, pace: 7200, found: []int{0, 40}, want: []span{{from: hour(200)}, {hour(700), hour(200)}, {to: hour(700)}}},
		"PacedDense": {query: audit.PageQuery{Limit: 49}, indexed: true, pace: 0.1, found: []int{0, 50}, want: []span{{from: hour(1)}, {hour(3), hour(1)}, {to: hour(3)}}},
		"PacedLong":  {query: audit.PageQuery{Limit: 49}, indexed: true, pace: 6 * 365 * 24 * 3600 / 10, want: []span{{}}}, // 60 years, back to before 1970
		"PacedRare":  {query: audit.PageQuery{Limit: 49}, indexed: true, pace: math.Inf(1), want: []span{{}}},
		"Future":     {query: audit.PageQuery{Filter: audit.Filter{From: hour(-20)}}, want: []span{{from: hour(-20)}}},
	} {
		s := newSearch(&c.query, c.indexed, now, c.pace)
		var got []span
		found := 0
		for i := 0; ; i++ {
			if i < len(c.found) {
				found = c.found[i]
			}
			w, ok := s.next(found, 50)
			if !ok {
				break
			}
			got = append(got, w)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %v\nwant %v", name, got, c.want)
		}
	}
}
