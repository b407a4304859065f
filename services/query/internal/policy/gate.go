package policy

import (
	"log/slog"
	"slices"

	"github.com/cedar-policy/cedar-go"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy/predicate"
)

// gate asks Cedar whether the key may do this to the log at all.
func (e *Engine) gate(rules ruleSet, ents *entities, r *Request) (Decision, cedar.Diagnostic) {
	decision, diag := cedar.Authorize(rules, ents, cedar.Request{
		Principal: ents.key.UID,
		Action:    r.Action.uid(),
		Resource:  ents.log.UID,
		Context:   gateContext(r),
	})
	e.noteErrors(diag)
	if forbidFailed(rules, diag) {
		return Decision{Code: CodeEvaluationFailed, Policies: errorIDs(diag)}, diag
	}
	determining := reasons(rules, diag)
	if decision == cedar.Allow {
		return Decision{Allowed: true, Policies: ids(determining)}, diag
	}
	return denial(determining), diag
}

func (e *Engine) noteErrors(diag cedar.Diagnostic) {
	for _, er := range diag.Errors {
		e.metrics.failed(string(er.PolicyID))
		e.log.Error("a policy could not be evaluated", slog.String("policy", string(er.PolicyID)), slog.String("error", er.Message))
	}
}

func errorIDs(diag cedar.Diagnostic) []string {
	var out []string
	for _, er := range diag.Errors {
		out = append(out, string(er.PolicyID))
	}
	slices.Sort(out)
	return out
}

// reasons are the determining policies: on a denial the forbids that hold, none when no permit did.
func reasons(rules ruleSet, diag cedar.Diagnostic) []*rule {
	var out []*rule
	for _, re := range diag.Reasons {
		if r := rules.find(string(re.PolicyID)); r != nil {
			out = append(out, r)
		}
	}
	return out
}

func ids(rules []*rule) []string {
	var out []string
	for _, r := range rules {
		out = append(out, r.id)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// denial is the answer when these forbids hold; without any it is the denial by default.
func denial(forbids []*rule) Decision {
	d := Decision{Code: CodeForbidden, Policies: ids(forbids)}
	codes := map[string]bool{}
	for _, r := range forbids {
		d.Notices = append(d.Notices, r.notice)
		codes[r.code] = true
	}
	slices.Sort(d.Notices)
	d.Notices = slices.Compact(d.Notices)
	if len(codes) == 1 && forbids[0].code != "" {
		d.Code = forbids[0].code
	}
	return d
}

// maxCombinations bounds how many combinations of the caller's filter values are tried one by one.
const maxCombinations = 64

// outlook is what the row filter leaves of a request's filters.
type outlook struct {
	// nothing says that no row that matches the filters can be seen.
	nothing bool
	// forbids are the policies that forbid all rows of at least one combination of filter values.
	forbids []*rule
}

// unreadable looks whether the caller's filters leave anything to see. Each combination of filter values is tried by itself as long as
// there are few; with many, values are only decided where all of them agree, which may overlook that nothing is left and never errs
// the other way.
func (p *plan) unreadable(f *audit.Filter) outlook {
	seen := map[*rule]bool{}
	var out outlook
	for _, k := range p.combinations(f) {
		if !p.body.Fold(k).IsFalse() {
			return outlook{}
		}
		for i := range p.parts {
			if pt := &p.parts[i]; pt.rule.forbids() && !seen[pt.rule] && pt.rail.t.Fold(k).IsTrue() {
				seen[pt.rule] = true
				out.forbids = append(out.forbids, pt.rule)
			}
		}
	}
	out.nothing = true
	return out
}

// combinations are the filters as knowledge about rows: one entry for each choice of values of the columns that the condition speaks of.
func (p *plan) combinations(f *audit.Filter) []predicate.Known {
	values := map[predicate.Column][]string{
		predicate.ActorID:      f.ActorIDs,
		predicate.ResourceType: f.ResourceTypes,
		predicate.ResourceID:   f.ResourceIDs,
		predicate.Action:       f.Actions,
	}
	all := predicate.Known{Values: map[predicate.Column][]string{predicate.TenantID: {p.tenant.String()}}, From: f.From, To: f.To}
	many := []predicate.Known{all}
	for _, col := range p.body.Columns(predicate.ActorID, predicate.ResourceType, predicate.ResourceID, predicate.Action) {
		if len(values[col]) > 0 {
			all.Values[col] = values[col]
			many = split(many, col, values[col])
		}
	}
	if len(many) > maxCombinations {
		return []predicate.Known{all}
	}
	return many
}

// split makes one entry for each value of col out of each entry of ks; once there are too many it stops.
func split(ks []predicate.Known, col predicate.Column, values []string) []predicate.Known {
	if len(ks) > maxCombinations {
		return ks
	}
	out := make([]predicate.Known, 0, len(ks)*len(values))
	for _, k := range ks {
		for _, v := range values {
			m := predicate.Known{Values: map[predicate.Column][]string{col: {v}}, From: k.From, To: k.To}
			for c, vs := range k.Values {
				if c != col {
					m.Values[c] = vs
				}
			}
			out = append(out, m)
		}
	}
	return out
}
