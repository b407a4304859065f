// Package ops serves what operators and orchestrators ask a process: is it alive, is it ready, its metrics and its profiles.
package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Time limits of the ops server.
const (
	checkTimeout      = 3 * time.Second
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = time.Minute
)

// Check answers whether one dependency works. Name is what /readyz calls it.
type Check struct {
	Name string
	// Run returns nil, or what is wrong. It honours ctx.
	Run func(ctx context.Context) error
	// Note, when set, adds a remark to a passing check, such as how stale a copy is.
	Note func() string
}

// Server serves /healthz, /readyz, /metrics and /debug/pprof.
type Server struct {
	checks []Check
	srv    *http.Server
	lis    net.Listener

	mu    sync.Mutex
	since map[string]time.Time // when each failing check began to fail
}

// Listen opens addr, so that a busy port is an error at once, and serves nothing yet.
func Listen(ctx context.Context, addr string, gather prometheus.Gatherer, checks ...Check) (*Server, error) {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for operations (AUDIT_OPS_ADDR): %w", err)
	}
	s := &Server{checks: checks, lis: lis, since: map[string]time.Time{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s.srv = &http.Server{Handler: mux, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout}
	return s, nil
}

// Addr is where the server listens, with the real port when 0 was asked for.
func (s *Server) Addr() string { return s.lis.Addr().String() }

// Run serves until ctx is done, then closes at once: nobody loses anything by a metrics page cut short.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.srv.Close() })
	defer stop()
	if err := s.srv.Serve(s.lis); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operations: %w", err)
	}
	return nil
}

// Close frees the address of a server that was never run.
func (s *Server) Close() error { return s.srv.Close() }

type status struct {
	Name  string     `json:"name"`
	OK    bool       `json:"ok"`
	Error string     `json:"error,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	Note  string     `json:"note,omitempty"`
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	out := make([]status, len(s.checks))
	var wg sync.WaitGroup
	for i, c := range s.checks {
		wg.Go(func() { out[i] = s.run(ctx, c) })
	}
	wg.Wait()
	code := http.StatusOK
	for _, st := range out {
		if !st.OK {
			code = http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"ready": code == http.StatusOK, "checks": out})
}

func (s *Server) run(ctx context.Context, c Check) status {
	err := c.Run(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.since, c.Name)
		st := status{Name: c.Name, OK: true}
		if c.Note != nil {
			st.Note = c.Note()
		}
		return st
	}
	since, seen := s.since[c.Name]
	if !seen {
		since = time.Now().UTC()
		s.since[c.Name] = since
	}
	return status{Name: c.Name, Error: err.Error(), Since: &since}
}
