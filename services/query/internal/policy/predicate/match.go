package predicate

import (
	"slices"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// Match says whether an event of this tenant fulfils c: what the SQL would say, computed in Go.
func (c *Cond) Match(tenant uuid.UUID, e *audit.Event) bool {
	switch c.kind {
	case kindConst:
		return c.value
	case kindAnd:
		return !slices.ContainsFunc(c.kids, func(k *Cond) bool { return !k.Match(tenant, e) })
	case kindOr:
		return slices.ContainsFunc(c.kids, func(k *Cond) bool { return k.Match(tenant, e) })
	case kindNot:
		return !c.kids[0].Match(tenant, e)
	case kindPresent:
		return e.Reasoning != nil
	case kindBefore:
		return e.CreatedAt.UnixMicro() < c.millis*1000
	}
	v := text(c.col, tenant, e)
	switch c.kind {
	case kindEqual:
		return v == c.values[0]
	case kindIn:
		return slices.Contains(c.values, v)
	case kindLike:
		return c.pattern.Match(v)
	default: // kindSame
		return v == text(c.other, tenant, e)
	}
}

// text is the value of a column of text or id; an absent reasoning reads as empty, and is always asked for behind Present.
func text(col Column, tenant uuid.UUID, e *audit.Event) string {
	switch col {
	case TenantID:
		return tenant.String()
	case ID:
		return e.ID.String()
	}
	v, _ := Text(col, e)
	return v
}

// Text is the value of a column of text, and whether there is one: a reasoning may be absent.
func Text(col Column, e *audit.Event) (v string, present bool) {
	switch col {
	case ActorID:
		return e.ActorID, true
	case ActorType:
		return e.ActorType, true
	case Action:
		return e.Action, true
	case ResourceType:
		return e.ResourceType, true
	case ResourceID:
		return e.ResourceID, true
	case Reasoning:
		if e.Reasoning != nil {
			return *e.Reasoning, true
		}
	}
	return "", false
}
