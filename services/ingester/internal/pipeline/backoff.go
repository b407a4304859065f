package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// backoffMax is where the bound of the pauses between attempts stops doubling. Each is a random time from half the bound to all of it.
const backoffMax = 30 * time.Second

// scoutMax is the same for the one that scouts.
const scoutMax = time.Second

// logEvery is how often a fault that goes on is logged.
const logEvery = 10 * time.Second

// scouts keeps waiting cheap and short: of all that wait to try the same thing again, one, the scout, goes on trying every second, and when it succeeds
// the others go at once. A real attempt is the best probe: a server that answers pings may still refuse rows.
type scouts struct {
	mu   sync.Mutex
	what map[string]*scouted
}

type scouted struct {
	scout *backoff      // nil when nobody scouts
	back  chan struct{} // closed when it works again
}

func newScouts() *scouts { return &scouts{what: map[string]*scouted{}} }

// of returns what is known of a thing. The caller holds mu.
func (s *scouts) of(what string) *scouted {
	w := s.what[what]
	if w == nil {
		w = &scouted{back: make(chan struct{})}
		s.what[what] = w
	}
	return w
}

// wait says whether b scouts from now on, and what closes when the thing works again.
func (s *scouts) wait(b *backoff) (scout bool, back <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.of(b.what)
	if w.scout == nil {
		w.scout = b
	}
	return w.scout == b, w.back
}

// end takes b off. The others go when it has succeeded, and also when it was the scout: one of them must be the next.
func (s *scouts) end(b *backoff, works bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.of(b.what)
	if !works && w.scout != b {
		return
	}
	if w.scout == b {
		w.scout = nil
	}
	close(w.back)
	w.back = make(chan struct{})
}

// backoff is the pauses of one thing that is tried again and again. It must be ended.
type backoff struct {
	d      *driver
	what   string
	bound  time.Duration
	begun  time.Time
	logged time.Time
	tries  int
}

func (d *driver) newBackoff(what string) *backoff { return &backoff{d: d, what: what} }

// end must be called when no more attempts are made, and says whether the last one succeeded.
func (b *backoff) end(works bool) {
	if b.tries > 0 {
		b.d.scouts.end(b, works)
	}
}

// wait notes that an attempt ended with cause and pauses before the next. The place that the driver holds is free for others meanwhile. The
// error is ctx's.
func (b *backoff) wait(ctx context.Context, cause error) error {
	now := time.Now()
	if b.tries++; b.tries == 1 {
		b.begun, b.bound = now, b.d.cfg.BackoffMin
	}
	b.d.metrics.retries.WithLabelValues(b.what).Inc()
	if now.Sub(b.logged) >= logEvery {
		b.logged = now
		b.d.log.WarnContext(ctx, "trying again until it works", slog.String("what", b.what), slog.Int("tries", b.tries),
			slog.Duration("since", now.Sub(b.begun)), slog.Any("error", cause))
	}
	scout, back := b.d.scouts.wait(b)
	bound := b.bound
	if scout {
		bound = min(bound, scoutMax)
	}
	b.bound = min(2*b.bound, backoffMax)
	place := b.d.place
	b.d.leave()
	timer := time.NewTimer(bound/2 + rand.N(bound/2+1)) //nolint:gosec // jitter is no secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return b.d.enter(ctx, place)
	case <-back:
		return b.d.enter(ctx, place)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retry calls fn until it succeeds or fails for a reason that trying again does not cure.
func retry[T any](ctx context.Context, d *driver, what string, fn func(context.Context) (T, error)) (T, error) {
	pause := d.newBackoff(what)
	works := false
	defer func() { pause.end(works) }()
	for {
		v, err := fn(ctx)
		if err == nil {
			works = true
			return v, nil
		}
		if ctx.Err() != nil {
			return v, context.Cause(ctx)
		}
		if Classify(err, Transient) != Transient {
			return v, fmt.Errorf("%s: %w", what, err)
		}
		if err := pause.wait(ctx, err); err != nil {
			return v, err
		}
	}
}

// backoffPlain is the pauses of the reader, which has no place among the flushers. They begin anew when it went well for a while.
type backoffPlain struct {
	bound time.Duration
	last  time.Time
}

func (b *backoffPlain) next(now time.Time) time.Duration {
	if now.Sub(b.last) > backoffMax+b.bound {
		b.bound = DefaultBackoffMin
	}
	b.last = now
	pause := b.bound/2 + rand.N(b.bound/2+1) //nolint:gosec // jitter is no secret
	b.bound = min(2*b.bound, backoffMax/6)
	return pause
}
