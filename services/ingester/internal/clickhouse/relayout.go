package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

const (
	// nextTable is the table that 0003 makes, and what the old one is called after they have swapped names.
	nextTable  = "event_log_next"
	nextMirror = "event_log_next_mirror"
	// nextPartition is the partition key of the new table, by which it is told from the old one.
	nextPartition = "(partition, toYear(created_at))"
	// missingRange is how many sequences one query compares when it looks for rows that the new table lacks: what bounds its memory.
	missingRange = 1 << 22
)

// errRebuildBeside is returned when a rebuild of an older program is under way: it would swap its table over ours.
var errRebuildBeside = errors.New("a rebuild of the event table is under way or was interrupted: finish it, or clear it with `ingester rebuild --abort`, with the program that began it")

// relayout moves the rows of the event table into one of another layout, with the three statements of the migration: make, swap, drop. Ingesters of an
// older program may go on inserting all the while, and it may die at any point and be begun again:
//
//   - Before the swap the live table has everything. What is there of the new one is dropped, and it is begun anew.
//   - After the swap the new table has everything but, perhaps, rows of inserts that the swap caught. They are looked for in the old one, once no insert
//     can write to it any more. Then it is dropped.
func (s *Store) relayout(ctx context.Context, m migration) error {
	makeNext, swap, dropNext := m.sql[0], m.sql[1], m.sql[2]
	swapped, err := s.isSwapped(ctx)
	if err != nil {
		return err
	}
	if !swapped {
		if err := s.fillNext(ctx, dropNext, makeNext); err != nil {
			return err
		}
		if err := s.steps(ctx, "swap the tables", swap); err != nil {
			return err
		}
	}
	if err := s.steps(ctx, "stop the mirror", "DROP VIEW IF EXISTS "+nextMirror+" SYNC"); err != nil {
		return err
	}
	if err := s.WaitWriters(ctx); err != nil {
		return err
	}
	if err := s.copyCaught(ctx); err != nil {
		return err
	}
	return s.steps(ctx, "drop the old table", dropNext)
}

// isSwapped says whether the live table has the new layout.
func (s *Store) isSwapped(ctx context.Context) (bool, error) {
	beside, err := s.Beside(ctx)
	if err != nil {
		return false, err
	}
	if beside != (Beside{}) {
		return false, errRebuildBeside
	}
	var key string
	if err := s.queries.QueryRow(ctx, "SELECT partition_key FROM system.tables WHERE database = currentDatabase() AND name = ?", EventTable).Scan(&key); err != nil {
		return false, fmt.Errorf("look for the layout of %s: %w", EventTable, classify(err))
	}
	return key == nextPartition, nil
}

// fillNext makes the new table and fills it: with every insert that begins from now on by the mirror, and with what is there already by copying.
func (s *Store) fillNext(ctx context.Context, dropNext, makeNext string) error {
	err := s.steps(ctx, "make the new table", "DROP VIEW IF EXISTS "+nextMirror+" SYNC", dropNext, makeNext,
		"CREATE MATERIALIZED VIEW "+nextMirror+" TO "+nextTable+" AS SELECT "+columnNames()+" FROM "+EventTable)
	if err != nil {
		return err
	}
	if err := s.WaitWriters(ctx); err != nil { // those that began before the mirror was there
		return err
	}
	var borders []struct {
		Partition uint16 `ch:"partition"`
		Last      uint64 `ch:"last"`
	}
	if err := s.queries.Select(ctx, &borders, "SELECT partition, max(stream_seq) AS last FROM "+EventTable+" GROUP BY partition ORDER BY partition"); err != nil {
		return fmt.Errorf("look for the newest rows: %w", classify(err))
	}
	if err := s.WaitWriters(ctx); err != nil { // those of rows up to the borders: the mirror has brought all it will bring of them
		return err
	}
	for _, b := range borders {
		if err := s.fillPartition(ctx, b.Partition, b.Last); err != nil {
			return err
		}
	}
	return nil
}

// fillPartition copies what the live table has of a partition up to a sequence, year by year, in place of what the mirror has brought of it.
func (s *Store) fillPartition(ctx context.Context, partition uint16, upTo uint64) error {
	where := fmt.Sprintf("partition = %d AND stream_seq <= %d", partition, upTo)
	if err := s.steps(ctx, "clear what the mirror brought", "ALTER TABLE "+nextTable+" DELETE WHERE "+where+" SETTINGS mutations_sync = 2"); err != nil {
		return err
	}
	if err := s.copyYears(ctx, EventTable, nextTable, where); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "rows copied to the new layout", slog.Uint64("partition", uint64(partition)))
	return nil
}

// copyYears copies rows year by year, so that no statement writes to several partitions of the table at once.
func (s *Store) copyYears(ctx context.Context, from, to, where string) error {
	var years []struct {
		Year uint16 `ch:"year"`
	}
	if err := s.queries.Select(ctx, &years, "SELECT DISTINCT toYear(created_at) AS year FROM "+quote(from)+" WHERE "+where+" ORDER BY year"); err != nil {
		return fmt.Errorf("look for the years to copy from %s: %w", from, classify(err))
	}
	for _, y := range years {
		if err := s.copyRows(ctx, from, to, fmt.Sprintf("%s AND toYear(created_at) = %d", where, y.Year)); err != nil {
			return err
		}
	}
	return nil
}

// copyCaught copies rows that the old table has and the new one lacks: those of inserts that were running at the swap.
func (s *Store) copyCaught(ctx context.Context) error {
	var there uint64
	if err := s.queries.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = ?", nextTable).Scan(&there); err != nil {
		return fmt.Errorf("look for the old table: %w", classify(err))
	}
	if there == 0 {
		return nil
	}
	var ranges []struct {
		Partition uint16 `ch:"partition"`
		First     uint64 `ch:"first"`
	}
	err := s.queries.Select(ctx, &ranges, fmt.Sprintf("SELECT partition, intDiv(stream_seq, %[1]d) * %[1]d AS first FROM %[2]s GROUP BY partition, first ORDER BY partition, first",
		missingRange, nextTable))
	if err != nil {
		return fmt.Errorf("look for rows of the old table: %w", classify(err))
	}
	for _, r := range ranges {
		where := fmt.Sprintf("partition = %d AND stream_seq >= %d AND stream_seq < %d", r.Partition, r.First, r.First+missingRange)
		err := s.copyRows(ctx, nextTable, EventTable, fmt.Sprintf("%s AND stream_seq NOT IN (SELECT stream_seq FROM %s WHERE %s)", where, EventTable, where))
		if err != nil {
			return err
		}
	}
	return nil
}
