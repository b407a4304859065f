// Package rebuild makes the event table anew from the stream, beside the live one and while ingest goes on, and swaps the two.
//
// What is made anew are the rows of messages that the stream still holds, from a given sequence on and of a given tenant if so wanted. Every other row is
// copied from the live table: what the stream has trimmed is never lost. Rows that come from no message go, and what a decision of the control log has
// removed does not come back.
//
// The order of things is what makes it safe:
//
//  1. A view on the live table, the mirror, brings every insert that begins from now on into the new table too, as part of that insert.
//  2. Each partition's last ledger entry is read. Batches after it were inserted with the mirror in place. Up to it, the border, rows are the
//     rebuild's own: when the border's batch is committed, what the mirror has brought of them is deleted, and they are copied or made anew.
//  3. The new table is verified against ledger and stream, and takes the live one's name in one step, together with the newest rows, so that
//     readers miss nothing: but for a row whose insert is running in that very moment, which is out of sight until it ends.
//  4. The mirror goes, and rows that an insert caught in the middle of the swap wrote to the old table alone are copied from it.
//
// A rebuild that dies before the swap leaves the live table as it was and is cleared by Abort. One that dies after it is finished by the next Run.
package rebuild

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/erasure"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify"
)

// Errors of Run.
var (
	// ErrInterrupted is returned when another rebuild runs, or died before its swap.
	ErrInterrupted = errors.New("another rebuild runs or was interrupted: when none runs, `ingester rebuild --abort` clears what it left")
	// ErrChanged is returned when the stream does not hold what the ledger says: a table made from it would hide that.
	ErrChanged = errors.New("the stream does not hold what the ledger says, or was trimmed meanwhile: try again, and run `ingester verify --deep` when this stays")
	// ErrUnfinished is returned when a batch of the ledger does not get into the table.
	ErrUnfinished = errors.New("a batch is in the ledger and not in the table: let an ingester run until it is, then rebuild")
	// ErrForeign is returned when the table has rows that are not the rebuild's to make.
	ErrForeign = errors.New("the table is not that of these settings")
	// ErrRefused is returned when the new table does not agree with ledger and stream. The live one is as it was.
	ErrRefused = errors.New("the new table does not agree with ledger and stream, it was not swapped in")
)

// DefaultSettleTimeout bounds the wait for the batches that are being inserted when a rebuild begins.
const DefaultSettleTimeout = time.Minute

// Options says what to make anew.
type Options struct {
	// Tenant narrows it to one tenant.
	Tenant *uuid.UUID
	// FromSeq is the first sequence to make anew, FromTime the stream's own time of the first message; the later one counts.
	FromSeq  uint64
	FromTime time.Time
	// SettleTimeout stands for DefaultSettleTimeout when 0.
	SettleTimeout time.Duration
	// BeforeSwap, when set, is called just before the tables are swapped, by tests.
	BeforeSwap func() error
}

// Report is what a rebuild did.
type Report struct {
	// From is the first sequence made anew.
	From uint64 `json:"from"`
	// Rebuilt counts rows made from messages, Kept rows copied from the live table.
	Rebuilt uint64 `json:"rebuilt"`
	Kept    uint64 `json:"kept"`
	// Resumed says that this finished an earlier rebuild, which had swapped the tables and died, and did nothing else.
	Resumed bool          `json:"resumed"`
	Took    time.Duration `json:"took_ns"`
}

// mark is what the new table carries from the swap to the end.
type mark struct {
	Rebuild string         `json:"rebuild"`
	Borders map[int]uint64 `json:"borders"`
}

// builder is one rebuild.
type builder struct {
	verify.System
	opts Options
	log  *slog.Logger
	run  string // unique, part of its tokens
	from uint64 // the first sequence to make anew
	// streamFirst is where the stream began when the rebuild did.
	streamFirst uint64
	report      Report
	mark        mark
	state       *control.State // what was removed does not come back,
	erased      *erasure.Set   // nor do the names of who was erased
}

