package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
)

// actions are the audit events that tell of decisions.
var actions = map[control.Kind]string{
	control.RetentionSet: "audit.retention.set", control.RetentionUnset: "audit.retention.unset", control.Removal: "audit.retention.removed",
	control.HoldSet: "audit.hold.set", control.HoldRelease: "audit.hold.release", control.Erased: "audit.erase", control.Offboarded: "audit.tenant.offboard",
	control.EraseRuleSet: "audit.erase.rule.set", control.EraseRuleUnset: "audit.erase.rule.unset",
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
		details["pseudonym"], details["fields"], details["resource_types"] = r.Erase.Pseudonym, namesOf(r.Erase.Fields), namesOf(r.Erase.ResourceTypes)
	case control.EraseRuleSet:
		details["fields"], details["resource_types"] = namesOf(r.EraseRule.Fields), namesOf(r.EraseRule.ResourceTypes)
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

// namesOf is a list that is [] when it is empty.
func namesOf(names []string) []string { return append([]string{}, names...) }

// announce publishes what was decided since the last run, and the cuts that are done now.
func (r *run) announce(ctx context.Context, before *control.State) error {
	for _, d := range before.Decided(before.LastRun(r.Shard.String()).Seq) {
		if err := Announce(ctx, r.System, d); err != nil {
			return err
		}
	}
	for _, c := range r.done {
		if err := Announce(ctx, r.System, c); err != nil {
			return err
		}
	}
	return nil
}

// Announce publishes a decision in the logs of those it is about: one tenant, or every tenant of the table. The log of a tenant that has left gets nothing
// more.
func Announce(ctx context.Context, s System, d control.Record) error {
	state, err := s.Log.Load(ctx)
	if err != nil {
		return err
	}
	var tenants []uuid.UUID
	if d.Tenant != nil {
		tenants = append(tenants, *d.Tenant)
	} else {
		for _, p := range s.Shard.Partitions(s.Partitions) {
			of, err := s.Table.Tenants(ctx, p)
			if err != nil {
				return err
			}
			tenants = append(tenants, of...)
		}
	}
	tenants = slices.DeleteFunc(tenants, func(t uuid.UUID) bool {
		_, left := state.Offboarded(t)
		return left || t == uuid.Nil // which no event can be published for
	})
	return s.Announcer.Announce(ctx, d, tenants)
}
