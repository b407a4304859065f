package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// question is one kind of query: the path below the log, and the SQL that the service makes of it.
type question struct {
	name, path string
	kind       kind
	fresh      []bareQuery // the first time
	queries    []bareQuery // and every other time
}

// kind says which of the targets are a question's.
type kind int

const (
	other kind = iota
	first
	deep
	filtered
	long // more than the usual 50 events: cost is bounded for a page of those
)

// questions are all kinds. Values come from the generator of load.
func (b queryBench) questions(ctx context.Context, l *benchLog, p *position, o options) ([]question, error) {
	feed, err := feedCursors(ctx, l.api, p, o.events)
	if err != nil {
		return nil, err
	}
	cursors, err := l.api.rememberedCursors(ctx, o.data, b.depths)
	if err != nil {
		return nil, err
	}
	var id string
	if err := l.db.QueryRow(ctx, "SELECT toString(id) FROM event_log WHERE tenant_id = $1 AND stream_seq % 1000 = 7 ORDER BY stream_seq DESC LIMIT 1 OFFSET 4", loadTenant.String()).Scan(&id); err != nil {
		return nil, fmt.Errorf("pick an event: %w", err)
	}
	kinds := []question{{name: "first page", kind: first}}
	for _, depth := range b.depths {
		if cursor, ok := cursors[depth]; ok {
			kinds = append(kinds, question{name: fmt.Sprintf("page %d", depth/50), kind: deep, path: "?cursor=" + url.QueryEscape(cursor)})
		}
	}
	ask := func(k kind, name string, pairs ...string) {
		values := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			values.Add(pairs[i], pairs[i+1])
		}
		kinds = append(kinds, question{name: name, kind: k, path: "?" + values.Encode()})
	}
	ask(filtered, "common actor", "actor_id", "user_00000")
	ask(filtered, "medium actor", "actor_id", "user_10000")
	ask(filtered, "rare actor", "actor_id", "rare_actor")
	ask(filtered, "absent actor", "actor_id", "nobody")
	ask(filtered, "resource", "resource_type", "invoice", "resource_id", "res_774")
	ask(filtered, "common action", "action", "invoice.0")
	ask(filtered, "rare action", "action", "report.59")
	ask(filtered, "common actor, rare action", "actor_id", "user_00000", "action", "report.59")
	ask(filtered, "medium actor, common action", "actor_id", "user_10000", "action", "invoice.0")
	ask(filtered, "two common that never meet", "action", "invoice.0", "resource_type", "payment")
	ask(filtered, "2 actions, 2 types, never meet", "action", "invoice.0", "action", "invoice.6", "resource_type", "payment", "resource_type", "session")
	noon := time.Now().Add(-loadSpan / 3).UTC()
	ask(other, "10 minutes a third back", "from", noon.Format(time.RFC3339), "to", noon.Add(10*time.Minute).Format(time.RFC3339))
	kinds = append(kinds, question{name: "feed, beginning", path: "/feed"})
	for i, name := range []string{"feed, middle", "feed, newest"} {
		kinds = append(kinds, question{name: name, path: "/feed?cursor=" + url.QueryEscape(feed[i])})
	}
	kinds = append(kinds, question{name: "one event", path: "/" + id})
	ask(long, "first page of 1000", "limit", "1000")
	ask(long, "medium actor, page of 1000", "actor_id", "user_10000", "limit", "1000")
	return kinds, nil
}

// pages asks each kind of question through the API and as bare SQL.
func (b queryBench) pages(ctx context.Context, l *benchLog, targets *verdicts) error {
	floor, err := b.sample(func() error { _, err := countRows(ctx, l.db, "SELECT 1"); return err })
	if err != nil {
		return err
	}
	overHTTP, err := b.sample(func() error { _, err := l.engines.query(ctx, "SELECT 1"); return err })
	if err != nil {
		return err
	}
	fmt.Printf("  %-32s %28s %28s %6s %6s %8s %9s %29s\n", "milliseconds", "API p50, p95, p99", "bare SQL p50, p95, p99", "ratio", "floors", "queries", "rows read", "first time, bare p50, queries")
	fmt.Printf("  %-32s %28s %28s\n", "SELECT 1 over HTTP: the floor", overHTTP, "")
	fmt.Printf("  %-32s %28s %28s\n", "SELECT 1 through clickhouse-go", "", floor)
	table := pageTable{floor: overHTTP.at(50)}
	for i := range l.kinds {
		line, err := b.compare(ctx, l, &l.kinds[i])
		if err != nil {
			return fmt.Errorf("%s: %w", l.kinds[i].name, err)
		}
		line.print(table.floor)
		table.lines = append(table.lines, line)
	}
	table.judge(targets)
	return nil
}

