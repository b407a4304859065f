// Package httpapi is the REST API. It is the only package that knows Gin.
//
// A request passes, in this order: route and method, key, tenant, parameters, policies, rate, store. Each may refuse it; none is asked before the
// ones in front of it agree, so that an answer tells no more than its reader may know.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/keys"
	"example.com/auditlog/services/query/internal/policy"
	"example.com/auditlog/services/query/internal/trail"
)

// Limits of requests and connections.
const (
	// DefaultRateLimit is how many requests a second a key may make; its bursts may be twice that.
	DefaultRateLimit = 100
	// DefaultMaxConcurrent bounds the requests that use the store at the same time.
	DefaultMaxConcurrent = 8
	// DefaultMaxQueued bounds the requests that wait for that; a tenant may have a quarter of them.
	DefaultMaxQueued = 1024

	// maxURLBytes has room for every filter repeated as often and as long as allowed, percent-encoded.
	maxURLBytes = 96 << 10
	// maxFieldBytes bounds all fields of the header together.
	maxFieldBytes = 32 << 10
	// maxHeaderBytes is where net/http itself refuses, and closes the connection; it counts the URL too. The distance to the bounds above is where
	// too much is a request that is answered and logged as one.
	maxHeaderBytes = 256 << 10

	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeGrace        = 20 * time.Second // beyond waiting and the query's budget
	idleTimeout       = 2 * time.Minute
	shutdownTimeout   = 10 * time.Second
)

// Events is the store of events, as the API needs it.
type Events interface {
	// Page reads a page that holds every event the scope permits, each once. Errors are those of package audit.
	Page(ctx context.Context, scope policy.Scope, q audit.PageQuery) (audit.Page, error)
	// Event reads one event, or audit.ErrNotFound.
	Event(ctx context.Context, scope policy.Scope, id uuid.UUID) (audit.Event, error)
	// Feed reads a page in the order of the stream, each event at its first copy.
	Feed(ctx context.Context, scope policy.Scope, q audit.FeedQuery) (audit.FeedPage, error)
	// Export calls sink for every event, newest first. An error of sink ends it and comes back as it is.
	Export(ctx context.Context, scope policy.Scope, f audit.Filter, sink func(*audit.Event) error) error
}

// Keys authenticates.
type Keys interface {
	// Authenticate is the key of this text if it is valid now and from this address. Any error means that it is not.
	Authenticate(text string, source netip.Addr, now time.Time) (*keys.Key, error)
}

// Gate authorizes.
type Gate interface {
	Decide(ctx context.Context, r policy.Request) policy.Decision
}

// Trail takes down who reads.
type Trail interface {
	// Record takes a read down. An error means that the read must not be answered.
	Record(ctx context.Context, r trail.Read) error
}

// Config is what the server needs to know.
type Config struct {
	// Addr is host:port to listen on.
	Addr string
	// RateLimit is requests per second and key; 0 means no limit.
	RateLimit float64
	// MaxConcurrent bounds the requests that use the store at the same time; 0 means DefaultMaxConcurrent.
	MaxConcurrent int
	// MaxQueued bounds the requests that wait for the store; 0 means DefaultMaxQueued.
	MaxQueued int
	// QueryTimeout is the store's time budget. A request waits as long for its turn at most, and connections are given both and some more.
	QueryTimeout time.Duration
	// ClientStall is how long the client of an export may take for one chunk of it; 0 means DefaultClientStall.
	ClientStall time.Duration
}

// Deps are what the server works with; all are required but Trail, without which nothing is taken down.
type Deps struct {
	Events     Events
	Keys       Keys
	Gate       Gate
	Trail      Trail
	Positions  Positions
	Cursors    *audit.Cursors
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Traces makes a span for each request; nil for none.
	Traces trace.TracerProvider
}

