package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"example.com/auditlog/services/ingester/internal/ledger"
)

// flush carries one batch from memory into the table. It is the story of every event, in order; after each step stands what a crash at
// that point means. An error leaves the rest to recover, which runs when the partition's driver starts again, here or elsewhere.
func (d *driver) flush(ctx context.Context, b batch) error {
	// 1. What each message is was decided as it came in. Nothing is written: this can be done over as often as needed and gives the same.
	d.hook(StepJudged)
	// If we crash here: the messages are in the stream and the ledger does not know them. The next driver reads them again, and may well
	// cut the batch elsewhere.

	// 2. Dead letters go out before the borders are written down, so that a batch in the ledger has none left to send.
	if err := d.bury(ctx, b.dead); err != nil {
		return err
	}
	d.hook(StepBuried)
	// If we crash here: the dead letters are sent again, under the same message ids, which their stream folds.

	// 3. Write the borders down, by compare-and-set: from here on this batch is these messages and no others, whoever finishes it. A
	// writer that was replaced meanwhile is refused here, before it could do any harm.
	record, err := d.append(ctx, b.entry)
	if err != nil {
		return err
	}
	d.hook(StepAppended)
	// If we crash here: recovery finds the entry, reads its messages again, sees in the table that no row is there, and goes on with
	// step 4 under the same tokens.

	// 4. Insert. Each block is there whole or not at all. If we were held up since step 3, somebody may have done it for us.
	if err := d.commit(ctx, record, b.years, time.Since(d.appendedAt) > d.cfg.AppendMaxAge); err != nil {
		return err
	}
	d.metrics.batchEvents.Observe(float64(record.Messages))
	d.metrics.rows.Add(float64(record.Rows))
	d.log.DebugContext(ctx, "batch committed", slog.Uint64("batch", record.Batch), slog.Uint64("last_seq", record.LastSeq),
		slog.Int("rows", record.Rows), slog.Int("rejected", record.Rejected), slog.Duration("since_first", time.Since(b.since)))
	return nil
}

// commit puts the rows of a batch that is in the ledger into the table and moves on. doubt: some of them may be there already.
func (d *driver) commit(ctx context.Context, record ledger.Record, years []yearRows, doubt bool) error {
	for _, y := range years {
		if err := d.insert(ctx, record, y, doubt); err != nil {
			return err
		}
		d.hook(StepBlock)
		// If we crash here: recovery sees this block's rows in the table and does not send them again; the other blocks follow.
	}
	d.hook(StepInserted)
	// If we crash here: recovery sees all rows in the table and sends nothing.

	// 5. Only now does the next batch of the partition build on this one, and only now may the position move.
	d.last, d.committed = record, record.Batch
	d.positions.set(d.partition, ledger.Position{Batch: record.Batch, LastSeq: record.LastSeq})
	d.hook(StepPosition)
	// If we crash here: the position lags behind. It is a hint; recovery asks the table.
	return nil
}