// pageLine is what one kind of question cost.
type pageLine struct {
	question
	through, bare, cold latencies
	rows                uint64
}

func (p *pageLine) ratio() float64 { return p.through.at(50).Seconds() / p.bare.at(50).Seconds() }

func (p *pageLine) print(floor time.Duration) {
	fmt.Printf("  %-32s %28s %28s %6.2f %6.1f %8d %9d %20.1f %8d\n", p.name, p.through, p.bare, p.ratio(), p.through.at(50).Seconds()/floor.Seconds(), len(p.queries), p.rows,
		1000*p.cold.at(50).Seconds(), len(p.fresh))
}

// compare asks one question through the API and bare, by turns.
func (b queryBench) compare(ctx context.Context, l *benchLog, q *question) (*pageLine, error) {
	ask := func() error { _, err := l.api.get(ctx, q.path); return err }
	if err := q.capture(ctx, l); err != nil {
		return nil, err
	}
	line := &pageLine{question: *q}
	for began := time.Now(); len(line.through) < b.samples && time.Since(began) < b.patience; {
		if err := line.through.add(ask); err != nil {
			return nil, err
		}
		if err := line.bare.add(func() error { return replay(ctx, l.db, q.queries) }); err != nil {
			return nil, err
		}
		if err := line.cold.add(func() error { return replay(ctx, l.db, q.fresh) }); err != nil {
			return nil, err
		}
	}
	for _, one := range q.queries {
		line.rows += one.rows
	}
	return line, nil
}

// capture learns the SQL of a question, once: the first time, when the service knows nothing of it, and then.
func (q *question) capture(ctx context.Context, l *benchLog) (err error) {
	if q.queries != nil {
		return nil
	}
	ask := func() error { _, err := l.api.get(ctx, q.path); return err }
	if q.fresh, err = captureQueries(ctx, l.db, ask); err != nil {
		return err
	}
	q.queries, err = captureQueries(ctx, l.db, ask)
	return err
}

// pageTable is what all kinds of question cost.
type pageTable struct {
	floor time.Duration
	lines []*pageLine
}

// judge compares them with the targets.
func (t *pageTable) judge(targets *verdicts) {
	of := func(value func(*pageLine) float64, kinds ...kind) (highest float64, name string) {
		for _, l := range t.lines {
			if v := value(l); v >= highest && (len(kinds) == 0 || slices.Contains(kinds, l.kind)) {
				highest, name = v, l.name
			}
		}
		return highest, name
	}
	floors := func(l *pageLine) float64 { return l.through.at(50).Seconds() / t.floor.Seconds() }
	rows := func(l *pageLine) float64 { return float64(l.rows) }
	ratio, name := of((*pageLine).ratio)
	targets.atMost("API p50 / bare SQL p50, highest: "+name, ratio, 1.3)
	firstPage, _ := of(floors, first)
	targets.atMost("first page, floors", firstPage, 5)
	slowest, name := of(floors, filtered)
	targets.atMost("slowest filter, floors: "+name, slowest, 12)
	deepest, name := of(floors, deep)
	targets.atMost("slowest depth / first page: "+name, deepest/firstPage, 1.3)
	read, name := of(rows, other, first, deep, filtered)
	targets.atMost("rows read for a page of 50, most: "+name, read, 100_000)
	read, name = of(rows, long)
	targets.atMost("rows read for a page of 1000, most: "+name, read, 100_000)
}

func (b queryBench) sample(ask func() error) (l latencies, err error) {
	for began := time.Now(); len(l) < b.samples && time.Since(began) < b.patience; {
		if err := l.add(ask); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// latencies are how long single questions took.
type latencies []time.Duration

func (l *latencies) add(ask func() error) error {
	began := time.Now()
	err := ask()
	*l = append(*l, time.Since(began))
	return err
}

// at is a percentile.
func (l latencies) at(percent int) time.Duration {
	if len(l) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(l))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

// String is the median and the tail in milliseconds.
func (l latencies) String() string {
	ms := func(p int) string { return strconv.FormatFloat(l.at(p).Seconds()*1000, 'f', 1, 64) }
	return ms(50) + ", " + ms(95) + ", " + ms(99)
}
