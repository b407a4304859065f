package jetstream

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/telemetry"
)

// parentOf is the span that the message's headers name, nil when there is none or nobody samples it.
func parentOf(h nats.Header) *trace.SpanContext {
	if _, traced := h[events.HeaderTraceParent]; !traced {
		return nil
	}
	sc := trace.SpanContextFromContext(telemetry.Extract(context.Background(), carrier(h)))
	if !sc.IsSampled() {
		return nil
	}
	return &sc
}

// carrier gives W3C trace context from a message's headers, whose names are as they were sent.
type carrier nats.Header

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string { return nats.Header(c).Get(key) }

// Set implements propagation.TextMapCarrier.
func (c carrier) Set(key, value string) { nats.Header(c).Set(key, value) }

// Keys implements propagation.TextMapCarrier.
func (c carrier) Keys() []string { return []string{events.HeaderTraceParent, events.HeaderTraceState} }
