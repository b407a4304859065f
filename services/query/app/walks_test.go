package app_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"example.com/auditlog/services/query/app"
)

// walkRuns is enough for every run of the tests; -rapid.checks asks for more.
const walkRuns = "25"

// randomLog is the log of one tenant, which a test reads over HTTP while it grows.
type randomLog struct {
	t      *testing.T
	rt     *rapid.T
	s      *system
	tenant uuid.UUID
	key    string
	query  string // with & in front, if there is any
	events map[uuid.UUID]row
	shown  func(row) bool
}

// Ensure list, feed and export agree on what the log holds: every event that was there at the beginning exactly once and in order, at its first copy, with
// equal times, late events, copies that nobody merged yet, any filter, key and size of pages, while events and copies arrive. A page says that more follows
// exactly if it does: then it is full, has a cursor, and the one behind it is not empty.
func TestWalksAgree(t *testing.T) {
	if runs := flag.Lookup("rapid.checks"); runs.Value.String() == runs.DefValue {
		must(t, flag.Set("rapid.checks", walkRuns))
		t.Cleanup(func() { _ = flag.Set("rapid.checks", runs.DefValue) })
	}
	s := newSystem(t, shared, nil)
	must(t, s.db.Exec(t.Context(), "SYSTEM STOP MERGES event_log"))
	s.committed(t, uuid.New(), sequences.Load()) // a feed of nothing needs a bucket that says so
	rapid.Check(t, func(rt *rapid.T) {
		l := newRandomLog(t, rt, s)
		begin := maps.Clone(l.events)
		grow := l.arrive
		if rapid.Bool().Draw(rt, "quiet") {
			grow = func() {}
		}
		l.same("the list's walk", only(l.list(grow), begin), l.want(begin, newestFirst))
		begin = maps.Clone(l.events)
		l.same("the feed's walk", only(l.feed(grow), begin), l.want(begin, inOrderOfStream))

		listed := l.list(func() {})
		l.same("the list at the end", listed, l.want(l.events, newestFirst))
		l.same("the feed at the end", l.feed(func() {}), l.want(l.events, inOrderOfStream))
		if exported := l.export(); !slices.EqualFunc(exported, listed, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			rt.Fatalf("the export of %s:\n got %s\nwant %s", l.query, exported, listed)
		}
	})
}

// newRandomLog fills the log of a new tenant.
func newRandomLog(t *testing.T, rt *rapid.T, s *system) *randomLog {
	l := &randomLog{t: t, rt: rt, s: s, tenant: uuid.New(), events: map[uuid.UUID]row{}}
	spec := app.KeySpec{Tenant: l.tenant}
	l.query, l.shown = drawQuery(rt)
	if !strings.Contains(l.query, "resource_type") && rapid.Bool().Draw(rt, "limited key") {
		matches := l.shown
		spec.ResourceTypes, l.shown = []string{"invoice"}, func(r row) bool { return matches(r) && r.resourceType == "invoice" }
	}
	l.key = s.key(t, spec).Key
	for range rapid.SampledFrom([]int{3, 2, 2, 1, 0}).Draw(rt, "blocks") {
		l.insert(rapid.IntRange(1, 30).Draw(rt, "rows"))
	}
	s.get(t, l.key, l.tenant, "?limit=1") // until the key is known
	return l
}

// insert adds a block of new events, of any age, and of copies of those before, in any order.
func (l *randomLog) insert(n int) {
	var block []row
	for range n {
		r := newRow(l.tenant, november.Add(rapid.SampledFrom([]time.Duration{0, 0, 0, time.Microsecond, time.Second, 2 * time.Second, 19 * time.Second, -time.Hour, -40 * 24 * time.Hour}).Draw(l.rt, "at")))
		again := len(l.events) > 0 && rapid.Bool().Draw(l.rt, "again")
		if again {
			first := l.events[rapid.SampledFrom(slices.SortedFunc(maps.Keys(l.events), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })).Draw(l.rt, "of")]
			r.id, r.at = first.id, first.at
		}
		r.actor = fmt.Sprintf("user_%d", rapid.IntRange(0, 2).Draw(l.rt, "actor"))
		r.resourceType = rapid.SampledFrom([]string{"invoice", "vault"}).Draw(l.rt, "type")
		r.resourceID = fmt.Sprintf("r_%d", rapid.IntRange(0, 4).Draw(l.rt, "resource"))
		if !again {
			l.events[r.id] = r
		}
		block = append(block, r)
	}
	l.s.insert(l.t, rapid.Permutation(block).Draw(l.rt, "block")...)
	l.s.committed(l.t, l.tenant, sequences.Load())
}

// arrive is what may happen between two pages.
func (l *randomLog) arrive() {
	if rapid.Bool().Draw(l.rt, "arrives") {
		l.insert(rapid.IntRange(1, 3).Draw(l.rt, "arrive"))
	}
}

