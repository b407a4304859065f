package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

const (
	// hoursTable has the counts by hour, and progressTable how far counting has come.
	hoursTable    = "event_hours"
	hoursNext     = "event_hours_next"
	progressTable = "event_hours_progress"
	tombstoneNext = "tombstones_next"
)

// marksAtOnce keeps a statement that names as many marks twice within ClickHouse's max_query_size of 256 KiB.
const marksAtOnce = 4000

// errUnequal means that the table beside does not have what the live one has.
var errUnequal = errors.New("the table beside differs from the live one")

// partitionSQL is events.Partition of the column tenant_id, for a statement.
func partitionSQL(partitions int) string {
	return fmt.Sprintf("toUInt16(arrayFold((h, c) -> bitAnd(bitXor(h, c) * 16777619, 4294967295), "+
		"arrayMap(c -> toUInt64(ascii(c)), splitByString('', toString(tenant_id))), toUInt64(2166136261)) %% %d)", partitions)
}

// CopyRepartitioned makes BuildTable anew and fills it with the rows of the event table, each in its partition of so many. Then both are compared: every
// row is there once, in the partition that events.Partition says. Nothing may be inserting. The errors of this and the methods below are classified as that of Insert.
func (s *Store) CopyRepartitioned(ctx context.Context, partitions int) error {
	if err := s.steps(ctx, "make a table beside the live one", "DROP TABLE IF EXISTS "+BuildTable+" SYNC", "CREATE TABLE "+BuildTable+" AS "+EventTable); err != nil {
		return err
	}
	var parts []struct {
		Partition uint16 `ch:"partition"`
		Year      uint16 `ch:"year"`
	}
	if err := s.queries.Select(ctx, &parts, "SELECT DISTINCT partition, toYear(created_at) AS year FROM "+EventTable+" ORDER BY year, partition"); err != nil {
		return fmt.Errorf("look for the rows to copy: %w", classify(err))
	}
	for _, p := range parts {
		where := fmt.Sprintf("partition = %d AND toYear(created_at) = %d", p.Partition, p.Year)
		if err := s.copyAs(ctx, EventTable, BuildTable, columnNames(), partitionSQL(partitions), where); err != nil {
			return err
		}
		s.log.InfoContext(ctx, "rows copied", slog.Uint64("partition", uint64(p.Partition)), slog.Uint64("year", uint64(p.Year)))
	}
	for _, p := range parts {
		if err := s.compareYear(ctx, p.Year); err != nil {
			return err
		}
	}
	return s.checkPartitions(ctx, partitions)
}

// copyAs copies rows with another partition.
func (s *Store) copyAs(ctx context.Context, from, to, columns, partition, where string) error {
	selected := strings.Replace(columns, quote("partition"), partition, 1)
	return s.steps(ctx, "copy rows from "+from+" to "+to, fmt.Sprintf(`INSERT INTO %s (%s) SELECT %s FROM %s WHERE %s
		SETTINGS async_insert = 0, insert_deduplicate = 0, optimize_on_insert = 0, max_partitions_per_insert_block = 0, max_execution_time = 0`,
		quote(to), columns, selected, quote(from), where))
}

// compareYear compares the rows of a year without their partitions. Copies of an event that a merge has folded in one table alone count once.
func (s *Store) compareYear(ctx context.Context, year uint16) error {
	_, others, _ := strings.Cut(columnNames(), ", ") // all but partition
	var sums [2]struct {
		rows, hash uint64
	}
	for i, table := range []string{EventTable, BuildTable} {
		// Hashed as text: the hash of a row with a NULL would be NULL.
		err := s.queries.QueryRow(ctx, fmt.Sprintf(`SELECT count(), sum(cityHash64(toString(tuple(%s)))) FROM %s FINAL WHERE toYear(created_at) = %d
			SETTINGS do_not_merge_across_partitions_select_final = 1, max_execution_time = 0`, others, table, year)).Scan(&sums[i].rows, &sums[i].hash)
		if err != nil {
			return fmt.Errorf("compare the rows of %d: %w", year, classify(err))
		}
	}
	if sums[0] != sums[1] {
		return fmt.Errorf("%w: of %d it has %d rows of %d, or other ones", errUnequal, year, sums[1].rows, sums[0].rows)
	}
	return nil
}

