package policy

import (
	"net/netip"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// entities is what Cedar can look up while it decides one request: the key, the log, one row, the actions. Roles and tenants have
// neither attributes nor parents and need no entry.
type entities struct {
	model *model
	key   cedar.Entity
	log   cedar.Entity
	event cedar.Entity // zero unless a row is being checked

	tenant  cedar.EntityUID    // the one asked for
	parents cedar.EntityUIDSet // of every event of it
}

// Get implements cedar.EntityGetter.
func (e *entities) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch uid {
	case e.key.UID:
		return e.key, true
	case e.log.UID:
		return e.log, true
	case e.event.UID:
		return e.event, e.event.UID.Type == typeEvent
	}
	ent, ok := e.model.actions[uid]
	return ent, ok
}

// withEvent is e with a row of the log in it.
func (e *entities) withEvent(ent cedar.Entity) *entities {
	c := *e
	c.event = ent
	return &c
}

func newEntities(m *model, r *Request) *entities {
	e := &entities{model: m, key: keyEntity(&r.Principal), log: logEntity(r.Tenant), tenant: tenantUID(r.Tenant)}
	e.parents = cedar.NewEntityUIDSet(e.log.UID, e.tenant)
	return e
}

func keyEntity(p *Principal) cedar.Entity {
	attrs := cedar.RecordMap{
		"tenant":         tenantUID(p.Tenant),
		"resource_types": stringSet(p.ResourceTypes),
	}
	if p.ActorID != "" {
		attrs["actor_id"] = cedar.String(p.ActorID)
	}
	if p.ActorType != "" {
		attrs["actor_type"] = cedar.String(p.ActorType)
	}
	if !p.ExpiresAt.IsZero() {
		attrs["expires_at"] = cedar.NewDatetime(p.ExpiresAt)
	}
	roles := make([]cedar.EntityUID, len(p.Roles))
	for i, r := range p.Roles {
		roles[i] = cedar.NewEntityUID(typeRole, cedar.String(r))
	}
	return cedar.Entity{
		UID:        cedar.NewEntityUID(typeKey, cedar.String(p.KeyID)),
		Parents:    cedar.NewEntityUIDSet(roles...),
		Attributes: cedar.NewRecord(attrs),
	}
}

func tenantUID(t uuid.UUID) cedar.EntityUID {
	return cedar.NewEntityUID(typeTenant, cedar.String(t.String()))
}

func logEntity(t uuid.UUID) cedar.Entity {
	return cedar.Entity{
		UID:        cedar.NewEntityUID(typeLog, cedar.String(t.String())),
		Parents:    cedar.NewEntityUIDSet(tenantUID(t)),
		Attributes: cedar.NewRecord(cedar.RecordMap{"tenant": tenantUID(t)}),
	}
}

// eventEntity is a row of the log asked for.
func (e *entities) eventEntity(ev *audit.Event) cedar.Entity {
	attrs := cedar.RecordMap{
		"tenant":        e.tenant,
		"actor_id":      cedar.String(ev.ActorID),
		"actor_type":    cedar.String(ev.ActorType),
		"action":        cedar.String(ev.Action),
		"resource_type": cedar.String(ev.ResourceType),
		"resource_id":   cedar.String(ev.ResourceID),
		"created_at":    cedar.NewDatetime(ev.CreatedAt), // floors to the millisecond
	}
	if ev.Reasoning != nil {
		attrs["reasoning"] = cedar.String(*ev.Reasoning)
	}
	return cedar.Entity{
		UID:        cedar.NewEntityUID(typeEvent, cedar.String(ev.ID.String())),
		Parents:    e.parents,
		Attributes: cedar.NewRecord(attrs),
	}
}

// gateContext is the context of QueryLog and ExportLog.
func gateContext(r *Request) cedar.Record {
	f := cedar.RecordMap{
		"actor_ids":      stringSet(r.Filter.ActorIDs),
		"resource_types": stringSet(r.Filter.ResourceTypes),
		"resource_ids":   stringSet(r.Filter.ResourceIDs),
		"actions":        stringSet(r.Filter.Actions),
	}
	if !r.Filter.From.IsZero() {
		f["from"] = cedar.NewDatetime(r.Filter.From)
	}
	if !r.Filter.To.IsZero() {
		f["to"] = cedar.NewDatetime(r.Filter.To)
	}
	m := rowContext(r.Now, r.SourceIP)
	m["limit"] = cedar.Long(r.Limit)
	m["filter"] = cedar.NewRecord(f)
	return cedar.NewRecord(m)
}

// rowContext is the context of ReadEvent.
func rowContext(now time.Time, ip netip.Addr) cedar.RecordMap {
	m := cedar.RecordMap{"now": cedar.NewDatetime(now)}
	if ip.IsValid() {
		ip = ip.Unmap().WithZone("")
		m["source_ip"] = cedar.IPAddr(netip.PrefixFrom(ip, ip.BitLen()))
	}
	return m
}

func stringSet(vs []string) cedar.Set {
	vals := make([]cedar.Value, len(vs))
	for i, v := range vs {
		vals[i] = cedar.String(v)
	}
	return cedar.NewSet(vals...)
}
