package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// gen makes random policies and rows that meet often: both draw from the same few values, among them everything that SQL, LIKE or the
// wire might mangle. In wild mode it also writes what the schema forbids and what has no SQL.
type gen struct {
	*rand.Rand
	wild bool
}

var hostile = []string{"a", "b", "ab", "A", "%", "_", "a%b", "a_b", `\`, `\%`, `a\b`, `\\n`, "'", "''", `"`, "`", "{az0:String}", "a\tb", "a\nb", "a\r", "x\x00y", "\x00",
	"ü", "u\u0308", "日本", "😀", "a b", "-- ", "*", "a*b", "NULL", "\\N", "1", "0x41", "true", "resource", ""}

var moments = []int64{-3e12, 0, 1, 1_700_000_000_000, 1_700_000_000_001, 1_700_000_000_002, 1_700_086_400_000, 4e12, 2e13}

var eventIDs = []uuid.UUID{
	uuid.MustParse("01937b7e-0000-7000-8000-000000000001"), uuid.MustParse("01937b7e-0000-7000-8000-000000000002"),
	uuid.MustParse("ffffffff-ffff-ffff-ffff-ffffffffffff"), uuid.MustParse("abcdefab-0000-4000-8000-0000000000ff"),
}

func pick[T any](g *gen, from []T) T { return from[g.IntN(len(from))] }

func (g *gen) row() *audit.Event {
	micros := pick(g, moments[1:8])*1000 + pick(g, []int64{0, 1, 500, 999, 1000})
	e := &audit.Event{ID: pick(g, eventIDs), ActorID: pick(g, hostile), ActorType: pick(g, hostile), Action: pick(g, hostile),
		ResourceType: pick(g, hostile), ResourceID: pick(g, hostile), CreatedAt: time.UnixMicro(micros).UTC()}
	if g.IntN(3) > 0 {
		s := pick(g, hostile)
		e.Reasoning = &s
	}
	return e
}

func (g *gen) request() *Request {
	r := &Request{Principal: Principal{KeyID: "k", Tenant: tenantA}, Tenant: tenantA, Action: QueryLog, Now: time.UnixMilli(pick(g, moments[3:7]))}
	if g.IntN(20) == 0 {
		r.Principal.Tenant = tenantB
	}
	for _, role := range []string{"r1", "r2", "auditor"} {
		if g.IntN(2) == 0 {
			r.Principal.Roles = append(r.Principal.Roles, role)
		}
	}
	if g.IntN(2) == 0 {
		r.Principal.ActorID = pick(g, hostile)
	}
	for range g.IntN(4) {
		r.Principal.ResourceTypes = append(r.Principal.ResourceTypes, pick(g, hostile))
	}
	if g.IntN(2) == 0 {
		r.Principal.ExpiresAt = time.UnixMilli(pick(g, moments))
	}
	return r
}

// quote writes a Cedar string literal.
func quote(s string) string { return string(cedar.String(s).MarshalCedar()) }

func (g *gen) text() string { return quote(pick(g, hostile)) }

func (g *gen) datetime() string {
	return fmt.Sprintf("datetime(%q).offset(duration(\"%dms\"))", "1970-01-01", pick(g, moments))
}

func (g *gen) duration() string {
	return fmt.Sprintf("duration(\"%dms\")", pick(g, []int64{0, 1, -1, 86_400_000, -86_400_000, 1_700_000_000_000, 3e12}))
}

func (g *gen) attr() string {
	return "resource." + pick(g, []string{"actor_id", "actor_type", "action", "resource_type", "resource_id"})
}

func (g *gen) texts() string {
	if g.IntN(3) == 0 {
		return "principal.resource_types"
	}
	vs := make([]string, 1+g.IntN(5))
	for i := range vs {
		vs[i] = g.text()
	}
	return "[" + strings.Join(vs, ", ") + "]"
}

func (g *gen) pattern() string {
	var parts []any
	for range 1 + g.IntN(4) {
		if g.IntN(2) == 0 {
			parts = append(parts, cedar.Wildcard{})
		} else {
			parts = append(parts, pick(g, hostile))
		}
	}
	return string(cedar.NewPattern(parts...).MarshalCedar())
}

func (g *gen) tenant() string {
	return fmt.Sprintf("AuditLog::Tenant::%q", pick(g, []uuid.UUID{tenantA, tenantB}).String())
}

// expr is a random expression of type Bool.
func (g *gen) expr(depth int) string {
	if depth > 0 {
		switch g.IntN(8) {
		case 0, 1:
			return "(" + g.expr(depth-1) + " && " + g.expr(depth-1) + ")"
		case 2, 3:
			return "(" + g.expr(depth-1) + " || " + g.expr(depth-1) + ")"
		case 4:
			return "!(" + g.expr(depth-1) + ")"
		case 5:
			return "(if " + g.expr(depth-1) + " then " + g.expr(depth-1) + " else " + g.expr(depth-1) + ")"
		case 6:
			return "(resource has reasoning && " + g.reasoning() + ")"
		}
	}
	if g.wild && g.IntN(4) == 0 {
		return g.wildLeaf()
	}
	return g.leaf()
}

func (g *gen) reasoning() string {
	switch g.IntN(4) {
	case 0:
		return "resource.reasoning == " + g.text()
	case 1:
		return "resource.reasoning like " + g.pattern()
	case 2:
		return "resource.reasoning != " + g.attr()
	default:
		return g.texts() + ".contains(resource.reasoning)"
	}
}

func (g *gen) leaf() string {
	order := pick(g, []string{"<", "<=", ">", ">=", "==", "!="})
	switch g.IntN(18) {
	case 0:
		return pick(g, []string{"true", "false"})
	case 1:
		return g.attr() + pick(g, []string{" == ", " != "}) + g.text()
	case 2:
		return g.text() + " == " + g.attr()
	case 3, 4:
		return g.attr() + " like " + g.pattern()
	case 5, 6:
		return g.texts() + ".contains(" + g.attr() + ")"
	case 7:
		return g.texts() + pick(g, []string{".containsAny([", ".containsAll(["}) + g.attr() + ", " + pick(g, []string{g.attr(), g.text()}) + "])"
	case 8:
		return "resource.created_at " + order + " " + g.datetime()
	case 9:
		return g.datetime() + " " + order + " resource.created_at"
	case 10:
		return "context.now.durationSince(resource.created_at) " + order + " " + g.duration()
	case 11:
		return g.duration() + " " + order + " resource.created_at.durationSince(context.now)"
	case 12:
		return "resource.tenant " + pick(g, []string{"==", "!=", "in"}) + " " + g.tenant()
	case 13:
		return "resource in " + pick(g, []string{g.tenant(), fmt.Sprintf("AuditLog::Log::%q", tenantA), fmt.Sprintf("AuditLog::Event::%q", pick(g, eventIDs)),
			"[" + g.tenant() + ", " + g.tenant() + "]"})
	case 14:
		return fmt.Sprintf("resource == AuditLog::Event::%q", pick(g, eventIDs))
	case 15:
		return g.attr() + " == " + g.attr()
	case 16:
		return "resource has " + pick(g, []string{"reasoning", "action", "created_at"})
	default:
		return g.known()
	}
}

// known is an expression on the key and the context alone.
func (g *gen) known() string {
	switch g.IntN(6) {
	case 0:
		return "principal in AuditLog::Role::\"r1\""
	case 1:
		return "(principal has actor_id && principal.actor_id == " + pick(g, []string{g.text(), g.attr()}) + ")"
	case 2:
		return "principal.resource_types.isEmpty()"
	case 3:
		return "context.now > " + g.datetime()
	case 4:
		return "(principal has expires_at && resource.created_at < principal.expires_at)"
	default:
		return "principal.tenant == " + g.tenant()
	}
}

// wildLeaf is what validation refuses, or what has no translation.
func (g *gen) wildLeaf() string {
	return pick(g, []string{
		g.reasoning(), "resource.reasoning == resource.reasoning", "principal.actor_id == " + g.attr(), "principal.nope == 1", "resource.nope == 1", "resource has nope",
		g.attr() + " == 1", "resource == 1", "resource.created_at == " + g.text(), "resource.created_at < 1", g.attr() + " < " + g.text(),
		"resource == AuditLog::Event::\"ABCDEFAB-0000-4000-8000-0000000000FF\"", "resource.tenant == AuditLog::Tenant::\"x\"",
		"[resource.action].contains(" + g.text() + ")", "resource.created_at.toDate() == " + g.datetime(), "resource.created_at.offset(" + g.duration() + ") < context.now",
		"[\"a\", resource.reasoning].containsAny([\"a\"])", g.texts() + ".containsAny([" + g.attr() + ", resource.reasoning])", g.texts() + ".containsAll([resource.reasoning, " + g.attr() + "])",
		"resource.action.foo", "resource.tenant has x", "resource.tenant is AuditLog::Tenant", "resource.action is AuditLog::Tenant", "resource is AuditLog::Log",
		"resource is AuditLog::Event in AuditLog::Log::\"" + tenantA.String() + "\"", "resource.action in " + g.tenant(), "resource in [resource.tenant]", "resource in resource.tenant", "resource in 1",
		"(if resource has reasoning then \"a\" else \"b\") == \"a\"", "{a: resource.action} == {a: \"a\"}", "resource.created_at like \"a\"", "resource.reasoning like \"*\"",
		"9223372036854775807 + 1 == 1", "(resource.action == \"a\") == true", "1", "resource.action", "resource", "context.limit == 1", "[1].contains(resource.action)",
		"resource.created_at == resource.created_at", "resource.tenant == resource", "[" + g.tenant() + ", 1].contains(resource.tenant)", "resource in [" + g.tenant() + ", 1]",
	})
}

// policy is one random policy for ReadEvent.
func (g *gen) policy(i int) string {
	effect, notice := "permit", ""
	if g.IntN(3) == 0 {
		effect, notice = "forbid", "@notice(\"n\")\n"
	}
	principal := pick(g, []string{"principal", "principal", "principal in AuditLog::Role::\"r1\"", "principal is AuditLog::ApiKey in AuditLog::Role::\"auditor\""})
	action := pick(g, []string{"action == AuditLog::Action::\"ReadEvent\"", "action == AuditLog::Action::\"ReadEvent\"", "action in [AuditLog::Action::\"ReadEvent\"]"})
	resource := pick(g, []string{"resource", "resource", "resource", "resource is AuditLog::Event", fmt.Sprintf("resource in AuditLog::Log::%q", tenantA), "resource in " + g.tenant(),
		fmt.Sprintf("resource == AuditLog::Event::%q", pick(g, eventIDs))})
	var b strings.Builder
	fmt.Fprintf(&b, "@id(\"p%d\")\n%s%s (%s, %s, %s)", i, notice, effect, principal, action, resource)
	for range 1 + g.IntN(2) {
		fmt.Fprintf(&b, "\n%s { %s }", pick(g, []string{"when", "when", "unless"}), g.expr(g.IntN(4)))
	}
	b.WriteString(";\n")
	return b.String()
}

// policies are one to five of them.
func (g *gen) policies() string {
	var b strings.Builder
	for i := range 1 + g.IntN(5) {
		b.WriteString(g.policy(i))
	}
	return b.String()
}

func newGen(seed uint64) *gen { return &gen{Rand: rand.New(rand.NewPCG(20261123, seed))} }