// recover finishes the batches whose commit the ledger does not know of, oldest first. In the ordinary case that is one, and it is in the
// table already. What it costs depends on them alone, not on the size of table or stream.
func (d *driver) recover(ctx context.Context) error {
	records, err := retry(ctx, d, "read the ledger", func(ctx context.Context) ([]ledger.Record, error) {
		return d.ledger.Uncommitted(ctx, d.partition)
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.found = true
	if len(records) > 0 {
		d.read = records[0].FirstSeq - 1
	}
	d.mu.Unlock()
	if err := d.checkLedger(ctx); err != nil {
		return err
	}
	if len(records) == 0 {
		d.last, d.committed = ledger.Record{Entry: ledger.Entry{Partition: d.partition}}, 0
		return nil
	}
	d.committed = records[0].Batch - 1
	for _, r := range records {
		if err := d.redrive(ctx, r); err != nil {
			return fmt.Errorf("recover batch %d of partition %d: %w", r.Batch, d.partition, err)
		}
	}
	return nil
}

// checkLedger refuses a ledger that ends before what is in the table: to go on from there would insert rows that are there, or take them for those
// of other messages. The ledger is read last, for it runs ahead of the rest.
func (d *driver) checkLedger(ctx context.Context) error {
	pos, err := retry(ctx, d, "read the position", func(ctx context.Context) (ledger.Position, error) { return d.positions.get(ctx, d.partition) })
	if err != nil {
		return err
	}
	table, err := retry(ctx, d, "read the table's last sequence", func(ctx context.Context) (uint64, error) {
		return d.sink.LastSequence(ctx, d.partition, pos.LastSeq)
	})
	if err != nil {
		return err
	}
	origin, err := retry(ctx, d, "look where the stream began", d.source.Origin)
	if err != nil {
		return err
	}
	last, err := retry(ctx, d, "read the ledger", func(ctx context.Context) (ledger.Record, error) { return d.ledger.Last(ctx, d.partition) })
	if err != nil {
		return err
	}
	return ledger.CheckEnd(last, pos, table, origin)
}

// redrive finishes one batch of an earlier driver, whatever it has done of it.
func (d *driver) redrive(ctx context.Context, r ledger.Record) error {
	if breakAckFirst {
		return d.commit(ctx, r, nil, false)
	}
	found, err := d.rowsThere(ctx, r)
	if err != nil {
		return err
	}
	if found == r.Rows {
		return d.commit(ctx, r, nil, false)
	}
	if err := d.enter(ctx, d.flushers); err != nil {
		return err
	}
	// Nothing is gathered before recovery is over, so the judge is free.
	judge := d.gather.judge
	j, err := retry(ctx, d, "read a batch again from the stream", func(ctx context.Context) (judgement, error) {
		j := judge.begin(r.PrevHash)
		err := d.source.Range(ctx, d.partition, r.FirstSeq, r.LastSeq, func(m Message) error { judge.add(&j, &m); return nil })
		if err != nil {
			judge.release(&j)
		}
		return j, err
	})
	if errors.Is(err, ErrGone) {
		return d.redriveGone(ctx, r, found, err)
	}
	if err != nil {
		return err
	}
	judge.seal(&j)
	defer judge.release(&j)
	d.metrics.redelivered.recovery.Add(float64(j.entry.Messages))
	if j.entry.Hash != r.Hash || j.entry.Rows != r.Rows {
		return fmt.Errorf("%w: sequences %d to %d are %d messages, %d rows, hash %s; the ledger has %d, %d, %s",
			ErrChanged, r.FirstSeq, r.LastSeq, j.entry.Messages, j.entry.Rows, j.entry.Hash, r.Messages, r.Rows, r.Hash)
	}
	d.log.InfoContext(ctx, "finishing a batch of an earlier run", slog.Uint64("batch", r.Batch), slog.Int("rows", r.Rows),
		slog.Int("rows_there", found), slog.String("writer", r.Writer))
	return d.commit(ctx, r, j.years, true)
}

// rowsThere counts the rows of the batch that are in the table once nothing writes them any more.
func (d *driver) rowsThere(ctx context.Context, r ledger.Record) (found int, err error) {
	if r.Rows == 0 {
		return 0, nil
	}
	if err := d.settle(ctx, r); err != nil {
		return 0, err
	}
	for _, b := range r.Blocks {
		seqs, err := d.readBack(ctx, r, b)
		if err != nil {
			return 0, err
		}
		found += len(seqs)
	}
	return found, nil
}

// redriveGone decides on a batch whose messages are no longer in the stream, by reason. A row whose event was there before is folded into
// the older copy sooner or later, and then looks as if it had never come; but the position moves only past what was committed, and the
// stream is trimmed only up to it.
func (d *driver) redriveGone(ctx context.Context, r ledger.Record, found int, reason error) error {
	pos, err := retry(ctx, d, "read the position", func(ctx context.Context) (ledger.Position, error) { return d.positions.get(ctx, d.partition) })
	if err != nil {
		return err
	}
	if pos.Batch < r.Batch {
		return fmt.Errorf("%d of %d rows are in the table: %w", found, r.Rows, reason)
	}
	d.log.WarnContext(ctx, "a committed batch has fewer rows than messages: duplicates were folded",
		slog.Uint64("batch", r.Batch), slog.Int("rows", r.Rows), slog.Int("rows_there", found))
	return d.commit(ctx, r, nil, false)
}
