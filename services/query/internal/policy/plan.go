package policy

import (
	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/ast"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	xeval "github.com/cedar-policy/cedar-go/x/exp/eval"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy/predicate"
)

// plan is what the policies for ReadEvent come down to for one request.
type plan struct {
	tenant  uuid.UUID
	ents    *entities
	context cedar.Record
	parts   []part
	// dropped are the policies that cannot apply to any row of this request.
	dropped []string
	// body is the condition beside the tenant's: rows that are permitted and not forbidden.
	body *predicate.Cond
}

// part is one policy as far as it still depends on the row.
type part struct {
	rule     *rule
	residual *xast.Policy
	rail     rail
	gaps     []gap
	failure  error
}

// undecided says that a forbid holds for no row and is known not to hold for none either: it failed, or has no translation.
func (p *part) undecided() bool { return p.rule.forbids() && p.rail.t.IsFalse() && p.rail.n.IsFalse() }

// planRows evaluates the policies for ReadEvent with everything known but the row. The row is unknown as a whole: a stand-in entity with
// unknown attributes would let partial evaluation decide `resource == X` or a missing attribute, and drop a forbid that is alive.
func planRows(rules ruleSet, ents *entities, r *Request) *plan {
	p := &plan{tenant: r.Tenant, ents: ents, context: cedar.NewRecord(rowContext(r.Now, r.SourceIP))}
	env := xeval.Env{
		Entities:  ents,
		Principal: ents.key.UID,
		Action:    readEvent.uid(),
		Resource:  xeval.Variable("resource"),
		Context:   p.context,
	}
	for _, ru := range rules.each() {
		residual, keep := xeval.PartialPolicy(env, (*xast.Policy)(ru.policy.AST()))
		if !keep {
			p.dropped = append(p.dropped, ru.id)
			continue
		}
		tr := &translator{patterns: ru.patterns}
		rail := tr.bool(xeval.PolicyToNode(residual).AsIsNode())
		p.parts = append(p.parts, part{rule: ru, residual: residual, rail: rail, gaps: tr.gaps, failure: tr.failure})
	}
	if p.body = p.combine(); p.body.Size() <= maxPlanSize {
		p.body = p.body.Fold(predicate.Known{Values: map[predicate.Column][]string{predicate.TenantID: {r.Tenant.String()}}})
	}
	return p
}

// combine is "some permit holds, and every forbid is known not to": a forbid that fails to evaluate hides the row.
func (p *plan) combine() *predicate.Cond {
	var permits, forbids []*predicate.Cond
	for i := range p.parts {
		if p.parts[i].rule.forbids() {
			forbids = append(forbids, p.parts[i].rail.n)
		} else {
			permits = append(permits, p.parts[i].rail.t)
		}
	}
	return predicate.And(append([]*predicate.Cond{predicate.Or(permits...)}, forbids...)...)
}

// maxPlanSize is the most terms of one condition: at most some 200 KB of SQL, where ClickHouse takes 256 KiB.
const maxPlanSize = 3000

// broken are the policies because of which no condition can be given: forbids that cannot be evaluated for any row, or all of them
// when the condition would be too long.
func (p *plan) broken() []*rule {
	var out []*rule
	for i := range p.parts {
		if p.parts[i].undecided() || p.body.Size() > maxPlanSize {
			out = append(out, p.parts[i].rule)
		}
	}
	return out
}

// cond is the whole condition: the tenant's own term is never left to a policy.
func (p *plan) cond() *predicate.Cond {
	return predicate.And(predicate.Equal(predicate.TenantID, p.tenant.String()), p.body)
}

// where is the condition as SQL. Should nothing be visible, the tenant's term is there all the same.
func (p *plan) where() (string, map[string]any) {
	tenant := predicate.Equal(predicate.TenantID, p.tenant.String())
	if p.body.IsFalse() {
		text, args := predicate.SQL(tenant, paramPrefix)
		return text + " AND false", args
	}
	return predicate.SQL(p.cond(), paramPrefix)
}

// paramPrefix keeps the parameters of the condition apart from those of filters.
const paramPrefix = "az"

// compiled is what is left of the policies, ready to decide single rows. Beside a permit that holds for every row no other permit can
// change a decision, and Cedar would evaluate them all.
func (p *plan) compiled() ruleSet {
	var out []*rule
	permitted := false
	for i := range p.parts {
		if p.parts[i].unconditional() {
			permitted = true
			out = append(out, p.parts[i].compile())
			break
		}
	}
	for i := range p.parts {
		if pt := &p.parts[i]; pt.rule.forbids() || !permitted {
			out = append(out, pt.compile())
		}
	}
	return ruleSet{out}
}

// unconditional says that nothing is left of a permit but the permission.
func (p *part) unconditional() bool {
	_, principal := p.residual.Principal.(xast.ScopeTypeAll)
	_, action := p.residual.Action.(xast.ScopeTypeAll)
	_, resource := p.residual.Resource.(xast.ScopeTypeAll)
	return !p.rule.forbids() && principal && action && resource && len(p.residual.Conditions) == 0
}

func (p *part) compile() *rule {
	c := *p.rule
	c.policy = cedar.NewPolicyFromAST((*ast.Policy)(p.residual))
	return &c
}

// authorize decides one row with Cedar and the rules given.
func (p *plan) authorize(rules ruleSet, e *audit.Event) bool {
	ent := p.ents.eventEntity(e)
	decision, diag := cedar.Authorize(rules, p.ents.withEvent(ent), cedar.Request{
		Principal: p.ents.key.UID,
		Action:    readEvent.uid(),
		Resource:  ent.UID,
		Context:   p.context,
	})
	return decision == cedar.Allow && !forbidFailed(rules, diag)
}
