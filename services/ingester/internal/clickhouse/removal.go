package clickhouse

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"example.com/auditlog/services/ingester/internal/control"
)

const (
	// tombstoneTable has a row for each row that was removed.
	tombstoneTable = "tombstones"
	// MaxCutTenants keeps a statement that names tenants within ClickHouse's max_query_size of 256 KiB.
	MaxCutTenants = 1000
	// codeNoSuchPart is the server's answer when a part is not there any more.
	codeNoSuchPart = 232
)

// Coverage is which rows of a partition go: those of some tenants, up to a sequence, that were created before the bound of the longest prefix of their action.
type Coverage struct {
	Partition int
	Bounds    []control.Bound
	Through   uint64
	// Tenants are those it is about, at most MaxCutTenants; nil: all.
	Tenants []uuid.UUID
}

// byAction is SQL that chooses by a row's action: what value makes of the bound that counts for it, or otherwise.
func (c Coverage) byAction(value func(control.Bound) string, otherwise string) string {
	bounds := slices.Clone(c.Bounds)
	slices.SortStableFunc(bounds, func(a, b control.Bound) int { return len(b.Prefix) - len(a.Prefix) })
	var sql strings.Builder
	for _, b := range bounds {
		fmt.Fprintf(&sql, "startsWith(action, %s), %s, ", literal(b.Prefix), value(b))
	}
	return "multiIf(" + sql.String() + otherwise + ")"
}

// where is the condition on the event table.
func (c Coverage) where() string {
	// No event is of a time before 1970.
	before := c.byAction(func(b control.Bound) string { return fmt.Sprintf("toInt64(%d)", b.Before) }, "toInt64(-1)")
	latest := int64(math.MinInt64)
	for _, b := range c.Bounds {
		latest = max(latest, b.Before)
	}
	where := fmt.Sprintf("partition = %d AND stream_seq <= %d AND toUnixTimestamp64Micro(created_at) < %s", c.Partition, c.Through, before)
	if latest < math.MaxInt64 { // this one the primary key can use
		where += fmt.Sprintf(" AND created_at < fromUnixTimestamp64Micro(%d, 'UTC')", latest)
	}
	if len(c.Tenants) == 0 {
		return where
	}
	ids := make([]string, len(c.Tenants))
	for i, t := range c.Tenants {
		ids[i] = "toUUID('" + t.String() + "')"
	}
	return where + " AND tenant_id IN (" + strings.Join(ids, ", ") + ")"
}

// Removable is what a coverage has of one tenant and one bound.
type Removable struct {
	Tenant uuid.UUID `ch:"tenant_id"`
	// Prefix is that of the bound.
	Prefix string `ch:"prefix"`
	Rows   uint64 `ch:"rows"`
	// MinCreated and MaxCreated bound created_at, in microseconds since 1970.
	MinCreated int64 `ch:"min_created"`
	MaxCreated int64 `ch:"max_created"`
}

// Removable returns what there is of a coverage, in order. The errors of this and the methods below are classified as that of Insert.
func (s *Store) Removable(ctx context.Context, c Coverage) ([]Removable, error) {
	prefix := c.byAction(func(b control.Bound) string { return literal(b.Prefix) }, "''")
	var out []Removable
	err := s.queries.Select(ctx, &out, fmt.Sprintf(`SELECT tenant_id, %s AS prefix, uniqExact(stream_seq) AS rows,
			toUnixTimestamp64Micro(min(created_at)) AS min_created, toUnixTimestamp64Micro(max(created_at)) AS max_created
		FROM %s WHERE %s GROUP BY tenant_id, prefix ORDER BY tenant_id, prefix SETTINGS max_bytes_before_external_group_by = 500000000, select_sequential_consistency = 1`,
		prefix, quote(s.table), c.where()))
	if err != nil {
		return nil, fmt.Errorf("look for rows to remove from partition %d: %w", c.Partition, classify(err))
	}
	return out, nil
}

