package verify

import (
	"context"

	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

// walk goes through the ledger of one partition.
type walk struct {
	*verifier
	partition int
	at        progress
	prev      ledger.Record   // the entry before the group
	group     []ledger.Record // not yet compared
	messages  int             // of the group
}

// entry takes in the next entry.
func (w *walk) entry(ctx context.Context, r ledger.Record) error {
	before := w.prev
	if n := len(w.group); n > 0 {
		before = w.group[n-1]
	}
	if err := ledger.CheckLink(before, r); err != nil {
		w.report.add(Finding{Kind: Chain, Partition: w.partition, Batch: r.Batch, Detail: err.Error()})
	}
	full := len(w.group) >= groupBatches
	if w.deep {
		full = len(w.group) > 0 && w.messages+r.Messages > chunkMessages
	}
	if full {
		if err := w.flush(ctx, r.FirstSeq-1); err != nil {
			return err
		}
	}
	w.group, w.messages = append(w.group, r), w.messages+r.Messages
	return nil
}

// end compares what is left, and what lies after it.
func (w *walk) end(ctx context.Context) error {
	if err := w.flush(ctx, 0); err != nil {
		return err
	}
	waiting, err := w.Reader.Waiting(ctx, w.partition, w.prev.LastSeq+1)
	if err != nil {
		return err
	}
	w.report.Waiting += waiting
	return w.beyond(ctx, w.partition, nil)
}

// flush compares the group with the table, up to a sequence; 0: to its end.
func (w *walk) flush(ctx context.Context, to uint64) error {
	if len(w.group) == 0 {
		return nil
	}
	last := w.group[len(w.group)-1]
	to = max(to, last.LastSeq)
	var err error
	if w.deep {
		err = w.inspect(ctx, w.partition, w.prev.LastSeq+1, to, w.group, w.at.committed)
	} else {
		err = w.count(ctx, to)
	}
	w.prev, w.group, w.messages = last, w.group[:0], 0
	return err
}

// count compares the group's counts with the table's, and looks closer where they differ.
func (w *walk) count(ctx context.Context, to uint64) error {
	// The space before an entry counts with it: no row may be there.
	firsts := make([]uint64, len(w.group))
	after := w.prev.LastSeq
	for i, r := range w.group {
		firsts[i] = after + 1
		after = r.LastSeq
	}
	counts, err := w.Table.Counts(ctx, w.partition, firsts, to)
	if err != nil {
		return err
	}
	for i, r := range w.group {
		end := to
		if i+1 < len(w.group) {
			end = firsts[i+1] - 1
		}
		if asCounted(r, counts[i]) {
			w.report.Batches++
			w.report.Messages += uint64(r.Messages)
			w.report.Rows += counts[i].Distinct
			w.report.Removed += counts[i].Removed
			w.report.DeadLetters += uint64(r.Rejected)
			continue
		}
		if err := w.inspect(ctx, w.partition, firsts[i], end, w.group[i:i+1], w.at.committed); err != nil {
			return err
		}
	}
	return nil
}

// asCounted says whether the table has of the batch what the ledger says, but for what was removed.
func asCounted(r ledger.Record, c clickhouse.Count) bool {
	return c.Rows == c.Distinct && c.Rows+c.Removed == uint64(r.Rows) && c.Max <= r.LastSeq && (c.Rows == 0 || c.Min >= r.FirstSeq)
}

// inspect reads the messages of entries again, from the sequence after the entry before to a sequence before the entry after, and compares hashes and
// rows. Batches after committed may be unfinished.
func (v *verifier) inspect(ctx context.Context, p int, from, to uint64, entries []ledger.Record, committed uint64) error {
	streamFirst, _, err := v.Reader.Bounds(ctx)
	if err != nil {
		return err
	}
	c, err := v.newComparison(ctx, p, nil, from, to)
	if err != nil {
		return err
	}
	if err := c.lookForRemoved(ctx, from, min(to, streamFirst-1)); err != nil {
		return err
	}
	i := 0
	sum := replay.NewTally(entries[0])
	advance := func() {
		v.tally(sum, streamFirst)
		if i++; i < len(entries) {
			sum = replay.NewTally(entries[i])
		}
	}
	var shortfalls []shortfall
	finish := func(seq uint64) {
		for i < len(entries) && seq > entries[i].LastSeq {
			if s, any := c.trimmed(entries[i], sum.Rows, streamFirst); any {
				shortfalls = append(shortfalls, s)
			}
			advance()
		}
	}
	err = v.Reader.Messages(ctx, p, nil, max(from, streamFirst), to, func(m replay.Message) error {
		finish(m.Seq)
		if i == len(entries) || m.Seq < entries[i].FirstSeq {
			c.skipped(&m)
			return nil
		}
		sum.Add(&m, c.message(&m, entries[i].Batch, entries[i].Batch > committed))
		return nil
	})
	if err != nil {
		return err
	}
	finish(to + 1)
	v.report.Batches += uint64(len(entries))
	c.surplus(streamFirst)
	if err := c.settle(ctx); err != nil {
		return err
	}
	return v.settleTrimmed(ctx, p, shortfalls)
}

// tally says in the report what is wrong with an entry, unless the stream has lost its beginning in the ordinary way.
func (v *verifier) tally(t *replay.Tally, streamFirst uint64) {
	if streamFirst > t.Entry.FirstSeq {
		v.report.Trimmed++
		return
	}
	if fault := t.Fault(); fault != "" {
		v.report.add(Finding{Kind: Changed, Partition: t.Entry.Partition, Batch: t.Entry.Batch, Detail: fault})
	}
}
