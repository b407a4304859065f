package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// partQuery is all that is measured of queries, queryParts are its parts.
const (
	partQuery   = "query"
	partLoad    = "load"
	partPages   = "pages"
	partReaders = "readers"
	partExport  = "export"
)

var queryParts = []string{partLoad, partPages, partReaders, partExport}

// queryBench is how long queries are measured for.
type queryBench struct {
	// parts are those of queryParts to do. Without load, the log is there already.
	parts []string
	// samples is how often a question is asked, as long as that takes no more than patience.
	samples  int
	patience time.Duration
	readers  int
	readFor  time.Duration
	// concurrent are the settings of AUDIT_MAX_CONCURRENT that the readers are measured with; "" is the service's default.
	concurrent []string
	// depths are how many events lie before the page, for pages of 50: the 10th, the 1,000th, the 100,000th.
	depths []int
}

// benchQuery measures every kind of question through the API and as the same SQL without it, on a log of o.events events.
func benchQuery(ctx context.Context, o options) error {
	b := queryBench{parts: queryParts, samples: 100, patience: 5 * time.Second, readers: 64, readFor: 12 * time.Second, concurrent: strings.Split(o.concurrent, ","),
		depths: []int{500, 50_000, 5_000_000}}
	if o.only != partQuery {
		b.parts = []string{o.only}
	}
	return b.run(ctx, o)
}

func (b queryBench) does(part string) bool { return slices.Contains(b.parts, part) }

func (b queryBench) run(ctx context.Context, o options) (err error) {
	e, err := startEnginesIn(o.data, o.bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	// An ingester refuses a table whose events it never saw, so a log that an earlier run has loaded is taken as it is.
	if there, err := e.query(ctx, "EXISTS TABLE event_log"); err != nil {
		return err
	} else if there != "1" {
		if err := setUp(ctx, e, o.bin); err != nil {
			return err
		}
	}
	targets := &verdicts{}
	if err := b.load(ctx, e, o.events, targets); err != nil {
		return err
	}
	if slices.Equal(b.parts, []string{partLoad}) {
		return nil
	}
	l, err := b.openLog(ctx, e, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for _, part := range []struct {
		name string
		run  func(context.Context, *benchLog, *verdicts) error
	}{{partPages, b.pages}, {partReaders, b.crowds}, {partExport, b.exports}} {
		if !b.does(part.name) {
			continue
		}
		if err := part.run(ctx, l, targets); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	targets.print()
	return nil
}

// load fills the table, unless it has the events.
func (b queryBench) load(ctx context.Context, e *engines, events int, targets *verdicts) error {
	there, err := e.query(ctx, "SELECT count() FROM event_log")
	if err != nil {
		return err
	}
	if there == "0" {
		began := time.Now()
		if err := load(ctx, e, events); err != nil {
			return err
		}
		report("load", float64(events), time.Since(began), "")
		if _, err := reportStorage(ctx, e, "as loaded"); err != nil {
			return err
		}
	} else if there != fmt.Sprint(events) {
		return fmt.Errorf("the table has %s events, not %d: name another folder or number", there, events)
	}
	began := time.Now()
	if err := settleMerges(ctx, e); err != nil {
		return err
	}
	size, err := reportStorage(ctx, e, fmt.Sprintf("after %.0f s, when no merge was left to do", time.Since(began).Seconds()))
	targets.atMost("storage, bytes an event", size, 75)
	return err
}

// benchLog is a loaded log with all that reads it.
type benchLog struct {
	engines *engines
	bin     string
	events  int
	service *queryProcess
	api     *apiReader
	db      driver.Conn
	kinds   []question
}

// openLog starts a query service on the log and prepares the questions.
func (b queryBench) openLog(ctx context.Context, e *engines, o options) (_ *benchLog, err error) {
	l := &benchLog{engines: e, bin: o.bin, events: o.events}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.db, err = openBare(e, max(b.readers, 2)); err != nil {
		return nil, err
	}
	key, err := makeKey(ctx, e, o.bin, loadTenant.String())
	if err != nil {
		return nil, err
	}
	p, err := openPosition(ctx, e)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.set(ctx, o.events/2); err != nil { // before the service hears of a later one: positions only rise
		return nil, err
	}
	if l.service, err = startQuery(ctx, e, o.bin); err != nil {
		return nil, err
	}
	l.api = newAPIReader(l.service, key, b.readers)
	l.kinds, err = b.questions(ctx, l, p, o)
	return l, err
}

// restart starts the service anew, with more settings.
func (l *benchLog) restart(ctx context.Context, env ...string) (err error) {
	if _, err := stop(l.service.cmd); err != nil {
		return err
	}
	if l.service, err = startQuery(ctx, l.engines, l.bin, env...); err == nil {
		l.api.base = l.service.base()
	}
	return err
}

// Close stops the service.
func (l *benchLog) Close() error {
	var errs []error
	if l.service != nil {
		cost, err := stop(l.service.cmd)
		fmt.Printf("  query service: %.0f MiB peak, %.1f CPU s\n", cost.peakMiB, cost.cpu)
		errs = append(errs, err)
	}
	if l.db != nil {
		errs = append(errs, l.db.Close())
	}
	return errors.Join(errs...)
}
