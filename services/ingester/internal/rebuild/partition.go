package rebuild

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

const (
	// blockRows and blockBytes bound a block of the new table. Larger than the pipeline's batches: nobody waits for a row.
	blockRows  = 50_000
	blockBytes = 32 << 20
	// groupBatches bounds the entries that are read before their messages are.
	groupBatches = 1000
	// retryPause is between attempts of an insert that a server cannot take now.
	retryPause = time.Second
	// maxRetries bounds them: a rebuild can be begun again.
	maxRetries = 60
	// committedPoll is how long committed waits before it looks again.
	committedPoll = 200 * time.Millisecond
)

// committed waits until the entry, the border, is in the live table and nothing inserts it any more, but not longer than wait.
func (b *builder) committed(ctx context.Context, last ledger.Record, wait time.Duration) error {
	for deadline := time.Now().Add(wait); last.Seq != 0; {
		done, err := b.isCommitted(ctx, last)
		if err != nil {
			return err
		}
		if done {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: batch %d of partition %d", ErrUnfinished, last.Batch, last.Partition)
		}
		select {
		case <-time.After(committedPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return b.Table.WaitWriters(ctx)
}

// isCommitted asks the position, then the ledger, then the table, which alone knows when the ingester died after its insert.
func (b *builder) isCommitted(ctx context.Context, last ledger.Record) (bool, error) {
	pos, err := b.Positions.Get(ctx, last.Partition)
	if err != nil || pos.Batch >= last.Batch {
		return err == nil, err
	}
	newer, err := b.Ledger.Last(ctx, last.Partition)
	if err != nil || newer.CommittedThrough >= last.Batch {
		return err == nil, err
	}
	counts, err := b.Table.Counts(ctx, last.Partition, []uint64{last.FirstSeq}, last.LastSeq)
	if err != nil {
		return false, err
	}
	// Batches before the last one are committed: a driver has one batch in flight.
	return counts[0].Distinct+counts[0].Removed >= uint64(last.Rows), nil
}

// partition fills the new table with everything of the partition up to its border.
func (b *builder) partition(ctx context.Context, p int, border uint64) error {
	if err := b.Table.ClearBeside(ctx, p, border); err != nil {
		return err
	}
	kept := clickhouse.Kept{Below: b.from, Tenant: b.opts.Tenant}
	n, err := b.Table.KeepRows(ctx, p, kept, border)
	if err != nil {
		return err
	}
	b.report.Kept += n
	if b.concerns(p) {
		if err := b.replay(ctx, p, border); err != nil {
			return err
		}
	}
	b.log.InfoContext(ctx, "partition rebuilt", slog.Int("partition", p), slog.Uint64("border", border),
		slog.Uint64("rows_kept", n), slog.Uint64("rows_rebuilt", b.report.Rebuilt))
	return nil
}

// replay makes rows from the messages from b.from to the border. It reads all of the partition's, also those of other tenants, to hold them
// against the ledger's hashes.
func (b *builder) replay(ctx context.Context, p int, border uint64) error {
	w := writer{builder: b, store: b.Table.WithTable(clickhouse.BuildTable), partition: p, years: make(map[int]*block)}
	var group []ledger.Record
	messages := 0
	send := func() error {
		err := w.batches(ctx, group)
		group, messages = group[:0], 0
		return err
	}
	err := b.Reader.Entries(ctx, p, 0, func(r ledger.Record) error {
		if r.LastSeq < b.from || r.LastSeq > border {
			return nil
		}
		group, messages = append(group, r), messages+r.Messages
		if len(group) < groupBatches && messages < blockRows {
			return nil
		}
		return send()
	})
	if err == nil {
		err = send()
	}
	if err != nil {
		return err
	}
	return w.flush(ctx)
}

// block is rows of one year on their way.
type block struct {
	rows        clickhouse.Columns
	first, last uint64
}

// writer gathers rows of one partition into blocks.
type writer struct {
	*builder
	store     *clickhouse.Store
	partition int
	years     map[int]*block
	judge     replay.Judge
	rows      int
	bytes     int
	blocks    int // written
}

// batches makes rows of consecutive entries.
func (w *writer) batches(ctx context.Context, entries []ledger.Record) error {
	if len(entries) == 0 {
		return nil
	}
	first, last := entries[0].FirstSeq, entries[len(entries)-1].LastSeq
	sum := replay.NewTally(entries[0])
	next := func(seq uint64) error {
		for len(entries) > 0 && seq > entries[0].LastSeq {
			// Of a batch that was half trimmed when we began, the rest is no proof of anything.
			if fault := sum.Fault(); fault != "" && entries[0].FirstSeq >= w.streamFirst {
				return fmt.Errorf("%w (%s)", ErrChanged, fault)
			}
			if entries = entries[1:]; len(entries) > 0 {
				sum = replay.NewTally(entries[0])
			}
		}
		return nil
	}
	err := w.Reader.Messages(ctx, w.partition, nil, max(first, w.streamFirst), last, func(m replay.Message) error {
		if err := next(m.Seq); err != nil {
			return err
		}
		tenant, ev, ok := w.judge.Row(&m)
		sum.Add(&m, ok)
		if !ok || !w.wants(m.Seq, tenant) || w.state.Covered(tenant, string(ev.Action), ev.CreatedAt, m.Seq) > 0 {
			return nil
		}
		w.erased.Apply(tenant, ev)
		return w.add(ctx, tenant, &m, ev)
	})
	if err != nil {
		return err
	}
	return next(last + 1)
}

func (w *writer) add(ctx context.Context, tenant uuid.UUID, m *replay.Message, ev *events.Raw) error {
	at := time.UnixMicro(ev.CreatedAt).UTC()
	year := at.Year()
	blk := w.years[year]
	if blk == nil {
		blk = new(block)
		w.years[year] = blk
	}
	if blk.rows.Rows() == 0 {
		blk.first = m.Seq
	}
	blk.last = m.Seq
	blk.rows.Append(w.partition, tenant, m.Seq, m.Time, ev)
	w.rows++
	if w.bytes += len(m.Data); w.rows < blockRows && w.bytes < blockBytes {
		return nil
	}
	return w.flush(ctx)
}

// flush writes what was gathered.
func (w *writer) flush(ctx context.Context) error {
	for _, blk := range w.years {
		if blk.rows.Rows() == 0 {
			continue
		}
		w.blocks++
		if err := w.put(ctx, blk); err != nil {
			return err
		}
		w.report.Rebuilt += uint64(blk.rows.Rows())
		blk.rows.Reset()
	}
	w.rows, w.bytes = 0, 0
	return nil
}

// put writes one block, which is one part and so whole or not there. In doubt it looks, and goes on under the same token, then under fresh ones.
func (w *writer) put(ctx context.Context, blk *block) error {
	prefix := fmt.Sprintf("rebuild:%s:%d:%d:", w.run, w.partition, w.blocks)
	doubt, attempt := false, 0
	for range maxRetries {
		err := w.store.Insert(ctx, &blk.rows, fmt.Sprint(prefix, attempt))
		switch {
		case err == nil && !doubt:
			return nil
		case err == nil:
			attempt++ // if it is not there after all: the token was used up without rows
		case errors.Is(err, clickhouse.ErrInDoubt):
			doubt = true
		case !errors.Is(err, clickhouse.ErrTransient):
			return err
		}
		if err != nil {
			w.log.WarnContext(ctx, "insert again", slog.Any("error", err))
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if !doubt {
			continue
		}
		there, err := w.look(ctx, prefix, blk)
		if err != nil && !errors.Is(err, clickhouse.ErrTransient) || there {
			return err
		}
	}
	return fmt.Errorf("block %d of partition %d: the server has not taken it in %d attempts", w.blocks, w.partition, maxRetries)
}

// look says whether the block is there once nothing writes it any more. Its first and last row stand for all; a merge may have folded one of them
// into an older copy.
func (w *writer) look(ctx context.Context, prefix string, blk *block) (bool, error) {
	if err := w.store.Settle(ctx, prefix); err != nil {
		return false, err
	}
	for _, seq := range []uint64{blk.first, blk.last} {
		there, err := w.store.Sequences(ctx, w.partition, nil, seq, seq)
		if err != nil || len(there) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}