// Run rebuilds. It may run beside any number of ingesters, and alone when all batches of the ledger are in the table. Nothing is changed when it fails
// before the swap; what it leaves of the new table then is removed as far as the server allows.
func Run(ctx context.Context, s verify.System, opts Options, log *slog.Logger) (Report, error) {
	if opts.SettleTimeout == 0 {
		opts.SettleTimeout = DefaultSettleTimeout
	}
	b := &builder{System: s, opts: opts, log: log, run: rand.Text()[:8]}
	b.mark = mark{Rebuild: b.run, Borders: make(map[int]uint64, s.Partitions)}
	start := time.Now()
	held, release, err := s.Table.LockRemoval(ctx) // what is removed from one table meanwhile would come back with the other
	if err != nil {
		return b.report, fmt.Errorf("rebuild: %w", err)
	}
	defer release()
	err = b.rebuild(held)
	b.report.Took = time.Since(start)
	if err != nil {
		return b.report, fmt.Errorf("rebuild: %w", err)
	}
	return b.report, nil
}

// Abort clears what a rebuild left that died before its swap. One that died after it must be finished by Run.
func Abort(ctx context.Context, s verify.System) error {
	state, err := s.Table.Beside(ctx)
	if err != nil {
		return fmt.Errorf("abort rebuild: %w", err)
	}
	if state.Mark != "" {
		return errors.New("abort rebuild: the new table is live already: run `ingester rebuild` to finish it")
	}
	return clear(ctx, s.Table)
}

// clear ends the mirror and drops the table beside the live one.
func clear(ctx context.Context, t *clickhouse.Store) error {
	if err := t.StopMirror(ctx); err != nil {
		return err
	}
	return t.DropBeside(ctx)
}

func (b *builder) rebuild(ctx context.Context) error {
	state, err := b.Table.Beside(ctx)
	if err != nil {
		return err
	}
	if state.Mark != "" {
		return b.resume(ctx, state.Mark)
	}
	if state.Building || state.Mirror {
		return ErrInterrupted
	}
	if err := b.begin(ctx); err != nil {
		return err
	}
	// 1. The mirror. If we die from here to 4: the live table is as it was; Abort.
	if err := b.Table.StartBeside(ctx); err != nil {
		return err
	}
	if err := b.build(ctx); err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
		defer cancel()
		if state, serr := b.Table.Beside(cctx); serr != nil || state.Mark != "" {
			return err // it was swapped, or nobody knows
		}
		return errors.Join(err, clear(cctx, b.Table))
	}
	return b.finish(ctx)
}

// clearTimeout bounds clearing up after a rebuild that failed.
const clearTimeout = time.Minute

// begin decides on the first sequence to make anew: what was asked for, as far back as the stream goes.
func (b *builder) begin(ctx context.Context) (err error) {
	if b.opts.Tenant != nil {
		if _, err := b.PartitionOf(*b.opts.Tenant); err != nil {
			return err
		}
	}
	// Rows of another shard's partitions would be missing in the new table. Those of partitions that the stream does not have come from no message.
	there, err := b.Table.PartitionsThere(ctx)
	if err != nil {
		return err
	}
	own := b.Shard.Partitions(b.Partitions)
	for _, p := range there {
		if p < b.Partitions && !slices.Contains(own, p) {
			return fmt.Errorf("%w: it has rows of partition %d, which a rebuild with AUDIT_SHARD=%s would drop: it must be that of its ingesters", ErrForeign, p, b.Shard)
		}
	}
	// So would what the ledger does not know.
	for _, p := range b.Shard.Partitions(b.Partitions) {
		if err := b.CheckLedger(ctx, p); errors.Is(err, ledger.ErrTruncated) {
			return fmt.Errorf("%w: `ingester ledger repair` writes them anew", err)
		} else if err != nil {
			return err
		}
	}
	if b.state, err = b.Control.Load(ctx); err != nil {
		return err
	}
	b.erased = erasure.Of(b.state)
	if b.streamFirst, _, err = b.Reader.Bounds(ctx); err != nil {
		return err
	}
	b.from = max(b.streamFirst, b.opts.FromSeq)
	if !b.opts.FromTime.IsZero() {
		seq, err := b.Reader.SeqAt(ctx, b.opts.FromTime)
		if err != nil {
			return err
		}
		b.from = max(b.from, seq)
	}
	b.report.From = b.from
	return nil
}

