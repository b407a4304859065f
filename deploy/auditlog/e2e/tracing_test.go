package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"example.com/auditlog/pkg/events"
)

// collectorServer is an OTLP collector that keeps what it is sent.
type collectorServer struct {
	url string

	mu    sync.Mutex
	spans []span
}

// span is one span with the service that sent it.
type span struct {
	*otlp.Span
	service string
}

func (s *span) attribute(name string) string {
	for _, kv := range s.Attributes {
		if kv.Key == name {
			return text(kv.Value)
		}
	}
	return ""
}

func text(v *common.AnyValue) string {
	switch v := v.Value.(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	}
	return ""
}

func startCollector(t *testing.T) *collectorServer {
	t.Helper()
	c := &collectorServer{}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var req collector.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &req) != nil {
			t.Errorf("the collector was sent %s %s, %d bytes", r.Method, r.URL, len(body))
			return
		}
		c.take(&req)
		w.Header().Set("Content-Type", "application/x-protobuf")
	})}
	go srv.Serve(lis)
	t.Cleanup(func() { srv.Close() })
	c.url = "http://" + lis.Addr().String()
	return c
}

func (c *collectorServer) take(req *collector.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.ResourceSpans {
		service := ""
		for _, kv := range r.Resource.Attributes {
			if kv.Key == "service.name" {
				service = text(kv.Value)
			}
		}
		for _, scope := range r.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, span{s, service})
			}
		}
	}
}

// find returns the spans that match.
func (c *collectorServer) find(match func(*span) bool) (found []span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.spans {
		if match(&c.spans[i]) {
			found = append(found, c.spans[i])
		}
	}
	return found
}

// wait returns the spans that match once there are n.
func (c *collectorServer) wait(t *testing.T, s *system, what string, n int, match func(*span) bool) (found []span) {
	t.Helper()
	s.waitFor(t, what, func() bool { found = c.find(match); return len(found) >= n })
	return found
}

// newParent is a sampled span of somebody else, as its context and as a header.
func newParent() (trace.SpanContext, context.Context, string) {
	id, sp := uuid.New(), uuid.New()
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(id), SpanID: trace.SpanID(sp[:8]), TraceFlags: trace.FlagsSampled, Remote: true})
	return sc, trace.ContextWithRemoteSpanContext(context.Background(), sc), fmt.Sprintf("00-%s-%s-01", sc.TraceID(), sc.SpanID())
}

func inTrace(sc trace.SpanContext) func(*span) bool {
	return func(s *span) bool { return hex.EncodeToString(s.TraceId) == sc.TraceID().String() }
}

// Ensure a request that comes with a trace has its span and those of its queries in that trace, and that ClickHouse's own log of queries names
// trace and request.
func TestTraceFromRequestToSQL(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	c := startCollector(t)
	s := startSystemWith(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url})
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	tenant := uuid.New()
	must(t, pub.Publish(t.Context(), someEvent(tenant, 1)))
	key := s.key(t, tenant)
	s.walkUntil(t, key, tenant, 10, 1)

	parent, _, header := newParent()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.api+"?actor_id=a-secret", nil)
	must(t, err)
	req.Header.Set("X-API-Key", key)
	req.Header.Set("X-Tenant-ID", tenant.String())
	req.Header.Set("X-Request-ID", "request-of-"+parent.TraceID().String())
	req.Header.Set("traceparent", header)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()

	// It ends after those of its queries.
	server := c.wait(t, s, "the span of the request comes", 1, func(sp *span) bool {
		return inTrace(parent)(sp) && sp.Kind == otlp.Span_SPAN_KIND_SERVER
	})[0]
	if server.Name != "GET /v1/audit-log" || hex.EncodeToString(server.ParentSpanId) != parent.SpanID().String() ||
		server.attribute("http.response.status_code") != "200" || server.attribute("audit.request_id") != req.Header.Get("X-Request-ID") ||
		server.service != "auditlog-query" {
		t.Fatalf("span of the request: %+v", server)
	}
	queries := 0
	for _, q := range c.find(inTrace(parent)) {
		if strings.Contains(q.String(), "a-secret") || strings.Contains(q.String(), key) {
			t.Errorf("a span tells what was asked for: %s", q.String())
		}
		if q.Kind != otlp.Span_SPAN_KIND_CLIENT {
			continue
		}
		queries++
		if string(q.ParentSpanId) != string(server.SpanId) || q.attribute("audit.query.kind") != "page" {
			t.Errorf("span of a query: %+v", q)
		}
		want := "request_id=" + req.Header.Get("X-Request-ID") + " trace_id=" + parent.TraceID().String()
		s.waitFor(t, "the query is in ClickHouse's log", func() bool {
			s.clickhouse(t, "SYSTEM FLUSH LOGS") // which makes the table too
			return s.clickhouse(t, fmt.Sprintf("SELECT any(log_comment) FROM system.query_log WHERE query_id = '%s'", q.attribute("clickhouse.query_id"))) == want
		})
	}
	if queries == 0 {
		t.Error("no span of a query")
	}
}

