package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
)

func readRule(cond string) string {
	return "\n" + `@id("p") permit (principal, action == AuditLog::Action::"ReadEvent", resource) when { ` + cond + " };"
}

// Every mistake is refused at load, with the file, the line, and what is wrong.
func TestRefusedPolicies(t *testing.T) {
	t.Parallel()
	const permit = `permit (principal, action == AuditLog::Action::"QueryLog", resource)`
	const forbid = `forbid (principal, action == AuditLog::Action::"QueryLog", resource)`
	for _, c := range []struct{ name, file, text, want string }{
		{"syntax", "a.cedar", "\npermit (principal, action resource);", "a.cedar:2: does not parse"},
		{"no id", "a.cedar", permit + ";", "a.cedar:1: has no valid @id"},
		{"bad id", "a.cedar", "\n\n@id(\"Über\") " + permit + ";", `a.cedar:3: policy "Über": has no valid @id`},
		{"id twice", "a.cedar", "@id(\"a\") " + permit + ";\n@id(\"a\") " + permit + ";", `a.cedar:2: policy "a": another policy of the layer has the same @id, at a.cedar:1`},
		{"unknown annotation", "a.cedar", `@id("a") @note("x") ` + permit + ";", "unknown annotation @note; known are"},
		{"annotation twice", "a.cedar", `@id("a") @id("b") ` + permit + ";", "duplicate annotation"},
		{"forbid without notice", "a.cedar", `@id("a") ` + forbid + ";", "a forbid without a valid @notice"},
		{"notice of two lines", "a.cedar", `@id("a") @notice("x\ny") ` + forbid + ";", "a forbid without a valid @notice"},
		{"notice too long", "a.cedar", `@id("a") @notice("` + strings.Repeat("x", 513) + `") ` + forbid + ";", "at most 512 bytes"},
		{"bad code", "a.cedar", `@id("a") @notice("x") @code("No") ` + forbid + ";", "@code is no valid code"},
		{"permit with notice", "a.cedar", `@id("a") @notice("x") ` + permit + ";", "a permit with @notice or @code"},
		{"permitting guardrail", "guardrails/a.cedar", `@id("a") ` + permit + ";", "guardrails/a.cedar:1: policy \"a\": a guardrail that permits"},
		{"id of a built-in guardrail", "guardrails/a.cedar", `@id("key-expired") @notice("x") ` + forbid + ";", "the same @id"},
		{"unknown attribute", "a.cedar", readRule("resource.nope == 1"), "a.cedar:2: policy \"p\": does not fit the schema"},
		{"metadata", "a.cedar", readRule(`resource.getTag("ip") == "x"`), "does not fit the schema"},
		{"type error", "a.cedar", readRule(`resource.action == 1`), "does not fit the schema"},
		{"unguarded optional", "a.cedar", readRule(`resource.reasoning == "x"`), "does not fit the schema"},
		{"unknown action", "a.cedar", `@id("a") permit (principal, action == AuditLog::Action::"DeleteLog", resource);`, "does not fit the schema"},
		{"unknown type", "a.cedar", `@id("a") permit (principal in AuditLog::Rolle::"x", action, resource);`, "does not fit the schema"},
		{"template", "a.cedar", `@id("a") permit (principal == ?principal, action, resource);`, "does not parse"},
		{"reserved type", "a.cedar", readRule(`resource == __cedar::variable::"resource"`), "a.cedar:2: does not parse: at column 106: \"::\""},
		{"datetime and Long", "a.cedar", readRule(`resource.created_at < 3`), "compares datetime with Long"},
		{"datetime and duration", "a.cedar", `@id("a") ` + permit + ` when { context.filter has from && context.filter.from >= duration("1d") };`, "compares datetime with duration"},
		{"Long and duration", "a.cedar", `@id("a") ` + permit + ` when { context.limit + 1 > context.now.durationSince(context.now) };`, "compares Long with duration"},
		{"tenant in upper case", "a.cedar", readRule(`resource in AuditLog::Tenant::"01937B7E-0000-7000-8000-00000000000A"`), "can never match; write the id as a UUID in lower case"},
		{"role without name", "a.cedar", `@id("a") permit (principal in AuditLog::Role::" ", action == AuditLog::Action::"QueryLog", resource);`, "a role without a name"},
		{"method on a column", "a.cedar", readRule(`resource.created_at.toDate() == datetime("2026-01-01")`), "cannot be turned into SQL: == or != between something"},
		{"offset on a column", "a.cedar", readRule(`resource.created_at.offset(duration("1d")) > context.now`), "compare resource.created_at with a known datetime"},
		{"set around a column", "a.cedar", readRule(`[resource.action].contains("x")`), "put the set of known texts on the left"},
		{"if as a value", "a.cedar", readRule(`(if resource.action == "a" then "x" else "y") == "x"`), "cannot be turned into SQL"},
		{"column in a record", "a.cedar", readRule(`{a: resource.action} == {a: "x"}`), "cannot be turned into SQL"},
		{"set too large", "a.cedar", readRule("[" + strings.Repeat(`"x",`, 1000) + `"y"].contains(resource.action)`), "a set of more than 1000 values"},
		{"too deep", "a.cedar", readRule(strings.Repeat("!(", 501) + `resource.action == "x"` + strings.Repeat(")", 501)), "nested deeper than 500"},
		{"too many terms", "a.cedar", readRule(nestedIf(16)), "becomes more than 2000 terms of SQL"},
		{"too large", "a.cedar", strings.Repeat("// comment\n", MaxFileBytes/11+1), "is larger than 65536 bytes"},
		{"a million brackets", "a.cedar", readRule(strings.Repeat("(", 1<<20)), "is larger than 65536 bytes"},
		{"not UTF-8", "a.cedar", "// \xff", "is no valid UTF-8"},
		{"unknown folder", "tenant/a.cedar", rowsForAll, "tenant: a folder that is no layer; use guardrails/, default/ or tenants/<tenant id>/"},
		{"folder within a layer", "default/more/a.cedar", rowsForAll, "default/more: a folder within a layer"},
		{"tenant by name", "tenants/acme/a.cedar", rowsForAll, "tenants/acme: the folder's name is no tenant id"},
		{"tenant in capitals", "tenants/01937B7E-0000-7000-8000-00000000000A/a.cedar", rowsForAll, "no tenant id"},
		{"policy of no tenant", "tenants/a.cedar", rowsForAll, "tenants/a.cedar: a policy of no tenant"},
		{"tenant without policies", "tenants/" + tenantA.String() + "/notes.txt", "x", "holds no *.cedar file"},
		{"tenant with an empty file", "tenants/" + tenantA.String() + "/a.cedar", "// nothing", "the tenant's folder holds no policy"},
	} {
		dir := write(t, t.TempDir(), map[string]string{"ok.cedar": strings.ReplaceAll(gateForAll, "gate", "ok")})
		write(t, dir, map[string]string{c.file: c.text})
		var all []string
		for _, p := range Check(dir) {
			all = append(all, p.String())
		}
		if !strings.Contains(strings.Join(all, "\n"), c.want) {
			t.Errorf("%s: want %q among\n%s", c.name, c.want, strings.Join(all, "\n"))
		}
		if _, err := Open(dir, quiet(), nil); err == nil {
			t.Errorf("%s: opened", c.name)
		}
	}
}

