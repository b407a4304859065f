package policy

import (
	"iter"
	"slices"

	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/google/uuid"
)

// rule is one policy of a layer.
type rule struct {
	// id is unique in a snapshot: the layer's name, a slash and the policy's own @id.
	id           string
	policy       *cedar.Policy
	notice, code string
	patterns     patterns
}

func (r *rule) forbids() bool { return r.policy.Effect() == cedar.Forbid }

// layer is a list of policies, with those that can apply to each action beside it: the cost of a decision grows with the policies asked.
type layer struct {
	rules    []*rule
	byAction map[Action][]*rule
}

func newLayer(m *model, rules []*rule) layer {
	l := layer{rules: rules, byAction: make(map[Action][]*rule, len(actions))}
	for _, a := range actions {
		l.byAction[a] = slices.DeleteFunc(slices.Clone(rules), func(r *rule) bool { return !m.appliesTo(r.policy, a) })
	}
	return l
}

// appliesTo says whether the scope of a policy admits the action.
func (m *model) appliesTo(p *cedar.Policy, a Action) bool {
	uid := a.uid()
	within := func(group cedar.EntityUID) bool {
		return uid == group || m.actions[uid].Parents.Contains(group)
	}
	switch s := (*xast.Policy)(p.AST()).Action.(type) {
	case xast.ScopeTypeEq:
		return s.Entity == uid
	case xast.ScopeTypeIn:
		return within(s.Entity)
	case xast.ScopeTypeInSet:
		return slices.ContainsFunc(s.Entities, within)
	default:
		return true
	}
}

// ruleSet is the policies of one decision, layer by layer. It iterates in a fixed order and copies nothing.
type ruleSet [][]*rule

// All implements cedar.PolicyIterator.
func (s ruleSet) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, r := range s.each() {
			if !yield(cedar.PolicyID(r.id), r.policy) {
				return
			}
		}
	}
}

// each iterates over the rules with a running number.
func (s ruleSet) each() iter.Seq2[int, *rule] {
	return func(yield func(int, *rule) bool) {
		i := 0
		for _, layer := range s {
			for _, r := range layer {
				if !yield(i, r) {
					return
				}
				i++
			}
		}
	}
}

// find returns the rule of this id, nil if there is none.
func (s ruleSet) find(id string) *rule {
	for _, r := range s.each() {
		if r.id == id {
			return r
		}
	}
	return nil
}

// snapshot is one set of policies as loaded. It never changes; a request takes one and keeps it to its end.
type snapshot struct {
	model *model
	// digest identifies all its files, source those of the policy directory alone.
	digest, source string
	guardrails     layer
	defaults       layer
	tenants        map[uuid.UUID]layer
}

// rules are those that decide an action of a key of this tenant: the guardrails, then the tenant's own layer or else the default one.
func (s *snapshot) rules(tenant uuid.UUID, a Action) ruleSet {
	l, ok := s.tenants[tenant]
	if !ok {
		l = s.defaults
	}
	return ruleSet{s.guardrails.byAction[a], l.byAction[a]}
}

func (s *snapshot) count() int {
	n := len(s.guardrails.rules) + len(s.defaults.rules)
	for _, l := range s.tenants {
		n += len(l.rules)
	}
	return n
}
