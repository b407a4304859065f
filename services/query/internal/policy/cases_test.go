package policy

import (
	"strings"
	"testing"
)

// Cases pass and fail for the reasons they should.
func TestRunCases(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll + breakGlass})
	const events = "now: 2026-11-23T12:00:00Z\nevents:\n  a: {action: a}\n  g: {action: breakglass.x, reasoning: fire, created_at: 2026-01-01T00:00:00Z}\ncases:\n"
	for _, c := range []struct{ name, text, failure, err string }{
		{"passes", "- {name: x, key: {roles: [r]}, expect: {decision: allow, code: '', notices: [], visible: [a]}}", "", ""},
		{"filters by time", "- {name: x, key: {roles: [admin]}, filter: {to: 2026-11-23T00:00:00Z}, expect: {decision: allow, visible: [g]}}", "", ""},
		{"another tenant", "- {name: x, tenant: 01937b7e-0000-7000-8000-00000000000b, expect: {decision: deny, code: tenant_mismatch, visible: []}}", "", ""},
		{"export, address, limit", "- {name: x, action: ExportLog, source_ip: 10.0.0.1, limit: 7, expect: {decision: allow}}", "", ""},
		{"wrong decision", "- {name: x, expect: {decision: deny}}", `expected deny, got allow`, ""},
		{"wrong code", "- {name: x, filter: {action: [breakglass.x]}, expect: {decision: deny, code: forbidden}}", `expected code "forbidden", got "restricted_events"`, ""},
		{"missing notice", "- {name: x, filter: {action: [breakglass.x]}, expect: {decision: deny, notices: []}}", `expected notices [], got ["Break-glass`, ""},
		{"too few rows", "- {name: x, expect: {decision: allow, visible: [a, g]}}", `expected to see ["a" "g"], saw ["a"]`, ""},
		{"too many rows", "- {name: x, expect: {decision: allow, visible: []}}", `expected to see [], saw ["a"]`, ""},
		{"unknown event", "- {name: x, expect: {decision: allow, visible: [b]}}", "", `an event "b" that the file does not describe`},
		{"unknown field", "- {name: x, expect: {decisions: allow}}", "", "decisions"},
		{"no decision", "- {name: x}", "", "expect.decision must be allow or deny"},
		{"bad tenant", "- {name: x, tenant: acme, expect: {decision: deny}}", "", "case 1 (x): tenant:"},
		{"bad action", "- {name: x, action: ReadEvent, expect: {decision: deny}}", "", "action must be QueryLog or ExportLog"},
		{"bad address", "- {name: x, source_ip: home, expect: {decision: deny}}", "", "source_ip"},
		{"no YAML", "- [", "", "cases.yaml"},
		{"no cases", "", "", "no cases in it"},
	} {
		name := write(t, t.TempDir(), map[string]string{"cases.yaml": events + "  " + c.text + "\n"}) + "/cases.yaml"
		results, err := RunCases(dir, name)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.failure == "" && !results[0].OK():
			t.Errorf("%s: %q", c.name, results[0].Failures)
		case c.failure != "" && !strings.Contains(strings.Join(results[0].Failures, "\n"), c.failure):
			t.Errorf("%s: %q, want %q", c.name, results[0].Failures, c.failure)
		}
	}
	if _, err := RunCases(dir, "/nowhere/cases.yaml"); err == nil {
		t.Error("a file that is not there")
	}
	if _, err := RunCases(t.TempDir(), "testdata/decisions.txt"); err == nil {
		t.Error("a directory that is refused")
	}
}

// An explanation shows what Decide decides, and why.
func TestExplain(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + breakGlass +
		`@id("own") permit (principal, action == AuditLog::Action::"ReadEvent", resource) when { principal has actor_id && resource.actor_id == principal.actor_id };
		 @id("lab") permit (principal in AuditLog::Role::"lab", action == AuditLog::Action::"ReadEvent", resource);`})
	e := open(t, dir)
	r := ask("x")
	r.Principal.ActorID = "u'1"
	x := e.Explain(r)
	want := "tenant_id = {az0:UUID} AND actor_id = {az1:String} AND NOT startsWith(action, {az2:String})"
	if !x.Allowed || x.SQL != want || x.Args["az1"] != "u'1" || x.Layer != "default" || x.Digest != e.Digest() {
		t.Errorf("%+v", x)
	}
	if got := strings.Join(x.Policies, " "); got != "default/gate" {
		t.Errorf("determining: %s", got)
	}
	if got := strings.Join(x.Dropped, " "); got != "guardrails/key-expired guardrails/key-resource-types default/lab" {
		t.Errorf("dropped: %s", got)
	}
	var rows []string
	for _, row := range x.Rows {
		rows = append(rows, row.Policy)
		if row.Policy == "default/own" && !strings.Contains(row.Cedar, `resource.actor_id == "u\'1"`) {
			t.Errorf("residual: %s", row.Cedar)
		}
	}
	if got := strings.Join(rows, " "); got != "guardrails/tenant-isolation default/break-glass default/own" {
		t.Errorf("rows: %s", got)
	}
	r.Filter.Actions = []string{"breakglass.x"}
	if x := e.Explain(r); x.Allowed || x.Code != "restricted_events" || x.SQL != want {
		t.Errorf("a filter that leaves nothing: %+v", x)
	}
	r.Tenant = tenantB
	if x := e.Explain(r); x.Allowed || x.Code != "tenant_mismatch" || x.SQL != "" || x.Rows != nil {
		t.Errorf("denied at the gate: %+v", x)
	}
}
