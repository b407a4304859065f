// Package repair writes entries of the ledger that are lost anew, from what stream and table have.
//
// It goes on from each partition's last entry to the last message that can be in the table, as an ingester would have, if in other batches. What the
// table has of them is not asked: entries after the position are not committed, so the next ingester looks, as it does after a crash, and inserts what
// is missing. Of messages that were trimmed from the stream one entry says how many rows the table has, which is all that can be said of them.
package repair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

// batchMessages and batchBytes bound an entry, whichever comes first: an ingester that finishes it holds its rows in memory.
const (
	batchMessages = 20_000
	batchBytes    = 8 << 20
)

// Report says what was written.
type Report struct {
	// Partitions is how many lacked entries, Entries and Messages what they were given.
	Partitions, Entries, Messages int
}

// Step names a point of the repair, for tests that stop the process there.
type Step string

// The points, in the order in which they come for each partition.
const (
	StepAppended Step = "appended" // one entry is written
	StepPosition Step = "position" // the position fits the ledger again
)

// Options are about who repairs.
type Options struct {
	// Writer names this process in the ledger.
	Writer string
	// Hook, when set, is called at each Step, by tests.
	Hook func(Step)
}

// Run repairs the ledgers that verify.System.CheckLedger refuses and leaves the others alone. No ingester may run; one that does is refused by the
// ledger, or refuses us. It can be done over after a failure and goes on where it was.
func Run(ctx context.Context, s verify.System, o Options, log *slog.Logger) (r Report, err error) {
	if o.Hook == nil {
		o.Hook = func(Step) {}
	}
	for _, p := range s.Shard.Partitions(s.Partitions) {
		n, messages, err := partition(ctx, s, p, o)
		if err != nil {
			return r, fmt.Errorf("repair the ledger of partition %d: %w", p, err)
		}
		if n > 0 {
			r.Partitions, r.Entries, r.Messages = r.Partitions+1, r.Entries+n, r.Messages+messages
			log.WarnContext(ctx, "entries of the ledger were written anew", slog.Int("partition", p), slog.Int("entries", n), slog.Int("messages", messages))
		}
	}
	return r, nil
}

// chain is the repair of one partition.
type chain struct {
	verify.System
	Options
	partition int
	pos       ledger.Position // as it was
	last      ledger.Record   // the newest entry
	committed ledger.Position // the newest entry that the position covers
	judge     replay.Judge
	entries   int
	messages  int
}

// partition writes what the partition lacks and returns how many entries that was, for how many messages.
func partition(ctx context.Context, s verify.System, p int, o Options) (entries, messages int, err error) {
	lost := s.CheckLedger(ctx, p)
	if !errors.Is(lost, ledger.ErrTruncated) {
		return 0, 0, lost
	}
	c := chain{System: s, Options: o, partition: p}
	if c.pos, err = s.Positions.Get(ctx, p); err != nil {
		return 0, 0, err
	}
	table, err := s.Table.LastOfPartition(ctx, p, c.pos.LastSeq)
	if err != nil {
		return 0, 0, err
	}
	if c.last, err = s.Ledger.Last(ctx, p); err != nil {
		return 0, 0, err
	}
	c.note()
	through := max(c.pos.LastSeq, table)
	if err := c.trimmed(ctx, through); err != nil {
		return 0, 0, err
	}
	if err := c.held(ctx, through); err != nil {
		return 0, 0, err
	}
	// If we die before this: the position is that of the lost ledger. Where it is ahead of the new one the next run comes back to it; where it is not,
	// the next ingester looks for the last entry's rows, as after a crash, and writes it.
	if err := s.Positions.Put(ctx, p, c.committed); err != nil {
		return 0, 0, err
	}
	o.Hook(StepPosition)
	return c.entries, c.messages, nil
}

// note takes the newest entry for committed when the position says so.
func (c *chain) note() {
	if c.last.LastSeq <= c.pos.LastSeq {
		c.committed = ledger.Position{Batch: c.last.Batch, LastSeq: c.last.LastSeq}
	}
}

// trimmed writes one entry for what lies between the newest entry and the beginning of the stream: its rows are those that the table has, which
// nothing proves any more.
func (c *chain) trimmed(ctx context.Context, through uint64) error {
	origin, err := c.Reader.Origin(ctx)
	if err != nil {
		return err
	}
	streamFirst, _, err := c.Reader.Bounds(ctx)
	if err != nil {
		return err
	}
	e := ledger.Entry{FirstSeq: max(origin, c.last.LastSeq+1), LastSeq: min(through, streamFirst-1), Blocks: []ledger.Block{}}
	if e.LastSeq < e.FirstSeq {
		return nil
	}
	block, err := c.Table.Summary(ctx, c.partition, e.FirstSeq, e.LastSeq)
	if err != nil {
		return err
	}
	if block.Rows > 0 {
		e.Messages, e.Rows = block.Rows, block.Rows
		e.Blocks = append(e.Blocks, ledger.Block{Rows: block.Rows, MinCreated: block.MinCreated, MaxCreated: block.MaxCreated})
	}
	e.Hash = ledger.NewHasher(c.last.Hash).Sum()
	return c.append(ctx, e)
}

// held writes entries for the messages that the stream still holds.
func (c *chain) held(ctx context.Context, through uint64) error {
	var batch []replay.Message
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		e := c.judge.Entry(c.last.Hash, batch)
		batch, size = batch[:0], 0
		return c.append(ctx, e)
	}
	err := c.Reader.Messages(ctx, c.partition, nil, c.last.LastSeq+1, through, func(m replay.Message) error {
		// An entry is on one side of the position: wholly committed, or to be looked at.
		full := len(batch) == batchMessages || size+len(m.Data) > batchBytes
		if full || m.Seq > c.pos.LastSeq && len(batch) > 0 && batch[len(batch)-1].Seq <= c.pos.LastSeq {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, m), size+len(m.Data)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// append gives the entry its place in the ledger and writes it.
func (c *chain) append(ctx context.Context, e ledger.Entry) error {
	e.Partition, e.Batch, e.Follows, e.PrevHash = c.partition, c.last.Batch+1, c.last.Seq, c.last.Hash
	e.Schema, e.Writer = ledger.SchemaVersion, c.Writer
	e.CommittedThrough = max(c.committed.Batch, c.last.CommittedThrough)
	if err := ledger.CheckLink(c.last, ledger.Record{Entry: e}); err != nil {
		return err
	}
	r, err := c.Ledger.Append(ctx, e)
	if err != nil {
		return err
	}
	c.last = r
	c.Hook(StepAppended)
	c.note()
	c.entries, c.messages = c.entries+1, c.messages+e.Messages
	return nil
}
