package app

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metric is the value of a gauge or counter of a service of the rig, of all its series together, or how often a histogram was observed.
func (r *rig) metric(t *testing.T, s *Service, name string) float64 {
	t.Helper()
	sum, there := r.series(t, s, name, "")
	if !there {
		t.Fatalf("no metric %s", name)
	}
	return sum
}

// series is metric of the series with a label of that value alone, of all when it is empty; there says whether there is any.
func (r *rig) series(t *testing.T, s *Service, name, value string) (sum float64, there bool) {
	t.Helper()
	reg, _ := r.metrics.Load(s)
	families, err := reg.(prometheus.Gatherer).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := value == ""
			for _, l := range m.GetLabel() {
				has = has || l.GetValue() == value
			}
			if has {
				sum, there = sum+m.GetGauge().GetValue()+m.GetCounter().GetValue()+float64(m.GetHistogram().GetSampleCount()), true
			}
		}
	}
	return sum, there
}

// Ensure the lag of several ingesters adds up to what is not in the table, in messages, and that its age is known: of what was read, of what fills
// memory up, and of partitions that are taken over while ClickHouse is away.
func TestLag(t *testing.T) {
	r := newRig(t)
	small := func(c *Config) { c.Memory = 1 << 20 } // most is not read
	first, stopFirst := r.serve(t, small)
	second, _ := r.serve(t, small)
	waitDriven(t, first, 8, 10*time.Second)
	waitDriven(t, second, 8, 10*time.Second)
	wantLag := func(what string, messages float64, services ...*Service) {
		t.Helper()
		var sum, oldest float64
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			sum, oldest = 0, 0
			for _, s := range services {
				own := r.metric(t, s, "audit_ingester_lag_messages")
				if len(services) > 1 && own == messages && messages > 0 {
					own = -1 // it counts the other's too
				}
				sum += own
				oldest = max(oldest, r.metric(t, s, "audit_ingester_lag_seconds"))
			}
			if sum == messages && (oldest > 0) == (messages > 0) {
				return
			}
		}
		t.Fatalf("%s: %v messages, the oldest of %v s; want %v", what, sum, oldest, messages)
	}
	wantLag("at rest", 0, first, second)
	if err := r.StopClickHouse(); err != nil {
		t.Fatal(err)
	}
	const n = 10_000
	r.publish(t, n, 100)
	wantLag("shared", n, first, second)
	stopFirst()
	wantLag("taken over", n, second)
	if err := r.StartClickHouse(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantRows(t, n, 30*time.Second)
	wantLag("caught up", 0, second)
}
