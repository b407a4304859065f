package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"example.com/auditlog/pkg/service/settings"
	"example.com/auditlog/pkg/service/telemetry"
)

func configOf(t *testing.T, env map[string]string) (telemetry.Config, error) {
	t.Helper()
	r := settings.New(func(name string) string { return env[name] })
	c := telemetry.FromSettings(r)
	return c, r.Err()
}

// Ensure the standard variables say where spans go, and that none means nowhere.
func TestStandardVariables(t *testing.T) {
	const all, traces = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	for name, c := range map[string]struct {
		env   map[string]string
		want  string
		fault string
	}{
		"Nothing":        {nil, "", ""},
		"Base":           {map[string]string{all: "http://c:4318"}, "http://c:4318/v1/traces", ""},
		"BaseWithPath":   {map[string]string{all: "https://c/otlp/"}, "https://c/otlp/v1/traces", ""},
		"Traces":         {map[string]string{all: "http://a", traces: "http://b/spans"}, "http://b/spans", ""},
		"Disabled":       {map[string]string{all: "http://c", "OTEL_SDK_DISABLED": "true"}, "", ""},
		"None":           {map[string]string{all: "http://c", "OTEL_TRACES_EXPORTER": "none"}, "", ""},
		"Protocol":       {map[string]string{all: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http://c/v1/traces", ""},
		"GRPC":           {map[string]string{all: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "OTEL_EXPORTER_OTLP_PROTOCOL"},
		"OtherExporter":  {map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, "", "OTEL_TRACES_EXPORTER"},
		"NoURL":          {map[string]string{all: "collector:4318"}, "", all},
		"DisabledWrong":  {map[string]string{"OTEL_SDK_DISABLED": "perhaps"}, "", "OTEL_SDK_DISABLED"},
		"TracesProtocol": {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := configOf(t, c.env)
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) {
					t.Errorf("%v does not name %s", err, c.fault)
				}
				return
			}
			if err != nil || got.Endpoint != c.want {
				t.Errorf("%q, %v; want %q", got.Endpoint, err, c.want)
			}
		})
	}
}

// Ensure that without a collector nothing is made, and ids that come in are still known.
func TestOff(t *testing.T) {
	p, err := telemetry.Start(t.Context(), telemetry.Config{}, "x", slog.New(slog.DiscardHandler))
	if err != nil || telemetry.Enabled(p) || telemetry.Enabled(noop.NewTracerProvider()) || telemetry.Enabled(nil) {
		t.Errorf("%v: enabled", err)
	}
	ctx := telemetry.Extract(t.Context(), propagation.MapCarrier{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
	ctx, span := p.Tracer("x").Start(ctx, "x")
	if span.IsRecording() || trace.SpanContextFromContext(ctx).TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("%+v", span.SpanContext())
	}
	if parent, state := telemetry.TraceContext(ctx); !strings.HasPrefix(parent, "00-0af7651916cd43dd8448eb211c80319c-") || state != "" {
		t.Errorf("%q, %q", parent, state)
	}
	if parent, _ := telemetry.TraceContext(t.Context()); parent != "" {
		t.Errorf("a context without a span has %q", parent)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Ensure what was not sent yet is sent at the end, and that a collector that hangs does not keep the process.
func TestCloseFlushesWithinItsTime(t *testing.T) {
	var got atomic.Int32
	hang := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got.Add(1)
		if r.URL.Path == "/hangs/v1/traces" {
			<-hang
		}
	})}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(lis)
	defer srv.Close()
	defer close(hang)
	for _, path := range []string{"", "/hangs"} {
		cfg, err := configOf(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + lis.Addr().String() + path})
		if err != nil {
			t.Fatal(err)
		}
		p, err := telemetry.Start(t.Context(), cfg, "x", slog.New(slog.DiscardHandler))
		if err != nil || !telemetry.Enabled(p) {
			t.Fatal(err)
		}
		_, span := p.Tracer("x").Start(t.Context(), "x")
		span.End()
		before, began := got.Load(), time.Now()
		err = p.Close(t.Context())
		if (err != nil) != (path != "") || got.Load() != before+1 {
			t.Errorf("%q: %v, %d requests", path, err, got.Load()-before)
		}
		if took := time.Since(began); took > 10*telemetry.FlushTimeout {
			t.Errorf("%q: the end took %s", path, took)
		}
	}
}

// Ensure log lines have the ids of their context, once, and others have none.
func TestLogLinesHaveIDs(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(telemetry.LogHandler(telemetry.NewLogger(&buf, slog.LevelInfo).Handler())).With(slog.String("service", "x"))
	ctx := telemetry.WithRequestID(t.Context(), "r1")
	ctx = telemetry.Extract(ctx, propagation.MapCarrier{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
	line := func(ctx context.Context) map[string]any {
		buf.Reset()
		log.InfoContext(ctx, "something")
		if strings.Count(buf.String(), "request_id") > 1 {
			t.Errorf("twice: %s", &buf)
		}
		var m map[string]any
		if err := json.Unmarshal(buf.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := line(ctx)
	if m["request_id"] != "r1" || m["trace_id"] != "0af7651916cd43dd8448eb211c80319c" || m["span_id"] != "b7ad6b7169203331" || m["service"] != "x" {
		t.Errorf("%v", m)
	}
	if m := line(t.Context()); m["request_id"] != nil || m["trace_id"] != nil {
		t.Errorf("%v", m)
	}
}

// Ensure a duration in a log line names its unit.
func TestLogLinesNameUnits(t *testing.T) {
	var buf bytes.Buffer
	telemetry.NewLogger(&buf, slog.LevelInfo).Info("request", slog.Duration("took", 23_800*time.Microsecond))
	if !strings.Contains(buf.String(), `"took":"23.8ms"`) {
		t.Errorf("%s", &buf)
	}
}