// nestedIf doubles with each level, because the attribute is optional.
func nestedIf(depth int) string {
	if depth == 0 {
		return `(resource has reasoning && resource.reasoning == "x")`
	}
	return fmt.Sprintf(`(if %s then resource.action == "a%d" else resource.actor_id == "b%d")`, nestedIf(depth-1), depth, depth)
}

// A directory without policies, or that cannot be read, must not open as "no rules".
func TestRefusedDirectories(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	onlyGuardrails := write(t, t.TempDir(), map[string]string{"guardrails/a.cedar": breakGlass})
	aFile := filepath.Join(write(t, t.TempDir(), map[string]string{"x": "y"}), "x")
	unreadable := write(t, t.TempDir(), map[string]string{"ok.cedar": gateForAll})
	if err := os.Symlink(filepath.Join(unreadable, "nowhere"), filepath.Join(unreadable, "gone.cedar")); err != nil {
		t.Fatal(err)
	}
	many := t.TempDir()
	for i := range MaxFiles + 1 {
		write(t, many, map[string]string{fmt.Sprintf("%d.cedar", i): "//"})
	}
	for dir, want := range map[string]string{
		empty:                        "no policy for the default layer",
		onlyGuardrails:               "no policy for the default layer",
		aFile:                        "cannot be read",
		filepath.Join(empty, "gone"): "cannot be read: no such file or directory",
		unreadable:                   "gone.cedar: cannot be read",
		many:                         "more than 2000 files",
	} {
		problems := Check(dir)
		if len(problems) == 0 || !strings.Contains(fmt.Sprint(problems), want) {
			t.Errorf("%s: want %q, got %v", dir, want, problems)
		}
		if _, err := Open(dir, quiet(), nil); err == nil || !strings.Contains(err.Error(), "AUDIT_POLICY_DIR") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// Without guardrails nothing keeps tenants apart, however the set came about.
func TestNoGuardrailsNoSnapshot(t *testing.T) {
	t.Parallel()
	m, err := loadModel()
	if err != nil {
		t.Fatal(err)
	}
	s, problems := assemble(m, []file{{path: "a.cedar", layer: layerDefault, text: []byte(gateForAll)}})
	if s != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), "no guardrail at all") {
		t.Errorf("%v %v", s, problems)
	}
}

