package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.com/auditlog/services/query/internal/audit"
)

func prefixRow(action string) *audit.Event {
	return &audit.Event{ActorID: "u1", ActorType: "user", Action: action, ResourceType: "invoice", ResourceID: "i1", CreatedAt: noon}
}

// mixed is n policies: role permits, attribute permits, forbids, and some for other actions.
func mixed(n int) string {
	var b strings.Builder
	b.WriteString(gateForAll + rowsForAll)
	for i := range n - 2 {
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "@id(\"p%d\") permit (principal in AuditLog::Role::\"r%d\", action == AuditLog::Action::\"ReadEvent\", resource);\n", i, i)
		case 1:
			fmt.Fprintf(&b, "@id(\"p%d\") permit (principal, action == AuditLog::Action::\"ReadEvent\", resource) when { principal.resource_types.contains(resource.resource_type) && resource.action == \"a%d\" };\n", i, i)
		case 2:
			fmt.Fprintf(&b, "@id(\"p%d\") @notice(\"n\") forbid (principal, action == AuditLog::Action::\"ReadEvent\", resource) when { resource.action like \"x%d.*\" };\n", i, i)
		default:
			fmt.Fprintf(&b, "@id(\"p%d\") @notice(\"n\") forbid (principal, action == AuditLog::Action::\"QueryLog\", resource) when { context.limit > %d };\n", i, 1000+i)
		}
	}
	return b.String()
}

// What authorization adds to a page: decision, SQL, and the re-check of 50 rows.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{5, 50, 500} {
		files := map[string]string{}
		for i, part := range slices.Collect(slices.Chunk(strings.SplitAfter(mixed(n), "\n"), 200)) {
			files[fmt.Sprintf("%d.cedar", i)] = strings.Join(part, "")
		}
		e := open(b, write(b, b.TempDir(), files))
		r := ask("r0", "r4")
		r.Principal.ActorID, r.Filter.Actions = "u1", []string{"invoice.approve"}
		row := prefixRow("invoice.approve")
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := e.Decide(b.Context(), r); !d.Allowed {
					b.Fatal(d)
				}
			}
		})
		b.Run(fmt.Sprintf("policies=%d/page", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d := e.Decide(b.Context(), r)
				d.Scope.Where()
				for range 50 {
					if !d.Scope.Permits(row) {
						b.Fatal("hidden")
					}
				}
			}
		})
	}
}
