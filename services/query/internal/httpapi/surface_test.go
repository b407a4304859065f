package httpapi

import (
	"bufio"
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

const (
	goodKey    = "alk_good"
	goodTenant = "11111111-2222-4333-8444-555555555555"
)

// onlyOurs is a store and keys of one tenant. Being asked for another is a failure of the test.
type onlyOurs struct {
	tb     testing.TB
	tenant uuid.UUID
}

func (o *onlyOurs) Authenticate(text string, _ netip.Addr, _ time.Time) (*keys.Key, error) {
	if text != goodKey {
		return nil, keys.ErrRefused
	}
	return &keys.Key{ID: "k", Tenant: o.tenant, Roles: []string{"auditor"}}, nil
}

func (o *onlyOurs) Page(_ context.Context, scope policy.Scope, q audit.PageQuery) (audit.Page, error) {
	if q.Tenant != o.tenant || scope.Tenant() != o.tenant || q.Limit < 1 || q.Limit > audit.MaxLimit {
		o.tb.Errorf("the store was asked for %+v by %s", q, scope.Tenant())
	}
	return audit.Page{Events: []audit.Event{{ID: o.tenant, ActorID: "a", CreatedAt: time.Unix(1, 0)}}, More: q.After == nil}, nil
}

func (o *onlyOurs) Event(_ context.Context, scope policy.Scope, id uuid.UUID) (audit.Event, error) {
	if scope.Tenant() != o.tenant {
		o.tb.Errorf("the store was asked for %s", scope.Tenant())
	}
	if id != o.tenant {
		return audit.Event{}, audit.ErrNotFound
	}
	return audit.Event{ID: id}, nil
}

func (o *onlyOurs) Feed(_ context.Context, scope policy.Scope, _ audit.FeedQuery) (audit.FeedPage, error) {
	if scope.Tenant() != o.tenant {
		o.tb.Errorf("the store was asked for %s", scope.Tenant())
	}
	return audit.FeedPage{}, nil
}

func (o *onlyOurs) Export(_ context.Context, scope policy.Scope, _ audit.Filter, sink func(*audit.Event) error) error {
	if scope.Tenant() != o.tenant {
		o.tb.Errorf("the store was asked for %s", scope.Tenant())
	}
	return sink(&audit.Event{ID: o.tenant, ActorID: "a", CreatedAt: time.Unix(1, 0)})
}

func (o *onlyOurs) Committed(_ context.Context, tenant uuid.UUID) (uint64, bool) {
	if tenant != o.tenant {
		o.tb.Errorf("the position of %s was asked for", tenant)
	}
	return 7, true
}

func (o *onlyOurs) Moved(uuid.UUID, uint64) <-chan struct{} {
	moved := make(chan struct{})
	close(moved) // nobody waits in this test
	return moved
}

// Ensure that whatever a request looks like, the answer is none of 5xx, has the headers that all have and the form that its status has, and that no
// event leaves without the right key.
func FuzzSurface(f *testing.F) {
	cursors, err := audit.NewCursors(make([]byte, audit.SecretBytes))
	if err != nil {
		f.Fatal(err)
	}
	engine, err := policy.Open("", slog.New(slog.DiscardHandler), nil)
	if err != nil {
		f.Fatal(err)
	}
	store := &onlyOurs{tenant: uuid.MustParse(goodTenant)}
	s, err := Listen(f.Context(), Config{Addr: "127.0.0.1:0"}, Deps{Events: store, Positions: store, Keys: store, Gate: engine, Cursors: cursors,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "CONNECT", "G\x00T", "get"} {
		f.Add(method, "/v1/audit-log", "", true)
		f.Add(method, "*", "X-Request-ID: a", false)
	}
	for _, target := range []string{"/v1/audit-log?limit=1&cursor=x", "/v1/audit-log/" + goodTenant, "/v1/audit-log/%2e%2e", "//", "/v1/openapi.json", "/%", "http://x/v1/audit-log",
		"/v1/audit-log/feed?limit=1&start=now", "/v1/audit-log/export?format=csv", "/v1/audit-log?from=2026-11-23T00:00:00Z&to=;", "/v1/audit-log?%ff=%zz&actor_id=" + strings.Repeat("a", 300), "/v1/audit-log/../audit-log", "?", "/v1/audit-log?action=%00'\""} {
		f.Add("GET", target, "", true)
		f.Add("GET", target, "X-API-Key: a\r\nX-API-Key: b\r\nX-Request-ID: \x80", false)
	}
	f.Fuzz(func(t *testing.T, method, target, header string, keyed bool) {
		store.tb = t
		if keyed {
			header = "X-API-Key: " + goodKey + "\r\nX-Tenant-ID: " + goodTenant + "\r\n" + header
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: x\r\n" + header + "\r\n\r\n")))
		if err != nil {
			return // net/http answers this one
		}
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		s.srv.Handler.ServeHTTP(deadlineRecorder{w}, r)
		checkSurface(t, r, w)
	})
}

// deadlineRecorder takes the deadlines that a connection does; an export is broken off where they cannot be set.
type deadlineRecorder struct{ *httptest.ResponseRecorder }

func (deadlineRecorder) SetWriteDeadline(time.Time) error { return nil }

func checkSurface(t *testing.T, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	h := w.Header()
	if w.Code >= 500 || h.Get("Cache-Control") != "no-store" || !validRequestID.MatchString(h.Get(headerRequestID)) || len(h.Values(headerRequestID)) != 1 {
		t.Fatalf("%q %q: %d %v %s", r.Method, r.RequestURI, w.Code, h, w.Body)
	}
	if (w.Code == 401) != (h.Get("WWW-Authenticate") != "") || (w.Code == 405) != (h.Get("Allow") != "") {
		t.Fatalf("%q %q: %d %v", r.Method, r.RequestURI, w.Code, h)
	}
	if r.Method == http.MethodHead {
		if w.Body.Len() > 0 {
			t.Fatalf("HEAD %q: a body: %s", r.RequestURI, w.Body)
		}
		return
	}
	if w.Code == http.StatusOK && h.Get("Content-Type") == "application/yaml" {
		return
	}
	if w.Code == http.StatusOK && strings.HasPrefix(r.URL.Path, "/v1/audit-log") && !ours(r) {
		t.Fatalf("%q %q with %v: %s", r.Method, r.RequestURI, r.Header, w.Body)
	}
	if w.Code == http.StatusOK && r.URL.Path == "/v1/audit-log/export" {
		return // its formats have tests of their own
	}
	var body struct {
		Code, Message string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || h.Get("Content-Type") != "application/json" {
		t.Fatalf("%q %q: %d %v %s", r.Method, r.RequestURI, w.Code, h, w.Body)
	}
	if failed := w.Code != http.StatusOK; failed != (body.Code != "" && body.Message != "") {
		t.Fatalf("%q %q: %d %s", r.Method, r.RequestURI, w.Code, w.Body)
	}
}

func ours(r *http.Request) bool {
	return r.Header.Get(headerKey) == goodKey && strings.EqualFold(r.Header.Get(headerTenant), goodTenant)
}
