package policy

import (
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy/predicate"
)

// Scope is the rows of one tenant's log that one key may see. Only this package makes one; the zero value selects nothing.
// It is tied to the policies as they were when the request was decided, and safe for use by several goroutines.
type Scope struct {
	tenant uuid.UUID
	empty  bool
	state  *scopeState
}

// scopeState is what copies of a Scope share.
type scopeState struct {
	plan   *plan
	engine *Engine

	once  sync.Once
	rules ruleSet // what is left of the policies, compiled at the first row
	memo  *memo

	sqlOnce sync.Once
	sql     string
	args    map[string]any
}

// Tenant is whose log the scope is of; the zero UUID when it selects nothing at all.
func (s Scope) Tenant() uuid.UUID { return s.tenant }

// Empty says that no row can match, the filters of the request included: no query need be sent.
func (s Scope) Empty() bool { return s.state == nil || s.empty }

// Whole says that the scope is all of the tenant's log.
func (s Scope) Whole() bool { return s.state != nil && s.state.plan.body.IsTrue() }

// Needs is, by column, what every row of the scope has: one of the values. It is part of what Where says, as plain data for an index to use.
func (s Scope) Needs() map[predicate.Column][]string {
	if s.state == nil {
		return nil
	}
	return s.state.plan.body.Needs()
}

// Where is the scope as a ClickHouse condition on the columns of audit.event_log. Its parameters are named az0, az1, … and are strings as
// clickhouse.Named takes them; tenant_id = … is always among its terms. The filters of the request are not part of it. Do not change args.
func (s Scope) Where() (sql string, args map[string]any) {
	if s.state == nil {
		return "false", nil
	}
	st := s.state
	st.sqlOnce.Do(func() { st.sql, st.args = st.plan.where() })
	return st.sql, st.args
}

// Permits decides one row again, with Cedar itself and what is left of the policies: the second fence behind Where. Rows that agree in all that
// the policies look at are decided once. For a row that Where
// selected it must be true; a false is counted in audit_policy_recheck_dropped_total, which must stay 0, and the row must not be shown.
func (s Scope) Permits(e *audit.Event) (ok bool) {
	if s.state == nil || e == nil {
		return false
	}
	defer func() {
		if v := recover(); v != nil {
			s.state.engine.panicked(v)
			ok = false
		}
		if !ok {
			s.state.engine.metrics.dropped.Inc()
		}
	}()
	return s.state.permits(e)
}

func (st *scopeState) permits(e *audit.Event) bool {
	st.once.Do(func() {
		st.rules = st.plan.compiled()
		st.memo = newMemo(st.rules)
	})
	return st.memo.decide(e, st.decide)
}

// decide asks Cedar.
func (st *scopeState) decide(e *audit.Event) bool { return st.plan.authorize(st.rules, e) }

// forbidFailed says whether a forbid could not be evaluated: Cedar passes over it, we do not.
func forbidFailed(rules ruleSet, diag cedar.Diagnostic) bool {
	for _, e := range diag.Errors {
		if r := rules.find(string(e.PolicyID)); r == nil || r.forbids() {
			return true
		}
	}
	return false
}
