package policy

import (
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
)

var fence = regexp.MustCompile("(?ms)^(#+ [^\n]*)$|^```(cedar|sql|yaml)([^\n]*)\n(.*?)^```$")

// docs/access.md shows policies, the SQL that they become, and cases: all of it is tried here.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	all, section := map[string]string{}, map[string]string{}
	seen := map[string]int{}
	for _, m := range fence.FindAllStringSubmatch(string(page), -1) {
		heading, lang, info, body := m[1], m[2], strings.TrimSpace(m[3]), m[4]
		seen[lang]++
		switch {
		case heading != "":
			section = map[string]string{}
			if gate, ok := all["gate.cedar"]; ok {
				section["gate.cedar"] = gate
			}
		case lang == "cedar":
			name := strings.TrimPrefix(info, "file=")
			all[name], section[name] = body, body
			if problems := Check(write(t, t.TempDir(), withGate(section))); problems != nil {
				t.Errorf("%s: %v", name, problems)
			}
		case lang == "sql":
			e := open(t, write(t, t.TempDir(), section))
			if got := whereText(e, info); got != body {
				t.Errorf("for a key %q the page shows\n%s\nand it is\n%s", info, body, got)
			}
		case lang == "yaml":
			files := maps.Clone(all)
			delete(files, "guardrails/window.cedar")
			dir := write(t, t.TempDir(), files)
			cases := write(t, t.TempDir(), map[string]string{"cases.yaml": body}) + "/cases.yaml"
			results, err := RunCases(dir, cases)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				if !r.OK() {
					t.Errorf("%s: %q", r.Name, r.Failures)
				}
			}
		}
	}
	if seen["cedar"] < 5 || seen["sql"] < 5 || seen["yaml"] < 1 {
		t.Errorf("found only %v", seen)
	}
}

// withGate is a section that can stand alone: guardrails need a default layer beside them.
func withGate(files map[string]string) map[string]string {
	out := maps.Clone(files)
	out["zz.cedar"] = strings.ReplaceAll(gateForAll, `"gate"`, `"zz"`)
	return out
}

// whereText is the row filter of a key with its parameters, as the page writes it.
func whereText(e *Engine, key string) string {
	d := e.Decide(context.Background(), question(key))
	where, args := d.Scope.Where()
	var b strings.Builder
	fmt.Fprintln(&b, where)
	for i := range len(args) {
		fmt.Fprintf(&b, "-- az%d = %s\n", i, args[fmt.Sprint("az", i)])
	}
	return b.String()
}
