package events

import (
	"context"
	"time"
)

// Defaults and bounds of a Publisher.
const (
	// DefaultMaxPending is how many events may wait for their acknowledgement. At a typical size that is 2 MB; at the largest size of an event, 400 MB.
	DefaultMaxPending = 4096
	// MaxBatch is how many messages a NATS server takes in one atomic batch.
	MaxBatch = 1000
	// DefaultAckWait is how long one attempt waits for the server's next sign of life.
	DefaultAckWait = 5 * time.Second
	// DefaultRetryFor is how long an event is tried before its publisher gives up.
	DefaultRetryFor = 30 * time.Second
	// MaxRetryFor keeps retries inside the stream's duplicate window of two minutes. An event stored twice is folded when it is read, so
	// a late retry costs space, not correctness.
	MaxRetryFor = 100 * time.Second

	// maxBatchBytes keeps a batch of large events from taking longer than the wait for its acknowledgement.
	maxBatchBytes = 4 << 20
)

// Option changes a Publisher.
type Option func(*publisherOptions)

type publisherOptions struct {
	maxPending int
	maxBatch   int
	ackWait    time.Duration
	retryFor   time.Duration
	trace      func(context.Context) (traceparent, tracestate string)
}

// WithMaxPending bounds the events that wait for their acknowledgement, at least 1 (DefaultMaxPending). What is published beyond waits for room.
func WithMaxPending(n int) Option { return func(o *publisherOptions) { o.maxPending = max(n, 1) } }

// WithMaxBatch bounds the events that go out as one atomic batch, from 1, which turns group commit off, to MaxBatch, the default.
func WithMaxBatch(n int) Option {
	return func(o *publisherOptions) { o.maxBatch = min(max(n, 1), MaxBatch) }
}

// WithAckWait sets how long an attempt waits for the server before it is repeated (DefaultAckWait).
func WithAckWait(d time.Duration) Option {
	return func(o *publisherOptions) { o.ackWait = max(d, time.Millisecond) }
}

// WithRetryFor sets how long an event is tried, up to MaxRetryFor (DefaultRetryFor).
func WithRetryFor(d time.Duration) Option {
	return func(o *publisherOptions) { o.retryFor = min(max(d, time.Millisecond), MaxRetryFor) }
}

// WithTraceContext sets what gives the W3C trace context of a publish's context, as texts for the headers traceparent and tracestate, so that an
// event's way into the table shows in the trace of what it tells of. Empty texts, for a context without a span, add no header. It is a function, and not
// a tracing library, because most producers have one already and the others need none. With OpenTelemetry it is:
//
//	func(ctx context.Context) (string, string) {
//		carrier := propagation.MapCarrier{}
//		propagation.TraceContext{}.Inject(ctx, carrier)
//		return carrier["traceparent"], carrier["tracestate"]
//	}
func WithTraceContext(f func(context.Context) (traceparent, tracestate string)) Option {
	return func(o *publisherOptions) { o.trace = f }
}
