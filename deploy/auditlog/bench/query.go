package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// queryBench is how long queries are measured for.
type queryBench struct {
	// samples is how often a question is asked, as long as that takes no more than patience.
	samples  int
	patience time.Duration
	readers  int
	readFor  time.Duration
	// depths are how many events lie before the page, for pages of 50: the 10th, the 1,000th, the 100,000th.
	depths []int
	// exportOnly leaves out all but the export.
	exportOnly bool
}

// benchQuery measures every kind of question through the API and as the same SQL without it, on a log of o.events events.
func benchQuery(ctx context.Context, o options) error {
	return queryBench{samples: 100, patience: 10 * time.Second, readers: 64, readFor: 10 * time.Second, depths: []int{500, 50_000, 5_000_000}}.run(ctx, o)
}

func (b queryBench) run(ctx context.Context, o options) (err error) {
	e, err := startEngines(o.bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := setUp(ctx, e, o.bin); err != nil {
		return err
	}
	began := time.Now()
	if err := load(ctx, e, o.events); err != nil {
		return err
	}
	report("load, until merged", float64(o.events), time.Since(began), "")
	if err := reportStorage(ctx, e); err != nil {
		return err
	}
	service, err := startQuery(ctx, e, o.bin)
	if err != nil {
		return err
	}
	defer func() {
		cost, stopErr := stop(service.cmd)
		fmt.Printf("  query service: %.0f MiB peak, %.1f CPU s\n", cost.peakMiB, cost.cpu)
		err = errors.Join(err, stopErr)
	}()
	key, err := makeKey(ctx, e, o.bin, loadTenant.String())
	if err != nil {
		return err
	}
	db, err := openBare(e, max(b.readers, 2))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	api := newAPIReader(service, key, b.readers)
	if b.exportOnly {
		return b.exports(ctx, api, db)
	}
	return errors.Join(b.measure(ctx, api, db), b.exports(ctx, api, db))
}

func (b queryBench) measure(ctx context.Context, api *apiReader, db driver.Conn) error {
	kinds, err := b.questions(ctx, api, db)
	if err != nil {
		return err
	}
	floor, err := b.sample(func() error { return drainRows(ctx, db, "SELECT 1") })
	if err != nil {
		return err
	}
	fmt.Printf("  %-34s %32s %32s %6s %6s %8s %9s\n", "milliseconds", "API p50, p95, p99", "bare SQL p50, p95, p99", "ratio", "floors", "queries", "rows read")
	fmt.Printf("  %-34s %32s %32s\n", "SELECT 1: the floor", "", floor)
	for i := range kinds {
		if err := b.compare(ctx, api, db, &kinds[i], floor.at(50)); err != nil {
			return fmt.Errorf("%s: %w", kinds[i].name, err)
		}
	}
	return b.concurrent(ctx, api, db, kinds)
}

// question is one kind of query: the path below the log, and the SQL that the service makes of it.
type question struct {
	name, path string
	queries    []bareQuery
}

// questions are all kinds. Values come from the generator of load.
func (b queryBench) questions(ctx context.Context, api *apiReader, db driver.Conn) ([]question, error) {
	began := time.Now()
	cursors, err := api.cursors(ctx, b.depths)
	if err != nil {
		return nil, err
	}
	fmt.Printf("  walked to the depths in %.1f s\n", time.Since(began).Seconds())
	var id string
	if err := db.QueryRow(ctx, "SELECT toString(id) FROM event_log WHERE tenant_id = $1 ORDER BY cityHash64(stream_seq) LIMIT 1", loadTenant.String()).Scan(&id); err != nil {
		return nil, fmt.Errorf("pick an event: %w", err)
	}
	noon := time.Now().Add(-loadSpan / 3).UTC()
	kinds := []question{{name: "first page"}}
	for _, depth := range b.depths {
		if cursor, ok := cursors[depth]; ok {
			kinds = append(kinds, question{name: fmt.Sprintf("page %d", depth/50), path: "?cursor=" + url.QueryEscape(cursor)})
		}
	}
	filter := func(name string, pairs ...string) {
		values := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			values.Add(pairs[i], pairs[i+1])
		}
		kinds = append(kinds, question{name: name, path: "?" + values.Encode()})
	}
	filter("common actor", "actor_id", "user_00000")
	filter("medium actor", "actor_id", "user_10000")
	filter("rare actor", "actor_id", "rare_actor")
	filter("absent actor", "actor_id", "nobody")
	filter("resource", "resource_type", "invoice", "resource_id", "res_774")
	filter("common action", "action", "invoice.0")
	filter("rare action", "action", "report.59")
	filter("common actor, rare action", "actor_id", "user_00000", "action", "report.59")
	filter("two common that never meet", "action", "invoice.0", "resource_type", "payment")
	filter("2 actions, 2 types, never meet", "action", "invoice.0", "action", "invoice.6", "resource_type", "payment", "resource_type", "session")
	filter("10 minutes a third back", "from", noon.Format(time.RFC3339), "to", noon.Add(10*time.Minute).Format(time.RFC3339))
	return append(kinds, question{name: "one event", path: "/" + id}), nil
}

// compare asks one question through the API and bare, by turns, and prints both.
func (b queryBench) compare(ctx context.Context, api *apiReader, db driver.Conn, q *question, floor time.Duration) error {
	ask := func() error { _, err := api.get(ctx, q.path); return err }
	var err error
	if q.queries, err = captureQueries(ctx, db, ask); err != nil {
		return err
	}
	var through, bare latencies
	for began := time.Now(); len(through) < b.samples && time.Since(began) < b.patience; {
		if err := through.add(ask); err != nil {
			return err
		}
		if err := bare.add(func() error { return replay(ctx, db, q.queries) }); err != nil {
			return err
		}
	}
	var rows uint64
	for _, one := range q.queries {
		rows += one.rows
	}
	fmt.Printf("  %-34s %32s %32s %6.2f %6.1f %8d %9d\n", q.name, through, bare,
		through.at(50).Seconds()/bare.at(50).Seconds(), through.at(50).Seconds()/floor.Seconds(), len(q.queries), rows)
	return nil
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
