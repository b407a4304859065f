package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// backoffMax is where the bound of the pauses between attempts stops doubling. Each is a random time from half the bound to all of it.
const backoffMax = 30 * time.Second

// logEvery is how often a fault that goes on is logged.
const logEvery = 10 * time.Second

// backoff is the pauses of one thing that is tried again and again.
type backoff struct {
	d      *driver
	what   string
	bound  time.Duration
	begun  time.Time
	logged time.Time
	tries  int
}

func (d *driver) newBackoff(what string) *backoff { return &backoff{d: d, what: what} }

// wait notes that an attempt ended with cause and pauses before the next. The place among the flushers is free for others meanwhile. The
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
	pause := b.bound/2 + rand.N(b.bound/2+1) //nolint:gosec // jitter is no secret
	b.bound = min(2*b.bound, backoffMax)
	b.d.leave()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return b.d.enter(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retry calls fn until it succeeds or fails for a reason that trying again does not cure.
func retry[T any](ctx context.Context, d *driver, what string, fn func(context.Context) (T, error)) (T, error) {
	pause := d.newBackoff(what)
	for {
		v, err := fn(ctx)
		if err == nil {
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
