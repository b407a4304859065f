package policy

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"example.com/auditlog/services/query/internal/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	tenantA = uuid.MustParse("01937b7e-0000-7000-8000-00000000000a")
	tenantB = uuid.MustParse("01937b7e-0000-7000-8000-00000000000b")
	noon    = time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t testing.TB, dir string) *Engine {
	t.Helper()
	e, err := Open(dir, quiet(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// write puts files into a folder, which is made if need be.
func write(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// ask is a request of a key of tenantA for its own log.
func ask(roles ...string) Request {
	return Request{Principal: Principal{KeyID: "k1", Tenant: tenantA, Roles: roles}, Tenant: tenantA, Action: QueryLog, Limit: 50, Now: noon}
}

const (
	gateForAll = `@id("gate") permit (principal, action in [AuditLog::Action::"QueryLog", AuditLog::Action::"ExportLog"], resource);` + "\n"
	rowsForAll = `@id("rows") permit (principal, action == AuditLog::Action::"ReadEvent", resource);` + "\n"
	breakGlass = `@id("break-glass") @code("restricted_events") @notice("Break-glass events are visible to admins only.")
forbid (principal, action == AuditLog::Action::"ReadEvent", resource)
when { resource.action like "breakglass.*" } unless { principal in AuditLog::Role::"admin" };` + "\n"
)

// The zero Scope, of a denial and of a struct nobody filled, selects nothing.
func TestZeroScopeSelectsNothing(t *testing.T) {
	t.Parallel()
	for _, s := range []Scope{{}, open(t, "").Decide(t.Context(), ask()).Scope} {
		if where, args := s.Where(); where != "false" || len(args) != 0 || !s.Empty() || s.Tenant() != uuid.Nil || s.Permits(&audit.Event{}) {
			t.Errorf("%+v selects %q", s, where)
		}
	}
}

// Without the action entities `action in Action::"read"` matches nothing and a guardrail would never hold: Cedar does not complain.
func TestActionEntitiesAreInEveryRequest(t *testing.T) {
	t.Parallel()
	e := open(t, "")
	r := ask("admin")
	r.Tenant = tenantB
	s := e.current.Load()
	ents := newEntities(s.model, &r)
	for _, a := range actions {
		if ent, ok := ents.Get(a.uid()); !ok || !ent.Parents.Contains(Action("read").uid()) {
			t.Errorf("action %s is not in the group read: %+v", a, ent)
		}
	}
	bare := *ents
	bare.model = &model{}
	d, diag := cedar.Authorize(s.rules(tenantA, QueryLog), &bare, cedar.Request{Principal: ents.key.UID, Action: QueryLog.uid(), Resource: ents.log.UID, Context: gateContext(&r)})
	if d != cedar.Allow || len(diag.Errors) != 0 {
		t.Errorf("the trap this test is about is gone: %v %+v", d, diag)
	}
	if got := e.Decide(t.Context(), r); got.Allowed || got.Code != "tenant_mismatch" {
		t.Errorf("another tenant's log: %+v", got)
	}
}

// Cedar passes over a forbid that fails to evaluate; the engine must not, at the gate and for rows.
func TestFailingForbidDenies(t *testing.T) {
	t.Parallel()
	const overflow = `@id("broken") @notice("never shown") forbid (principal, action == AuditLog::Action::%q, resource) when { 9223372036854775807 + %s == 1 };`
	dir := write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll + fmt.Sprintf(overflow, "QueryLog", "context.limit")})
	reg := prometheus.NewRegistry()
	e, err := Open(dir, quiet(), reg)
	if err != nil {
		t.Fatal(err)
	}
	d := e.Decide(t.Context(), ask("x"))
	if d.Allowed || d.Code != CodeEvaluationFailed || d.Notices != nil || !slices.Equal(d.Policies, []string{"default/broken"}) {
		t.Errorf("gate: %+v", d)
	}
	if n := testutil.ToFloat64(e.metrics.errors.WithLabelValues("default")); n != 1 {
		t.Errorf("audit_policy_errors_total is %v", n)
	}
	export := ask("x")
	export.Action = ExportLog
	if d := e.Decide(t.Context(), export); !d.Allowed {
		t.Errorf("a broken policy of another action denies: %+v", d)
	}

	dir = write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll +
		`@id("broken") @notice("n") forbid (principal, action == AuditLog::Action::"ReadEvent", resource) when { resource.action == "a" && 9223372036854775807 + 1 == 1 };`})
	d = open(t, dir).Decide(t.Context(), ask("x"))
	if where, _ := d.Scope.Where(); where != "tenant_id = {az0:UUID} AND action != {az1:String}" {
		t.Errorf("rows: %+v %s", d, where)
	}
	if d.Scope.Permits(&audit.Event{Action: "a"}) || !d.Scope.Permits(&audit.Event{Action: "b"}) {
		t.Error("the re-check disagrees with the SQL about a failing forbid")
	}
}

