package pipeline

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	"example.com/auditlog/services/ingester/internal/ledger"
)

// tokenHashBytes is how much of a batch's hash is in its tokens.
const tokenHashBytes = 8

// insert puts the rows of one year into the table. With doubt, some insert of them may have happened, or be running.
//
// Looking decides, tokens only save work: an insert whose outcome is not known is followed by a read-back of which sequences are there. As
// long as none is, the same token goes again, so that a first attempt that was only slow, or a former driver that wakes up, is folded into
// it. Rows get a fresh token when theirs was used up without them, or when only some of a block are missing: a token stands for exactly its
// rows for ever.
func (d *driver) insert(ctx context.Context, r ledger.Record, y yearRows, doubt bool) error {
	token := fmt.Sprintf("%s%d:0", d.tokenPrefix(r), y.Year)
	// sent: the token may have been seen by the server. An OK is then no proof: it also means "I have dropped this, I know the token", and
	// the server writes the token down before the rows.
	sent := doubt
	pause := d.newBackoff("insert")
	works, burnt := false, false
	defer func() { pause.end(works) }()
	for {
		if doubt && breakSkipReadback {
			return nil
		}
		if doubt {
			missing, err := d.missing(ctx, r, y)
			if err != nil || len(missing) == 0 {
				works = err == nil
				return err
			}
			if burnt || breakBlindRetry || len(missing) != y.rows.Rows() {
				y.rows.Retain(missing)
				token = fmt.Sprintf("%s%d:%s", d.tokenPrefix(r), y.Year, rand.Text())
				sent, burnt = false, false
			}
		}
		if !d.members.Valid() {
			// Others may count us as dead by now and do this themselves.
			return fmt.Errorf("insert batch %d of partition %d: %w", r.Batch, d.partition, ErrLost)
		}
		start := time.Now()
		err := d.insertTraced(ctx, y.rows, token)
		d.metrics.insertSeconds.Observe(time.Since(start).Seconds())
		works = err == nil
		if err == nil && !sent {
			return nil
		}
		if err == nil {
			burnt = true // unless the next look finds the rows
			continue
		}
		switch Classify(err, Fatal) {
		case InDoubt:
			doubt, sent = true, true
			d.metrics.inDoubt.Inc()
		case Transient:
		default:
			return fmt.Errorf("insert batch %d of partition %d: %w", r.Batch, d.partition, err)
		}
		if err := pause.wait(ctx, err); err != nil {
			return err
		}
	}
}

// missing waits until no insert of the batch runs any more and returns which rows of the block are not in the table.
func (d *driver) missing(ctx context.Context, r ledger.Record, y yearRows) (map[uint64]struct{}, error) {
	if err := d.settle(ctx, r); err != nil {
		return nil, err
	}
	there, err := d.readBack(ctx, r, y.Block)
	if err != nil {
		return nil, err
	}
	if breakBlindRetry {
		there = nil
	}
	missing := make(map[uint64]struct{})
	seqs := y.rows.Seqs()
	for _, seq := range seqs {
		if _, ok := there[seq]; !ok {
			missing[seq] = struct{}{}
		}
	}
	d.metrics.skippedRows.Add(float64(len(seqs) - len(missing)))
	d.log.InfoContext(ctx, "looked whether an insert was applied", slog.Uint64("batch", r.Batch), slog.Int("year", y.Year),
		slog.Int("rows", len(seqs)), slog.Int("rows_missing", len(missing)))
	return missing, nil
}

// tokenPrefix is what every token of the batch begins with, and no token of another batch: the hash tells it from the batch of the same number
// of a ledger that was lost, whose tokens the table may remember.
func (d *driver) tokenPrefix(r ledger.Record) string {
	return fmt.Sprintf("%s%d:%d:%x:", d.cfg.TokenPrefix, d.partition, r.Batch, r.Hash[:tokenHashBytes])
}

func (d *driver) settle(ctx context.Context, r ledger.Record) error {
	_, err := retry(ctx, d, "wait for running inserts", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, d.sink.Settle(ctx, d.tokenPrefix(r))
	})
	return err
}

func (d *driver) readBack(ctx context.Context, r ledger.Record, b ledger.Block) (map[uint64]struct{}, error) {
	return retry(ctx, d, "read back what is in the table", func(ctx context.Context) (map[uint64]struct{}, error) {
		return d.sink.ReadBack(ctx, d.partition, r.FirstSeq, r.LastSeq, b.MinCreated, b.MaxCreated)
	})
}

// append writes e into the ledger, behind the newest batch there.
func (d *driver) append(ctx context.Context, e ledger.Entry) (ledger.Record, error) {
	e.Batch, e.Follows = d.last.Batch+1, d.last.Seq
	e.CommittedThrough, e.Writer = d.committed, d.cfg.Instance
	if err := ledger.CheckLink(d.last, ledger.Record{Entry: e}); err != nil {
		return ledger.Record{}, fmt.Errorf("about to append to the ledger: %w", err)
	}
	return retry(ctx, d, "append to the ledger", func(ctx context.Context) (ledger.Record, error) {
		d.appendedAt = time.Now()
		return d.ledger.Append(ctx, e)
	})
}

// bury publishes dead letters.
func (d *driver) bury(ctx context.Context, dead []DeadLetter) error {
	if len(dead) == 0 {
		return nil
	}
	if _, err := retry(ctx, d, "publish dead letters", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, d.dead.Publish(ctx, dead)
	}); err != nil {
		return err
	}
	d.metrics.deadLetters.Add(float64(len(dead)))
	d.log.WarnContext(ctx, "messages refused", slog.Int("messages", len(dead)), slog.Uint64("first_seq", dead[0].Seq), slog.String("first_reason", dead[0].Reason))
	return nil
}
