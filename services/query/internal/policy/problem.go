package policy

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with a directory of policies: it would be refused.
type Problem struct {
	// File is the path in the directory, "." for the directory itself.
	File string `json:"file"`
	// Line is where the policy begins, or where parsing failed; 0 when it is about the file as a whole.
	Line int `json:"line,omitempty"`
	// Policy is the @id of the policy, if it has one.
	Policy string `json:"policy,omitempty"`
	// What is wrong, and Fix what to write instead.
	What string `json:"what"`
	Fix  string `json:"fix,omitempty"`
}

// String is the problem as a compiler would print it: file:line: policy: what; fix.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Policy != "" {
		fmt.Fprintf(&b, "policy %q: ", p.Policy)
	}
	b.WriteString(p.What)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// LoadError says that policies were refused, with everything that is wrong with them.
type LoadError struct {
	Dir      string
	Problems []Problem
}

// Error lists all problems, one a line.
func (e *LoadError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return fmt.Sprintf("load the policies of %s (AUDIT_POLICY_DIR): %d problems:\n%s", e.Dir, len(lines), strings.Join(lines, "\n"))
}
