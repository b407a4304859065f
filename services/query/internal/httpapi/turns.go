package httpapi

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// errQueueFull means that as many requests wait as may.
var errQueueFull = errors.New("too many requests wait for the store")

// turns decides who may use the store next. A few queries at a time are all that the store's cores can do; more of them only share the cores and
// all take longer. So the others wait, each tenant in a line of its own, and the lines take turns: a tenant that asks for a lot waits longer, not
// the ones beside it. No tenant may use all the slots, so that one is always soon free for another. It is safe for concurrent use.
type turns struct {
	slots     int // that may be in use
	share     int // of them, by one tenant
	waiting   int // that may wait
	perTenant int // of them, of one tenant

	mu     sync.Mutex
	inUse  int
	queued int
	lines  map[uuid.UUID]*line
	order  []*line // those in which somebody waits, the one whose turn is next first
}

// line is one tenant's.
type line struct {
	inUse int
	queue []*waiter
}

// waiter is a request that waits; called is closed when its turn has come.
type waiter struct {
	called chan struct{}
}

func newTurns(slots, waiting int) *turns {
	return &turns{slots: slots, share: slots - slots/4, waiting: waiting, perTenant: max(1, waiting/4), lines: map[uuid.UUID]*line{}}
}

// enter waits for a tenant's turn, which leave ends. It fails with errQueueFull or the end of ctx, and then there is nothing to leave.
func (t *turns) enter(ctx context.Context, tenant uuid.UUID) error {
	t.mu.Lock()
	l, ok := t.lines[tenant]
	if !ok {
		l = &line{}
		t.lines[tenant] = l
	}
	if len(l.queue) == 0 && t.free(l) {
		t.take(l)
		t.mu.Unlock()
		return nil
	}
	if t.queued >= t.waiting || len(l.queue) >= t.perTenant {
		t.mu.Unlock()
		return errQueueFull
	}
	w := &waiter{called: make(chan struct{})}
	if len(l.queue) == 0 {
		t.order = append(t.order, l)
	}
	l.queue = append(l.queue, w)
	t.queued++
	t.mu.Unlock()
	select {
	case <-w.called:
		return nil
	case <-ctx.Done():
		t.giveUp(tenant, w)
		return ctx.Err()
	}
}

// leave ends a turn.
func (t *turns) leave(tenant uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(tenant)
}

// giveUp takes a waiter out of its line, or ends its turn when that came meanwhile.
func (t *turns) giveUp(tenant uuid.UUID, w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[tenant]
	i := slices.Index(l.queue, w)
	if i < 0 {
		t.end(tenant)
		return
	}
	l.queue = slices.Delete(l.queue, i, i+1)
	t.queued--
	if len(l.queue) == 0 {
		t.order = slices.DeleteFunc(t.order, func(o *line) bool { return o == l })
		t.forget(tenant, l)
	}
}

func (t *turns) end(tenant uuid.UUID) {
	l := t.lines[tenant]
	l.inUse--
	t.inUse--
	t.call()
	t.forget(tenant, l)
}

// call gives free slots to those who wait, one line after the other.
func (t *turns) call() {
	for {
		i := slices.IndexFunc(t.order, t.free)
		if i < 0 {
			return
		}
		l := t.order[i]
		t.order = slices.Delete(t.order, i, i+1)
		close(l.queue[0].called)
		l.queue = l.queue[1:]
		t.queued--
		t.take(l)
		if len(l.queue) > 0 {
			t.order = append(t.order, l)
		}
	}
}

// free says whether a line may have another slot.
func (t *turns) free(l *line) bool { return t.inUse < t.slots && l.inUse < t.share }

func (t *turns) take(l *line) {
	t.inUse++
	l.inUse++
}

// forget drops a line that nobody stands in.
func (t *turns) forget(tenant uuid.UUID, l *line) {
	if l.inUse == 0 && len(l.queue) == 0 {
		delete(t.lines, tenant)
	}
}

// state is how many use the store and how many wait.
func (t *turns) state() (inUse, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inUse, t.queued
}
