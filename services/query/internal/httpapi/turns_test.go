package httpapi

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// line waits in the order of calls and notes in which order turns come.
type crowd struct {
	*turns
	tb   testing.TB
	mu   sync.Mutex
	came []uuid.UUID
	all  sync.WaitGroup
}

func (c *crowd) wait(tenant uuid.UUID) {
	_, before := c.state()
	c.all.Go(func() {
		if err := c.enter(context.Background(), tenant); err != nil {
			c.tb.Error(err)
			return
		}
		c.mu.Lock()
		c.came = append(c.came, tenant)
		c.mu.Unlock()
		c.leave(tenant)
	})
	for queued := before; queued == before; _, queued = c.state() {
		time.Sleep(time.Millisecond)
	}
}

// Ensure tenants take turns however many requests one of them has waiting, and that nothing is left behind.
func TestTenantsTakeTurns(t *testing.T) {
	c := &crowd{turns: newTurns(1, 100), tb: t}
	loud, quiet, other := uuid.New(), uuid.New(), uuid.New()
	if err := c.enter(t.Context(), loud); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c.wait(loud)
	}
	c.wait(quiet)
	c.wait(other)
	c.wait(quiet)
	c.leave(loud)
	c.all.Wait()
	want := []uuid.UUID{loud, quiet, other, loud, quiet, loud}
	if !slices.Equal(c.came[:len(want)], want) || len(c.came) != 13 {
		t.Errorf("turns came as %v, want %v first", c.came, want)
	}
	if len(c.lines)+len(c.order)+c.inUse+c.queued > 0 {
		t.Errorf("left behind: %+v", c.turns)
	}
}

// Ensure a tenant cannot take all slots, however long its queries run.
func TestSlotsAreLeftForOthers(t *testing.T) {
	tr := newTurns(8, 100)
	loud := uuid.New()
	for range 6 {
		if err := tr.enter(t.Context(), loud); err != nil {
			t.Fatal(err)
		}
	}
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := tr.enter(soon, loud); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the seventh of eight slots: %v", err)
	}
	if err := tr.enter(soon, uuid.New()); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}

// Ensure the queue is bounded, for each tenant by itself too, and that one who gives up makes room.
func TestQueueIsBounded(t *testing.T) {
	tr := newTurns(1, 8)
	a, b := uuid.New(), uuid.New()
	if err := tr.enter(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	patience, giveUp := context.WithCancel(t.Context())
	ended := make(chan error)
	for range 2 {
		go func() { ended <- tr.enter(patience, a) }()
	}
	for queued := 0; queued < 2; _, queued = tr.state() {
		time.Sleep(time.Millisecond)
	}
	if err := tr.enter(t.Context(), a); !errors.Is(err, errQueueFull) {
		t.Errorf("a third that waits of one tenant: %v", err)
	}
	giveUp()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("gave up: %v", err)
		}
	}
	if inUse, queued := tr.state(); inUse != 1 || queued != 0 || len(tr.order) != 0 {
		t.Errorf("%d in use, %d wait, %d lines", inUse, queued, len(tr.order))
	}
	tr.leave(a)
	if err := tr.enter(t.Context(), b); err != nil {
		t.Error(err)
	}
}

// Ensure slots are neither lost nor made when turns come while those who wait give up.
func TestTurnsUnderGivingUp(t *testing.T) {
	tr := newTurns(3, 1000)
	tenants := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	var readers sync.WaitGroup
	for i := range 32 {
		readers.Go(func() {
			for n := range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((n*7+i)%5)*100*time.Microsecond)
				tenant := tenants[(i+n)%len(tenants)]
				if tr.enter(ctx, tenant) == nil {
					if inUse, _ := tr.state(); inUse > 3 {
						t.Errorf("%d of 3 slots in use", inUse)
					}
					time.Sleep(50 * time.Microsecond)
					tr.leave(tenant)
				}
				cancel()
			}
		})
	}
	readers.Wait()
	if len(tr.lines)+len(tr.order)+tr.inUse+tr.queued > 0 {
		t.Errorf("left behind: %+v", tr)
	}
}