// Server is the API.
type Server struct {
	Deps
	log     *slog.Logger
	metrics *metrics
	tracer  trace.Tracer
	rates   *rates
	turns   *turns        // at the store
	polls   chan struct{} // taken by feeds that wait
	exports *turns        // of exports, which do not wait
	ending  chan struct{} // closed when the server begins to stop
	srv     *http.Server
	lis     net.Listener

	queueTimeout time.Duration // how long a request waits for its turn
	clientStall  time.Duration // how long the client of an export may stand still
}

// releaseMode keeps Gin from printing routes.
var releaseMode = sync.OnceFunc(func() { gin.SetMode(gin.ReleaseMode) })

// Listen opens the address, so that a busy port is an error at once, and serves nothing yet.
func Listen(ctx context.Context, cfg Config, deps Deps) (*Server, error) {
	if cfg.MaxConcurrent == 0 {
		cfg.MaxConcurrent = DefaultMaxConcurrent
	}
	if cfg.MaxQueued == 0 {
		cfg.MaxQueued = DefaultMaxQueued
	}
	if cfg.ClientStall == 0 {
		cfg.ClientStall = DefaultClientStall
	}
	s := &Server{Deps: deps, log: deps.Log, rates: newRates(cfg.RateLimit), turns: newTurns(cfg.MaxConcurrent, cfg.MaxQueued), queueTimeout: cfg.QueryTimeout,
		clientStall: cfg.ClientStall, polls: make(chan struct{}, maxPolls), exports: newTurns(MaxExports, 0), ending: make(chan struct{})}
	if deps.Traces == nil {
		deps.Traces = noop.NewTracerProvider()
	}
	s.tracer = deps.Traces.Tracer(tracerName)
	var err error
	if s.metrics, err = newMetrics(deps.Registerer, s); err != nil {
		return nil, err
	}
	s.srv = &http.Server{
		Handler:           answering(s.routes()),
		ConnContext:       withConn,
		ConnState:         connState,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      2*cfg.QueryTimeout + writeGrace,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// OPTIONS * is a method and an address like any other.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.srv.RegisterOnShutdown(func() { close(s.ending) })
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen for requests (AUDIT_HTTP_ADDR): %w", err)
	}
	s.lis = connListener{lis, s.refused}
	return s, nil
}

func (s *Server) routes() http.Handler {
	releaseMode()
	g := gin.New()
	g.HandleMethodNotAllowed = true
	g.RedirectTrailingSlash = false
	g.RedirectFixedPath = false
	_ = g.SetTrustedProxies(nil) // a header must not say where a request comes from
	g.Use(s.observe, s.recovered)
	g.NoRoute(func(c *gin.Context) { s.fail(c, errNotFound) })
	g.NoMethod(func(c *gin.Context) { s.fail(c, errMethodNotAllowed) })
	readable := func(path string, handlers ...gin.HandlerFunc) {
		g.GET(path, handlers...)
		g.HEAD(path, handlers...)
	}
	readable("/v1/audit-log", s.authenticate, s.list)
	readable("/v1/audit-log/feed", s.authenticate, s.feed)
	readable("/v1/audit-log/export", s.authenticate, s.export)
	readable("/v1/audit-log/:id", s.authenticate, s.event)
	readable("/v1/openapi.yaml", s.openAPI("application/yaml", openAPIYAML))
	readable("/v1/openapi.json", s.openAPI("application/json", openAPIJSON()))
	return g
}

// Addr is where the server listens, with the real port when 0 was asked for.
func (s *Server) Addr() string { return s.lis.Addr().String() }

// Run serves until ctx is done, then lets requests that are under way finish, for a while.
func (s *Server) Run(ctx context.Context) error {
	done := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { done <- s.shutdown(context.WithoutCancel(ctx)) })
	err := s.srv.Serve(s.lis)
	if stop() {
		return fmt.Errorf("serve requests: %w", err)
	}
	return <-done
}

func (s *Server) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if err := s.srv.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("stop serving: requests were cut off after %s: %w", shutdownTimeout, err), s.srv.Close())
	}
	return nil
}

// Close frees the address of a server that was never run.
func (s *Server) Close() error { return s.lis.Close() }