// otelTraceContext is what docs/observability.md tells producers to give to WithTraceContext.
func otelTraceContext(ctx context.Context) (string, string) {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"], carrier["tracestate"]
}

// Ensure an event that was published in a span has its way into the table in the same trace, and that the batch that brought it there leads from the
// producers' spans to the insert as ClickHouse's own log of queries has it. Events without a span make none.
func TestTraceFromPublishToInsert(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	c := startCollector(t)
	s := startSystemWith(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url})
	pub, err := events.NewPublisher(s.nc, events.WithTraceContext(otelTraceContext))
	must(t, err)
	tenant := uuid.New()
	must(t, pub.Publish(t.Context(), someEvent(tenant, 0)))
	s.walkUntil(t, s.key(t, tenant), tenant, 10, 1)
	if got := c.find(func(sp *span) bool { return sp.service == "auditlog-ingester" }); len(got) != 0 {
		t.Errorf("an event without a span made %d", len(got))
	}

	var futures []*events.Future
	var parents []trace.SpanContext
	for i := range 3 {
		parent, ctx, _ := newParent()
		if i == 2 {
			ctx = trace.ContextWithRemoteSpanContext(ctx, parent.WithTraceFlags(0)) // nobody samples it
		}
		f, err := pub.PublishAsync(ctx, someEvent(tenant, i+1))
		must(t, err)
		futures, parents = append(futures, f), append(parents, parent)
	}
	for i, f := range futures[:2] {
		ack, err := f.Wait(t.Context())
		must(t, err)
		got := c.wait(t, s, "the producer's trace goes on in the ingester", 1, inTrace(parents[i]))[0]
		if got.Name != "ingest event" || got.service != "auditlog-ingester" || hex.EncodeToString(got.ParentSpanId) != parents[i].SpanID().String() ||
			got.attribute("audit.stream_seq") != fmt.Sprint(ack.Sequence) || got.EndTimeUnixNano < got.StartTimeUnixNano || len(got.Links) != 1 {
			t.Fatalf("span of the event: %+v", got)
		}
		s.insertOf(t, c, got, parents[i])
	}
	if got := c.find(inTrace(parents[2])); len(got) != 0 {
		t.Errorf("a trace that nobody samples has %+v", got)
	}
}

// insertOf follows a span of an event to its batch and that one's insert.
func (s *system) insertOf(t *testing.T, c *collectorServer, event span, producer trace.SpanContext) {
	t.Helper()
	batch := c.wait(t, s, "the span of the batch comes", 1, func(sp *span) bool { return string(sp.SpanId) == string(event.Links[0].SpanId) })[0]
	linked := false
	for _, l := range batch.Links {
		linked = linked || hex.EncodeToString(l.TraceId) == producer.TraceID().String() && hex.EncodeToString(l.SpanId) == producer.SpanID().String()
	}
	if !linked || batch.Name != "ingest batch" || batch.attribute("audit.rows") == "" {
		t.Errorf("span of the batch: %+v", batch)
	}
	insert := c.wait(t, s, "the span of the insert comes", 1, func(sp *span) bool { return string(sp.ParentSpanId) == string(batch.SpanId) })[0]
	if insert.Name != "INSERT event_log" || string(insert.TraceId) != string(batch.TraceId) {
		t.Errorf("span of the insert: %+v", insert)
	}
	s.waitFor(t, "the insert is in ClickHouse's log", func() bool {
		s.clickhouse(t, "SYSTEM FLUSH LOGS")
		return s.clickhouse(t, fmt.Sprintf("SELECT count() FROM system.query_log WHERE query_id = '%s' AND query_kind = 'Insert'",
			insert.attribute("clickhouse.query_id"))) != "0"
	})
}
