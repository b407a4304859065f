// Package telemetry makes what a process does visible as traces and as log lines that belong together.
//
// Spans go to an OpenTelemetry collector over OTLP when the standard variables OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
// name one, and nowhere else. Without them no span is made and no message looked at for one; trace ids that come in with requests still go into logs.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"example.com/auditlog/pkg/service/buildinfo"
	"example.com/auditlog/pkg/service/settings"
)

// FlushTimeout bounds how long a process that ends waits for its last spans to be taken.
const FlushTimeout = 3 * time.Second

// Config says where spans go. The zero value stands for nowhere.
type Config struct {
	// Endpoint is the URL that takes spans, path included; empty for none.
	Endpoint string
}

// FromSettings reads OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT and OTEL_EXPORTER_OTLP_[TRACES_]PROTOCOL.
// The others (headers, certificates, compression, sampler, batches, resource) are read by the OpenTelemetry SDK itself.
func FromSettings(r *settings.Reader) Config {
	protocol, name := "", ""
	for _, name = range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if protocol = r.String(name, ""); protocol != "" {
			break
		}
	}
	if protocol != "" && protocol != "http/protobuf" {
		r.Faultf(name, "%q must be http/protobuf, which every collector takes, by default on port 4318", protocol)
	}
	var endpoint string
	switch v := r.String("OTEL_TRACES_EXPORTER", "otlp"); v {
	case "otlp":
		endpoint = endpointOf(r)
	case "none":
	default:
		r.Faultf("OTEL_TRACES_EXPORTER", "%q must be otlp or none", v)
	}
	if r.Bool("OTEL_SDK_DISABLED", false) {
		endpoint = ""
	}
	return Config{Endpoint: endpoint}
}

// endpointOf is the URL for spans: the one for traces as it is, else the path v1/traces below the one for everything.
func endpointOf(r *settings.Reader) string {
	name, path := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ""
	if r.String(name, "") == "" {
		name, path = "OTEL_EXPORTER_OTLP_ENDPOINT", "/v1/traces"
	}
	if r.String(name, "") == "" {
		return ""
	}
	u, err := url.Parse(r.URL(name, "", "http", "https"))
	if err != nil {
		return "" // reported by URL
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	return u.String()
}

// Provider makes tracers. Close sends what they have made.
type Provider struct {
	trace.TracerProvider
	sdk *sdktrace.TracerProvider // nil when spans go nowhere
}

// Start makes a Provider for a service of this name. It does not connect: a collector that is away costs spans, never requests. Faults of
// sending go to log.
func Start(ctx context.Context, cfg Config, service string, log *slog.Logger) (*Provider, error) {
	if cfg.Endpoint == "" {
		return &Provider{TracerProvider: noop.NewTracerProvider()}, nil
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(cfg.Endpoint))
	if err != nil {
		return nil, fmt.Errorf("send traces to OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(
		attribute.String("service.name", service), attribute.String("service.namespace", "auditlog"),
		attribute.String("service.version", buildinfo.Get().Version),
	), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, errors.Join(fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err), exporter.Shutdown(ctx))
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces are not sent", slog.Any("error", err)) }))
	sdk := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return &Provider{TracerProvider: sdk, sdk: sdk}, nil
}

// Close sends the last spans, within FlushTimeout. What the collector does not take by then is lost.
func (p *Provider) Close(ctx context.Context) error {
	if p.sdk == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), FlushTimeout)
	defer cancel()
	if err := p.sdk.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}

// Enabled says whether spans of tp go anywhere, so that the work before making one can be saved.
func Enabled(tp trace.TracerProvider) bool {
	if p, ok := tp.(*Provider); ok {
		return p.sdk != nil
	}
	_, off := tp.(noop.TracerProvider)
	return tp != nil && !off
}

// traceContext is the W3C format, in which trace ids travel.
var traceContext propagation.TraceContext

// Extract returns ctx with the remote span that the headers name, if any.
func Extract(ctx context.Context, headers propagation.TextMapCarrier) context.Context {
	return traceContext.Extract(ctx, headers)
}

// TraceContext is the W3C trace context of ctx's span, empty when it has none; for events.WithTraceContext.
func TraceContext(ctx context.Context) (traceparent, tracestate string) {
	carrier := propagation.MapCarrier{}
	traceContext.Inject(ctx, carrier)
	return carrier["traceparent"], carrier["tracestate"]
}
