package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// Limits of an export. It has no time budget: it may take as long as it gets on.
const (
	// exportSegment is how many rows one query of an export gives at most, so that none holds on to parts of the table for ever.
	exportSegment = 200_000
	// checkedRows and checkedBytes bound a batch of events of which is yet to be found out which are later copies. There are two batches at a time.
	checkedRows  = 8_192
	checkedBytes = 4 << 20
	// exportBlock bounds the rows in one block, and with them the memory of an export.
	exportBlock = 4096
	// exportPatience is how long an export that has begun waits for a store that went away, exportPause how long between two attempts.
	exportPatience = 20 * time.Second
	exportPause    = 500 * time.Millisecond
)

// errStalled means that the store did nothing for as long as it may.
var errStalled = errors.New("the store stands still")

// Export calls sink for every event that matches and that the scope permits, newest first, each once. It survives a restart of the store. An
// error of sink ends it and is returned as it is; other errors are those of Page.
func (r *Reader) Export(ctx context.Context, scope policy.Scope, filter audit.Filter, sink func(*audit.Event) error) error {
	if scope.Empty() || filter.Nothing() {
		return nil
	}
	ctx = withKind(ctx, kindExport)
	x := &exporter{reader: r, scope: scope, filter: &filter, sink: sink, limit: exportSegment, checked: !scope.Whole() || filter.Narrows()}
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
	memory  [2][]audit.Event // of batches
}

// segment is one query from where the last one ended. whole says that nothing follows.
func (x *exporter) segment(ctx context.Context) (whole bool, err error) {
	before := x.passed
	s := x.newSegment()
	if x.checked {
		err = x.checkedSegment(ctx, s)
	} else {
		s.out = func(_ context.Context, e *audit.Event) error {
			return s.elsewhere(func() error { return x.give(e) })
		}
		err = s.read(ctx)
	}
	switch {
	case x.sinkErr != nil:
		return false, x.sinkErr
	case err != nil:
		return false, err
	}
	if whole = s.rows < x.limit; !whole && x.passed == before {
		x.limit *= 2 // all rows were of one event
	}
	return whole, nil
}

// newSegment begins behind the last event given or left out.
func (x *exporter) newSegment() *segment {
	s := newStatement(x.scope, x.reader.partition(x.scope.Tenant()))
	s.filter(x.filter, x.scope)
	s.during(span{from: x.filter.From, to: x.filter.To})
	s.after(x.last)
	return &segment{reader: x.reader, statement: s, limit: x.limit}
}

// checkedSegment reads a segment while the events read before are checked and given: by a goroutine, for the sink belongs to the caller.
func (x *exporter) checkedSegment(ctx context.Context, s *segment) (err error) {
	b := &batches{segment: s, full: make(chan []audit.Event), now: emptied(x.memory[0]), other: x.memory[1]}
	s.out = b.add
	reading, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		defer close(b.full)
		ended <- caught(func() error {
			if err := s.read(reading); err != nil {
				return err
			}
			return b.hand(reading)
		})
	}()
	for batch := range b.full {
		if err == nil {
			err = x.giveFirstCopies(ctx, batch)
		}
		if err != nil {
			stop() // ends the query too: what is left of it would be read to its end otherwise
		}
	}
	if failed := <-ended; err == nil {
		err = failed
	}
	x.memory = [...][]audit.Event{b.now, b.other}
	return err
}

// caught makes a panic an error where nothing else would catch it.
func caught(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return f()
}

