package policy

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

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

func ask(roles ...string) Request {
	return Request{Principal: Principal{KeyID: "k1", Tenant: tenantA, Roles: roles}, Tenant: tenantA, Action: QueryLog, Limit: 50, Now: noon}
}

func TestSmoke(t *testing.T) {
	e := open(t, "")
	for _, r := range []Request{ask("auditor"), ask("admin"), ask("self"), ask(), ask("auditor", "self")} {
		for _, scoped := range []bool{false, true} {
			if scoped {
				r.Principal.ActorID, r.Principal.ActorType, r.Principal.ResourceTypes = "u1", "user", []string{"invoice", "bill"}
			}
			d := e.Decide(t.Context(), r)
			sql, args := d.Scope.Where()
			t.Log(r.Principal.Roles, d.Allowed, d.Code, d.Notices, d.Policies, sql, args, d.Scope.Permits(&audit.Event{ActorID: "u1", ActorType: "user", ResourceType: "bill", CreatedAt: noon}))
		}
	}
	r := ask("auditor")
	r.Principal.ResourceTypes = []string{"invoice"}
	r.Filter.ResourceTypes = []string{"payroll", "x"}
	t.Logf("%+v", e.Decide(t.Context(), r))
	r.Tenant = tenantB
	t.Logf("%+v", e.Decide(t.Context(), r))
}
