package pipeline

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"example.com/auditlog/services/ingester/internal/ledger"
)

// driver carries the messages of one partition from the reader to the table, one batch at a time while the next one gathers.
type driver struct {
	*Pipeline
	partition int
	log       *slog.Logger
	wake      chan struct{} // holds a value when run should look at the batcher
	drained   chan struct{} // closed when what is gathered should go and nothing more will come

	// Owned by run.
	last       ledger.Record // the newest batch in the ledger; it is committed whenever a flush begins
	committed  uint64        // the newest batch that is in the table
	appendedAt time.Time     // before the last append to the ledger began
	place      chan struct{} // among whom it holds a place: the flushers, those who recover; nil while it holds none

	mu       sync.Mutex // guards what follows
	gather   batcher
	read     uint64 // the newest sequence taken in; before it reads, the newest that is in the table for sure
	found    bool   // read is known
	flight   batch  // taken, and not yet committed
	reading  bool   // recovered, and not yet stopped
	draining bool   // drain was called
}

func (p *Pipeline) newDriver(partition int) *driver {
	return &driver{
		Pipeline:  p,
		partition: partition,
		log:       p.log.With(slog.Int("partition", partition)),
		wake:      make(chan struct{}, 1),
		drained:   make(chan struct{}),
		gather: batcher{maxEvents: p.cfg.BatchMaxEvents, maxBytes: p.cfg.BatchMaxBytes,
			lingerMin: p.cfg.LingerMin, lingerMax: p.cfg.LingerMax, lingerBehind: p.cfg.LingerBehind, judge: newJudge(partition, p.blocks, p.erase)},
	}
}

// run recovers, calls ready, and flushes until ctx is done, the driver is drained, or it fails.
func (d *driver) run(ctx context.Context, ready func()) error {
	defer d.close()
	if err := d.enter(ctx, d.recoverers); err != nil {
		return err
	}
	defer d.leave()
	start := time.Now()
	if err := d.recover(ctx); err != nil {
		return err
	}
	d.leave()
	d.log.InfoContext(ctx, "driving the partition", slog.Uint64("batch", d.last.Batch), slog.Uint64("last_seq", d.last.LastSeq),
		slog.Duration("recovery", time.Since(start)))
	d.mu.Lock()
	d.read, d.gather.hash, d.reading = d.last.LastSeq, d.last.Hash, !d.draining
	d.mu.Unlock()
	ready()
	for {
		b, ok, err := d.next(ctx)
		if err != nil || !ok {
			return err
		}
		err = d.flushTraced(ctx, b)
		d.mu.Lock()
		d.flight = batch{}
		d.gather.judge.release(&b.judgement)
		d.mu.Unlock()
		d.memory.give(b.cost)
		d.leave()
		if err != nil {
			return err
		}
	}
}

// next waits until a batch should go and a place among the flushers is free, and takes both. It returns false when the driver is drained.
func (d *driver) next(ctx context.Context) (batch, bool, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		gone, until := d.due(time.Now())
		if gone {
			if err := d.enter(ctx, d.flushers); err != nil {
				return batch{}, false, err
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if r, _ := d.gather.ready(time.Now(), false); r != empty {
				d.flight = d.gather.take()
				return d.flight, true, nil
			}
			d.leave()
			return batch{}, false, nil
		}
		if !until.IsZero() {
			timer.Reset(time.Until(until))
		}
		select {
		case <-ctx.Done():
			return batch{}, false, context.Cause(ctx)
		case <-d.drained:
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// due says whether next should look for a batch now, else when by itself (never, for the zero time).
func (d *driver) due(now time.Time) (bool, time.Time) {
	behind := d.catchingUp()
	d.mu.Lock()
	r, until := d.gather.ready(now, behind)
	d.mu.Unlock()
	select {
	case <-d.drained:
		return true, now
	default:
	}
	// What goes for want of room takes no permit: when a backlog has come to its end, what is left of it is not to wait for that.
	switch r {
	case full:
		return true, now
	case must:
		d.pacer.take(now, true)
		return true, now
	case may:
		if d.memory.tight() {
			return true, now
		}
		ok, next := d.pacer.take(now, false)
		if next.Before(until) {
			until = next
		}
		return ok, until
	}
	if behind && r == wait && until.Sub(now) > d.cfg.LingerMin {
		until = now.Add(d.cfg.LingerMin) // look again whether it still is
	}
	return false, until
}

// batchesBehind is how many full batches the reader must have before it to count as behind.
const batchesBehind = 4

// catchingUp says that the reader is behind and has memory to go on: batches should grow rather than go.
func (p *Pipeline) catchingUp() bool {
	return p.behind.Load() >= batchesBehind*uint64(p.cfg.BatchMaxEvents) && !p.memory.tight() //nolint:gosec // the bound is positive
}

// offer takes in a message from the reader, in order. It waits while memory is full, and returns false once stopped says so. The message is
// dropped when it is an old one, or the driver does not read.
func (d *driver) offer(m Message, stopped func() bool) bool {
	d.mu.Lock()
	reading, again := d.reading, m.Seq <= d.read
	d.mu.Unlock()
	if !reading || again {
		d.metrics.skippedMessages.Inc()
		if reading {
			d.metrics.redelivered.reader.Inc()
		}
		return true
	}
	if !d.memory.room(stopped) {
		return false
	}
	now := time.Now()
	d.mu.Lock()
	if !d.reading {
		d.mu.Unlock()
		return true
	}
	before, _ := d.gather.ready(now, false)
	d.memory.take(d.gather.add(&m, now))
	after, _ := d.gather.ready(now, false)
	d.read = m.Seq
	d.mu.Unlock()
	if before == empty || (after >= must && before < must) {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// position is where the reader should go on for this driver; false when it does not read.
func (d *driver) position() (uint64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.read, d.reading
}

// waiting is how many messages are in memory and not committed, oldest when the first of them came into the stream.
func (d *driver) waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flight.entry.Messages + d.gather.events()
}

func (d *driver) oldest() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flight.entry.Messages > 0 {
		return d.flight.firstTime
	}
	return d.gather.oldest()
}

// drain makes the driver take in nothing more, flush what it has gathered, and end.
func (d *driver) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = false
	if !d.draining {
		d.draining = true
		close(d.drained)
	}
}

// close stops taking in messages and forgets those that were not flushed: they are still in the stream.
func (d *driver) close() {
	d.mu.Lock()
	d.reading = false
	d.metrics.redelivered.forgotten.Add(float64(d.gather.events()))
	cost := d.gather.forget()
	d.mu.Unlock()
	d.memory.give(cost)
}

// enter takes a place among those, for the one it holds if it does; leave gives it back. Both may be called in any order.
func (d *driver) enter(ctx context.Context, among chan struct{}) error {
	if d.place == among {
		return nil
	}
	d.leave()
	select {
	case among <- struct{}{}:
		d.place = among
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *driver) leave() {
	if d.place != nil {
		<-d.place
		d.place = nil
	}
}

func (d *driver) hook(s Step) { d.cfg.Hook(d.partition, s) }
