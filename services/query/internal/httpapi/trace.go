package httpapi

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"example.com/auditlog/pkg/service/telemetry"
)

// tracerName is the instrumentation scope of the spans.
const tracerName = "example.com/auditlog/services/query/internal/httpapi"

// begin gives the request's context its id and its span, which goes on a trace that the caller began.
func (s *Server) begin(c *gin.Context, id string) trace.Span {
	ctx := telemetry.WithRequestID(c.Request.Context(), id)
	ctx = telemetry.Extract(ctx, propagation.HeaderCarrier(c.Request.Header))
	ctx, span := s.tracer.Start(ctx, spanName(c), trace.WithSpanKind(trace.SpanKindServer))
	c.Request = c.Request.WithContext(ctx)
	return span
}

// finish ends the request's span with how it was answered. Neither the query, which holds a reader's filters, nor the key goes into it.
func finish(c *gin.Context, span trace.Span) {
	defer span.End()
	if !span.IsRecording() {
		return
	}
	status := c.Writer.Status()
	span.SetAttributes(attribute.String("http.request.method", c.Request.Method), attribute.String("http.route", routeOf(c)),
		attribute.Int("http.response.status_code", status), attribute.String("audit.request_id", requestID(c)))
	if code := c.GetString(ctxCode); code != "" {
		span.SetAttributes(attribute.String("error.type", code))
	}
	if k := keyOf(c); k != nil {
		span.SetAttributes(attribute.String("audit.tenant_id", k.Tenant.String()), attribute.String("audit.key_id", k.ID))
	}
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}

// spanName has few values, whatever a client sends.
func spanName(c *gin.Context) string {
	switch route := c.FullPath(); {
	case route != "":
		return c.Request.Method + " " + route
	case c.Request.Method == http.MethodGet || c.Request.Method == http.MethodHead:
		return c.Request.Method
	}
	return "HTTP"
}

// routeOf is the template of the request's route, "none" for an address without one.
func routeOf(c *gin.Context) string {
	if route := c.FullPath(); route != "" {
		return route
	}
	return "none"
}
