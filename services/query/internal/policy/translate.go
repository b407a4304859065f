package policy

import (
	"fmt"

	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	xeval "github.com/cedar-policy/cedar-go/x/exp/eval"

	"example.com/auditlog/services/query/internal/policy/predicate"
)

// Limits of what is translated into one condition.
const (
	// maxInValues is the most values that one IN lists.
	maxInValues = 1000
	// maxRuleSize is the most nodes and values one policy may become: nested ifs over an optional attribute double with each level.
	maxRuleSize = 2000
)

// gap is an expression that has no translation, and what to write instead.
type gap struct{ what, fix string }

// translator turns what partial evaluation left of one policy into a condition on rows. While linting it reads policies as written, in
// which everything but the row counts as known.
type translator struct {
	lint     bool
	patterns patterns
	gaps     []gap
	// failure is why the policy cannot be evaluated for some row or any; nil if it can.
	failure error
}

// fails says whether partial evaluation put an error in the place of n, and remembers it.
func (tr *translator) fails(n xast.IsNode) bool {
	err, ok := xeval.ToPartialError(n)
	if ok {
		tr.failure = err
	}
	return ok
}

// gap notes an expression without translation and answers with the rail that selects no row either way.
func (tr *translator) gap(what, fix string, args ...any) rail {
	tr.gaps = append(tr.gaps, gap{what: fmt.Sprintf(what, args...), fix: fix})
	return none
}

// bool translates an expression of type Bool.
func (tr *translator) bool(n xast.IsNode) rail {
	r := tr.expression(n)
	if tr.lint && r.size() > maxRuleSize { // of a request, the plan as a whole is measured
		return tr.gap("an expression that becomes more than %d terms of SQL", "nest fewer if-then-else, or split the policy", maxRuleSize)
	}
	return r
}

func (tr *translator) expression(n xast.IsNode) rail {
	if tr.fails(n) {
		return none
	}
	if v, ok := n.(xast.NodeValue); ok {
		if b, ok := v.Value.(cedar.Boolean); ok {
			return constRail(bool(b))
		}
		return none
	}
	if tr.lint && !usesRow(n) {
		return placeholder
	}
	switch n := n.(type) {
	case xast.NodeTypeAnd:
		return tr.bool(n.Left).and(tr.bool(n.Right))
	case xast.NodeTypeOr:
		return tr.bool(n.Left).or(tr.bool(n.Right))
	case xast.NodeTypeNot:
		return tr.bool(n.Arg).not()
	case xast.NodeTypeIfThenElse:
		return tr.bool(n.If).choose(tr.bool(n.Then), tr.bool(n.Else))
	}
	return tr.comparison(n)
}

func (tr *translator) comparison(n xast.IsNode) rail {
	switch n := n.(type) {
	case xast.NodeTypeEquals:
		return tr.equal(n.Left, n.Right)
	case xast.NodeTypeNotEquals:
		return tr.equal(n.Left, n.Right).not()
	case xast.NodeTypeLessThan:
		return tr.order(opLess, n.Left, n.Right)
	case xast.NodeTypeLessThanOrEqual:
		return tr.order(opLessEqual, n.Left, n.Right)
	case xast.NodeTypeGreaterThan:
		return tr.order(opLess, n.Right, n.Left)
	case xast.NodeTypeGreaterThanOrEqual:
		return tr.order(opLessEqual, n.Right, n.Left)
	case xast.NodeTypeLike:
		return tr.like(n)
	case xast.NodeTypeHas:
		return tr.has(n)
	case xast.NodeTypeContains:
		return tr.contains(n)
	case xast.NodeTypeContainsAny:
		return tr.containsMany(n.Left, n.Right, predicate.Or)
	case xast.NodeTypeContainsAll:
		return tr.containsMany(n.Left, n.Right, predicate.And)
	case xast.NodeTypeIs:
		return tr.is(n)
	case xast.NodeTypeIn:
		return tr.in(n.Left, n.Right)
	case xast.NodeTypeIsIn:
		return tr.is(n.NodeTypeIs).and(tr.in(n.Left, n.Entity))
	}
	return tr.gap("an expression on `resource` that has no SQL equivalent",
		"compare an attribute of `resource` with ==, !=, <, <=, >, >=, like, has, or KNOWN.contains(resource.x)")
}

