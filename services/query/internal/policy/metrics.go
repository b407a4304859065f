package policy

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the engine's. Every name begins with audit_policy_.
type metrics struct {
	decisions *prometheus.CounterVec
	errors    *prometheus.CounterVec
	plans     *prometheus.CounterVec
	gaps      prometheus.Counter
	dropped   prometheus.Counter
	reloads   *prometheus.CounterVec
	stale     prometheus.Gauge
	info      *prometheus.GaugeVec
	rules     prometheus.Gauge
}

// newMetrics makes the metrics and registers them with reg, unless that is nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "audit_policy_" + name, Help: help}
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Name: "audit_policy_" + name, Help: help}
	}
	m := &metrics{
		decisions: prometheus.NewCounterVec(counter("decisions_total", "Requests decided, by action and result (allow, or the code of the denial)."), []string{"action", "result"}),
		errors:    prometheus.NewCounterVec(counter("errors_total", "Policies that could not be evaluated, by layer; engine stands for a failure of the engine itself. The log names the policy."), []string{"layer"}),
		plans:     prometheus.NewCounterVec(counter("plans_total", "Row conditions built, by kind: all, none or some of the tenant's rows."), []string{"kind"}),
		gaps:      prometheus.NewCounter(counter("gaps_total", "Expressions met in a request that have no SQL: rows may be missing because of them.")),
		dropped:   prometheus.NewCounter(counter("recheck_dropped_total", "Rows that the SQL selected and the policies refused. Must stay 0.")),
		reloads:   prometheus.NewCounterVec(counter("reloads_total", "Attempts to load changed policies, by result."), []string{"result"}),
		stale:     prometheus.NewGauge(gauge("stale", "1 while the policy directory holds something that was refused and older policies are in force.")),
		info:      prometheus.NewGaugeVec(gauge("info", "The policies in force, by digest."), []string{"digest"}),
		rules:     prometheus.NewGauge(gauge("rules", "Policies in force, all layers together.")),
	}
	for _, layer := range []string{layerGuardrails, layerDefault, layerTenants, layerEngine} {
		m.errors.WithLabelValues(layer)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.decisions, m.errors, m.plans, m.gaps, m.dropped, m.reloads, m.stale, m.info, m.rules} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the policy metrics: %w", err)
		}
	}
	return m, nil
}

// layerEngine stands for the engine where a layer is named.
const layerEngine = "engine"

// failed counts a policy that could not be evaluated by the layer its id begins with: a tenant's id must not become a label.
func (m *metrics) failed(policy string) {
	layer, _, _ := strings.Cut(policy, "/")
	m.errors.WithLabelValues(layer).Inc()
}

// loaded notes which policies are in force.
func (m *metrics) loaded(s *snapshot) {
	m.info.Reset()
	m.info.WithLabelValues(s.digest).Set(1)
	m.rules.Set(float64(s.count()))
	m.stale.Set(0)
}
