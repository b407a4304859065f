package policy

import (
	"testing"

	"github.com/cedar-policy/cedar-go"

	"example.com/auditlog/services/query/internal/audit"
)

// bundle parses policies, and says whether the linter would load them.
func bundle(t *testing.T, m *model, text string) (ruleSet, bool) {
	t.Helper()
	f := &file{path: "random.cedar", layer: layerDefault, text: []byte(text)}
	list, err := cedar.NewPolicyListFromBytes(f.path, f.text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var rules []*rule
	clean := true
	for _, p := range list {
		l := newLinter(m, f, p)
		l.run()
		clean = clean && len(l.problems) == 0
		rules = append(rules, l.rule)
	}
	return ruleSet{rules}, clean
}

func gaps(p *plan) int {
	n := 0
	for _, part := range p.parts {
		n += len(part.gaps)
	}
	return n
}

// verdict is what Cedar itself says about one row, with all policies as written.
func verdict(p *plan, rules ruleSet, e *audit.Event) bool {
	ent := p.ents.eventEntity(e)
	d, _ := cedar.Authorize(rules, p.ents.withEvent(ent), cedar.Request{Principal: p.ents.key.UID, Action: readEvent.uid(), Resource: ent.UID, Context: p.context})
	return d == cedar.Allow
}

// The row filter must say of every row what Cedar says. For policies that the linter accepts, exactly that; for any others, never more.
func TestRowFilterEqualsCedar(t *testing.T) {
	t.Parallel()
	m, err := loadModel()
	if err != nil {
		t.Fatal(err)
	}
	for _, wild := range []bool{false, true} {
		g := newGen(7)
		g.wild = wild
		comparisons, accepted, shown, hidden, remembered := 0, 0, 0, 0, 0
		for range 2200 {
			text := g.policies()
			rules, clean := bundle(t, m, text)
			if clean {
				accepted++
			}
			r := g.request()
			p := planRows(rules, newEntities(m, r), r)
			if clean && gaps(p) > 0 {
				t.Fatalf("accepted by the linter and without SQL:\n%s\n%v", text, p.parts)
			}
			residual, cond := p.compiled(), p.cond()
			memo := newMemo(residual)
			for range 24 {
				e := g.row()
				comparisons++
				selected, cedars, rechecked := cond.Match(r.Tenant, e), verdict(p, rules, e), p.authorize(residual, e)
				known := memo != nil
				if memo.decide(e, func(e *audit.Event) bool { known = false; return p.authorize(residual, e) }) != rechecked {
					t.Fatalf("remembered is not what Cedar says, %t, of %+v for %+v by\n%s", rechecked, e, r, text)
				}
				if known {
					remembered++
				}
				if selected {
					shown++
				} else {
					hidden++
				}
				sql, args := p.where()
				switch {
				case selected && !cedars:
					t.Fatalf("over-grant of %+v for %+v by\n%s\n%s %q", e, r, text, sql, args)
				case clean && cedars && !selected:
					t.Fatalf("missing row %+v for %+v by\n%s\n%s %q", e, r, text, sql, args)
				case selected && !rechecked || gaps(p) == 0 && selected != rechecked:
					t.Fatalf("filter says %t and the re-check %t of %+v for %+v by\n%s\n%s %q", selected, rechecked, e, r, text, sql, args)
				}
			}
		}
		t.Logf("wild=%t: %d comparisons, %d shown, %d hidden, %d of 2200 sets accepted by the linter, %d from memory", wild, comparisons, shown, hidden, accepted, remembered)
		if !wild && accepted < 1500 || shown < 2000 || hidden < 2000 || remembered < 2000 {
			t.Errorf("the generator has lost its bite: %d accepted, %d shown, %d hidden, %d from memory", accepted, shown, hidden, remembered)
		}
	}
}
