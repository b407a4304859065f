package policy

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/prometheus/client_golang/prometheus"
)

// Unreadable says how to answer a request whose filters leave only rows that the key may not see.
type Unreadable int

const (
	// UnreadableForbid answers with a denial and the notices of the policies behind it. The caller learns that a rule exists.
	UnreadableForbid Unreadable = iota
	// UnreadableEmpty answers with an empty page.
	UnreadableEmpty
)

// Engine decides requests by the policies in force. It is safe for use by several goroutines.
type Engine struct {
	// OnUnreadable may be set before the first request.
	OnUnreadable Unreadable

	dir     string
	model   *model
	log     *slog.Logger
	metrics *metrics
	current atomic.Pointer[snapshot]
	refused atomic.Pointer[time.Time] // since when the directory holds what was refused
}

// Open loads the policies of dir, or the built-in ones when dir is empty. The built-in guardrails are in force either way. A directory
// that Check finds fault with is refused, with everything that is wrong in one *LoadError. reg may be nil.
func Open(dir string, log *slog.Logger, reg prometheus.Registerer) (*Engine, error) {
	m, err := loadModel()
	if err != nil {
		return nil, err
	}
	mt, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	e := &Engine{dir: dir, model: m, log: log, metrics: mt}
	s, problems := load(m, e.source())
	if len(problems) > 0 {
		return nil, &LoadError{Dir: dir, Problems: problems}
	}
	e.swap(s)
	return e, nil
}

// source is where the policies come from; nil stands for the built-in ones.
func (e *Engine) source() fs.FS { return dirFS(e.dir) }

func dirFS(dir string) fs.FS {
	if dir == "" {
		return nil
	}
	return os.DirFS(dir)
}

func (e *Engine) swap(s *snapshot) {
	e.current.Store(s)
	e.refused.Store(nil)
	e.metrics.loaded(s)
	e.log.Info("policies loaded", slog.String("dir", e.dir), slog.String("digest", s.digest), slog.Int("policies", s.count()),
		slog.Int("tenants", len(s.tenants)))
}

// Digest identifies the policies in force.
func (e *Engine) Digest() string { return e.current.Load().digest }

// Note tells an operator which policies are in force, and since when newer ones are refused.
func (e *Engine) Note() string {
	note := "digest " + e.Digest()
	if at := e.refused.Load(); at != nil {
		note += ", refusing changes of the directory since " + at.UTC().Format(time.RFC3339)
	}
	return note
}

// Decide answers one request: the gate, then the row filter. It never panics and denies whatever it cannot decide.
func (e *Engine) Decide(ctx context.Context, r Request) (d Decision) {
	defer func() {
		if v := recover(); v != nil {
			e.panicked(v)
			d = Decision{Code: CodeEvaluationFailed}
		}
		e.count(r.Action, &d)
	}()
	return e.evaluate(ctx, &r).decision
}

// evaluation is a decision and how it came about.
type evaluation struct {
	decision Decision
	gate     ruleSet
	diag     cedar.Diagnostic
	plan     *plan // nil when the gate denied
}

func (e *Engine) evaluate(ctx context.Context, r *Request) evaluation {
	if ctx.Err() != nil || (r.Action != QueryLog && r.Action != ExportLog) {
		return evaluation{decision: Decision{Code: CodeEvaluationFailed}}
	}
	if r.Now.IsZero() {
		r.Now = time.Now()
	}
	s := e.current.Load()
	ents := newEntities(s.model, r)
	ev := evaluation{gate: s.rules(r.Principal.Tenant, r.Action)}
	ev.decision, ev.diag = e.gate(ev.gate, ents, r)
	if !ev.decision.Allowed {
		return ev
	}
	ev.plan = planRows(s.rules(r.Principal.Tenant, readEvent), ents, r)
	e.notePlan(ev.plan)
	e.filterRows(&ev, r)
	return ev
}

// filterRows gives the decision its scope, or turns it into a denial when the caller's filters leave nothing to see.
func (e *Engine) filterRows(ev *evaluation, r *Request) {
	if broken := ev.plan.broken(); len(broken) > 0 {
		ev.decision = Decision{Code: CodeEvaluationFailed, Policies: ids(broken)}
		return
	}
	u := ev.plan.unreadable(&r.Filter)
	if u.nothing && e.OnUnreadable == UnreadableForbid {
		ev.decision = denial(u.forbids)
		return
	}
	ev.decision.Scope = Scope{tenant: r.Tenant, empty: u.nothing, state: &scopeState{plan: ev.plan, engine: e}}
}

// notePlan counts a row filter and says loudly what is wrong with its policies.
func (e *Engine) notePlan(p *plan) {
	kind := "some"
	switch {
	case p.body.IsTrue():
		kind = "all"
	case p.body.IsFalse():
		kind = "none"
	}
	e.metrics.plans.WithLabelValues(kind).Inc()
	if n := p.body.Size(); n > maxPlanSize {
		e.log.Error("the policies make a row filter that is too long", slog.Int("terms", n), slog.Int("limit", maxPlanSize))
	}
	for i := range p.parts {
		e.notePart(&p.parts[i])
	}
}

func (e *Engine) notePart(p *part) {
	if p.failure != nil {
		e.metrics.failed(p.rule.id)
		e.log.Error("a policy could not be evaluated for rows", slog.String("policy", p.rule.id), slog.String("error", p.failure.Error()))
	}
	for _, g := range p.gaps {
		e.metrics.gaps.Inc()
		e.log.Error("a policy has no SQL for this request: rows may be missing", slog.String("policy", p.rule.id), slog.String("what", g.what))
	}
}

func (e *Engine) count(a Action, d *Decision) {
	if !a.known() {
		a = "unknown"
	}
	result := "allow"
	if !d.Allowed {
		result = d.Code
	}
	e.metrics.decisions.WithLabelValues(string(a), result).Inc()
}

// panicked reports a failure of the engine or of Cedar, which has been answered with a denial.
func (e *Engine) panicked(v any) {
	e.metrics.failed(layerEngine)
	e.log.Error("policy evaluation panicked", slog.String("panic", fmt.Sprint(v)), slog.String("stack", string(debug.Stack())))
}