// checkPartitions asks for each tenant whether its rows lie where the services will look.
func (s *Store) checkPartitions(ctx context.Context, partitions int) error {
	rows, err := s.queries.Query(ctx, "SELECT DISTINCT tenant_id, partition FROM "+BuildTable+" SETTINGS max_execution_time = 0")
	if err != nil {
		return fmt.Errorf("compare partitions: %w", classify(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var tenant uuid.UUID
		var p uint16
		if err := rows.Scan(&tenant, &p); err != nil {
			return fmt.Errorf("compare partitions: %w", err)
		}
		if want := events.Partition(tenant, partitions); int(p) != want {
			return fmt.Errorf("%w: tenant %s is in partition %d, must be in %d", errUnequal, tenant, p, want)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("compare partitions: %w", classify(err))
	}
	return nil
}

// RepartitionHours gives the counts by hour their partition of so many, and lets counting begin anew, which finds them right. It may be done again.
func (s *Store) RepartitionHours(ctx context.Context, partitions int) error {
	if err := s.steps(ctx, "make a table of counts beside", "DROP TABLE IF EXISTS "+hoursNext+" SYNC", "CREATE TABLE "+hoursNext+" AS "+hoursTable); err != nil {
		return err
	}
	const columns = "`partition`, `tenant_id`, `hour`, `actor_id`, `action`, `events`, `counted_at`"
	if err := s.copyAs(ctx, hoursTable, hoursNext, columns, partitionSQL(partitions), "1"); err != nil {
		return err
	}
	return s.steps(ctx, "swap the counts", "EXCHANGE TABLES "+hoursNext+" AND "+hoursTable, "DROP TABLE "+hoursNext+" SYNC", "TRUNCATE TABLE "+progressTable)
}

// RepartitionTombstones gives the tombstones their partition anew: of says which, by their mark. One whose mark is not there is an error. It may be done again.
func (s *Store) RepartitionTombstones(ctx context.Context, of map[uint64]int) error {
	if err := s.steps(ctx, "make a table of tombstones beside", "DROP TABLE IF EXISTS "+tombstoneNext+" SYNC", "CREATE TABLE "+tombstoneNext+" AS "+tombstoneTable); err != nil {
		return err
	}
	for marks := range slices.Chunk(slices.Sorted(maps.Keys(of)), marksAtOnce) {
		from, to := make([]string, len(marks)), make([]string, len(marks))
		for i, m := range marks {
			from[i], to[i] = strconv.FormatUint(m, 10), strconv.Itoa(of[m])
		}
		known := "[" + strings.Join(from, ", ") + "]::Array(UInt64)"
		err := s.steps(ctx, "copy tombstones", fmt.Sprintf(`INSERT INTO %s (partition, stream_seq, cut)
			SELECT transform(cut, %s, [%s]::Array(UInt16), toUInt16(0)), stream_seq, cut FROM %s WHERE has(%s, cut)
			SETTINGS async_insert = 0, insert_deduplicate = 0, max_partitions_per_insert_block = 0, max_execution_time = 0`,
			tombstoneNext, known, strings.Join(to, ", "), tombstoneTable, known))
		if err != nil {
			return err
		}
	}
	var have, want uint64
	for table, n := range map[string]*uint64{tombstoneNext: &have, tombstoneTable: &want} {
		if err := s.queries.QueryRow(ctx, "SELECT uniqExact(stream_seq, cut) FROM "+table).Scan(n); err != nil {
			return fmt.Errorf("compare tombstones: %w", classify(err))
		}
	}
	if have != want {
		return fmt.Errorf("%w: it has %d tombstones of %d", errUnequal, have, want)
	}
	return s.steps(ctx, "swap the tombstones", "EXCHANGE TABLES "+tombstoneNext+" AND "+tombstoneTable, "DROP TABLE "+tombstoneNext+" SYNC")
}
