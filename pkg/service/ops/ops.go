// Package ops serves what operators and orchestrators ask a process: is it alive, is it ready, its metrics and its profiles.
package ops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/auditlog/pkg/service/buildinfo"
)

// Time limits of the ops server.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = time.Minute
)

// NewRegistry makes the registry of a process, with what every process tells: Go's runtime, the process, the build.
func NewRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildinfo.Collector())
	return reg
}

// Server serves /healthz, /readyz, /metrics and /debug/pprof.
type Server struct {
	readiness *readiness
	srv       *http.Server
	lis       net.Listener
}

// Listen opens addr, so that a busy port is an error at once, and serves nothing yet. The server is not ready before it has checks, which may be
// given later: see Add.
func Listen(ctx context.Context, addr string, reg *prometheus.Registry, checks ...Check) (*Server, error) {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for operations (AUDIT_OPS_ADDR): %w", err)
	}
	s := &Server{readiness: newReadiness(checks), lis: lis}
	if err := reg.Register(s.readiness); err != nil {
		_ = lis.Close()
		return nil, fmt.Errorf("register the metric of readiness: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.Handle("GET /readyz", s.readiness)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s.srv = &http.Server{Handler: mux, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout}
	return s, nil
}

// Add makes the server's readiness depend on more checks.
func (s *Server) Add(checks ...Check) { s.readiness.add(checks) }

// Waiting says what the start waits for, which /readyz tells until there are checks.
func (s *Server) Waiting(err error) { s.readiness.wait(err) }

// Addr is where the server listens, with the real port when 0 was asked for.
func (s *Server) Addr() string { return s.lis.Addr().String() }

// Run serves until ctx is done, then closes at once: nobody loses anything by a metrics page cut short.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.srv.Close() })
	defer stop()
	watching, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.readiness.watch(watching) })
	defer wg.Wait()
	defer cancel()
	if err := s.srv.Serve(s.lis); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operations: %w", err)
	}
	return nil
}

// Close frees the address of a server that was never run.
func (s *Server) Close() error { return errors.Join(s.srv.Close(), ignoreClosed(s.lis.Close())) }

// ignoreClosed: a server that has served has closed its listener.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
