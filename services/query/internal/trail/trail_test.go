package trail

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/query/internal/audit"
)

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

var (
	tenant = uuid.MustParse("11111111-2222-4333-8444-555555555555")
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, cfg Config) *Recorder {
	t.Helper()
	nc, err := nats.Connect(shared.NATSURL())
	must(t, err)
	t.Cleanup(nc.Close)
	r, err := Open(nc, cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	must(t, err)
	t.Cleanup(r.Close)
	return r
}

// Ensure a full queue loses events, counts them, and never makes a read wait.
func TestFullQueueIsCounted(t *testing.T) {
	r := open(t, Config{On: true})
	began := time.Now()
	for i := range QueueSize + 3 {
		must(t, r.Record(t.Context(), Read{Tenant: tenant, KeyID: "k", EventID: uuid.New(), Limit: i}))
	}
	if n := testutil.ToFloat64(r.results.WithLabelValues(resultDropped)); n != 3 {
		t.Errorf("%v lost, want 3", n)
	}
	if n := r.waiting.Load(); n != QueueSize {
		t.Errorf("%d wait, want %d", n, QueueSize)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("took %s", took)
	}
	// What cannot be stored until the service ends is counted too: there is no stream.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, r.Run(ctx))
	if n := testutil.ToFloat64(r.results.WithLabelValues(resultDropped)); n != QueueSize+3 || r.waiting.Load() != 0 {
		t.Errorf("%v lost in the end and %d wait, want %d and 0", n, r.waiting.Load(), QueueSize+3)
	}
}

const patience = 10 * time.Second

// Ensure a key whose requests are denied without end cannot fill the log.
func TestDenialsAreBounded(t *testing.T) {
	r := open(t, Config{On: true})
	for range 1000 {
		must(t, r.Record(t.Context(), Read{Tenant: tenant, KeyID: "k", Denied: true}))
	}
	must(t, r.Record(t.Context(), Read{Tenant: tenant, KeyID: "other", Denied: true}))
	if n := len(r.queue); n < DenialsPerSecond+1 || n > 500 {
		t.Errorf("%d events of 1001 denials", n)
	}
	if n := testutil.ToFloat64(r.results.WithLabelValues(resultSuppressed)); int(n) != 1001-len(r.queue) {
		t.Errorf("%v suppressed, %d queued", n, len(r.queue))
	}
}

// Ensure a walk is recorded once for a key and its filters, and again by whoever takes it up with a cursor unseen.
func TestWalksAreRecordedOnce(t *testing.T) {
	r := open(t, Config{On: true})
	first := Read{Tenant: tenant, KeyID: "a", Route: "/v1/audit-log"}
	next := first
	next.Continued = true
	stranger, filtered := next, next
	stranger.KeyID = "b"
	filtered.Filter = audit.Filter{Actions: []string{"x"}}
	for i, step := range []struct {
		read Read
		want int
	}{{first, 1}, {next, 1}, {next, 1}, {stranger, 2}, {stranger, 2}, {filtered, 3}, {first, 4}, {next, 4}} {
		must(t, r.Record(t.Context(), step.read))
		if len(r.queue) != step.want {
			t.Errorf("step %d: %d events, want %d", i, len(r.queue), step.want)
		}
	}
}

// Ensure walks are forgotten, but not while they go on, and that there is a bound to them.
func TestWalksAreForgotten(t *testing.T) {
	w := newWalks()
	one := walkID{1}
	for i, step := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {50 * time.Minute, true}, {time.Hour + time.Minute, true}, {2 * time.Hour, true}, {3 * time.Hour, true}, {6 * time.Hour, false}} {
		if got := w.seen(one, noon.Add(step.after)); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	for i := range 3 * maxWalks {
		w.seen(walkID{2, byte(i), byte(i >> 8), byte(i >> 16)}, noon.Add(6*time.Hour))
	}
	if n := len(w.now) + len(w.old); n > maxWalks {
		t.Errorf("%d walks are remembered", n)
	}
}

// Ensure the event of any read obeys the rules of events, whatever was asked, and stays small.
func TestEventsAreValid(t *testing.T) {
	long := make([]string, 20)
	for i := range long {
		long[i] = fmt.Sprint(i) + strings.Repeat("\x01", 250)
	}
	reads := map[string]Read{
		"Plain": {Tenant: tenant, KeyID: "abc", KeyName: `"n\`, RequestID: "r", Limit: 50, Returned: 7, Route: "/v1/audit-log", Source: netip.MustParseAddr("::1")},
		"Long":  {Tenant: tenant, KeyID: "abc", Filter: audit.Filter{ActorIDs: long, Actions: long, ResourceIDs: long, ResourceTypes: long, From: noon, To: noon}},
		"Event": {Tenant: tenant, KeyID: "abc", EventID: uuid.New(), Denied: true, Code: "forbidden", Policies: []string{"p"}},
	}
	for name, read := range reads {
		e, err := read.event(time.Now())
		must(t, err)
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(e.Metadata) > 2*maxFilterBytes {
			t.Errorf("%s: %d bytes", name, len(e.Metadata))
		}
		var m metadata
		must(t, json.Unmarshal(e.Metadata, &m))
		if (m.FilterHash != "") != (name == "Long") || (m.EventID != "") != (name == "Event") || (m.Decision == "deny") != read.Denied {
			t.Errorf("%s: %s", name, e.Metadata)
		}
	}
}
