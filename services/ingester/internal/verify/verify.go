// Package verify compares ledger, stream and table, and says what does not agree.
//
// The shallow form compares the ledger's counts with the table's and reads messages again only where they differ. The deep form reads every
// message again, computes each batch's hash, and compares every field of every row.
package verify

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/shard"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/erasure"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

// Limits, which tests lower.
var (
	// groupBatches bounds the ledger entries that one query counts.
	groupBatches = 500
	// chunkMessages is about how many messages and rows are compared in memory at once.
	chunkMessages = 20_000
)

// maxReused bounds the reused ids that are listed.
const maxReused = 20

// System is what is compared.
type System struct {
	Ledger    *ledger.Ledger
	Positions *ledger.Positions
	Reader    *replay.Reader
	Table     *clickhouse.Store
	// Control says what was removed from the table.
	Control *control.Log
	// Partitions is how many the stream has.
	Partitions int
	// Shard is which of them Table has.
	Shard shard.Shard
}

// ErrOtherShard means that a tenant's rows are not in the table that was given.
var ErrOtherShard = errors.New("its rows are on another shard")

// PartitionOf is the tenant's partition, or ErrOtherShard.
func (s System) PartitionOf(tenant uuid.UUID) (int, error) {
	p := events.Partition(tenant, s.Partitions)
	if !s.Shard.Has(p) {
		return 0, fmt.Errorf("tenant %s: %w: %d/%d, not %s (AUDIT_SHARD)", tenant, ErrOtherShard, shard.Of(p, s.Shard.Of)+1, s.Shard.Of, s.Shard)
	}
	return p, nil
}

// Options says what to verify.
type Options struct {
	// Tenant narrows it to one tenant: the chain of its partition, and all of its messages and rows, as thoroughly as Deep.
	Tenant *uuid.UUID
	// Deep reads every message again.
	Deep bool
}

