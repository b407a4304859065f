package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
)

// actions are the audit events that tell of decisions.
var actions = map[control.Kind]string{
	control.RetentionSet: "audit.retention.set", control.RetentionUnset: "audit.retention.unset", control.Removal: "audit.retention.removed",
	control.HoldSet: "audit.hold.set", control.HoldRelease: "audit.hold.release", control.Erased: "audit.erase", control.Offboarded: "audit.tenant.offboard",
}

// actorType is that of whoever decides.
const actorType = "operator"

// Events publishes decisions as audit events, by a connection of its own to the stream.
type Events struct{ nc *nats.Conn }

// NewEvents publishes by nc.
func NewEvents(nc *nats.Conn) *Events { return &Events{nc: nc} }

// Announce implements Announcer. A decision has one id for each tenant, and one time, so publishing it again adds nothing to see.
func (e *Events) Announce(ctx context.Context, r control.Record, tenants []uuid.UUID) (err error) {
	if len(tenants) == 0 {
		return nil
	}
	p, err := events.NewPublisher(e.nc)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := p.Close(ctx); err == nil {
			err = cerr
		}
	}()
	futures := make([]*events.Future, len(tenants))
	for i, t := range tenants {
		ev, err := eventOf(r, t)
		if err != nil {
			return err
		}
		if futures[i], err = p.PublishAsync(ctx, ev); err != nil {
			return fmt.Errorf("publish decision %d as an event: %w", r.Seq, err)
		}
	}
	for _, f := range futures {
		if _, err := f.Wait(ctx); err != nil {
			return fmt.Errorf("publish decision %d as an event: %w", r.Seq, err)
		}
	}
	return nil
}

// eventOf is the decision as an event in a tenant's log.
func eventOf(r control.Record, tenant uuid.UUID) (events.Event, error) {
	details := map[string]any{"decision": r.Seq, "all_tenants": r.Tenant == nil}
	switch r.Kind {
	case control.RetentionSet, control.RetentionUnset:
		details["action_prefix"], details["days"] = r.Retention.Prefix, r.Retention.Days
	case control.Removal:
		details["rows"], details["bounds"], details["oldest_us"], details["newest_us"] = r.Cut.Rows, r.Cut.Bounds, r.Cut.MinCreated, r.Cut.MaxCreated
	case control.Erased:
		details["pseudonym"] = r.Erase.Pseudonym
	}
	metadata, err := json.Marshal(details)
	if err != nil {
		return events.Event{}, fmt.Errorf("encode decision %d: %w", r.Seq, err)
	}
	ev := events.Event{
		ID: uuid.NewSHA1(r.ID, tenant[:]), TenantID: tenant, CreatedAt: r.At, ActorID: r.By, ActorType: actorType, Action: actions[r.Kind],
		ResourceType: "tenant", ResourceID: tenant.String(), Metadata: metadata,
	}
	if r.Reason != "" {
		ev.Reasoning = &r.Reason
	}
	return ev, nil
}
