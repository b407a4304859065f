package clickhouse

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"example.com/auditlog/pkg/service/telemetry"
)

// tracerName is the instrumentation scope of the spans.
const tracerName = "example.com/auditlog/services/query/internal/clickhouse"

// span begins the span of one query. It holds no SQL and no value of a filter, which are the reader's business.
func (r *Reader) span(ctx context.Context, id string) (context.Context, trace.Span) {
	k := string(kindOf(ctx))
	return r.tracer.Start(ctx, "SELECT event_log", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("db.system.name", "clickhouse"), attribute.String("db.operation.name", "SELECT"), attribute.String("db.collection.name", "event_log"),
		attribute.String("audit.query.kind", k), attribute.String("clickhouse.query_id", id)))
}

// endSpan ends a span with what became of it.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// comment is what ClickHouse writes beside the query into system.query_log (log_comment): whose request it was part of.
func comment(ctx context.Context) string {
	text := ""
	if id := telemetry.RequestID(ctx); id != "" {
		text = "request_id=" + id
	}
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		text += " trace_id=" + sc.TraceID().String()
	}
	return text
}