// build fills the new table and swaps it in.
func (b *builder) build(ctx context.Context) error {
	// 2. Borders, and what is up to them.
	for _, p := range b.Shard.Partitions(b.Partitions) {
		last, err := b.Ledger.Last(ctx, p)
		if err != nil {
			return err
		}
		if err := b.committed(ctx, last, b.opts.SettleTimeout); err != nil {
			return err
		}
		b.mark.Borders[p] = last.LastSeq
		if err := b.partition(ctx, p, last.LastSeq); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	// 3. What the mirror missed of an insert that was settled by hand, verification, swap.
	if err := b.catchUp(ctx, clickhouse.EventTable, clickhouse.BuildTable, b.opts.SettleTimeout); err != nil {
		return err
	}
	if err := b.verify(ctx); err != nil {
		return err
	}
	if b.opts.BeforeSwap != nil {
		if err := b.opts.BeforeSwap(); err != nil {
			return err
		}
	}
	text, err := json.Marshal(b.mark)
	if err != nil {
		return err
	}
	return b.Table.SwapBeside(ctx, string(text))
}

// finish does what is left after the swap. It can be done again.
func (b *builder) finish(ctx context.Context) error {
	// 4. If we die here: the new table is live, and carries the mark; the next Run comes back to this.
	if err := b.Table.StopMirror(ctx); err != nil {
		return err
	}
	// A batch that nobody finishes is no reason to wait: no insert of it runs, and it is in the old table or in none.
	if err := b.catchUp(ctx, clickhouse.BuildTable, clickhouse.EventTable, finishWait); err != nil {
		return err
	}
	b.log.InfoContext(ctx, "the new table is live", slog.Uint64("from", b.from), slog.Uint64("rebuilt", b.report.Rebuilt), slog.Uint64("kept", b.report.Kept))
	return b.Table.DropBeside(ctx)
}

// catchUp copies into one table what it lacks of the batches after the borders that are in the other. It waits for those that are being inserted: a row
// that is on its way would come twice. After wait it goes on all the same when the new table is live.
func (b *builder) catchUp(ctx context.Context, from, to string, wait time.Duration) error {
	for p, border := range b.mark.Borders {
		last, err := b.Ledger.Last(ctx, p)
		if err != nil {
			return err
		}
		err = b.committed(ctx, last, wait)
		live := to == clickhouse.EventTable
		if err != nil && (!live || !errors.Is(err, ErrUnfinished)) {
			return err
		}
		if err := b.Table.CopyMissing(ctx, from, to, p, border, last.LastSeq); err != nil {
			return err
		}
	}
	return nil
}

// finishWait bounds the wait for running batches once the new table is live.
const finishWait = 10 * time.Second

// resume finishes a rebuild that died after its swap.
func (b *builder) resume(ctx context.Context, text string) error {
	if err := json.Unmarshal([]byte(text), &b.mark); err != nil {
		return fmt.Errorf("read the mark of an earlier rebuild on %s: %w: remove the table's comment if somebody else has set it", clickhouse.EventTable, err)
	}
	b.report.Resumed = true
	return b.finish(ctx)
}

// verify compares the new table with ledger and stream. Faults of rows that were kept are not the rebuild's.
func (b *builder) verify(ctx context.Context) error {
	s := b.System
	s.Table = b.Table.WithTable(clickhouse.BuildTable)
	r, err := verify.Run(ctx, s, verify.Options{Tenant: b.opts.Tenant})
	if err != nil {
		return err
	}
	for _, f := range r.Findings {
		switch {
		case f.Kind == verify.Undelivered, f.Seq != 0 && f.Seq < b.from, f.Seq == 0 && f.Kind != verify.Chain:
			b.log.WarnContext(ctx, "the old table is at fault where it is kept", slog.Any("finding", f))
		default:
			return fmt.Errorf("%w: %s at sequence %d of partition %d: %s", ErrRefused, f.Kind, f.Seq, f.Partition, f.Detail)
		}
	}
	return nil
}

// wants says whether a message's row is made anew.
func (b *builder) wants(seq uint64, tenant uuid.UUID) bool {
	return seq >= b.from && (b.opts.Tenant == nil || *b.opts.Tenant == tenant)
}

// concerns says whether anything of the partition is made anew.
func (b *builder) concerns(p int) bool {
	return b.opts.Tenant == nil || events.Partition(*b.opts.Tenant, b.Partitions) == p
}
