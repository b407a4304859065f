package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/keys"
	"example.com/auditlog/services/query/internal/policy"
)

// faulty stands for everything behind the API, to make it fail in ways the real parts are not expected to.
type faulty struct {
	tenant uuid.UUID
	page   func(context.Context) (audit.Page, error)
}

func (f *faulty) Authenticate(string, netip.Addr, time.Time) (*keys.Key, error) {
	return &keys.Key{ID: "k", Tenant: f.tenant}, nil
}

func (f *faulty) Decide(context.Context, policy.Request) policy.Decision {
	return policy.Decision{Allowed: true}
}

func (f *faulty) Page(ctx context.Context, _ policy.Scope, _ audit.PageQuery) (audit.Page, error) {
	return f.page(ctx)
}

func (f *faulty) Event(ctx context.Context, _ policy.Scope, _ uuid.UUID) (audit.Event, error) {
	_, err := f.page(ctx)
	return audit.Event{}, err
}

// Ensure every failure behind the API has its status, code and headers, that its cause stays in the log, and that the service lives on.
func TestFailuresBehindTheAPI(t *testing.T) {
	cursors, err := audit.NewCursors(make([]byte, audit.SecretBytes))
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{tenant: uuid.New()}
	var log bytes.Buffer
	s, err := Listen(t.Context(), Config{Addr: "127.0.0.1:0"}, Deps{Events: f, Keys: f, Gate: f, Cursors: cursors,
		Log: slog.New(slog.NewJSONHandler(&log, nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for name, c := range map[string]struct {
		page   func(context.Context) (audit.Page, error)
		status int
		code   string
		retry  string
	}{
		"Panic":       {func(context.Context) (audit.Page, error) { panic("cause-1234") }, 500, codeInternal, ""},
		"Fault":       {func(context.Context) (audit.Page, error) { return audit.Page{}, errCause }, 500, codeInternal, ""},
		"Unavailable": {func(context.Context) (audit.Page, error) { return audit.Page{}, joined(audit.ErrUnavailable) }, 503, codeUnavailable, "2"},
		"Timeout":     {func(context.Context) (audit.Page, error) { return audit.Page{}, joined(audit.ErrTimeout) }, 504, codeTimeout, "5"},
	} {
		t.Run(name, func(t *testing.T) {
			f.page = c.page
			log.Reset()
			for _, path := range []string{"/v1/audit-log", "/v1/audit-log/" + uuid.NewString()} {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
				r.Header = http.Header{"X-Api-Key": {"x"}, "X-Tenant-Id": {f.tenant.String()}}
				w := httptest.NewRecorder()
				s.srv.Handler.ServeHTTP(w, r)
				var e apiError
				if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
					t.Fatal(err)
				}
				if w.Code != c.status || e.Code != c.code || w.Header().Get("Retry-After") != c.retry || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Request-Id") == "" {
					t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
				}
				if strings.Contains(w.Body.String(), "cause-1234") {
					t.Errorf("the cause is shown: %s", w.Body)
				}
			}
			if n := strings.Count(log.String(), "cause-1234"); n < 2 {
				t.Errorf("the cause is not in the log:\n%s", &log)
			}
		})
	}
}

type cause struct{ error }

func (cause) Error() string { return "cause-1234" }

func (c cause) Unwrap() error { return c.error }

var errCause = cause{}

func joined(err error) error { return cause{err} }

// Ensure more requests than the store may have are refused after a while rather than piled up.
func TestConcurrencyLimit(t *testing.T) {
	cursors, err := audit.NewCursors(make([]byte, audit.SecretBytes))
	if err != nil {
		t.Fatal(err)
	}
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	f := &faulty{tenant: uuid.New(), page: func(context.Context) (audit.Page, error) {
		entered <- struct{}{}
		<-release
		return audit.Page{}, nil
	}}
	s, err := Listen(t.Context(), Config{Addr: "127.0.0.1:0", MaxConcurrent: 1}, Deps{Events: f, Keys: f, Gate: f, Cursors: cursors,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	ask := func() int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/audit-log", nil)
		r.Header = http.Header{"X-Api-Key": {"x"}, "X-Tenant-Id": {f.tenant.String()}}
		w := httptest.NewRecorder()
		s.srv.Handler.ServeHTTP(w, r)
		return w.Code
	}
	first := make(chan int, 1)
	go func() { first <- ask() }()
	<-entered
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("beyond the limit: %d", code)
	}
	close(release)
	if code := <-first; code != http.StatusOK {
		t.Errorf("within the limit: %d", code)
	}
}
