package trail

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"example.com/auditlog/pkg/events"
)

// Run publishes what is queued until ctx ends, then for a while what is left. It returns nil.
func (r *Recorder) Run(ctx context.Context) error {
	var pending []events.Event
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case e := <-r.queue:
			pending = r.deliver(ctx, r.group(e))
		}
	}
	r.drain(context.WithoutCancel(ctx), pending)
	return nil
}

// group is e and what waits behind it.
func (r *Recorder) group(e events.Event) []events.Event {
	g := []events.Event{e}
	for len(g) < groupSize {
		select {
		case e := <-r.queue:
			g = append(g, e)
		default:
			return g
		}
	}
	return g
}

// deliver tries until all are stored, or ctx ends: then it returns the others.
func (r *Recorder) deliver(ctx context.Context, group []events.Event) []events.Event {
	for {
		var err error
		if group, err = r.attempt(ctx, group); len(group) == 0 || ctx.Err() != nil {
			return group
		}
		r.log.Warn("events of reads wait to be stored", slog.Int64("waiting", r.waiting.Load()), slog.Any("error", err))
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
	}
}

// attempt publishes a group and returns what must be tried again, under the same ids, and why.
func (r *Recorder) attempt(ctx context.Context, group []events.Event) (again []events.Event, why error) {
	futures := make([]*events.Future, len(group))
	errs := make([]error, len(group))
	for i, e := range group {
		futures[i], errs[i] = r.pub.PublishAsync(ctx, e)
	}
	for i, f := range futures {
		if errs[i] == nil {
			_, errs[i] = f.Wait(ctx)
		}
		var invalid *events.ValidationError
		switch {
		case errs[i] == nil:
			r.waiting.Add(-1)
			r.results.WithLabelValues(resultStored).Inc()
		case errors.As(errs[i], &invalid), errors.Is(errs[i], events.ErrTooLarge):
			r.lost(1, errs[i].Error())
		default:
			again, why = append(again, group[i]), errs[i]
		}
	}
	return again, why
}

// drain tries once more what is left when the service ends.
func (r *Recorder) drain(ctx context.Context, pending []events.Event) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for {
		pending = r.deliver(ctx, pending)
		if ctx.Err() != nil {
			break
		}
		select {
		case e := <-r.queue:
			pending = r.group(e)
			continue
		default:
		}
		break
	}
	if n := len(pending) + len(r.queue); n > 0 {
		r.lost(n, "the service ends")
	}
}

// Close ends the publisher; what is on its way is given up. It may be called after Run.
func (r *Recorder) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.pub.Close(ctx) // that it did not wait is what was asked for
}
