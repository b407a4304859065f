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
	// exportBlock bounds the rows in one block, and with them the memory of an export.
	exportBlock = 4096
	// exportStall is how long the store may neither send nor read a row.
	exportStall = 30 * time.Second
	// exportPatience is how long an export that has begun waits for a store that went away, exportPause how long between two attempts.
	exportPatience = 20 * time.Second
	exportPause    = 500 * time.Millisecond
)

// errStalled means that the store did nothing for exportStall.
var errStalled = errors.New("the store stands still")

// Export calls sink for every event that matches and that the scope permits, newest first, each once. It survives a restart of the store. An
// error of sink ends it and is returned as it is; other errors are those of Page.
func (r *Reader) Export(ctx context.Context, scope policy.Scope, filter audit.Filter, sink func(*audit.Event) error) error {
	if scope.Empty() || filter.Nothing() {
		return nil
	}
	ctx = withKind(ctx, kindExport)
	x := &exporter{reader: r, scope: scope, filter: &filter, sink: sink}
	failing := time.Time{}
	for {
		before := x.rows
		rows, err := x.segment(ctx)
		switch {
		case err == nil && rows < exportSegment:
			return nil
		case err == nil:
			failing = time.Time{}
			continue
		case x.sinkErr != nil:
			return x.sinkErr
		case !errors.Is(err, audit.ErrUnavailable) || x.last == nil:
			return err
		}
		if failing.IsZero() || x.rows != before {
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

	last    *audit.Position // of the last row read, shown or not
	sinkErr error
	rows    int // read
}

// segment is one query from where the last one ended, whole or not.
func (x *exporter) segment(ctx context.Context) (rows int, err error) {
	s := newStatement(x.scope, x.reader.partition(x.scope.Tenant()))
	s.filter(x.filter)
	s.during(span{from: x.filter.From, to: x.filter.To})
	s.after(x.last)
	err = x.reader.protect(func() error {
		running, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watchdog := time.AfterFunc(exportStall, func() { cancel(errStalled) })
		defer watchdog.Stop()
		settings := x.reader.settings()
		settings["max_block_size"], settings["max_execution_time"] = exportBlock, 0
		var err error
		rows, err = x.reader.scan(running, s, exportSegment, func(e *audit.Event) error {
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
		case errors.Is(context.Cause(running), errStalled):
			return fmt.Errorf("%w: nothing came for %s", audit.ErrTimeout, exportStall)
		}
		return classify(ctx, err)
	})
	return rows, err
}

// add takes the next row, as a page does.
func (x *exporter) add(e *audit.Event) error {
	if x.last == nil {
		x.last = &audit.Position{}
	} else if e.ID == x.last.ID && e.CreatedAt.Equal(x.last.CreatedAt) {
		return nil
	}
	*x.last = e.Position()
	if !x.reader.permitted(x.scope, e) {
		return nil
	}
	x.sinkErr = x.sink(e)
	return x.sinkErr
}