// placeholder stands for a condition known only at the time of a request.
var placeholder = totalRail(predicate.Equal(predicate.Action, ""))

// equal translates `a == b`. Values of different types are unequal in Cedar, never an error.
func (tr *translator) equal(left, right xast.IsNode) rail {
	a, b := tr.operand(left), tr.operand(right)
	if a.kind == opError || b.kind == opError {
		return none
	}
	if !a.isRow() {
		a, b = b, a
	}
	switch {
	case a.kind == opSince && b.kind == opKnown:
		return tr.sinceEqual(a, b.value)
	case a.kind == opSet || b.kind == opSet || a.kind == opGap || b.kind == opGap || a.kind == opSince || b.kind == opSince || !a.isRow():
		return tr.gap("== or != between something that is no attribute of `resource`",
			"compare one attribute with one value; for several values write KNOWN.contains(resource.x)")
	case b.isRow():
		return sameRail(a, b)
	case b.value == nil:
		return leaf(placeholder.t, a.columns()...)
	}
	return leaf(equalValue(a, b.value), a.columns()...)
}

// sameRail compares two parts of the row.
func sameRail(a, b operand) rail {
	cols := append(a.columns(), b.columns()...)
	if a.kind == opText && b.kind == opText {
		return leaf(predicate.Same(a.col, b.col), cols...)
	}
	return leaf(predicate.Const(a.kind == b.kind), cols...)
}

// equalValue is the condition that part a of the row equals v.
func equalValue(a operand, v cedar.Value) *predicate.Cond {
	switch v := v.(type) {
	case cedar.String:
		if a.kind == opText {
			return predicate.Equal(a.col, string(v))
		}
	case cedar.Datetime:
		if a.kind == opTime {
			return equalMillis(v.Milliseconds())
		}
	case cedar.EntityUID:
		if col, ok := a.identity(v); ok {
			return predicate.Equal(col, string(v.ID))
		}
	}
	return predicate.Const(false)
}

// identity is the column of ids in which v stands for the entity a, if it can.
func (o operand) identity(v cedar.EntityUID) (predicate.Column, bool) {
	switch {
	case !canonical(v.ID):
		return "", false
	case o.kind == opRow && v.Type == typeEvent:
		return predicate.ID, true
	case o.kind == opTenant && v.Type == typeTenant:
		return predicate.TenantID, true
	}
	return "", false
}

// like translates `resource.x like "…"`.
func (tr *translator) like(n xast.NodeTypeLike) rail {
	switch a := tr.operand(n.Arg); a.kind {
	case opText:
		return leaf(predicate.Like(a.col, tr.patterns.get(n.Value)), a.col)
	case opGap:
		return tr.gap("`like` on something that is no attribute of `resource`", "write resource.x like \"…\"")
	}
	return none // not a text: an error in Cedar
}

// has translates `resource has x`.
func (tr *translator) has(n xast.NodeTypeHas) rail {
	switch a := tr.operand(n.Arg); a.kind {
	case opRow:
		if col, ok := textColumns[n.Value]; ok {
			return totalRail(predicate.Present(col))
		}
		return constRail(n.Value == "created_at" || n.Value == "tenant")
	case opTenant:
		return constRail(false) // tenants have no attributes
	case opGap:
		return tr.gap("`has` on something that is no attribute of `resource`", "write resource has x")
	}
	return none
}

// is translates `resource is T`.
func (tr *translator) is(n xast.NodeTypeIs) rail {
	switch a := tr.operand(n.Left); a.kind {
	case opRow:
		return constRail(n.EntityType == typeEvent)
	case opTenant:
		return constRail(n.EntityType == typeTenant)
	case opGap:
		return tr.gap("`is` on something that is no attribute of `resource`", "write resource is AuditLog::Event")
	}
	return none
}