// A forbid that can be evaluated for no row, and a row filter too long for ClickHouse, deny the request instead of showing nothing or failing there.
func TestNoRowFilterDenies(t *testing.T) {
	t.Parallel()
	values := func(prefix string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`"`+prefix+`%d", `, 1000), ", ") + "]"
	}
	files := map[string]string{"a.cedar": gateForAll}
	for i := range 5 {
		var args []any
		for n := range 1000 {
			args = append(args, n)
		}
		files[fmt.Sprintf("p%d.cedar", i)] = fmt.Sprintf(`@id("p`+fmt.Sprint(i)+`") permit (principal, action == AuditLog::Action::"ReadEvent", resource) when { `+values(fmt.Sprint("a", i, "-"))+`.contains(resource.action) };`, args...)
	}
	d := open(t, write(t, t.TempDir(), files)).Decide(t.Context(), ask())
	if d.Allowed || d.Code != CodeEvaluationFailed || len(d.Policies) != 6 {
		t.Errorf("too long: %+v", d)
	}
	delete(files, "p0.cedar")
	delete(files, "p1.cedar")
	delete(files, "p2.cedar")
	if d := open(t, write(t, t.TempDir(), files)).Decide(t.Context(), ask()); !d.Allowed {
		t.Errorf("long enough: %+v", d)
	}

	e := open(t, write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll +
		`@id("broken") @notice("n") forbid (principal, action == AuditLog::Action::"ReadEvent", resource) when { 9223372036854775807 + 1 == 1 };`}))
	e.OnUnreadable = UnreadableEmpty
	d = e.Decide(t.Context(), ask())
	if d.Allowed || d.Code != CodeEvaluationFailed || !slices.Equal(d.Policies, []string{"default/broken"}) || !d.Scope.Empty() {
		t.Errorf("broken: %+v", d)
	}
	if n := testutil.ToFloat64(e.metrics.errors.WithLabelValues("default")); n != 1 {
		t.Errorf("audit_policy_errors_total is %v", n)
	}
}

// A key limited to more resource types than one IN may list is denied, not widened.
func TestTooManyResourceTypesDeny(t *testing.T) {
	t.Parallel()
	e, r := open(t, ""), ask("auditor")
	r.Principal.ResourceTypes = many(maxInValues)
	if d := e.Decide(t.Context(), r); !d.Allowed {
		t.Errorf("as many as may be: %+v", d)
	}
	r.Principal.ResourceTypes = many(maxInValues + 1)
	if d := e.Decide(t.Context(), r); d.Allowed || d.Code != CodeEvaluationFailed {
		t.Errorf("one more: %+v", d)
	}
	if n := testutil.ToFloat64(e.metrics.gaps); n != 1 {
		t.Errorf("audit_policy_gaps_total is %v", n)
	}
}

// A permit that fails to evaluate grants nothing and stops nothing.
func TestFailingPermitGrantsNothing(t *testing.T) {
	t.Parallel()
	const broken = `@id("broken") permit (principal, action == AuditLog::Action::"QueryLog", resource) when { 9223372036854775807 + context.limit == 1 };`
	if d := open(t, write(t, t.TempDir(), map[string]string{"a.cedar": rowsForAll + broken})).Decide(t.Context(), ask()); d.Allowed || d.Code != CodeForbidden {
		t.Errorf("%+v", d)
	}
	if d := open(t, write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll + broken})).Decide(t.Context(), ask()); !d.Allowed {
		t.Errorf("%+v", d)
	}
}

