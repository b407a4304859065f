package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/ops"
	ingester "example.com/auditlog/services/ingester/app"
)

// serveOps runs an ops server and returns its URL.
func serveOps(t *testing.T, reg *prometheus.Registry, checks []ops.Check) string {
	t.Helper()
	server, err := ops.Listen(t.Context(), "127.0.0.1:0", reg, checks...)
	must(t, err)
	background(t, server.Run)
	return "http://" + server.Addr()
}

// traffic uses every part of the system once: events, a dead letter, a page, an event, a feed, an export, a denial, a miss.
func (s *system) traffic(t *testing.T) uuid.UUID {
	t.Helper()
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	tenant := uuid.New()
	for i := range 3 {
		must(t, pub.Publish(t.Context(), someEvent(tenant, i)))
	}
	js, err := s.nc.JetStream()
	must(t, err)
	_, err = js.Publish(events.Subject(tenant), []byte("no event"), nats.MsgId(uuid.NewString()))
	must(t, err)
	key := s.key(t, tenant)
	first := s.walkUntil(t, key, tenant, 2, 3)[0]
	for path, want := range map[string]int{
		"": 200, "/" + first.ID.String(): 200, "/" + uuid.NewString(): 404, "/feed": 200, "/export": 200, "?limit=none": 400, "/there/is/nothing": 404,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.api+path, nil)
		must(t, err)
		req.Header.Set("X-API-Key", key)
		req.Header.Set("X-Tenant-ID", tenant.String())
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	return tenant
}

