package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	xeval "github.com/cedar-policy/cedar-go/x/exp/eval"
)

// Limits of one policy.
const (
	maxDepth       = 500 // nesting of its expressions, long chains of && included
	maxNoticeBytes = 512
)

var (
	idForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	codeForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
)

// linter checks one policy. Everything it finds is certain to be a mistake.
type linter struct {
	model    *model
	file     *file
	policy   *cedar.Policy
	ast      *xast.Policy
	rule     *rule // its id is still without the layer
	problems []Problem
}

func newLinter(m *model, f *file, p *cedar.Policy) *linter {
	return &linter{model: m, file: f, policy: p, ast: (*xast.Policy)(p.AST()), rule: &rule{policy: p, patterns: patterns{}}}
}

func (l *linter) problem(what, fix string) {
	l.problems = append(l.problems, Problem{File: l.file.path, Line: l.policy.Position().Line, Policy: l.rule.id, What: what, Fix: fix})
}

func (l *linter) run() {
	l.annotations()
	if l.file.layer == layerGuardrails && !l.rule.forbids() {
		l.problem("a guardrail that permits", "guardrails can only forbid: move the permit to the default layer")
	}
	if l.tooDeep() {
		l.problem(fmt.Sprintf("expressions nested deeper than %d", maxDepth), "write sets with contains instead of long chains of ||, or split the policy")
		return // the checks below recurse
	}
	if l.strict() {
		l.comparisons()
		l.entityIDs()
		l.pushable()
	}
}

// annotations reads @id, @notice and @code.
func (l *linter) annotations() {
	for _, a := range l.ast.Annotations {
		v := string(a.Value)
		switch a.Key {
		case "id":
			l.rule.id = v
		case "notice":
			l.rule.notice = v
		case "code":
			l.rule.code = v
		case "description":
		default:
			l.problem("unknown annotation @"+string(a.Key), "known are @id, @notice, @code and @description")
		}
	}
	if !idForm.MatchString(l.rule.id) {
		l.problem("has no valid @id", `write @id("a-short-name"): lower-case letters, digits, '.', '_', '-', at most 64`)
	}
	if l.rule.forbids() {
		l.forbidTexts()
	} else if l.rule.notice != "" || l.rule.code != "" {
		l.problem("a permit with @notice or @code", "remove them: only a forbid is ever the reason of a denial")
	}
}

func (l *linter) forbidTexts() {
	n := l.rule.notice
	if strings.TrimSpace(n) == "" || len(n) > maxNoticeBytes || strings.ContainsFunc(n, unicode.IsControl) {
		l.problem("a forbid without a valid @notice",
			fmt.Sprintf("write @notice(\"what the caller should know\"): one line of at most %d bytes", maxNoticeBytes))
	}
	if l.rule.code != "" && !codeForm.MatchString(l.rule.code) {
		l.problem("@code is no valid code", "write lower-case letters, digits and '_', at most 64, beginning with a letter")
	}
}

// tooDeep measures the nesting of the conditions without recursing further than allowed.
func (l *linter) tooDeep() bool {
	for _, c := range l.ast.Conditions {
		if deeper(c.Body, maxDepth) {
			return true
		}
	}
	return false
}

// deeper says whether n is nested deeper than limit.
func deeper(n xast.IsNode, limit int) bool {
	if limit == 0 {
		return true
	}
	found, root := false, true
	xast.Inspect(xast.NewNode(n), func(kid xast.IsNode) bool {
		if root { // Inspect shows the node itself first, then its kids, whose own kids are left to the call below
			root = false
			return true
		}
		found = found || deeper(kid, limit-1)
		return false
	})
	return found
}

// strict validates against the schema, and says whether the policy passed.
func (l *linter) strict() bool {
	err := l.model.validator.Policy("", l.ast)
	if err == nil {
		return true
	}
	for _, e := range flatten(err) {
		l.problem("does not fit the schema: "+e.Error(), "")
	}
	return false
}

// flatten is the single errors of a joined one.
func flatten(err error) []error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

// entityIDs refuses literals of tenants, logs and events that can equal no entity.
func (l *linter) entityIDs() {
	l.inspect(func(n xast.IsNode) {
		v, ok := n.(xast.NodeValue)
		if !ok {
			return
		}
		uid, ok := v.Value.(cedar.EntityUID)
		if !ok {
			return
		}
		switch uid.Type {
		case typeTenant, typeLog, typeEvent:
			if !canonical(uid.ID) {
				l.problem(fmt.Sprintf("%s can never match", uid), "write the id as a UUID in lower case, 8-4-4-4-12")
			}
		case typeRole:
			if strings.TrimSpace(string(uid.ID)) == "" {
				l.problem("a role without a name", "")
			}
		}
	})
}

// inspect visits every node of the policy, its scope included.
func (l *linter) inspect(visit func(xast.IsNode)) {
	xast.Inspect(xeval.PolicyToNode(l.ast), func(n xast.IsNode) bool {
		visit(n)
		return true
	})
}

// pushable refuses a policy on rows that cannot become SQL.
func (l *linter) pushable() {
	if !l.model.appliesTo(l.policy, readEvent) {
		return
	}
	l.inspect(func(n xast.IsNode) {
		if like, ok := n.(xast.NodeTypeLike); ok {
			l.rule.patterns.add(like.Value)
		}
	})
	tr := &translator{lint: true, patterns: l.rule.patterns}
	tr.bool(xeval.PolicyToNode(l.ast).AsIsNode())
	for _, g := range tr.gaps {
		l.problem("cannot be turned into SQL: "+g.what, g.fix)
	}
}
