package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"example.com/auditlog/pkg/events"
)

// sender decodes lines, publishes them and counts what becomes of them.
type sender struct {
	publisher *events.Publisher

	// mu keeps the reports of the reader and the waiter apart.
	mu     sync.Mutex
	stderr io.Writer

	// pending holds the events on their way, in the order of their lines.
	pending chan pendingEvent
	waited  chan struct{}

	published, duplicates, refused, failed atomic.Int64
}

type pendingEvent struct {
	line   int
	future *events.Future
}

func newSender(p *events.Publisher, stderr io.Writer) *sender {
	s := &sender{
		publisher: p, stderr: stderr,
		pending: make(chan pendingEvent, events.DefaultMaxPending), waited: make(chan struct{}),
	}
	go s.waitAll()
	return s
}

// readAll publishes every line of in, until its end, an error or the end of ctx.
func (s *sender) readAll(ctx context.Context, in io.Reader) error {
	type read struct {
		line
		err error
	}
	// Reading happens aside, because a terminal or a pipe may never answer and ctx must still be heard.
	lines := make(chan read)
	go func() {
		for r, err := newLineReader(in); ; {
			var l line
			if err == nil {
				l, err = r.next()
			}
			select {
			case lines <- read{l, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case l := <-lines:
			if errors.Is(l.err, io.EOF) {
				return nil
			}
			if l.err != nil {
				return fmt.Errorf("read input after line %d: %w", l.number, l.err)
			}
			s.sendLine(ctx, l.line)
		}
	}
}

// sendLine publishes one line, or reports every fault of it.
func (s *sender) sendLine(ctx context.Context, l line) {
	if l.tooLong {
		s.refuse(l.number, fmt.Sprintf("is longer than %d bytes", maxLineBytes))
		return
	}
	e, err := events.Decode(l.data, time.Now())
	var invalid *events.ValidationError
	switch {
	case errors.As(err, &invalid):
		for _, f := range invalid.Faults {
			s.report(l.number, f.String())
		}
		if invalid.More > 0 {
			s.report(l.number, fmt.Sprintf("and %d more faults", invalid.More))
		}
		s.refused.Add(1)
		return
	case err != nil:
		s.refuse(l.number, err.Error())
		return
	}
	future, err := s.publisher.PublishAsync(ctx, e)
	if err != nil && ctx.Err() != nil {
		return // interrupted: as good as not read
	}
	if err != nil {
		s.failed.Add(1)
		s.report(l.number, err.Error())
		return
	}
	s.pending <- pendingEvent{line: l.number, future: future}
}

func (s *sender) refuse(line int, why string) {
	s.refused.Add(1)
	s.report(line, why)
}

func (s *sender) report(line int, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.stderr, "line %d: %s\n", line, what)
}

// waitAll counts the outcome of each event. Each one ends, because the publisher gives up in bounded time.
func (s *sender) waitAll() {
	defer close(s.waited)
	for e := range s.pending {
		ack, err := e.future.Wait(context.Background())
		switch {
		case err != nil:
			s.failed.Add(1)
			s.report(e.line, err.Error())
		case ack.Duplicate:
			s.duplicates.Add(1)
		default:
			s.published.Add(1)
		}
	}
}

// finish returns when every event is counted. Nothing may be sent after it.
func (s *sender) finish() {
	close(s.pending)
	<-s.waited
}

// stored is how many events are in the log.
func (s *sender) stored() int64 { return s.published.Load() + s.duplicates.Load() }

func (s *sender) summary(took time.Duration) string {
	seconds := took.Seconds()
	return fmt.Sprintf("published %d, duplicates %d, refused lines %d, failed %d, %.2f s, %.0f events/s",
		s.published.Load(), s.duplicates.Load(), s.refused.Load(), s.failed.Load(), seconds, float64(s.stored())/max(seconds, 1e-6))
}
