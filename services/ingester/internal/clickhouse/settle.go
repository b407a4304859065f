package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
)

// settlePoll is how long Settle waits before it asks again whether a killed insert has ended.
const settlePoll = 100 * time.Millisecond

// Settle returns nil when no insert whose token begins with tokenPrefix runs any more, having told those that do to stop. An insert may still have
// been applied: ReadBack tells. It waits as long as ctx allows; the error is classified as that of Insert.
//
// One may slip past: a server that was stopped while the insert lay in its receive buffer begins it when it goes on. So what is missing after
// Settle is inserted under the same token first, of which the server applies one.
//
// With several hosts in the DSN each is asked, for the insert may have run on any of them. A host on which nothing listens runs nothing.
func (s *Store) Settle(ctx context.Context, tokenPrefix string) error {
	for _, addr := range s.opts.Addr {
		if err := s.settleHost(ctx, addr, tokenPrefix); err != nil {
			if len(s.opts.Addr) > 1 && errors.Is(err, syscall.ECONNREFUSED) {
				continue
			}
			return fmt.Errorf("settle inserts %s* on %s: %w", tokenPrefix, addr, classify(err))
		}
	}
	return nil
}

func (s *Store) settleHost(ctx context.Context, addr, tokenPrefix string) error {
	opts := *s.opts
	opts.Addr = []string{addr}
	opts.MaxOpenConns, opts.MaxIdleConns = 1, 1
	c, err := chgo.Open(&opts)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for {
		var running uint64
		row := c.QueryRow(ctx, "SELECT count() FROM system.processes WHERE startsWith(query_id, ?)", tokenPrefix)
		if err := row.Scan(&running); err != nil {
			return err
		}
		if running == 0 {
			return nil
		}
		if err := c.Exec(ctx, "KILL QUERY WHERE startsWith(query_id, ?) SYNC", tokenPrefix); err != nil {
			return err
		}
		select {
		case <-time.After(settlePoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ReadBack returns the sequences from first to last that the partition has in the table, each once, in ascending order. minCreated and maxCreated, in
// microseconds since 1970 and inclusive, are the range of created_at of the rows looked for; they narrow the search to their years.
// The error is classified as that of Insert.
func (s *Store) ReadBack(ctx context.Context, partition int, first, last uint64, minCreated, maxCreated int64) ([]uint64, error) {
	var seqs []struct {
		Seq uint64 `ch:"stream_seq"`
	}
	err := s.queries.Select(ctx, &seqs, "SELECT DISTINCT stream_seq FROM "+quote(s.table)+`
		WHERE partition = ? AND stream_seq BETWEEN ? AND ?
		  AND created_at BETWEEN fromUnixTimestamp64Micro(?, 'UTC') AND fromUnixTimestamp64Micro(?, 'UTC')
		ORDER BY stream_seq
		SETTINGS select_sequential_consistency = 1`, uint16(partition), first, last, minCreated, maxCreated)
	if err != nil {
		return nil, fmt.Errorf("read back sequences %d to %d of partition %d: %w", first, last, partition, classify(err))
	}
	out := make([]uint64, len(seqs))
	for i, s := range seqs {
		out[i] = s.Seq
	}
	return out, nil
}

// LastOfPartition returns the highest sequence above after that the partition has in the table or has had there before it was removed, 0 when there is none.
// The error is classified as that of Insert.
func (s *Store) LastOfPartition(ctx context.Context, partition int, after uint64) (last uint64, err error) {
	const in = " WHERE partition = ? AND stream_seq > ?"
	p := uint16(partition) //nolint:gosec // the table's own type
	err = s.queries.QueryRow(ctx, "SELECT max(seq) FROM (SELECT max(stream_seq) AS seq FROM "+quote(s.table)+in+" UNION ALL SELECT max(stream_seq) FROM "+tombstoneTable+in+`)
		SETTINGS select_sequential_consistency = 1`, p, after, p, after).Scan(&last)
	if err != nil {
		return 0, fmt.Errorf("look for the last sequence of partition %d: %w", partition, classify(err))
	}
	return last, nil
}
