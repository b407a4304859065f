package verify_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"example.com/auditlog/services/ingester/internal/verify"
)

func all() []int { return []int{0, 1, 2, 3} }

// Ensure a running service sees new batches at once, and old ones within a round, without reading everything each time.
func TestCheckerIncremental(t *testing.T) {
	f := setup(t)
	f.Fill(t, 90) // 5 batches in each of 3 partitions
	c := verify.NewChecker(f.System, all, verify.CheckerOptions{RoundBatches: 4}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	check := func(batches uint64) *verify.Report {
		t.Helper()
		r, err := c.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Batches != batches {
			t.Fatalf("%d batches checked, want %d: %s", r.Batches, batches, text(t, r))
		}
		return r
	}
	check(3 + 6) // the newest one, and two older ones, of each of three partitions
	check(6)     // nothing new
	f.Fill(t, 21)
	f.Exec(t, "ALTER TABLE event_log DELETE WHERE stream_seq = 91 SETTINGS mutations_sync = 1")
	if r := check(3 + 6); r.Counts[verify.Missing] == 0 {
		t.Errorf("a new row is gone: %s", text(t, r))
	}
	f.Exec(t, "ALTER TABLE event_log DELETE WHERE stream_seq = 1 SETTINGS mutations_sync = 1")
	found := uint64(0)
	for range 3 { // six batches a partition, two at a time
		r, err := c.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.Findings {
			if x.Seq == 1 {
				found++
			}
		}
	}
	if found != 1 {
		t.Errorf("an old row that is gone was found %d times in a round, want once", found)
	}
}

// Ensure the metrics say what the checks found, and that Run ends with its context.
func TestCheckerMetrics(t *testing.T) {
	f := setup(t)
	f.Fill(t, 30)
	reg := prometheus.NewRegistry()
	c := verify.NewChecker(f.System, all, verify.CheckerOptions{Every: 10 * time.Millisecond}, reg, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	wait := func(what string, ok func(map[string]float64) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(gather(t, reg)); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, gather(t, reg))
			}
		}
	}
	wait("agreement", func(m map[string]float64) bool {
		return m["audit_verify_last_ok_timestamp_seconds"] > 0 && m["audit_verify_batches_total"] > 0 && m["audit_verify_findings_total"] == 0
	})
	f.Exec(t, "TRUNCATE TABLE event_log")
	wait("findings", func(m map[string]float64) bool { return m["audit_verify_findings_total"] >= 30 })
	f.Exec(t, "RENAME TABLE event_log TO away")
	wait("failures", func(m map[string]float64) bool { return m["audit_verify_failures_total"] > 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

// gather sums each metric over its labels.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			out[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}
