package verify

import (
	"context"
	"fmt"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
)

// tombstones compares the tombstones of a partition with what the control log says of them: each cut has as many as it was decided on. Tombstones that no
// cut speaks of are those of a run that is under way or was killed, so their rows are there.
func (v *verifier) tombstones(ctx context.Context, p int) error {
	buried, err := v.Table.Buried(ctx, p)
	if err != nil {
		return err
	}
	rows := make(map[uint64]uint64, len(buried))
	for _, b := range buried {
		rows[b.Mark] = b.Rows
	}
	for _, m := range v.state.Marks() {
		if events.Partition(m.Tenant, v.Partitions) != p {
			continue
		}
		if rows[m.Mark] != m.Rows {
			v.report.add(Finding{Kind: Tombstones, Partition: p, Detail: fmt.Sprintf(
				"decision %d removed %d rows, and there are %d tombstones of it", m.Cut, m.Rows, rows[m.Mark])})
		}
		v.report.Tombstones += rows[m.Mark]
		delete(rows, m.Mark)
	}
	if len(rows) == 0 {
		return nil
	}
	now, err := v.Control.Load(ctx)
	if err != nil {
		return err
	}
	for mark, n := range rows {
		if decided(now, mark) {
			continue // since we began
		}
		lost, err := v.Table.Orphans(ctx, p, mark)
		if err != nil {
			return err
		}
		if lost > 0 {
			v.report.addMany(Finding{Kind: Tombstones, Partition: p, Detail: fmt.Sprintf(
				"%d of %d tombstones with the mark %d have no row, and no decision speaks of them", lost, n, mark)}, lost)
		}
	}
	return nil
}

// decided says whether a cut has the mark.
func decided(s *control.State, mark uint64) bool {
	for _, m := range s.Marks() {
		if m.Mark == mark {
			return true
		}
	}
	return false
}
