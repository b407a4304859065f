package scan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// errStalled is the end of a reader that brings nothing.
var errStalled = errors.New("nothing comes")

// Range says what to read.
type Range struct {
	Stream string
	// Subject may have wildcards.
	Subject string
	// First and Last are sequences, both included; from 0 and up to math.MaxUint64 is all there is.
	First, Last uint64
	// HeadersOnly leaves the payload out.
	HeadersOnly bool
}

// Walk calls fn, in order and once, for every message of the range that the leader had when it began and that is not removed meanwhile, and stops at its first
// error. It returns an ErrBehind when messages that are there do not come: after a minute with servers that answer.
func Walk(ctx context.Context, js jetstream.JetStream, r Range, fn func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	end, found, err := Last(ctx, js.Conn(), r.Stream, r.Subject)
	if err != nil || !found {
		return err
	}
	r.First, r.Last = max(r.First, 1), min(r.Last, end.Seq)
	for nothing := 0; r.First <= r.Last; {
		at, stalled := r.read(ctx, js, fn)
		if !errors.Is(stalled, errStalled) {
			return stalled
		}
		if nothing++; at > r.First {
			r.First, nothing = at, 0
		}
		m, found, err := Next(ctx, js.Conn(), r.Stream, at, r.Subject)
		switch {
		case err == nil && (!found || m.Seq > r.Last):
			return nil // what is missing was removed while we read: trimmed
		case nothing >= stalls:
			return fmt.Errorf("%w: stream %s from sequence %d: %w", ErrBehind, r.Stream, at, errors.Join(stalled, err))
		}
		select {
		case <-time.After(stall / 10): // some failures take no time
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// read reads with one reader and returns the sequence after the last one that was read, with an errStalled when the reader does not come to the end.
func (r Range) read(ctx context.Context, js jetstream.JetStream, fn func(jetstream.Msg, *jetstream.MsgMetadata) error) (at uint64, err error) {
	at = r.First
	cons, err := js.OrderedConsumer(ctx, r.Stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{r.Subject}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: at,
		HeadersOnly: r.HeadersOnly, InactiveThreshold: idle, MaxResetAttempts: 1,
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return at, fmt.Errorf("%w: make a reader: %w", errStalled, err)
	}
	if err != nil {
		return at, fmt.Errorf("read stream %s from sequence %d: %w", r.Stream, at, err)
	}
	defer func() { forget(ctx, js, r.Stream, cons) }()
	it, err := cons.Messages(jetstream.PullMaxMessages(500))
	if err != nil {
		return at, fmt.Errorf("read stream %s from sequence %d: %w", r.Stream, at, err)
	}
	defer it.Stop()
	for at <= r.Last {
		m, err := next(ctx, it)
		if err != nil {
			return at, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return at, fmt.Errorf("read stream %s: %w", r.Stream, err)
		}
		if meta.Sequence.Stream > r.Last {
			return meta.Sequence.Stream, nil
		}
		if err := fn(m, meta); err != nil {
			return at, err
		}
		at = meta.Sequence.Stream + 1
	}
	return at, nil
}

// next waits for the next message, but not for ever.
func next(ctx context.Context, it jetstream.MessagesContext) (jetstream.Msg, error) {
	wait, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	m, err := it.Next(jetstream.NextContext(wait))
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: %w", errStalled, err)
	}
	return m, err
}
