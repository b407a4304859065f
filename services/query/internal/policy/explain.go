package policy

import (
	"context"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/ast"
)

// Explanation is a decision with everything that led to it, for operators. It names policies and shows conditions: not for callers.
type Explanation struct {
	Allowed  bool     `json:"allowed"`
	Code     string   `json:"code,omitempty"`
	Notices  []string `json:"notices,omitempty"`
	Policies []string `json:"policies,omitempty"` // the determining ones
	// Digest identifies the policies in force, Layer says which one holds beside the guardrails: "default" or "tenants/<id>".
	Digest string `json:"digest"`
	Layer  string `json:"layer"`
	// Errors are the policies of the gate that could not be evaluated, with the reason.
	Errors []string `json:"errors,omitempty"`
	// Rows is what is left of each policy for single rows; Dropped are those that apply to none. Both are empty if the gate denied.
	Rows    []RowRule `json:"rows,omitempty"`
	Dropped []string  `json:"dropped,omitempty"`
	// SQL is the condition of the row filter and Args its parameters; empty if the gate denied.
	SQL  string            `json:"sql,omitempty"`
	Args map[string]string `json:"args,omitempty"`
}

// RowRule is one policy as far as it depends on the row.
type RowRule struct {
	Policy string `json:"policy"`
	// Cedar is what partial evaluation left of it, as text.
	Cedar string `json:"cedar"`
	// Gaps are the parts that have no SQL. A policy directory with such policies is refused, so there are none.
	Gaps []string `json:"gaps,omitempty"`
}

// Explain decides r as Decide would, without counting it, and shows how.
func (e *Engine) Explain(r Request) (x Explanation) {
	defer func() {
		if v := recover(); v != nil {
			e.panicked(v)
			x = Explanation{Code: CodeEvaluationFailed}
		}
	}()
	ev := e.evaluate(context.Background(), &r)
	d := &ev.decision
	x = Explanation{Allowed: d.Allowed, Code: d.Code, Notices: d.Notices, Policies: d.Policies, Digest: e.Digest(), Layer: layerDefault}
	if _, ok := e.current.Load().tenants[r.Principal.Tenant]; ok {
		x.Layer = layerTenants + "/" + r.Principal.Tenant.String()
	}
	for _, er := range ev.diag.Errors {
		x.Errors = append(x.Errors, string(er.PolicyID)+": "+er.Message)
	}
	if ev.plan != nil {
		x.rows(ev.plan)
	}
	return x
}

func (x *Explanation) rows(p *plan) {
	x.Dropped = p.dropped
	for i := range p.parts {
		pt := &p.parts[i]
		row := RowRule{Policy: pt.rule.id, Cedar: residualText(pt)}
		for _, g := range pt.gaps {
			row.Gaps = append(row.Gaps, g.what)
		}
		x.Rows = append(x.Rows, row)
	}
	text, args := p.where()
	x.SQL, x.Args = text, make(map[string]string, len(args))
	for name, v := range args {
		x.Args[name], _ = v.(string)
	}
}

// residualText is the residual without its annotations.
func residualText(pt *part) string {
	c := *pt.residual
	c.Annotations = nil
	return strings.TrimSpace(string(cedar.NewPolicyFromAST((*ast.Policy)(&c)).MarshalCedar()))
}