// Sets and policy sets have no order in Cedar; what callers see has one.
func TestNoticesAndSQLHaveAnOrder(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 20 {
		fmt.Fprintf(&b, "@id(\"f%d\") @notice(\"notice %02d\") forbid (principal, action == AuditLog::Action::\"QueryLog\", resource);\n", i, (i*7)%10)
	}
	e := open(t, write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll + b.String()}))
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprintf("notice %02d", i))
	}
	builtin, r := open(t, ""), ask("auditor")
	r.Principal.ResourceTypes = []string{"c", "a", "b", "e", "d"}
	first, args := builtin.Decide(t.Context(), r).Scope.Where()
	for range 50 {
		if d := e.Decide(t.Context(), ask()); !slices.Equal(d.Notices, want) || len(d.Policies) != 20 {
			t.Fatalf("%+v", d)
		}
		if where, again := builtin.Decide(t.Context(), r).Scope.Where(); where != first || again["az1"] != args["az1"] || again["az1"] != "a" {
			t.Fatalf("%s %v", where, again)
		}
	}
}

// A tenant's own layer replaces the default one for that tenant alone, and no layer gets past a guardrail.
func TestLayers(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{
		"default/a.cedar":          gateForAll,
		"b.cedar":                  rowsForAll,
		"notes.txt":                "not a policy",
		".hidden/x.cedar":          "not read",
		"..2026_11/x.cedar":        "not read",
		"guardrails/suspend.cedar": `@id("suspended") @notice("This tenant is suspended.") forbid (principal in AuditLog::Role::"suspended", action in AuditLog::Action::"read", resource);`,
		"tenants/" + tenantB.String() + "/a.cedar": gateForAll + `@id("rows") permit (principal, action == AuditLog::Action::"ReadEvent", resource) when { resource.actor_id == "b" };`,
	})
	e := open(t, dir)
	where := func(r Request) string { return describe(e.Decide(t.Context(), r)) }
	if got := where(ask("x")); got != "allow tenant_id = {az0:UUID}" {
		t.Error(got)
	}
	b := ask("x")
	b.Principal.Tenant, b.Tenant = tenantB, tenantB
	if got := where(b); got != "allow tenant_id = {az0:UUID} AND actor_id = {az1:String}" {
		t.Error(got)
	}
	b.Tenant = tenantA
	if got := where(b); got != "deny tenant_mismatch The API key does not belong to this tenant." {
		t.Error(got)
	}
	if got := where(ask("suspended")); got != "deny forbidden This tenant is suspended." {
		t.Error(got)
	}
}

// A filter that leaves only forbidden rows is refused with the notices of all policies behind it, or answered with an empty page.
func TestUnreadableFilter(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll + breakGlass +
		`@id("old") @code("too_old") @notice("Only the last 90 days.") forbid (principal, action == AuditLog::Action::"ReadEvent", resource)
		when { resource.created_at < context.now.offset(duration("-90d")) } unless { principal in AuditLog::Role::"admin" };
		@id("secret") @notice("Secret.") forbid (principal, action == AuditLog::Action::"ReadEvent", resource) when { resource.action == "secret" };`})
	ago := func(days int) time.Time { return noon.AddDate(0, 0, -days) }
	for _, c := range []struct {
		name   string
		filter audit.Filter
		want   string
	}{
		{"an allowed action", audit.Filter{Actions: []string{"a"}}, "allow"},
		{"one of several", audit.Filter{Actions: []string{"breakglass.open", "a"}}, "allow"},
		{"forbidden", audit.Filter{Actions: []string{"breakglass.open"}}, "deny restricted_events Break-glass events are visible to admins only."},
		{"all forbidden", audit.Filter{Actions: []string{"breakglass.open", "breakglass.close"}}, "deny restricted_events Break-glass events are visible to admins only."},
		{"forbidden for different reasons", audit.Filter{Actions: []string{"breakglass.open", "secret"}}, "deny forbidden Break-glass events are visible to admins only. | Secret."},
		{"too old", audit.Filter{To: ago(90).Truncate(time.Millisecond)}, "deny too_old Only the last 90 days."},
		{"a millisecond that is not", audit.Filter{To: ago(90).Truncate(time.Millisecond).Add(time.Millisecond)}, "allow"},
		{"across the border", audit.Filter{From: ago(100), To: ago(80)}, "allow"},
		{"too many combinations to try", audit.Filter{Actions: append(many(80), "breakglass.x")}, "allow"},
		{"too many combinations, all alike", audit.Filter{Actions: prefixed("breakglass.", many(80))}, "deny restricted_events Break-glass events are visible to admins only."},
	} {
		e := open(t, dir)
		r := ask("auditor")
		r.Filter = c.filter
		d := e.Decide(t.Context(), r)
		if got := describe(d); got != c.want && !strings.HasPrefix(got, c.want+" tenant_id") {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		e.OnUnreadable = UnreadableEmpty
		if again := e.Decide(t.Context(), r); !again.Allowed || again.Scope.Empty() == d.Allowed {
			t.Errorf("%s, set to answer with an empty page: %+v", c.name, again)
		}
		r.Principal.Roles = []string{"admin"}
		if again := e.Decide(t.Context(), r); c.name != "forbidden for different reasons" && again.Scope.Empty() {
			t.Errorf("%s, asked by an admin: %+v", c.name, again)
		}
	}
}

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint("a", i)
	}
	return out
}

