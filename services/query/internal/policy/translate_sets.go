package policy

import (
	"encoding/json"

	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"

	"example.com/auditlog/services/query/internal/policy/predicate"
)

// contains translates `KNOWN.contains(resource.x)`.
func (tr *translator) contains(n xast.NodeTypeContains) rail {
	set, el := tr.operand(n.Left), tr.operand(n.Right)
	if set.kind == opError || el.kind == opError {
		return none
	}
	if set.kind != opKnown || !el.isRow() || el.kind == opSet || el.kind == opSince || el.kind == opTime {
		return tr.gap("`contains` that is not of the form KNOWN.contains(resource.x)",
			"put the set of known texts on the left and one attribute of `resource` on the right")
	}
	if set.value == nil {
		return leaf(placeholder.t, el.columns()...)
	}
	values, ok := set.value.(cedar.Set)
	if !ok {
		return none
	}
	c, ok := tr.member(el, values)
	if !ok {
		return none
	}
	return leaf(c, el.columns()...)
}

// containsMany translates containsAny and containsAll of a known set and a set literal with attributes of the row. Cedar evaluates the
// whole literal first, so every attribute in it must be there.
func (tr *translator) containsMany(left, right xast.IsNode, join func(...*predicate.Cond) *predicate.Cond) rail {
	set, lit := tr.operand(left), tr.operand(right)
	if set.kind == opError || lit.kind == opError {
		return none
	}
	if set.kind != opKnown || lit.kind != opSet {
		return tr.gap("`containsAny` or `containsAll` that is not of the form KNOWN.containsAny([resource.x, …])",
			"put the set of known texts on the left, or write one KNOWN.contains(resource.x) for each attribute")
	}
	if set.value == nil {
		return leaf(placeholder.t, lit.columns()...)
	}
	values, ok := set.value.(cedar.Set)
	if !ok {
		return none
	}
	var terms []*predicate.Cond
	for _, el := range lit.elems {
		if el.kind == opKnown {
			if el.value == nil {
				terms = append(terms, placeholder.t)
			} else {
				terms = append(terms, predicate.Const(values.Contains(el.value)))
			}
			continue
		}
		c, ok := tr.member(el, values)
		if !ok {
			return none
		}
		terms = append(terms, c)
	}
	return leaf(join(terms...), lit.columns()...)
}

// member is the condition that part el of the row is one of the values; false when there are too many of them.
func (tr *translator) member(el operand, values cedar.Set) (*predicate.Cond, bool) {
	if values.Len() > maxInValues {
		tr.gap("a set of more than %d values", "split the policy, or give the keys a role for it", maxInValues)
		return nil, false
	}
	var texts []string
	var col predicate.Column
	for v := range values.All() {
		switch v := v.(type) {
		case cedar.String:
			if el.kind == opText {
				col, texts = el.col, append(texts, string(v))
			}
		case cedar.EntityUID:
			if c, ok := el.identity(v); ok {
				col, texts = c, append(texts, string(v.ID))
			}
		}
	}
	return predicate.In(col, texts...), true
}

// in translates `resource in ENTITY` and `resource in [ENTITY, …]`. The parents of an event are its log and its tenant; a tenant has none.
func (tr *translator) in(left, right xast.IsNode) rail {
	a, b := tr.operand(left), tr.operand(right)
	switch {
	case a.kind == opError || b.kind == opError:
		return none
	case (a.kind != opRow && a.kind != opTenant && a.kind != opText && a.kind != opTime) || b.kind != opKnown:
		return tr.gap("`in` that is not of the form resource in ENTITY", "put `resource` on the left and a known entity on the right")
	case b.value == nil:
		return placeholder
	}
	if a.kind != opRow && a.kind != opTenant {
		return none // not an entity: an error in Cedar
	}
	return tr.inValue(a, b.value)
}

func (tr *translator) inValue(a operand, v cedar.Value) rail {
	switch v := v.(type) {
	case cedar.EntityUID:
		return totalRail(a.within(v))
	case cedar.Set:
		if v.Len() > maxInValues {
			return tr.gap("a set of more than %d entities", "split the policy", maxInValues)
		}
		byColumn := map[predicate.Column][]string{}
		for el := range v.All() {
			uid, ok := el.(cedar.EntityUID)
			if !ok {
				return none
			}
			if col, ok := a.ancestor(uid); ok {
				byColumn[col] = append(byColumn[col], string(uid.ID))
			}
		}
		return totalRail(predicate.Or(
			predicate.In(predicate.ID, byColumn[predicate.ID]...),
			predicate.In(predicate.TenantID, byColumn[predicate.TenantID]...)))
	}
	return none
}

// within is the condition that the entity a is v or below it.
func (o operand) within(v cedar.EntityUID) *predicate.Cond {
	if col, ok := o.ancestor(v); ok {
		return predicate.Equal(col, string(v.ID))
	}
	return predicate.Const(false)
}

// ancestor is the column of ids in which v stands for the entity a itself or for one of its parents.
func (o operand) ancestor(v cedar.EntityUID) (predicate.Column, bool) {
	if o.kind == opRow && (v.Type == typeTenant || v.Type == typeLog) && canonical(v.ID) {
		return predicate.TenantID, true
	}
	return o.identity(v)
}

// patterns are the patterns of one policy by their Cedar text: reading one takes longer than translating the rest of the policy.
type patterns map[string]predicate.Pattern

func (ps patterns) add(p cedar.Pattern) { ps[string(p.MarshalCedar())] = patternOf(p) }

func (ps patterns) get(p cedar.Pattern) predicate.Pattern {
	if known, ok := ps[string(p.MarshalCedar())]; ok {
		return known
	}
	return patternOf(p)
}

// patternOf reads a Cedar pattern, whose parts only its JSON shows.
func patternOf(p cedar.Pattern) predicate.Pattern {
	var out predicate.Pattern
	raw, err := p.MarshalJSON()
	if err != nil {
		panic("policy: a pattern without JSON: " + err.Error()) // Decide recovers and denies
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		panic("policy: a pattern with strange JSON: " + err.Error())
	}
	for i, part := range parts {
		var lit struct{ Literal *string }
		if json.Unmarshal(part, &lit) != nil || lit.Literal == nil { // "Wildcard"
			out.OpenStart = out.OpenStart || i == 0
			out.OpenEnd = i == len(parts)-1
			continue
		}
		if *lit.Literal != "" {
			out.Pieces = append(out.Pieces, *lit.Literal)
		}
	}
	return out
}
