package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
)

// ErrHeld is returned for a tenant on legal hold.
var ErrHeld = errors.New("the tenant is on legal hold")

// ErrOtherShard is returned for a tenant whose rows are in another table than the one that was given.
var ErrOtherShard = errors.New("the tenant's rows are on another shard (AUDIT_SHARD)")

// checkTenant says why a tenant cannot be offboarded.
func (s System) checkTenant(state *control.State, tenant uuid.UUID) error {
	if !s.Shard.Has(events.Partition(tenant, s.Partitions)) {
		return fmt.Errorf("tenant %s: %w", tenant, ErrOtherShard)
	}
	if hold, held := state.Held(tenant); held {
		return fmt.Errorf("tenant %s: %w since %s, by %s: %s", tenant, ErrHeld, hold.At.Format("2006-01-02"), hold.By, hold.Reason)
	}
	return nil
}

// Offboard decides that a tenant has left and removes all of its rows, from the disk too. It returns an ErrHeld for a tenant on hold. A tenant that has left
// already is not decided on again: its rows that are there are removed. r.Seq is 0 when nothing was decided.
func Offboard(ctx context.Context, s System, tenant uuid.UUID, opts Options) (r control.Record, report Report, err error) {
	r, err = Decide(ctx, s.Log, func(state *control.State) (control.Decision, error) {
		if err := s.checkTenant(state, tenant); err != nil {
			return control.Decision{}, err
		}
		if _, left := state.Offboarded(tenant); left {
			return control.Decision{}, errLeft
		}
		return control.Decision{Kind: control.Offboarded, Tenant: &tenant, By: opts.By, Reason: opts.Reason}, nil
	})
	if err != nil && !errors.Is(err, errLeft) {
		return r, report, err
	}
	opts.Tenant, opts.Purge = &tenant, true
	report, err = Run(ctx, s, opts)
	return r, report, err
}

// errLeft is why nothing is decided.
var errLeft = errors.New("the tenant has left already")

// PlanOffboard says what Offboard would remove. It changes nothing.
func PlanOffboard(ctx context.Context, s System, tenant uuid.UUID) (Report, error) {
	state, err := s.Log.Load(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := s.checkTenant(state, tenant); err != nil {
		return Report{}, err
	}
	r := newRun(s, Options{Tenant: &tenant})
	for _, p := range r.partitions() {
		through, err := r.through(ctx, p)
		if err != nil {
			return Report{}, err
		}
		rows, err := s.Table.Removable(ctx, clickhouse.Coverage{
			Partition: p, Bounds: []control.Bound{{Before: math.MaxInt64}}, Through: through, Tenants: []uuid.UUID{tenant},
		})
		if err != nil {
			return Report{}, err
		}
		r.report.Lines = append(r.report.Lines, linesOf(state, rows)...)
	}
	return r.report, nil
}