// All problems of all files come at once.
func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a.cedar": "@id(\"a\") forbid (principal, action, resource);\n@nid(\"b\") permit (principal, action, resource);", "b.cedar": "nonsense"})
	problems := Check(dir)
	if len(problems) < 4 || !slices.IsSortedFunc(problems, func(a, b Problem) int { return strings.Compare(a.File, b.File) }) {
		t.Errorf("%v", problems)
	}
}

// The built-in policies pass their own checks and are a directory to start from.
func TestBuiltinIsADirectory(t *testing.T) {
	t.Parallel()
	if p := Check(""); p != nil {
		t.Errorf("built-in: %v", p)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, Builtin()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, layerGuardrails)); err != nil {
		t.Fatal(err)
	}
	if p := Check(dir); p != nil {
		t.Errorf("copied: %v", p)
	}
}

// What the size caps let through must be cheap to refuse: deep nesting in the largest file allowed.
func TestLargestFileIsHarmless(t *testing.T) {
	t.Parallel()
	for name, cond := range map[string]string{
		"brackets": strings.Repeat("(", 30000) + "true" + strings.Repeat(")", 30000),
		"nots":     strings.Repeat("!(", 15000) + "true" + strings.Repeat(")", 15000),
		"ands":     "true" + strings.Repeat(" && true", 7000),
		"access":   "resource" + strings.Repeat(".a", 20000),
		"ifs":      strings.Repeat("if true then true else ", 2500) + "true",
		"sets":     strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + ".isEmpty()",
	} {
		start := time.Now()
		problems := Check(write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + readRule(cond)}))
		if took := time.Since(start); took > 30*time.Second || name != "brackets" && len(problems) == 0 {
			t.Errorf("%s: %v, %v", name, took, problems)
		}
	}
}

// The schema is what requests are made of: every entity and context the engine builds fits it.
func TestRequestsFitTheSchema(t *testing.T) {
	t.Parallel()
	m, err := loadModel()
	if err != nil {
		t.Fatal(err)
	}
	g := newGen(3)
	for range 200 {
		r, e := g.request(), g.row()
		r.Filter.From, r.Filter.Actions = noon, []string{"a"}
		ents := newEntities(m, r)
		event := ents.eventEntity(e)
		for _, ent := range []cedar.Entity{ents.key, ents.log, event} {
			if err := m.validator.Entity(ent); err != nil {
				t.Fatal(err)
			}
		}
		for _, req := range []cedar.Request{
			{Principal: ents.key.UID, Action: QueryLog.uid(), Resource: ents.log.UID, Context: gateContext(r)},
			{Principal: ents.key.UID, Action: ExportLog.uid(), Resource: ents.log.UID, Context: gateContext(r)},
			{Principal: ents.key.UID, Action: readEvent.uid(), Resource: event.UID, Context: cedar.NewRecord(rowContext(r.Now, r.SourceIP))},
		} {
			if err := m.validator.Request(req); err != nil {
				t.Fatal(err)
			}
		}
	}
}
