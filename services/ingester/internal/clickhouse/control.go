package clickhouse

import (
	"context"
	"fmt"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"

	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// controlTable is the copy of the control log.
const controlTable = "control_log"

// LastDecision implements control.Copy. It works before the schema is there.
func (s *Store) LastDecision(ctx context.Context) (seq uint64, hash ledger.Digest, err error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	db, found, err := s.lookFor(ctx, controlTable)
	if err != nil {
		return 0, hash, err
	}
	defer func() { _ = db.Close() }()
	if !found {
		return 0, hash, nil
	}
	var text string
	err = db.QueryRow(ctx, "SELECT max(seq), argMax(hash, seq) FROM "+quote(s.opts.Auth.Database)+"."+controlTable+" SETTINGS select_sequential_consistency = 1").Scan(&seq, &text)
	if err != nil {
		return 0, hash, fmt.Errorf("read the end of the copy of the control log: %w", classify(err))
	}
	if seq > 0 {
		if err := hash.UnmarshalText([]byte(text)); err != nil {
			return 0, hash, fmt.Errorf("%w: copy of decision %d in ClickHouse: %w", control.ErrCorrupt, seq, err)
		}
	}
	return seq, hash, nil
}

// CopyDecisions implements control.Copy.
func (s *Store) CopyDecisions(ctx context.Context, records []control.Record) error {
	ctx = chgo.Context(ctx, chgo.WithSettings(chgo.Settings{"async_insert": 0, "insert_deduplicate": 0}))
	batch, err := s.queries.PrepareBatch(ctx, "INSERT INTO "+controlTable+" (seq, at, hash, data)")
	if err != nil {
		return fmt.Errorf("copy decisions: %w", classify(err))
	}
	defer func() { _ = batch.Close() }()
	for _, r := range records {
		if err := batch.Append(r.Seq, r.At, r.Hash.String(), string(r.Data)); err != nil {
			return fmt.Errorf("copy decision %d: %w", r.Seq, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("copy decisions: %w", classify(err))
	}
	return nil
}

// Decisions implements control.Copy.
func (s *Store) Decisions(ctx context.Context, after uint64, limit int) ([]control.Record, error) {
	var rows []struct {
		Seq  uint64    `ch:"seq"`
		At   time.Time `ch:"at"`
		Hash string    `ch:"hash"`
		Data string    `ch:"data"`
	}
	err := s.queries.Select(ctx, &rows, fmt.Sprintf("SELECT seq, at, hash, data FROM %s FINAL WHERE seq > %d ORDER BY seq LIMIT %d", controlTable, after, limit))
	if err != nil {
		return nil, fmt.Errorf("read the copy of the control log after %d: %w", after, classify(err))
	}
	out := make([]control.Record, len(rows))
	for i, r := range rows {
		if out[i], err = control.Restore(r.Seq, []byte(r.Data)); err != nil {
			return nil, err
		}
		if out[i].Hash.String() != r.Hash {
			return nil, fmt.Errorf("%w: the copy of decision %d in ClickHouse is not what its hash says", control.ErrCorrupt, r.Seq)
		}
	}
	return out, nil
}
