package clickhouse

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Row is one row of the table.
type Row struct {
	Partition    uint16    `ch:"partition"`
	TenantID     uuid.UUID `ch:"tenant_id"`
	CreatedAt    time.Time `ch:"created_at"`
	ID           uuid.UUID `ch:"id"`
	ActorID      string    `ch:"actor_id"`
	ActorType    string    `ch:"actor_type"`
	Action       string    `ch:"action"`
	ResourceType string    `ch:"resource_type"`
	ResourceID   string    `ch:"resource_id"`
	Metadata     string    `ch:"metadata"`
	Reasoning    *string   `ch:"reasoning"`
	IngestedAt   time.Time `ch:"ingested_at"`
	StreamSeq    uint64    `ch:"stream_seq"`
}

// Key is the identity of an event: copies of it are folded into the one with the lowest sequence.
type Key struct {
	Tenant    uuid.UUID
	ID        uuid.UUID
	CreatedAt int64 // microseconds since 1970
}

// Count is what the table has of one batch.
type Count struct {
	// Rows counts rows, Distinct their sequences; they differ when a row is there twice.
	Rows     uint64 `ch:"rows"`
	Distinct uint64 `ch:"seqs"`
	// Min and Max are the lowest and the highest sequence, 0 when there are no rows.
	Min uint64 `ch:"min_seq"`
	Max uint64 `ch:"max_seq"`
	// Removed counts sequences that have a tombstone. While they are being removed some have a row, too.
	Removed uint64
}

// Counts returns, for each of firsts (ascending), what the partition has from that sequence up to the next one, and up to last for the last one.
// The error is classified as that of Insert.
func (s *Store) Counts(ctx context.Context, partition int, firsts []uint64, last uint64) ([]Count, error) {
	var rows []struct {
		First uint64 `ch:"first_seq"`
		Count
	}
	err := s.queries.Select(ctx, &rows, `SELECT roundDown(stream_seq, ?) AS first_seq, count() AS rows, uniqExact(stream_seq) AS seqs, min(stream_seq) AS min_seq, max(stream_seq) AS max_seq
		FROM `+quote(s.table)+` WHERE partition = ? AND stream_seq BETWEEN ? AND ? GROUP BY first_seq`,
		arrayOf(firsts), uint16(partition), firsts[0], last)
	if err != nil {
		return nil, fmt.Errorf("count rows of partition %d: %w", partition, classify(err))
	}
	at := make(map[uint64]int, len(firsts))
	for i, f := range firsts {
		at[f] = i
	}
	out := make([]Count, len(firsts))
	for _, r := range rows {
		out[at[r.First]] = r.Count
	}
	// Tombstones after rows: a row that is removed in between has one already.
	var removed []struct {
		First uint64 `ch:"first_seq"`
		Rows  uint64 `ch:"rows"`
	}
	err = s.queries.Select(ctx, &removed, `SELECT roundDown(stream_seq, ?) AS first_seq, uniqExact(stream_seq) AS rows
		FROM `+tombstoneTable+` WHERE partition = ? AND stream_seq BETWEEN ? AND ? GROUP BY first_seq`,
		arrayOf(firsts), uint16(partition), firsts[0], last)
	if err != nil {
		return nil, fmt.Errorf("count tombstones of partition %d: %w", partition, classify(err))
	}
	for _, r := range removed {
		out[at[r.First]].Removed = r.Rows
	}
	return out, nil
}

// Summary is what the partition has, or had before it was removed, in the table of a range of sequences, each once.
type Summary struct {
	Rows int
	// MinCreated and MaxCreated bound created_at, in microseconds since 1970; 0 when there are no rows.
	MinCreated, MaxCreated int64
}