// Ensure metrics keep Prometheus's conventions, move when something happens, and never carry a tenant.
func TestMetricsKeepTheConventions(t *testing.T) {
	s := startSystem(t)
	tenant := s.traffic(t)
	s.waitFor(t, "the dead letter is counted", func() bool { return s.metric(t, "audit_ingester_dead_letters_total", nil) == 1 })
	problems, err := testutil.GatherAndLint(s.metrics)
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, c := range []struct {
		name   string
		labels map[string]string
		least  float64
	}{
		{"audit_ingester_rows_total", nil, 3},
		{"audit_ingester_insert_duration_seconds", nil, 1},
		{"audit_query_http_requests_total", map[string]string{"route": "/v1/audit-log", "status": "200"}, 2},
		{"audit_query_http_requests_total", map[string]string{"route": "none", "status": "404", "code": "not_found"}, 1},
		{"audit_query_http_requests_total", map[string]string{"route": "/v1/audit-log/:id", "status": "404"}, 1},
		{"audit_query_http_request_duration_seconds", map[string]string{"route": "/v1/audit-log/export"}, 1},
		{"audit_query_store_query_duration_seconds", map[string]string{"kind": "page"}, 2},
		{"audit_query_store_query_duration_seconds", map[string]string{"kind": "event"}, 2},
		{"audit_query_store_query_duration_seconds", map[string]string{"kind": "feed"}, 1},
		{"audit_query_store_query_duration_seconds", map[string]string{"kind": "export"}, 1},
		{"audit_query_store_rows_read_total", map[string]string{"kind": "page"}, 3},
		{"audit_query_store_bytes_read_total", map[string]string{"kind": "export"}, 100},
		{"audit_query_store_rows_returned_total", map[string]string{"kind": "export"}, 3},
		{"audit_query_store_breaker_state", map[string]string{"state": "closed"}, 1},
		{"audit_query_slots", nil, 1},
		{"audit_query_keys", nil, 1},
		{"audit_query_rate_limited_keys", nil, 0},
		{"audit_policy_decisions_total", map[string]string{"action": "QueryLog", "result": "allow"}, 2},
		{"audit_stream_messages", nil, 0},
	} {
		if got := s.metric(t, c.name, c.labels); got < c.least {
			t.Errorf("%s%v is %v, want at least %v", c.name, c.labels, got, c.least)
		}
	}
	families, err := s.metrics.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.Contains(l.GetValue(), tenant.String()) || strings.Contains(l.GetName(), "tenant") {
					t.Errorf("%s has the label %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
}

// Ensure a scrape of a running service, nothing of which has gone wrong yet, has a value for all that its operators were promised to see.
func TestScrapeHasWhatOperatorsNeed(t *testing.T) {
	s := startSystem(t)
	s.traffic(t)
	at := serveOps(t, s.metrics, s.checks)
	waitFailing(t, at)
	text := s.scrape(t, at)
	for need, series := range map[string]string{
		"lag in messages":            "audit_ingester_lag_messages",
		"lag in seconds":             "audit_ingester_lag_seconds",
		"batch size":                 "audit_ingester_batch_events_count",
		"insert time":                "audit_ingester_insert_duration_seconds_count",
		"redeliveries, recovery":     `audit_ingester_redeliveries_total{why="recovery"}`,
		"redeliveries, reader":       `audit_ingester_redeliveries_total{why="reader"}`,
		"redeliveries, forgotten":    `audit_ingester_redeliveries_total{why="forgotten"}`,
		"skipped as already there":   "audit_ingester_rows_already_there_total",
		"messages skipped":           "audit_ingester_messages_skipped_total",
		"duplicates folded":          "audit_verify_folded_total",
		"dead letters":               "audit_ingester_dead_letters_total",
		"lease: assigned":            "audit_ingester_lease_partitions",
		"lease: valid":               "audit_ingester_lease_valid",
		"lease: lost":                "audit_ingester_partitions_lost_total",
		"whether events are stored":  "audit_stream_writable",
		"how full the stream is":     "audit_stream_fill_ratio",
		"when the log was verified":  "audit_verify_last_ok_timestamp_seconds",
		"whether a part is not well": `audit_ready{check="ingester-stream"}`,
	} {
		if !strings.Contains(text, "\n"+series+" ") {
			t.Errorf("%s: a scrape has no %s", need, series)
		}
	}
}

// metric is the sum over all series of a metric that have the labels; of a histogram, how many were observed. -1 stands for no series.
func (s *system) metric(t *testing.T, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	must(t, err)
	sum, found := 0.0, false
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			matching := 0
			for _, l := range m.GetLabel() {
				if labels[l.GetName()] == l.GetValue() {
					matching++
				}
			}
			if matching == len(labels) {
				found = true
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	if !found {
		return -1
	}
	return sum
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready  bool `json:"ready"`
	Checks []struct {
		Name, Error string
		OK          bool
		Since       *time.Time
	} `json:"checks"`
}

// failing are the names of the checks that fail, sorted. Each must say why and since when.
func (r *readiness) failing(t *testing.T) []string {
	t.Helper()
	names := []string{}
	for _, c := range r.Checks {
		if !c.OK {
			names = append(names, c.Name)
			if c.Error == "" || c.Since == nil || time.Since(*c.Since) < 0 {
				t.Errorf("%s fails: %q since %v", c.Name, c.Error, c.Since)
			}
		}
	}
	slices.Sort(names)
	return names
}

func askReady(t *testing.T, opsURL string) readiness {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, opsURL+"/readyz", nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	var r readiness
	must(t, json.NewDecoder(resp.Body).Decode(&r))
	if r.Ready != (resp.StatusCode == http.StatusOK) {
		t.Errorf("ready is %v with status %d", r.Ready, resp.StatusCode)
	}
	return r
}

// waitFailing waits until exactly these checks fail.
func waitFailing(t *testing.T, opsURL string, want ...string) readiness {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		r := askReady(t, opsURL)
		if got := r.failing(t); slices.Equal(got, want) || time.Now().After(deadline) {
			if !slices.Equal(got, want) {
				t.Fatalf("%q fail, want %q: %+v", got, want, r)
			}
			return r
		}
	}
}

// Ensure /readyz names what is away, on the real engines, keeps since when, and is ready again by itself.
func TestReadyzNamesWhatIsAway(t *testing.T) {
	s := startSystem(t)
	at := serveOps(t, s.metrics, s.checks)
	waitFailing(t, at)

	must(t, s.StopClickHouse())
	first := waitFailing(t, at, "ingester-clickhouse", "query-clickhouse")
	if again := waitFailing(t, at, "ingester-clickhouse", "query-clickhouse"); !again.Checks[1].Since.Equal(*first.Checks[1].Since) {
		t.Errorf("%s fails since %s, then since %s", first.Checks[1].Name, first.Checks[1].Since, again.Checks[1].Since)
	}
	must(t, s.StartClickHouse(t.Context()))
	waitFailing(t, at)

	must(t, s.StopNATS())
	// The heartbeat counts for some seconds, the copy of the keys a little longer.
	waitFailing(t, at, "ingester-nats", "ingester-partitions", "query-keys", "query-nats")
	must(t, s.StartNATS(t.Context()))
	waitFailing(t, at)
}

// Ensure an ingester whose database cannot be migrated yet says so, and that it is ready once it can.
func TestReadyzNamesTheSchema(t *testing.T) {
	s := stacktest.Start(t)
	must(t, s.StopClickHouse())
	env := map[string]string{"AUDIT_NATS_URL": s.NATSURL(), "AUDIT_CLICKHOUSE_URL": s.ClickHouseURL()}
	cfg, err := ingester.ConfigFromEnv(func(name string) string { return env[name] })
	must(t, err)
	reg := ops.NewRegistry()
	ing, err := ingester.New(t.Context(), cfg, ingester.Deps{Log: slog.New(slog.DiscardHandler), Registerer: reg})
	must(t, err)
	background(t, ing.Run)
	at := serveOps(t, reg, ing.Checks())
	r := waitFailing(t, at, "clickhouse", "partitions", "schema")
	if text := fmt.Sprintf("%+v", r); !strings.Contains(text, fmt.Sprint(s.ClickHousePort())) {
		t.Errorf("the address that does not answer is not named: %s", text)
	}
	must(t, s.StartClickHouse(t.Context()))
	waitFailing(t, at)
}

// Ensure the local stack tells the same of its parts, over HTTP, when its ClickHouse hangs.
func TestLocalStackReadyz(t *testing.T) {
	l := startLocal(t, localEnv(t, t.TempDir()))
	at := l.find(t, `operations +(http://[0-9.:]+)/readyz`)
	waitFailing(t, at)
	children := childrenOf(t, l.cmd.Process.Pid)
	for _, pid := range children {
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	waitFailing(t, at, "ingester-clickhouse", "query-clickhouse")
	for _, pid := range children {
		must(t, syscall.Kill(pid, syscall.SIGCONT))
	}
	waitFailing(t, at)
	must(t, l.stop(t, syscall.SIGTERM))
}