// Bury writes a tombstone with the mark for each row of a coverage, and returns how many that is. When it fails some may be there: Unbury.
func (s *Store) Bury(ctx context.Context, c Coverage, mark uint64) (n uint64, err error) {
	ctx = chgo.Context(ctx, chgo.WithProgress(func(p *chgo.Progress) { n += p.WroteRows }))
	err = s.queries.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (partition, stream_seq, cut)
		SETTINGS async_insert = 0, insert_deduplicate = 0, max_execution_time = 0, max_bytes_before_external_group_by = 500000000
		SELECT partition, stream_seq, %d FROM %s WHERE %s GROUP BY partition, stream_seq`, tombstoneTable, mark, quote(s.table), c.where()))
	if err != nil {
		return 0, fmt.Errorf("write tombstones of partition %d: %w", c.Partition, classify(err))
	}
	return n, nil
}

// Unbury deletes the tombstones with the mark.
func (s *Store) Unbury(ctx context.Context, partition int, mark uint64) error {
	return s.steps(ctx, fmt.Sprintf("delete tombstones of partition %d", partition),
		fmt.Sprintf("ALTER TABLE %s DELETE IN PARTITION %d WHERE cut = %d SETTINGS mutations_sync = 2", tombstoneTable, partition, mark))
}

// Remove hides the rows of a coverage from every reader and drops the parts of the table that have no other row. It touches no row that is not covered,
// whatever is inserted meanwhile, and may be done again.
func (s *Store) Remove(ctx context.Context, c Coverage) error {
	years, err := s.years(ctx, c)
	if err != nil {
		return err
	}
	for _, year := range years {
		err := s.steps(ctx, fmt.Sprintf("remove rows of %d from partition %d", year, c.Partition),
			fmt.Sprintf("DELETE FROM %s IN PARTITION (%d, %d) WHERE %s SETTINGS lightweight_deletes_sync = 2, mutations_sync = 2, max_execution_time = 0",
				quote(s.table), c.Partition, year, c.where()))
		if err != nil {
			return err
		}
		if err := s.dropHidden(ctx, c.Partition, year); err != nil {
			return err
		}
	}
	return nil
}

// years are those that rows of a coverage lie in.
func (s *Store) years(ctx context.Context, c Coverage) (out []uint16, err error) {
	var rows []struct {
		Year uint16 `ch:"year"`
	}
	err = s.queries.Select(ctx, &rows, "SELECT DISTINCT toYear(created_at) AS year FROM "+quote(s.table)+" WHERE "+c.where()+" ORDER BY year SETTINGS select_sequential_consistency = 1")
	if err != nil {
		return nil, fmt.Errorf("look for the years to remove from in partition %d: %w", c.Partition, classify(err))
	}
	for _, r := range rows {
		out = append(out, r.Year)
	}
	return out, nil
}

// dropHidden drops the parts of a year of which no row is seen any more. A part that is inserted between the two looks is in neither list, and one that was
// merged away meanwhile is not there to be dropped.
func (s *Store) dropHidden(ctx context.Context, partition int, year uint16) error {
	parts, err := s.names(ctx, fmt.Sprintf(`SELECT name FROM system.parts WHERE database = currentDatabase() AND table = %s AND active AND has_lightweight_delete
		AND partition = '(%d,%d)'`, literal(s.table), partition, year))
	if err != nil || len(parts) == 0 {
		return err
	}
	seen, err := s.names(ctx, fmt.Sprintf("SELECT DISTINCT _part AS name FROM %s WHERE partition = %d AND toYear(created_at) = %d", quote(s.table), partition, year))
	if err != nil {
		return err
	}
	for _, part := range parts {
		if slices.Contains(seen, part) {
			continue
		}
		err := s.queries.Exec(ctx, fmt.Sprintf("ALTER TABLE %s DROP PART %s", quote(s.table), literal(part)))
		if code, _, ok := exception(err); ok && code == codeNoSuchPart {
			continue
		}
		if err != nil {
			return fmt.Errorf("drop part %s: %w", part, classify(err))
		}
	}
	return nil
}

func (s *Store) names(ctx context.Context, query string) (out []string, err error) {
	var rows []struct {
		Name string `ch:"name"`
	}
	if err := s.queries.Select(ctx, &rows, query); err != nil {
		return nil, fmt.Errorf("look for parts: %w", classify(err))
	}
	for _, r := range rows {
		out = append(out, r.Name)
	}
	return out, nil
}

// Purge rewrites the parts of a partition that hold rows which are removed, so that these are not on the disk any more.
func (s *Store) Purge(ctx context.Context, partition int) error {
	masked, err := s.names(ctx, fmt.Sprintf(`SELECT DISTINCT partition AS name FROM system.parts WHERE database = currentDatabase() AND table = %s AND active
		AND has_lightweight_delete AND startsWith(partition, '(%d,') ORDER BY name`, literal(s.table), partition))
	if err != nil {
		return err
	}
	for _, key := range masked {
		err := s.steps(ctx, "purge partition "+key, fmt.Sprintf("ALTER TABLE %s APPLY DELETED MASK IN PARTITION %s SETTINGS mutations_sync = 2, max_execution_time = 0", quote(s.table), key))
		if err != nil {
			return err
		}
	}
	return nil
}

// Buried is what the tombstones say of one mark.
type Buried struct {
	Mark uint64 `ch:"cut"`
	Rows uint64 `ch:"rows"`
}

// Buried counts the tombstones of a partition by their marks.
func (s *Store) Buried(ctx context.Context, partition int) ([]Buried, error) {
	var out []Buried
	err := s.queries.Select(ctx, &out, fmt.Sprintf("SELECT cut, uniqExact(stream_seq) AS rows FROM %s WHERE partition = %d GROUP BY cut ORDER BY cut",
		tombstoneTable, partition))
	if err != nil {
		return nil, fmt.Errorf("count tombstones of partition %d: %w", partition, classify(err))
	}
	return out, nil
}

// Orphans counts the tombstones of a mark of which there is no row in the event table.
func (s *Store) Orphans(ctx context.Context, partition int, mark uint64) (n uint64, err error) {
	err = s.queries.QueryRow(ctx, fmt.Sprintf(`SELECT count() FROM (SELECT DISTINCT stream_seq FROM %[1]s WHERE partition = %[2]d AND cut = %[3]d)
		WHERE stream_seq NOT IN (SELECT stream_seq FROM %[4]s WHERE partition = %[2]d
			AND stream_seq IN (SELECT stream_seq FROM %[1]s WHERE partition = %[2]d AND cut = %[3]d))`, tombstoneTable, partition, mark, quote(s.table))).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("look for the rows of tombstones of partition %d: %w", partition, classify(err))
	}
	return n, nil
}

// BuriedSequences returns the sequences of the partition from first to last that have a tombstone, each once, in order.
func (s *Store) BuriedSequences(ctx context.Context, partition int, first, last uint64) ([]uint64, error) {
	var rows []struct {
		Seq uint64 `ch:"stream_seq"`
	}
	err := s.queries.Select(ctx, &rows, "SELECT DISTINCT stream_seq FROM "+tombstoneTable+` WHERE partition = ? AND stream_seq BETWEEN ? AND ? ORDER BY stream_seq
		SETTINGS select_sequential_consistency = 1`, uint16(partition), first, last)
	if err != nil {
		return nil, fmt.Errorf("read tombstones of partition %d: %w", partition, classify(err))
	}
	out := make([]uint64, len(rows))
	for i, r := range rows {
		out[i] = r.Seq
	}
	return out, nil
}

// CountBuried counts the sequences of the partition up to last that have a tombstone.
func (s *Store) CountBuried(ctx context.Context, partition int, last uint64) (n uint64, err error) {
	err = s.queries.QueryRow(ctx, "SELECT uniqExact(stream_seq) FROM "+tombstoneTable+" WHERE partition = ? AND stream_seq <= ?", uint16(partition), last).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count tombstones of partition %d: %w", partition, classify(err))
	}
	return n, nil
}

// Tenants returns the tenants that have rows in the partition, in order.
func (s *Store) Tenants(ctx context.Context, partition int) ([]uuid.UUID, error) {
	var rows []struct {
		Tenant uuid.UUID `ch:"tenant_id"`
	}
	if err := s.queries.Select(ctx, &rows, "SELECT DISTINCT tenant_id FROM "+quote(s.table)+" WHERE partition = ? ORDER BY tenant_id", uint16(partition)); err != nil {
		return nil, fmt.Errorf("look for tenants of partition %d: %w", partition, classify(err))
	}
	out := make([]uuid.UUID, len(rows))
	for i, r := range rows {
		out[i] = r.Tenant
	}
	return out, nil
}

// LockRemoval waits until nobody else removes rows from the table or builds it anew. held ends when the lock is lost, which a restart of the server brings
// about: what it protects must bear that.
func (s *Store) LockRemoval(ctx context.Context) (held context.Context, release func(), err error) {
	return s.lock(ctx, "auditlog-removal-"+s.opts.Auth.Database)
}