func prefixed(prefix string, vs []string) []string {
	for i := range vs {
		vs[i] = prefix + vs[i]
	}
	return vs
}

// Whatever goes wrong inside is a denial, not a panic and not a grant.
func TestFailsClosed(t *testing.T) {
	t.Parallel()
	e := open(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d := e.Decide(ctx, ask("admin")); d.Allowed || d.Code != CodeEvaluationFailed {
		t.Errorf("cancelled: %+v", d)
	}
	for _, a := range []Action{"", "ReadEvent", "read", "Delete"} {
		r := ask("admin")
		r.Action = a
		if d := e.Decide(t.Context(), r); d.Allowed || d.Code != CodeEvaluationFailed {
			t.Errorf("action %q: %+v", a, d)
		}
	}
	good := e.Decide(t.Context(), ask("admin")).Scope
	if good.Permits(nil) {
		t.Error("a row that is none is permitted")
	}
	broken := open(t, "")
	broken.current.Store(&snapshot{}) // no model: everything that touches it panics
	if d := broken.Decide(t.Context(), ask("admin")); d.Allowed {
		t.Errorf("panic: %+v", d)
	}
	broken.current.Store(nil)
	if d := broken.Decide(t.Context(), ask("admin")); d.Allowed || d.Code != CodeEvaluationFailed {
		t.Errorf("no policies: %+v", d)
	}
	if x := broken.Explain(ask("admin")); x.Allowed || x.Code != CodeEvaluationFailed {
		t.Errorf("no policies, explained: %+v", x)
	}
}

// A row that the SQL should never have selected is refused and counted.
func TestRecheckCountsDrops(t *testing.T) {
	t.Parallel()
	e := open(t, "")
	r := ask("self")
	r.Principal.ActorID = "u1"
	s := e.Decide(t.Context(), r).Scope
	if !s.Permits(&audit.Event{ActorID: "u1"}) || s.Permits(&audit.Event{ActorID: "u2"}) {
		t.Error("the re-check is wrong")
	}
	if n := testutil.ToFloat64(e.metrics.dropped); n != 1 {
		t.Errorf("audit_policy_recheck_dropped_total is %v", n)
	}
}

// An optional attribute that is absent is an error in Cedar, not a NULL: `absent == "x" || true` must not show the row.
func TestAbsentReasoningIsNotNull(t *testing.T) {
	t.Parallel()
	m, err := loadModel()
	if err != nil {
		t.Fatal(err)
	}
	text := "x"
	with, without := &audit.Event{Reasoning: &text}, &audit.Event{}
	for cond, want := range map[string][2]bool{ // with reasoning "x", without
		`resource.reasoning == "y" || true`:                                            {true, false},
		`!(resource.reasoning == "y")`:                                                 {true, false},
		`resource.reasoning != "y"`:                                                    {true, false},
		`true || resource.reasoning == "y"`:                                            {true, true},
		`resource has reasoning && resource.reasoning == "x"`:                          {true, false},
		`!(resource has reasoning && resource.reasoning == "x")`:                       {false, true},
		`!(resource has reasoning) || resource.reasoning == "x"`:                       {true, true},
		`if resource has reasoning then resource.reasoning like "*" else false`:        {true, false},
		`["x"].containsAny(["x", resource.reasoning])`:                                 {true, false},
		`(if resource.reasoning == "x" then false else true) || resource.action == ""`: {true, false},
	} {
		rules, _ := bundle(t, m, `@id("p") permit (principal, action, resource) when { `+cond+` };`)
		r := ask()
		p := planRows(rules, newEntities(m, &r), &r)
		got := [2]bool{p.cond().Match(tenantA, with), p.cond().Match(tenantA, without)}
		if got != want || p.authorize(rules, with) != want[0] || p.authorize(rules, without) != want[1] {
			t.Errorf("%s: %v, want %v", cond, got, want)
		}
	}
}
