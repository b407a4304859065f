package pipeline

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

const (
	// tracerName is the instrumentation scope of the spans.
	tracerName = "example.com/auditlog/services/ingester/internal/pipeline"
	// maxTraced bounds the producers' spans that a batch is linked with.
	maxTraced = 32
)

// tracedMessage is what is kept of a message that its producer has published in a sampled span.
type tracedMessage struct {
	seq    uint64
	stored time.Time
	parent trace.SpanContext
}

// trace remembers a message for the batch's span. Of many, the first are enough.
func (b *batch) trace(m *Message) {
	if len(b.traced) < maxTraced {
		b.traced = append(b.traced, tracedMessage{m.Seq, m.Time, *m.Parent})
	}
}

// flushTraced is flush with a span, when somebody traces a message of the batch. The batch's span is linked with those of the producers, and each
// producer's trace gets a span of its own, from when the stream stored the message until it was in the table: a batch has many producers and one
// trace cannot be a child of them all.
func (d *driver) flushTraced(ctx context.Context, b batch) error {
	if len(b.traced) == 0 {
		return d.flush(ctx, b)
	}
	links := make([]trace.Link, len(b.traced))
	for i, m := range b.traced {
		links[i] = trace.Link{SpanContext: m.parent, Attributes: []attribute.KeyValue{sequence(m.seq)}}
	}
	ctx, span := d.tracer.Start(ctx, "ingest batch", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithNewRoot(), trace.WithLinks(links...),
		trace.WithTimestamp(b.since), trace.WithAttributes(attribute.String("messaging.system", "nats"), attribute.Int("audit.partition", d.partition)))
	defer span.End()
	if err := d.flush(ctx, b); err != nil {
		span.SetStatus(codes.Error, err.Error())
		return err
	}
	r := d.last // the batch that was flushed
	span.SetAttributes(attribute.Int("messaging.batch.message_count", r.Messages), attribute.Int("audit.rows", r.Rows), attribute.Int("audit.rejected", r.Rejected),
		attribute.Int64("audit.batch", int64(r.Batch))) //nolint:gosec // a count
	for _, m := range b.traced {
		_, s := d.tracer.Start(trace.ContextWithRemoteSpanContext(ctx, m.parent), "ingest event", trace.WithSpanKind(trace.SpanKindConsumer),
			trace.WithTimestamp(m.stored), trace.WithLinks(trace.Link{SpanContext: span.SpanContext()}),
			trace.WithAttributes(attribute.String("messaging.system", "nats"), sequence(m.seq)))
		s.End()
	}
	return nil
}

// sequence is a message's sequence in the stream as an attribute.
func sequence(seq uint64) attribute.KeyValue {
	return attribute.Int64("audit.stream_seq", int64(seq)) //nolint:gosec // a stream would take ages to come that far
}

// insertTraced is the sink's Insert, with a span in a batch that has one.
func (d *driver) insertTraced(ctx context.Context, rows Block, token string) error {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return d.sink.Insert(ctx, rows, token)
	}
	ctx, span := d.tracer.Start(ctx, "INSERT event_log", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("db.system.name", "clickhouse"), attribute.String("db.operation.name", "INSERT"), attribute.String("db.collection.name", "event_log"),
		attribute.Int("db.operation.batch.size", rows.Rows()), attribute.String("clickhouse.query_id", token)))
	defer span.End()
	err := d.sink.Insert(ctx, rows, token)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}
