package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
)

// Errors of a Publisher, beside *ValidationError.
var (
	// ErrClosed is returned for events published after Close has begun. They were not sent.
	ErrClosed = errors.New("publisher is closed")
	// ErrPushback is returned when there was no room among the pending events in time. The event was not sent.
	ErrPushback = errors.New("too many events wait for their acknowledgement")
	// ErrTooLarge is returned for an event larger than the server takes in one message. It was not sent.
	ErrTooLarge = errors.New("event is larger than the server's max_payload")
	// ErrRefused is returned when the server refused the event for good: the stream is full, the connection may not publish for this
	// tenant. It is not stored. The server's *RefusalError is in the chain when it gave one.
	ErrRefused = errors.New("event was refused")
	// ErrUnconfirmed is returned when no acknowledgement came in time. The event may or may not be stored; publish it again with the same ID
	// to be sure.
	ErrUnconfirmed = errors.New("event was not acknowledged")
)

// Ack is the stream's word that an event is stored.
type Ack struct {
	// Sequence is the event's sequence in the stream.
	Sequence uint64
	// Duplicate says that the stream had the event already, from an earlier publish or from an attempt whose answer was lost.
	Duplicate bool
}

// Publisher publishes events durably. What is published while an earlier publish is on its way goes out together, as one atomic batch that costs
// the server one flush to disk; the first of all goes at once. It is safe for concurrent use.
//
// One group of events is on its way at any time and the next one goes when it is settled, so events are stored in the order in which one goroutine
// published them, retries included. There is one exception: when a batch is refused (it held an event that the stream already has, or refuses), its events go out singly,
// and if the connection breaks in the middle of that, an event can come after a later one.
type Publisher struct {
	nc   *nats.Conn
	opts publisherOptions

	// slots holds one token for each event that is not settled.
	slots chan struct{}
	// closing is closed when no more events are taken, stopped when all that were taken are settled.
	closing, stopped chan struct{}
	// ctx ends when Close gives up on what is pending.
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex // guards closed and the lane's queue
	closed bool

	lane *lane
}

// NewPublisher publishes over nc, which stays the caller's: close the publisher first, then the connection. The connection should reconnect for ever
// (nats.MaxReconnects(-1)).
func NewPublisher(nc *nats.Conn, options ...Option) (*Publisher, error) {
	o := publisherOptions{maxPending: DefaultMaxPending, maxBatch: MaxBatch, ackWait: DefaultAckWait, retryFor: DefaultRetryFor}
	for _, set := range options {
		set(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{
		nc: nc, opts: o, ctx: ctx, cancel: cancel,
		slots: make(chan struct{}, o.maxPending), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	w, err := newWire(nc, o)
	if err != nil {
		cancel()
		return nil, err
	}
	p.lane = &lane{Publisher: p, wire: w, wake: make(chan struct{}, 1)}
	go func() {
		p.lane.run()
		cancel()
		close(p.stopped)
	}()
	return p, nil
}

// NewID makes an event id: a version 7 UUID, which grows with time.
func NewID() uuid.UUID {
	return uuid.Must(uuid.NewV7()) // fails only when the system has no randomness
}

// Publish stores e and returns when the stream has acknowledged it: after nil it is not lost. An ID or CreatedAt left out is filled in; set the ID to
// be able to repeat a publish that failed with ErrUnconfirmed. ctx bounds all of it; when it ends first, the error holds ErrUnconfirmed and the
// context's error, and an event that has not left yet is not sent any more.
func (p *Publisher) Publish(ctx context.Context, e Event) error {
	f, err := p.PublishAsync(ctx, e)
	if err != nil {
		return err
	}
	if _, err = f.Wait(ctx); err != nil {
		f.abandoned.Store(true)
	}
	return err
}

// PublishAsync hands e over and returns a future of its acknowledgement. It waits while too many events are pending; ctx bounds
// that wait and nothing else. Callers MUST NOT assume that the event is stored before Wait has returned nil.
func (p *Publisher) PublishAsync(ctx context.Context, e Event) (*Future, error) {
	now := time.Now()
	if e.ID == uuid.Nil {
		e.ID = NewID()
	}
	if e.CreatedAt.IsZero() {
		e.CreatedAt = now
	}
	if err := e.validate(now); err != nil {
		return nil, err
	}
	f := &Future{
		p: p, id: e.ID, subject: Subject(e.TenantID), data: e.append(make([]byte, 0, e.sizeHint())),
		deadline: now.Add(p.opts.retryFor), done: make(chan struct{}),
	}
	if p.opts.trace != nil {
		f.traceparent, f.tracestate = traceHeaders(p.opts.trace(ctx))
	}
	if limit := p.nc.MaxPayload(); limit > 0 && int64(len(f.data)+maxHeaderBytes+len(f.traceparent)+len(f.tracestate)) > limit {
		return nil, fmt.Errorf("event %s of %d bytes: %w (%d)", f.id, len(f.data), ErrTooLarge, limit)
	}
	if err := p.lane.enqueue(ctx, f); err != nil {
		return nil, fmt.Errorf("publish event %s: %w", f.id, err)
	}
	return f, nil
}

func (p *Publisher) takeSlot(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(p.opts.retryFor)
	defer timer.Stop()
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrPushback, ctx.Err())
	case <-timer.C:
		return ErrPushback
	case <-p.closing:
		return ErrClosed
	}
}

// Close takes no more events and returns when those taken before are settled. When ctx ends first, what is still pending fails with
// ErrUnconfirmed and Close returns the context's error. Further calls wait likewise.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.closing)
	}
	p.mu.Unlock()
	select {
	case <-p.stopped:
		return nil
	case <-ctx.Done():
		p.cancel()
		<-p.stopped
		return fmt.Errorf("close publisher: %w", ctx.Err())
	}
}

// Future is an event on its way.
type Future struct {
	p       *Publisher
	id      uuid.UUID
	subject string
	data    []byte
	// traceparent and tracestate are headers, empty for none.
	traceparent, tracestate string
	// deadline is when the publisher gives up.
	deadline time.Time
	// abandoned is set when nobody waits for it any more.
	abandoned atomic.Bool
	// settled, ack and err are written by the lane, before done is closed.
	settled bool
	ack     Ack
	err     error
	done    chan struct{}
}

// ID is the event's id, also when the publisher made it.
func (f *Future) ID() uuid.UUID { return f.id }

// Done is closed when the outcome is known.
func (f *Future) Done() <-chan struct{} { return f.done }

// Wait returns the stream's acknowledgement, or why there is none. The publisher goes on trying when ctx ends before that; Wait may be called again.
func (f *Future) Wait(ctx context.Context) (Ack, error) {
	select {
	case <-f.done:
	default:
		select {
		case <-f.done:
		case <-ctx.Done():
			return Ack{}, fmt.Errorf("publish event %s: %w: %w", f.id, ErrUnconfirmed, ctx.Err())
		}
	}
	return f.ack, f.err
}

func (f *Future) succeed(ack Ack) {
	f.ack = ack
	f.finish()
}

func (f *Future) fail(err error) {
	f.err = fmt.Errorf("publish event %s: %w", f.id, err)
	f.finish()
}

func (f *Future) finish() {
	f.settled = true
	close(f.done)
	<-f.p.slots
}
