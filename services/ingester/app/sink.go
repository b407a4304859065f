package app

import (
	"context"
	"errors"
	"fmt"

	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/pipeline"
)

// sink is the event table as the pipeline needs it: its words for outcomes, sets for lists.
type sink struct{ store *clickhouse.Store }

// NewBlock implements pipeline.Sink.
func (s sink) NewBlock() pipeline.Block { return new(clickhouse.Columns) }

// Insert implements pipeline.Sink.
func (s sink) Insert(ctx context.Context, b pipeline.Block, token string) error {
	c, ok := b.(*clickhouse.Columns)
	if !ok {
		return fmt.Errorf("insert: block is a %T", b)
	}
	return translate(s.store.Insert(ctx, c, token))
}

// Settle implements pipeline.Sink.
func (s sink) Settle(ctx context.Context, prefix string) error {
	return translate(s.store.Settle(ctx, prefix))
}

// ReadBack implements pipeline.Sink. What was in the table and is removed counts as being there: it is not to be inserted again.
func (s sink) ReadBack(ctx context.Context, partition int, first, last uint64, minCreated, maxCreated int64) (map[uint64]struct{}, error) {
	seqs, err := s.store.ReadBack(ctx, partition, first, last, minCreated, maxCreated)
	if err != nil {
		return nil, translate(err)
	}
	// After the rows: one that is removed in between has its tombstone already.
	removed, err := s.store.BuriedSequences(ctx, partition, first, last)
	if err != nil {
		return nil, translate(err)
	}
	seqs = append(seqs, removed...)
	set := make(map[uint64]struct{}, len(seqs))
	for _, seq := range seqs {
		set[seq] = struct{}{}
	}
	return set, nil
}

// LastSequence implements pipeline.Sink.
func (s sink) LastSequence(ctx context.Context, partition int, after uint64) (uint64, error) {
	seq, err := s.store.LastOfPartition(ctx, partition, after)
	return seq, translate(err)
}

// translate puts the store's error into the pipeline's words. What is neither in doubt nor transient will not get better by itself.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, clickhouse.ErrInDoubt):
		return fmt.Errorf("%w: %w", pipeline.ErrInDoubt, err)
	case errors.Is(err, clickhouse.ErrTransient):
		return fmt.Errorf("%w: %w", pipeline.ErrTransient, err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return fmt.Errorf("%w: ClickHouse refuses and will go on to: %w", pipeline.ErrFatal, err)
}
