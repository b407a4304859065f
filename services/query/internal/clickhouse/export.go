package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// Limits of an export. It has no time budget: it may take as long as it gets on.
const (
	// exportSegment is how many rows one query of an export gives at most, so that none holds on to parts of the table for ever.
	exportSegment = 200_000
	// checkedRows and checkedBytes bound a segment that was filtered: it is kept until it is known which of its rows are later copies.
	checkedRows  = 16_384
	checkedBytes = 8 << 20
	// exportBlock bounds the rows in one block, and with them the memory of an export.
	exportBlock = 4096
	// exportStall is how long the store may neither send nor read a row.
	exportStall = 30 * time.Second
	// exportPatience is how long an export that has begun waits for a store that went away, exportPause how long between two attempts.
	exportPatience = 20 * time.Second
	exportPause    = 500 * time.Millisecond
)

// errFull ends a query when enough of it is in memory.
var errFull = errors.New("the segment is full")

// errStalled means that the store did nothing for exportStall.
var errStalled = errors.New("the store stands still")

// Export calls sink for every event that matches and that the scope permits, newest first, each once. It survives a restart of the store. An
// error of sink ends it and is returned as it is; other errors are those of Page.
func (r *Reader) Export(ctx context.Context, scope policy.Scope, filter audit.Filter, sink func(*audit.Event) error) error {
	if scope.Empty() || filter.Nothing() {
		return nil
	}
	ctx = withKind(ctx, kindExport)
	x := &exporter{reader: r, scope: scope, filter: &filter, sink: sink, limit: exportSegment}
	if x.checked = !scope.Whole() || filter.Narrows(); x.checked {
		x.limit = checkedRows
	}
	failing := time.Time{}
	for {
		before := x.passed
		whole, err := x.segment(ctx)
		switch {
		case whole:
			return nil
		case err == nil:
			failing = time.Time{}
			continue
		case x.sinkErr != nil:
			return x.sinkErr
		case !errors.Is(err, audit.ErrUnavailable) || x.last == nil:
			return err
		}
		if failing.IsZero() || x.passed != before {
			failing = time.Now()
		}
		if time.Since(failing) > exportPatience {
			return err
		}
		r.log.Warn("an export goes on after the store failed", slog.String("tenant", scope.Tenant().String()), slog.Any("error", err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(exportPause):
		}
	}
}

// exporter is one walk through everything.
type exporter struct {
	reader *Reader
	scope  policy.Scope
	filter *audit.Filter
	sink   func(*audit.Event) error

	limit   int             // rows of a segment
	checked bool            // rows may be later copies of events that do not match
	last    *audit.Position // of the last event given or left out
	passed  int             // events given or left out
	sinkErr error

	// Of the segment that is being read: the event whose copies are coming in, and those before it that are yet to be checked.
	rows  int
	open  bool
	event audit.Event
	batch []audit.Event
	bytes int
}

// segment is one query from where the last one ended. whole says that nothing follows.
func (x *exporter) segment(ctx context.Context) (whole bool, err error) {
	before := x.passed
	x.rows, x.open, x.batch, x.bytes = 0, false, x.batch[:0], 0
	if err := x.read(ctx); errors.Is(err, errFull) {
		whole = false
	} else if err != nil {
		return false, err
	} else if whole = x.rows < x.limit; whole && x.open {
		if err := x.close(); err != nil && !errors.Is(err, errFull) { // no copy of it follows
			return false, err
		}
	}
	if err := x.check(ctx); err != nil {
		return false, err
	}
	if !whole && x.passed == before {
		x.limit *= 2 // all rows were of one event
	}
	return whole, nil
}

// read runs the query of a segment.
func (x *exporter) read(ctx context.Context) error {
	s := newStatement(x.scope, x.reader.partition(x.scope.Tenant()))
	s.filter(x.filter, x.scope)
	s.during(span{from: x.filter.From, to: x.filter.To})
	s.after(x.last)
	return x.reader.protect(func() error {
		running, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watchdog := time.AfterFunc(exportStall, func() { cancel(errStalled) })
		defer watchdog.Stop()
		settings := x.reader.settings(ctx, s)
		settings["max_block_size"], settings["max_execution_time"] = exportBlock, 0
		_, err := x.reader.scan(running, s, x.limit, func(e *audit.Event) error {
			if x.rows++; x.rows%exportBlock == 0 {
				watchdog.Reset(exportStall)
			}
			if err := x.add(e); err != nil {
				cancel(err) // ends the query too: what is left of it would be read to its end otherwise
				return err
			}
			return nil
		}, chgo.WithSettings(settings), chgo.WithProgress(func(p *chgo.Progress) {
			watchdog.Reset(exportStall)
			x.reader.metrics.progress(kindExport, p)
		}))
		switch {
		case x.sinkErr != nil:
			return x.sinkErr
		case errors.Is(err, errFull):
			return errFull
		case errors.Is(context.Cause(running), errStalled):
			return fmt.Errorf("%w: nothing came for %s", audit.ErrTimeout, exportStall)
		}
		return classify(ctx, err)
	})
}

// add takes the next row: with it, the event before has no more copies.
func (x *exporter) add(e *audit.Event) error {
	if x.open && isCopy(&x.event, e) {
		if e.Seq < x.event.Seq {
			x.event = *e
		}
		return nil
	}
	if x.open {
		if err := x.close(); err != nil {
			return err
		}
	}
	x.open, x.event = true, *e
	return nil
}

// close is for an event of which all rows have been read.
func (x *exporter) close() error {
	x.open = false
	if !x.checked {
		return x.give(&x.event)
	}
	x.batch = append(x.batch, x.event)
	if x.bytes += len(x.event.Metadata); x.event.Reasoning != nil {
		x.bytes += len(*x.event.Reasoning)
	}
	if x.bytes >= checkedBytes {
		return errFull
	}
	return nil
}

// check gives the batch, without later copies.
func (x *exporter) check(ctx context.Context) error {
	if len(x.batch) == 0 {
		return nil
	}
	var later []bool
	err := x.reader.protect(func() (err error) {
		later, err = x.reader.laterCopies(ctx, x.scope.Tenant(), x.batch)
		return classify(ctx, err)
	})
	for i := 0; i < len(x.batch) && err == nil; i++ {
		if later[i] {
			x.pass(&x.batch[i])
			continue
		}
		err = x.give(&x.batch[i])
	}
	return err
}

// give hands an event on, if the policies permit it.
func (x *exporter) give(e *audit.Event) error {
	x.pass(e)
	if !x.reader.permitted(x.scope, e) {
		return nil
	}
	x.sinkErr = x.sink(e)
	return x.sinkErr
}

// pass makes the next segment begin behind an event.
func (x *exporter) pass(e *audit.Event) {
	if x.last == nil {
		x.last = new(audit.Position)
	}
	*x.last = e.Position()
	x.passed++
}