// Summary sums up the rows of the partition from first to last. The error is classified as that of Insert.
func (s *Store) Summary(ctx context.Context, partition int, first, last uint64) (out Summary, err error) {
	var rows uint64
	var created [2]*int64
	const in = " WHERE partition = ? AND stream_seq BETWEEN ? AND ?"
	p := uint16(partition) //nolint:gosec // the table's own type
	err = s.queries.QueryRow(ctx, `SELECT uniqExact(stream_seq), toUnixTimestamp64Micro(min(at)), toUnixTimestamp64Micro(max(at)) FROM (
		SELECT stream_seq, created_at::Nullable(DateTime64(6, 'UTC')) AS at FROM `+quote(s.table)+in+`
		UNION ALL SELECT stream_seq, NULL FROM `+tombstoneTable+in+")", p, first, last, p, first, last).Scan(&rows, &created[0], &created[1])
	if err != nil {
		return Summary{}, fmt.Errorf("sum up rows of partition %d: %w", partition, classify(err))
	}
	out.Rows = int(rows) //nolint:gosec // a count of rows
	if created[0] != nil {
		out.MinCreated, out.MaxCreated = *created[0], *created[1]
	}
	return out, nil
}

// arrayOf makes the numbers UInt64 in the query, as the column is: smaller literals would become smaller types.
func arrayOf(in []uint64) []any {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = v
	}
	return out
}

// Sequences returns the sequence of every row of the partition from first to last, ascending; one that is there twice comes twice.
// tenant narrows it to one tenant unless it is nil. The error is classified as that of Insert.
func (s *Store) Sequences(ctx context.Context, partition int, tenant *uuid.UUID, first, last uint64) ([]uint64, error) {
	query := "SELECT stream_seq FROM " + quote(s.table) + " WHERE partition = ? AND stream_seq BETWEEN ? AND ?"
	args := []any{uint16(partition), first, last}
	if tenant != nil {
		query, args = query+" AND tenant_id = ?", append(args, *tenant)
	}
	rows, err := s.queries.Query(ctx, query+" ORDER BY stream_seq", args...)
	if err != nil {
		return nil, fmt.Errorf("read sequences of partition %d: %w", partition, classify(err))
	}
	defer func() { _ = rows.Close() }()
	var out []uint64
	for rows.Next() {
		var seq uint64
		if err := rows.Scan(&seq); err != nil {
			return nil, fmt.Errorf("read sequences of partition %d: %w", partition, err)
		}
		out = append(out, seq)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read sequences of partition %d: %w", partition, classify(err))
	}
	return out, nil
}

// Rows returns every row of the partition from first to last in the order of their sequences, of one tenant unless it is nil. The error is classified
// as that of Insert.
func (s *Store) Rows(ctx context.Context, partition int, tenant *uuid.UUID, first, last uint64) ([]Row, error) {
	query := "SELECT * FROM " + quote(s.table) + " WHERE partition = ? AND stream_seq BETWEEN ? AND ?"
	args := []any{uint16(partition), first, last}
	if tenant != nil {
		query, args = query+" AND tenant_id = ?", append(args, *tenant)
	}
	var out []Row
	if err := s.queries.Select(ctx, &out, query+" ORDER BY stream_seq", args...); err != nil {
		return nil, fmt.Errorf("read rows of partition %d: %w", partition, classify(err))
	}
	return out, nil
}

// maxKeys bounds the keys of one query of FirstCopies.
const maxKeys = 1000

// FirstCopies returns the lowest sequence that the partition has of each of the events; those it does not have are absent. The error is classified as
// that of Insert.
func (s *Store) FirstCopies(ctx context.Context, partition int, keys []Key) (map[Key]uint64, error) {
	out := make(map[Key]uint64, len(keys))
	for len(keys) > 0 {
		n := min(len(keys), maxKeys)
		if err := s.firstCopies(ctx, partition, keys[:n], out); err != nil {
			return nil, fmt.Errorf("look for first copies in partition %d: %w", partition, classify(err))
		}
		keys = keys[n:]
	}
	return out, nil
}

