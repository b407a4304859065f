package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
)

// finish removes what earlier runs have cut and not removed, and the tombstones of those that died before they cut.
func (r *run) finish(ctx context.Context, state *control.State) error {
	for _, p := range r.partitions() {
		var open []control.Record
		for _, c := range state.Open() {
			if events.Partition(*c.Tenant, r.Partitions) == p { // not c.Cut.Partition: there may have been another number of them
				open = append(open, c)
			}
		}
		if err := r.remove(ctx, p, open); err != nil {
			return fmt.Errorf("finish cuts of partition %d: %w", p, err)
		}
		r.report.Finished += len(open)
		buried, err := r.Table.Buried(ctx, p)
		if err != nil {
			return err
		}
		for _, b := range buried {
			if slices.ContainsFunc(state.Marks(), func(m control.Mark) bool { return m.Mark == b.Mark }) {
				continue
			}
			if err := r.unbury(ctx, p, b.Mark); err != nil {
				return err
			}
		}
	}
	return nil
}

// unbury deletes tombstones that no cut speaks of, where their rows are: else they are no remains of a run, and verify has something to say about them.
func (r *run) unbury(ctx context.Context, p int, mark uint64) error {
	lost, err := r.Table.Orphans(ctx, p, mark)
	if err != nil || lost > 0 {
		return err
	}
	return r.Table.Unbury(ctx, p, mark)
}

// cut decides on the removal of what a tenant has, on the ground of what is in force in that very moment. It returns nil when there is nothing to decide.
func (r *run) cut(ctx context.Context, p int, through uint64, lines []Line) (*control.Record, error) {
	tenant := lines[0].Tenant
	oldest, newest := lines[0].Oldest, lines[0].Newest
	for _, l := range lines {
		oldest, newest = earlier(oldest, l.Oldest), later(newest, l.Newest)
	}
	for range maxTries {
		state, err := r.Log.Load(ctx)
		if err != nil {
			return nil, err
		}
		if _, held := state.Held(tenant); held {
			return nil, nil
		}
		if err := r.after(Looked); err != nil {
			return nil, err
		}
		mark := newMark()
		bounds := state.Bounds(&tenant, r.opts.Now)
		n, err := r.Table.Bury(ctx, clickhouse.Coverage{Partition: p, Bounds: bounds, Through: through, Tenants: []uuid.UUID{tenant}}, mark)
		if err != nil || n == 0 {
			return nil, err
		}
		if err := r.after(Buried); err != nil {
			return nil, err
		}
		rec, err := r.Log.Append(ctx, state, control.Decision{
			Kind: control.Removal, Tenant: &tenant, By: r.opts.By, Reason: r.opts.Reason,
			Cut: &control.Cut{Partition: p, Mark: mark, Bounds: bounds, Through: through, Rows: n, MinCreated: oldest.UnixMicro(), MaxCreated: newest.UnixMicro()},
		})
		switch {
		case err == nil:
			return &rec, r.after(Cut)
		case !errors.Is(err, control.ErrMoved):
			return nil, err // what is buried lies beside its rows; the next run sees to it
		}
		if err := r.Table.Unbury(ctx, p, mark); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("cut rows of tenant %s: %w, %d times", tenant, control.ErrMoved, maxTries)
}

// remove removes the rows of cuts of a partition, and lets the hourly counts follow.
func (r *run) remove(ctx context.Context, p int, cuts []control.Record) error {
	for _, g := range groups(p, cuts) {
		if err := r.Table.Remove(ctx, g.coverage); err != nil {
			return err
		}
		if err := r.Counts.RecountDays(ctx, p, time.UnixMicro(g.min).UTC(), time.UnixMicro(g.max).UTC(), g.coverage.Tenants); err != nil {
			return err
		}
	}
	r.done = append(r.done, cuts...)
	if len(cuts) == 0 {
		return nil
	}
	return r.after(Removed)
}

// group is cuts that one statement removes the rows of.
type group struct {
	coverage clickhouse.Coverage
	min, max int64
}

// groups joins cuts with the same bounds.
func groups(p int, cuts []control.Record) (out []group) {
	at := map[string]int{}
	for _, c := range cuts {
		key := fmt.Sprint(c.Cut.Bounds, c.Cut.Through)
		i, there := at[key]
		if !there || len(out[i].coverage.Tenants) == clickhouse.MaxCutTenants {
			i = len(out)
			at[key] = i
			out = append(out, group{min: c.Cut.MinCreated, max: c.Cut.MaxCreated,
				coverage: clickhouse.Coverage{Partition: p, Bounds: c.Cut.Bounds, Through: c.Cut.Through}})
		}
		g := &out[i]
		g.coverage.Tenants = append(g.coverage.Tenants, *c.Tenant)
		g.min, g.max = min(g.min, c.Cut.MinCreated), max(g.max, c.Cut.MaxCreated)
	}
	return out
}