// walkPage is a page of list or feed.
type walkPage struct {
	Data       []json.RawMessage
	NextCursor string `json:"next_cursor"`
	HasMore    *bool  `json:"has_more"`
}

func (l *randomLog) page(path string, limit int, cursor string) walkPage {
	query := fmt.Sprintf("%s?limit=%d%s", path, limit, l.query)
	if cursor != "" {
		query += "&cursor=" + cursor
	}
	res, body := l.s.getOnce(l.t, l.key, l.tenant, query)
	var p walkPage
	if err := json.Unmarshal([]byte(body), &p); err != nil || res.StatusCode != http.StatusOK || p.HasMore == nil || p.Data == nil || len(p.Data) > limit {
		l.rt.Fatalf("%s: %d %s", query, res.StatusCode, body)
	}
	return p
}

// limit is how long the next page may be: each may have another.
func (l *randomLog) limit() int { return rapid.IntRange(1, 40).Draw(l.rt, "limit") }

// list walks down the log.
func (l *randomLog) list(between func()) (all []json.RawMessage) {
	for cursor := ""; ; {
		limit := l.limit()
		p := l.page("", limit, cursor)
		if *p.HasMore != (p.NextCursor != "") || *p.HasMore && len(p.Data) != limit || cursor != "" && len(p.Data) == 0 {
			l.rt.Fatalf("after %d events a page of %d with limit %d, has_more %v, next_cursor %q", len(all), len(p.Data), limit, *p.HasMore, p.NextCursor)
		}
		all = append(all, p.Data...)
		if cursor = p.NextCursor; !*p.HasMore {
			return all
		}
		between()
	}
}

// feed walks up to the end of the feed, without the times that the list does not show.
func (l *randomLog) feed(between func()) (all []json.RawMessage) {
	for cursor := ""; ; {
		p := l.page("/feed", l.limit(), cursor)
		if p.NextCursor == "" || *p.HasMore && p.NextCursor == cursor {
			l.rt.Fatalf("after %d events of the feed a page of %d, has_more %v, next_cursor %q after %q", len(all), len(p.Data), *p.HasMore, p.NextCursor, cursor)
		}
		for _, e := range p.Data {
			bare, _, _ := bytes.Cut(e, []byte(`,"ingested_at":`))
			all = append(all, append(bare, '}'))
		}
		if cursor = p.NextCursor; !*p.HasMore {
			return all
		}
		between()
	}
}

// export reads all of it.
func (l *randomLog) export() (all []json.RawMessage) {
	query := "/export?" + strings.TrimPrefix(l.query, "&")
	res, body := l.s.getOnce(l.t, l.key, l.tenant, strings.TrimSuffix(query, "?"))
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	if last := fmt.Sprintf(`{"complete":true,"count":%d}`, len(lines)-1); res.StatusCode != http.StatusOK || lines[len(lines)-1] != last {
		l.rt.Fatalf("%s: %d %s", query, res.StatusCode, body)
	}
	for _, line := range lines[:len(lines)-1] {
		all = append(all, json.RawMessage(line))
	}
	return all
}

func newestFirst(a, b row) int {
	if c := b.at.Compare(a.at); c != 0 {
		return c
	}
	return bytes.Compare(b.id[:], a.id[:])
}

func inOrderOfStream(a, b row) int { return int(a.seq) - int(b.seq) } //nolint:gosec // small numbers

// want is what of these events the key and the filters let through.
func (l *randomLog) want(events map[uuid.UUID]row, order func(a, b row) int) []row {
	rows := slices.SortedFunc(maps.Values(events), order)
	return slices.DeleteFunc(rows, func(r row) bool { return !l.shown(r) })
}

// only is got without the events that came later.
func only(got []json.RawMessage, known map[uuid.UUID]row) []json.RawMessage {
	return slices.DeleteFunc(got, func(e json.RawMessage) bool {
		var event struct{ ID uuid.UUID }
		_ = json.Unmarshal(e, &event) // what is no event is in no log, and missed then
		_, ok := known[event.ID]
		return !ok
	})
}

// same fails unless got are the events of want, as their first copies have them.
func (l *randomLog) same(what string, got []json.RawMessage, want []row) {
	equal := slices.EqualFunc(got, want, func(e json.RawMessage, r row) bool {
		text := fmt.Sprintf(`{"id":%q,"actor_id":%q,"actor_type":%q,"action":%q,"resource_type":%q,"resource_id":%q,"metadata":%s,"created_at":%q}`,
			r.id, r.actor, r.actorType, r.action, r.resourceType, r.resourceID, r.metadata, r.at.UTC().Format("2006-01-02T15:04:05.000000Z"))
		return string(e) == text
	})
	if !equal {
		l.rt.Fatalf("%s of %q: %d events, want %d:\n got %s\nwant %+v", what, l.query, len(got), len(want), got, want)
	}
}
