package events

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"
)

// lane carries a publisher's events, in order, one group at a time. A second one beside it, so that a group is made while the server stores another, was
// slower: groups are smaller then, and each costs the server the same flushes (20,000 to 27,000 events/s with two, 29,000 to 36,000 with one; three
// runs of each in turn).
type lane struct {
	*Publisher
	// wake tells run that the queue is no longer empty.
	wake chan struct{}
	// queue is guarded by mu.
	queue []*Future
	// wire is used by run alone.
	wire *wire
}

// enqueue waits for room and puts f behind what was published before.
func (l *lane) enqueue(ctx context.Context, f *Future) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.takeSlot(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		<-l.slots
		return ErrClosed
	}
	l.queue = append(l.queue, f)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// run sends one group after the other until the publisher is closed and the queue is empty.
func (l *lane) run() {
	defer l.wire.close()
	for {
		group := l.take()
		if len(group) > 0 {
			l.settle(group)
			if len(group) > 1 {
				// The callers of this group are ready to run and likely publish again: let them, so that the next
				// group is theirs and not a single event.
				runtime.Gosched()
			}
			continue
		}
		select {
		case <-l.wake:
		case <-l.closing:
			if l.drained() {
				return
			}
		}
	}
}

// drained says that nothing is queued. Once closed, nothing can be any more.
func (l *lane) drained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) == 0
}

// take removes the next group from the queue: as many as a batch may hold, or as many as may go out singly without waiting in between.
func (l *lane) take() []*Future {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, bytes := 0, 0
	for n < len(l.queue) && n < l.wire.groupSize() {
		bytes += len(l.queue[n].data)
		if n > 0 && bytes > maxBatchBytes {
			break
		}
		n++
	}
	group := l.queue[:n:n]
	l.queue = l.queue[n:]
	return group
}

// settle tries a group until each of its events is stored, refused or given up.
func (l *lane) settle(group []*Future) {
	var err error
	for attempt := 0; ; attempt++ {
		if group = l.unsettled(group, err); len(group) == 0 {
			return
		}
		if attempt > 0 {
			l.wire.pause(l.ctx, attempt)
		}
		err = l.wire.send(l.ctx, group, attempt)
	}
}

// unsettled returns the events that are to be tried (again), and gives up on the others. err is why the last attempt failed.
func (l *lane) unsettled(group []*Future, err error) []*Future {
	rest := make([]*Future, 0, len(group))
	now := time.Now()
	for _, f := range group {
		switch {
		case f.settled:
		case l.ctx.Err() != nil:
			f.fail(fmt.Errorf("%w: %w", ErrUnconfirmed, ErrClosed))
		case f.abandoned.Load():
			f.fail(ErrUnconfirmed) // nobody waits
		case l.nc.IsClosed():
			f.fail(fmt.Errorf("%w: %w", ErrUnconfirmed, nats.ErrConnectionClosed))
		case now.After(f.deadline) && err != nil:
			f.fail(fmt.Errorf("%w within %s: %w", ErrUnconfirmed, l.opts.retryFor, err))
		default:
			rest = append(rest, f)
		}
	}
	return rest
}