// Run verifies everything, or one tenant. It may run beside live ingest: what is being inserted meanwhile is counted as pending. The error says why it
// could not be done; what was found is in the report, which is nil then.
func Run(ctx context.Context, s System, opts Options) (*Report, error) {
	state, err := s.Control.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	v := &verifier{System: s, state: state, erased: erasure.Of(state), report: &Report{Deep: opts.Deep}, deep: opts.Deep}
	if opts.Tenant != nil {
		v.report.Tenant = opts.Tenant.String()
		if err := v.tenant(ctx, *opts.Tenant); err != nil {
			return nil, fmt.Errorf("verify tenant %s: %w", opts.Tenant, err)
		}
		return v.done(), nil
	}
	for _, p := range s.Shard.Partitions(s.Partitions) {
		if err := v.partition(ctx, p); err != nil {
			return nil, fmt.Errorf("verify partition %d: %w", p, err)
		}
		if err := v.tombstones(ctx, p); err != nil {
			return nil, fmt.Errorf("verify removals of partition %d: %w", p, err)
		}
	}
	if err := v.foreignPartitions(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return v.done(), nil
}

// verifier is one run.
type verifier struct {
	System
	state  *control.State // before anything was looked at
	erased *erasure.Set   // by it
	report *Report
	deep   bool
	judge  replay.Judge

	dead        map[uint64]struct{} // sequences of the dead letters, once they were needed
	deadRemoved bool
	undelivered []Finding // of refused messages not yet looked for there
}

func (v *verifier) done() *Report {
	sortFindings(v.report.Findings)
	return v.report
}

// progress is how far a partition was committed when its check began.
type progress struct {
	last      ledger.Record
	committed uint64 // batch
}

// progress reads the position first: the ledger runs ahead of it. A position that is ahead all the same is a finding.
func (v *verifier) progress(ctx context.Context, p int) (progress, error) {
	pos, err := v.Positions.Get(ctx, p)
	if err != nil {
		return progress{}, err
	}
	last, err := v.Ledger.Last(ctx, p)
	if errors.Is(err, ledger.ErrCorrupt) { // the walk will come upon it
		return progress{last: last, committed: pos.Batch}, nil
	}
	if err != nil {
		return progress{}, err
	}
	if err := ledger.CheckEnd(last, pos, 0, 0); err != nil {
		v.report.add(Finding{Kind: Chain, Partition: p, Detail: err.Error()})
	}
	return progress{last: last, committed: max(last.CommittedThrough, pos.Batch)}, nil
}

// CheckLedger returns a ledger.ErrTruncated when the ledger of a partition ends before what the table has, as far as position and table tell.
func (s System) CheckLedger(ctx context.Context, p int) error {
	pos, err := s.Positions.Get(ctx, p)
	if err != nil {
		return err
	}
	table, err := s.Table.LastOfPartition(ctx, p, pos.LastSeq)
	if err != nil {
		return err
	}
	origin, err := s.Reader.Origin(ctx)
	if err != nil {
		return err
	}
	last, err := s.Ledger.Last(ctx, p)
	if err != nil {
		return err
	}
	return ledger.CheckEnd(last, pos, table, origin)
}

// partition checks one partition with everything in it.
func (v *verifier) partition(ctx context.Context, p int) error {
	at, err := v.progress(ctx, p)
	if err != nil {
		return err
	}
	w := walk{verifier: v, partition: p, at: at, prev: ledger.Record{Entry: ledger.Entry{Partition: p}}}
	err = v.Reader.Entries(ctx, p, 0, func(r ledger.Record) error { return w.entry(ctx, r) })
	if err = v.unreadable(p, err); err != nil {
		return err
	}
	if err := w.end(ctx); err != nil {
		return err
	}
	if v.deep {
		return v.reused(ctx, p, nil)
	}
	return nil
}

// unreadable makes a finding of an entry that cannot be read; the ledger ends there.
func (v *verifier) unreadable(p int, err error) error {
	if !errors.Is(err, ledger.ErrCorrupt) {
		return err
	}
	v.report.add(Finding{Kind: Chain, Partition: p, Detail: err.Error()})
	return nil
}

// foreignPartitions looks for rows of partitions that the stream does not have, or this shard.
func (v *verifier) foreignPartitions(ctx context.Context) error {
	counts, err := v.Table.Partitions(ctx)
	if err != nil {
		return err
	}
	for p, n := range counts {
		switch {
		case p >= v.Partitions:
			v.report.addMany(Finding{Kind: Surplus, Partition: p, Detail: fmt.Sprintf("%d rows of a partition that the stream does not have", n)}, n)
		case !v.Shard.Has(p):
			v.report.addMany(Finding{Kind: Surplus, Partition: p, Detail: fmt.Sprintf("%d rows of a partition of another shard", n)}, n)
		}
	}
	return nil
}

func (v *verifier) reused(ctx context.Context, p int, tenant *uuid.UUID) error {
	if len(v.report.ReusedIDs) >= maxReused {
		return nil
	}
	ids, err := v.Table.ReusedIDs(ctx, p, tenant, maxReused-len(v.report.ReusedIDs))
	v.report.ReusedIDs = append(v.report.ReusedIDs, ids...)
	return err
}

// tenant checks the chain of the tenant's partition and all of the tenant's messages that are committed.
func (v *verifier) tenant(ctx context.Context, tenant uuid.UUID) error {
	p, err := v.PartitionOf(tenant)
	if err != nil {
		return err
	}
	at, err := v.progress(ctx, p)
	if err != nil {
		return err
	}
	through := uint64(0) // the last sequence that is committed
	prev := ledger.Record{Entry: ledger.Entry{Partition: p}}
	err = v.Reader.Entries(ctx, p, 0, func(r ledger.Record) error {
		if err := ledger.CheckLink(prev, r); err != nil {
			v.report.add(Finding{Kind: Chain, Partition: p, Batch: r.Batch, Detail: err.Error()})
		}
		if r.Batch <= at.committed {
			through = r.LastSeq
		}
		v.report.Batches++
		prev = r
		return nil
	})
	if err = v.unreadable(p, err); err != nil {
		return err
	}
	if err := v.tenantMessages(ctx, p, tenant, through); err != nil {
		return err
	}
	return v.reused(ctx, p, &tenant)
}

// tenantMessages compares the tenant's messages up to a sequence with its rows, a chunk at a time.
func (v *verifier) tenantMessages(ctx context.Context, p int, tenant uuid.UUID, through uint64) error {
	streamFirst, _, err := v.Reader.Bounds(ctx)
	if err != nil {
		return err
	}
	from := streamFirst
	var chunk []replay.Message
	compare := func(to uint64) error {
		c, err := v.newComparison(ctx, p, &tenant, from, to)
		if err != nil {
			return err
		}
		for i := range chunk {
			c.message(&chunk[i], 0, false)
		}
		c.surplus(from)
		from, chunk = to+1, chunk[:0]
		return c.settle(ctx)
	}
	err = v.Reader.Messages(ctx, p, &tenant, from, through, func(m replay.Message) error {
		if chunk = append(chunk, m); len(chunk) < chunkMessages {
			return nil
		}
		return compare(m.Seq)
	})
	if err != nil {
		return err
	}
	if from <= through {
		if err := compare(through); err != nil {
			return err
		}
	}
	return v.beyond(ctx, p, &tenant)
}

// beyond looks for rows above everything the ledger knows: nobody can have ingested them. The table is asked first, so that an entry written
// meanwhile excuses its rows.
func (v *verifier) beyond(ctx context.Context, p int, tenant *uuid.UUID) error {
	last, err := v.Ledger.Last(ctx, p)
	if errors.Is(err, ledger.ErrCorrupt) {
		return nil // nobody knows where it ends
	}
	if err != nil {
		return err
	}
	// Rows from before the stream began are of one that is lost with its ledger.
	origin, err := v.Reader.Origin(ctx)
	if err != nil {
		return err
	}
	seqs, err := v.Table.Sequences(ctx, p, tenant, max(origin, last.LastSeq+1), math.MaxUint64)
	if err != nil || len(seqs) == 0 {
		return err
	}
	if last, err = v.Ledger.Last(ctx, p); err != nil {
		return err
	}
	for _, seq := range seqs {
		if seq > last.LastSeq {
			v.report.add(Finding{Kind: Surplus, Partition: p, Seq: seq, Detail: "a row after the last batch of the ledger"})
		}
	}
	return nil
}