// giveFirstCopies gives the events of a batch, without later copies.
func (x *exporter) giveFirstCopies(ctx context.Context, batch []audit.Event) (err error) {
	var later []bool
	err = x.reader.guard(ctx, func(ctx context.Context) (err error) {
		later, err = x.reader.laterCopiesNear(ctx, x.scope.Tenant(), batch)
		return err
	})
	for i := 0; i < len(batch) && err == nil; i++ {
		if later[i] {
			x.pass(&batch[i])
			continue
		}
		err = x.give(&batch[i])
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

// segment is the reading of one query.
type segment struct {
	reader    *Reader
	statement *statement
	limit     int                                       // rows
	out       func(context.Context, *audit.Event) error // takes each event at its first copy; an error ends the query

	moved  atomic.Bool // the store has read or sent something since it was last looked
	paused atomic.Bool // it is somebody else who is waited for

	rows  int
	open  bool
	event audit.Event // whose copies are coming in, while open
}

// read runs the query. Its last event, when the limit was reached, is left to the next segment: more copies of it may follow.
func (s *segment) read(ctx context.Context) error {
	return s.reader.protect(func() error {
		running, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		go s.watch(running, cancel)
		settings := s.reader.settings(ctx, s.statement)
		settings["max_block_size"], settings["max_execution_time"] = exportBlock, 0
		var refused error
		_, err := s.reader.scan(running, s.statement, s.limit, func(e *audit.Event) error {
			s.rows++
			s.move()
			if err := s.add(running, e); err != nil {
				refused = err
				cancel(err) // ends the query too: what is left of it would be read to its end otherwise
				return err
			}
			return nil
		}, chgo.WithSettings(settings), chgo.WithProgress(func(p *chgo.Progress) {
			s.move()
			s.reader.metrics.progress(kindExport, p)
		}))
		if err == nil && s.open && s.rows < s.limit {
			refused = s.out(running, &s.event)
		}
		switch {
		case refused != nil:
			return refused
		case errors.Is(context.Cause(running), errStalled):
			return fmt.Errorf("%w: nothing came for %s", audit.ErrTimeout, s.reader.exportStall)
		}
		return classify(ctx, err)
	})
}

// watch ends a query of which nothing comes, unless it is the client that takes nothing.
func (s *segment) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(s.reader.exportStall)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.paused.Load() || s.moved.Swap(false) {
			continue
		}
		cancel(errStalled)
	}
}

// move notes that the store does something. It is called for each row, so it writes only what is not so already.
func (s *segment) move() {
	if !s.moved.Load() {
		s.moved.Store(true)
	}
}

// elsewhere does what somebody else than the store may take his time for.
func (s *segment) elsewhere(f func() error) error {
	s.paused.Store(true)
	err := f()
	s.move() // first: from here on the store has its time again
	s.paused.Store(false)
	return err
}

// add takes the next row: with it, the event before has no more copies.
func (s *segment) add(ctx context.Context, e *audit.Event) error {
	if s.open && isCopy(&s.event, e) {
		if e.Seq < s.event.Seq {
			s.event = *e
		}
		return nil
	}
	if s.open {
		if err := s.out(ctx, &s.event); err != nil {
			return err
		}
	}
	s.open, s.event = true, *e
	return nil
}

// batches puts events together for another goroutine.
type batches struct {
	segment *segment
	// full gives a batch once whoever takes it is done with the one before: of which the memory is free then.
	full chan []audit.Event

	now, other []audit.Event
	bytes      int
}

// add takes an event.
func (b *batches) add(ctx context.Context, e *audit.Event) error {
	b.now = append(b.now, *e)
	if b.bytes += len(e.Metadata); e.Reasoning != nil {
		b.bytes += len(*e.Reasoning)
	}
	if len(b.now) < checkedRows && b.bytes < checkedBytes {
		return nil
	}
	return b.hand(ctx)
}

// hand hands on what there is. It waits as long as the client may take for the batch before.
func (b *batches) hand(ctx context.Context) error {
	if len(b.now) == 0 {
		return nil
	}
	return b.segment.elsewhere(func() error {
		select {
		case b.full <- b.now:
			b.now, b.other, b.bytes = emptied(b.other), b.now, 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// emptied is the memory of a batch for another one: all of it at once, for growing it would leave as much behind several times.
func emptied(batch []audit.Event) []audit.Event {
	if batch == nil {
		return make([]audit.Event, 0, checkedRows)
	}
	return batch[:0]
}
