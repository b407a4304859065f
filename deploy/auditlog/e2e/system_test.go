// Package e2e tests the whole system on real engines: what is published is what is read.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/service/ops"
	ingester "example.com/auditlog/services/ingester/app"
	query "example.com/auditlog/services/query/app"
)

// patience bounds every wait for something that should take milliseconds.
const patience = 60 * time.Second

// system is a running stack with both services in this process.
type system struct {
	*stack.Stack
	nc      *nats.Conn
	api     string
	metrics *prometheus.Registry // of both services
	checks  []ops.Check
}

func startSystem(t *testing.T) *system { return startSystemWith(t, nil) }

// startSystemWith is startSystem with more settings, as NAME=value, and on a stack with other options.
func startSystemWith(t *testing.T, extra []string, opts ...stacktest.Option) *system {
	t.Helper()
	s := &system{Stack: stacktest.Start(t, opts...), metrics: prometheus.NewRegistry()}
	env := map[string]string{
		"AUDIT_NATS_URL": s.NATSURL(), "AUDIT_CLICKHOUSE_URL": s.ClickHouseURL(),
		"AUDIT_HTTP_ADDR": "127.0.0.1:0", "AUDIT_RATE_LIMIT": "0",
	}
	for _, kv := range extra {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	getenv := func(name string) string { return env[name] }
	log := slog.New(slog.NewJSONHandler(&testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	reg := s.metrics

	ingCfg, err := ingester.ConfigFromEnv(getenv)
	must(t, err)
	ing, err := ingester.New(t.Context(), ingCfg, ingester.Deps{Log: log, Registerer: reg})
	must(t, err)
	background(t, ing.Run)

	qCfg, err := query.ConfigFromEnv(getenv)
	must(t, err)
	q, err := query.New(t.Context(), qCfg, query.Deps{Log: log, Registerer: reg})
	must(t, err)
	background(t, q.Run)
	s.checks = append(ops.Prefixed("ingester", ing.Checks()), ops.Prefixed("query", q.Checks())...)
	waitReady(t, s.checks)
	s.api = "http://" + q.Addr() + "/v1/audit-log"

	s.nc, err = nats.Connect(s.NATSURL())
	must(t, err)
	t.Cleanup(s.nc.Close)
	return s
}

// waitReady returns when every check passes, migrations included.
func waitReady(t *testing.T, checks []ops.Check) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for _, c := range checks {
		for err := c.Run(t.Context()); err != nil; err = c.Run(t.Context()) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", c.Name, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// background runs f until the test ends and fails the test if f did.
func background(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("service stopped with an error: %v", err)
			}
		case <-time.After(patience):
			t.Error("service does not stop")
		}
	})
}

// sql is a connection to the event table's server.
func (s *system) sql(t *testing.T) driver.Conn {
	t.Helper()
	opts, err := chgo.ParseDSN(s.ClickHouseURL())
	must(t, err)
	db, err := chgo.Open(opts)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (s *system) key(t *testing.T, tenant uuid.UUID) string {
	t.Helper()
	key, err := query.CreateKey(t.Context(), s.nc, query.KeySpec{Tenant: tenant, Name: "e2e"})
	must(t, err)
	return key.Key
}

// item is an event as the API gives it.
type item struct {
	ID           uuid.UUID       `json:"id"`
	ActorID      string          `json:"actor_id"`
	ActorType    string          `json:"actor_type"`
	Action       string          `json:"action"`
	ResourceType string          `json:"resource_type"`
	ResourceID   string          `json:"resource_id"`
	Metadata     json.RawMessage `json:"metadata"`
	Reasoning    *string         `json:"reasoning"`
	CreatedAt    string          `json:"created_at"`
}

type page struct {
	Data       []item  `json:"data"`
	NextCursor *string `json:"next_cursor"`
	HasMore    bool    `json:"has_more"`
}

// get reads one page. A key that the service has not heard of yet is tried again: keys follow within a second.
func (s *system) get(t *testing.T, key string, tenant uuid.UUID, params url.Values) page {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		status, body := s.request(t, key, tenant, params)
		if status == http.StatusUnauthorized && time.Since(began) < 5*time.Second {
			continue
		}
		if status != http.StatusOK {
			t.Fatalf("GET ?%s: %d %s", params.Encode(), status, body)
		}
		var p page
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		must(t, dec.Decode(&p))
		if p.HasMore != (p.NextCursor != nil) || (p.HasMore && len(p.Data) == 0) {
			t.Fatalf("has_more %v, next_cursor %v, %d events", p.HasMore, p.NextCursor, len(p.Data))
		}
		return p
	}
}

func (s *system) request(t *testing.T, key string, tenant uuid.UUID, params url.Values) (int, []byte) {
	t.Helper()
	return s.ask(t, key, tenant, "?"+params.Encode())
}

// ask asks for what is below the list of events.
func (s *system) ask(t *testing.T, key string, tenant uuid.UUID, below string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.api+below, nil)
	must(t, err)
	req.Header.Set("X-API-Key", key)
	req.Header.Set("X-Tenant-ID", tenant.String())
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, body
}

// walk reads every page and returns the events in the order they came.
func (s *system) walk(t *testing.T, key string, tenant uuid.UUID, params url.Values) []item {
	t.Helper()
	var all []item
	for {
		p := s.get(t, key, tenant, params)
		all = append(all, p.Data...)
		if !p.HasMore {
			return all
		}
		params.Set("cursor", *p.NextCursor)
	}
}

// walkUntil walks again until n events show, or fails.
func (s *system) walkUntil(t *testing.T, key string, tenant uuid.UUID, limit, n int) []item {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		all := s.walk(t, key, tenant, url.Values{"limit": {fmt.Sprint(limit)}})
		if len(all) >= n {
			return all
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d events of tenant %s show after %s", len(all), n, tenant, patience)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type testWriter struct{ t *testing.T }

func (w *testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}