func (s *Store) firstCopies(ctx context.Context, partition int, keys []Key, out map[Key]uint64) error {
	tenants, ids, times := make([]string, len(keys)), make([]string, len(keys)), make([]any, len(keys))
	for i, k := range keys {
		tenants[i], ids[i], times[i] = k.Tenant.String(), k.ID.String(), k.CreatedAt
	}
	rows, err := s.queries.Query(ctx, `SELECT tenant_id, id, toUnixTimestamp64Micro(created_at) AS at, min(stream_seq)
		FROM `+quote(s.table)+` WHERE partition = ? AND (tenant_id, created_at, id) IN (
			SELECT toUUID(k.1), fromUnixTimestamp64Micro(toInt64(k.2), 'UTC'), toUUID(k.3) FROM (SELECT arrayJoin(arrayZip(?, ?, ?)) AS k))
		GROUP BY tenant_id, id, created_at`, uint16(partition), tenants, times, ids)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var k Key
		var seq uint64
		if err := rows.Scan(&k.Tenant, &k.ID, &k.CreatedAt, &seq); err != nil {
			return err
		}
		out[k] = seq
	}
	return rows.Err()
}

// CountCreated counts the rows of the partition up to sequence last that were created between the two times, in microseconds and inclusive. The
// error is classified as that of Insert.
func (s *Store) CountCreated(ctx context.Context, partition int, last uint64, minCreated, maxCreated int64) (n uint64, err error) {
	err = s.queries.QueryRow(ctx, "SELECT count() FROM "+quote(s.table)+` WHERE partition = ? AND stream_seq <= ?
		AND created_at BETWEEN fromUnixTimestamp64Micro(?, 'UTC') AND fromUnixTimestamp64Micro(?, 'UTC')`,
		uint16(partition), last, minCreated, maxCreated).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count rows of partition %d: %w", partition, classify(err))
	}
	return n, nil
}

// Partitions returns how many rows each partition has. The error is classified as that of Insert.
func (s *Store) Partitions(ctx context.Context) (map[int]uint64, error) {
	var rows []struct {
		Partition uint16 `ch:"partition"`
		Rows      uint64 `ch:"rows"`
	}
	if err := s.queries.Select(ctx, &rows, "SELECT partition, count() AS rows FROM "+quote(s.table)+" GROUP BY partition"); err != nil {
		return nil, fmt.Errorf("count rows by partition: %w", classify(err))
	}
	out := make(map[int]uint64, len(rows))
	for _, r := range rows {
		out[int(r.Partition)] = r.Rows
	}
	return out, nil
}

// ReusedID is an id under which a tenant has events of different times. They are different events.
type ReusedID struct {
	Tenant uuid.UUID `json:"tenant_id" ch:"tenant_id"`
	ID     uuid.UUID `json:"id" ch:"id"`
	// Times is how many created_at there are.
	Times uint64 `json:"times" ch:"times"`
}

// ReusedIDs returns ids of the partition, of one tenant unless it is nil, that have several created_at, at most limit of them. The error is classified as that of Insert.
func (s *Store) ReusedIDs(ctx context.Context, partition int, tenant *uuid.UUID, limit int) ([]ReusedID, error) {
	where, args := "partition = ?", []any{uint16(partition)}
	if tenant != nil {
		where, args = where+" AND tenant_id = ?", append(args, *tenant)
	}
	var out []ReusedID
	err := s.queries.Select(ctx, &out, fmt.Sprintf(`SELECT tenant_id, id, uniqExact(created_at) AS times FROM %s WHERE %s
		GROUP BY tenant_id, id HAVING times > 1 ORDER BY tenant_id, id LIMIT %d SETTINGS max_bytes_before_external_group_by = 500000000`,
		quote(s.table), where, limit), args...)
	if err != nil {
		return nil, fmt.Errorf("look for reused ids in partition %d: %w", partition, classify(err))
	}
	return out, nil
}
