package pipeline

import (
	"context"
	"time"
)

// lagEvery is how often it is asked what is unread. Nobody waits for it.
const lagEvery = 5 * time.Second

// monitor keeps what the lag is made of, of the partitions that this process drives: the sum over all processes is the whole.
func (p *Pipeline) monitor(ctx context.Context) {
	ticker := time.NewTicker(lagEvery)
	defer ticker.Stop()
	for {
		actx, cancel := context.WithTimeout(ctx, lagEvery)
		// What cannot be asked for stays, and ages.
		if unread, err := p.source.Unread(actx, p.Driven(), p.recovering()); err == nil {
			p.metrics.unread.Store(&unread)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// recovering says of the partitions whose driver does not read yet where the first batch begins that may not be in the table.
func (p *Pipeline) recovering() map[int]uint64 {
	after := map[int]uint64{}
	for _, d := range p.running() {
		d.mu.Lock()
		if !d.reading && !d.draining && d.found {
			after[d.partition] = d.read
		}
		d.mu.Unlock()
	}
	return after
}

func (p *Pipeline) lagMessages() uint64 {
	n := p.metrics.unread.Load().Messages
	for _, d := range p.running() {
		n += uint64(d.waiting()) //nolint:gosec // a count
	}
	return n
}

// lag is the age of the oldest message that is not in the table. It does not go below zero when the stream's clock is ahead of ours.
func (p *Pipeline) lag(now time.Time) (lag time.Duration) {
	note := func(t time.Time) {
		if !t.IsZero() {
			lag = max(lag, now.Sub(t))
		}
	}
	note(p.metrics.unread.Load().Oldest)
	for _, d := range p.running() {
		note(d.oldest())
	}
	return lag
}
