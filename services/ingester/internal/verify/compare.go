package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/erasure"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

// comparison holds messages of one partition against the rows of the same range of sequences.
type comparison struct {
	*verifier
	partition int
	rows      map[uint64]*clickhouse.Row // those no message was seen of yet
	absent    []absentRow
	// differing are rows that are not what is in force said they are when we began.
	differing []differingRow
	// removed are sequences with a tombstone and without a row, of messages that the stream does not hold any more.
	removed map[uint64]struct{}
}

// absentRow is an event without a row of its own: folded into an older copy, or missing.
type absentRow struct {
	clickhouse.Key
	action     string
	seq, batch uint64
	pending    bool
}

func (v *verifier) newComparison(ctx context.Context, p int, tenant *uuid.UUID, from, to uint64) (*comparison, error) {
	rows, err := v.Table.Rows(ctx, p, tenant, from, to)
	if err != nil {
		return nil, err
	}
	c := &comparison{verifier: v, partition: p, rows: make(map[uint64]*clickhouse.Row, len(rows))}
	for i := range rows {
		r := &rows[i]
		if _, twice := c.rows[r.StreamSeq]; twice {
			v.report.add(c.rowFinding(Duplicate, r, "the row is there more than once"))
			continue
		}
		c.rows[r.StreamSeq] = r
	}
	v.report.Rows += uint64(len(c.rows))
	return c, nil
}

// lookForRemoved reads the tombstones of a range of sequences that the stream does not hold any more: of those it holds each message says itself whether it
// was removed. It comes after the rows: one that is removed in between has a tombstone already.
func (c *comparison) lookForRemoved(ctx context.Context, from, to uint64) error {
	if from > to {
		return nil
	}
	seqs, err := c.Table.BuriedSequences(ctx, c.partition, from, to)
	if err != nil {
		return err
	}
	c.removed = make(map[uint64]struct{}, len(seqs))
	for _, seq := range seqs {
		if _, there := c.rows[seq]; !there {
			c.removed[seq] = struct{}{}
		}
	}
	c.report.Removed += uint64(len(c.removed))
	return nil
}

func (c *comparison) rowFinding(k Kind, r *clickhouse.Row, detail string) Finding {
	return Finding{Kind: k, Partition: c.partition, Seq: r.StreamSeq, Tenant: r.TenantID.String(), ID: r.ID.String(), Detail: detail}
}

// message compares one message of a batch with its row, and says whether it is an event at all.
func (c *comparison) message(m *replay.Message, batch uint64, pending bool) (event bool) {
	c.report.Messages++
	tenant, ev, ok := c.judge.Row(m)
	if !ok {
		c.report.DeadLetters++
		c.undelivered = append(c.undelivered, Finding{Kind: Undelivered, Partition: c.partition, Batch: batch, Seq: m.Seq, Detail: "the message was refused and is not among the dead letters"})
		return false
	}
	r, there := c.rows[m.Seq]
	cut := c.state.Covered(tenant, string(ev.Action), ev.CreatedAt, m.Seq)
	if !there && cut > 0 {
		c.report.Removed++
		return true
	}
	if there && cut > 0 && !c.state.IsOpen(cut) {
		f := c.rowFinding(Surplus, r, fmt.Sprintf("the row was removed by decision %d and is there again", cut))
		f.Batch = batch
		c.report.add(f)
	}
	if !there {
		key := clickhouse.Key{Tenant: tenant, ID: ev.ID, CreatedAt: ev.CreatedAt}
		c.absent = append(c.absent, absentRow{Key: key, action: string(ev.Action), seq: m.Seq, batch: batch, pending: pending})
		return true
	}
	delete(c.rows, m.Seq)
	if !c.same(c.erased, r, tenant, m.Time, ev) {
		c.differing = append(c.differing, differingRow{row: r, message: *m, batch: batch})
	}
	return true
}

// skipped reports a message that no batch holds.
func (c *comparison) skipped(m *replay.Message) {
	c.report.add(Finding{Kind: Skipped, Partition: c.partition, Seq: m.Seq, Detail: "the message lies between two batches: it was never ingested"})
	if r, there := c.rows[m.Seq]; there {
		c.report.add(c.rowFinding(Surplus, r, "the row is of no batch"))
		delete(c.rows, m.Seq)
	}
}

// surplus reports the rows from a sequence on of which there was no message.
func (c *comparison) surplus(from uint64) {
	for seq, r := range c.rows {
		if seq >= from {
			c.report.add(c.rowFinding(Surplus, r, "the row comes from no event of the stream"))
		}
	}
}

// differingRow is a row that differs from its message.
type differingRow struct {
	row     *clickhouse.Row
	message replay.Message
	batch   uint64
}

// same says whether a row is what its message is by the erasures, or may yet be before the table follows them.
func (c *comparison) same(erased *erasure.Set, r *clickhouse.Row, tenant uuid.UUID, at time.Time, ev *events.Raw) bool {
	plain := *ev
	outcome := erased.Apply(tenant, ev)
	fields := differences(r, tenant, at, ev)
	switch {
	case len(fields) == 0 && !outcome.Changed:
	case len(fields) == 0:
		c.report.Erased++
	case outcome.Open && !overlap(fields, differences(r, tenant, at, &plain)):
		c.report.Erasing++
	default:
		return false
	}
	return true
}

// settleDiffering decides about rows that differ, by what was decided since we began as well.
func (c *comparison) settleDiffering(ctx context.Context) error {
	if len(c.differing) == 0 {
		return nil
	}
	now, err := c.Control.Load(ctx)
	if err != nil {
		return err
	}
	erased := erasure.Of(now)
	for i := range c.differing {
		d := &c.differing[i]
		tenant, ev, _ := c.judge.Row(&d.message)
		if c.same(erased, d.row, tenant, d.message.Time, ev) {
			continue
		}
		_, plain, _ := c.judge.Row(&d.message)
		asPlain := differences(d.row, tenant, d.message.Time, plain)
		changed := erased.Apply(tenant, plain).Changed
		fields := differences(d.row, tenant, d.message.Time, plain)
		f := c.rowFinding(Differing, d.row, "the row differs from the message in "+strings.Join(fields, ", "))
		if changed && !overlap(fields, asPlain) {
			f = c.rowFinding(Unerased, d.row, "the row has what was erased: the next `ingester retention run` replaces it")
		}
		f.Batch = d.batch
		c.report.add(f)
	}
	c.differing = c.differing[:0]
	return nil
}

// overlap says whether a field is in both lists.
func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(f string) bool { return slices.Contains(b, f) })
}

// settle decides about the events without a row, and about rows that differ.
func (c *comparison) settle(ctx context.Context) error {
	if err := c.settleDiffering(ctx); err != nil {
		return err
	}
	if err := c.settleDead(ctx); err != nil || len(c.absent) == 0 {
		return err
	}
	keys := make([]clickhouse.Key, len(c.absent))
	for i, a := range c.absent {
		keys[i] = a.Key
	}
	firsts, err := c.Table.FirstCopies(ctx, c.partition, keys)
	if err != nil {
		return err
	}
	// What was cut since we began is not missing either.
	now, err := c.Control.Load(ctx)
	if err != nil {
		return err
	}
	for _, a := range c.absent {
		first, ok := firsts[a.Key]
		switch {
		case now.Covered(a.Tenant, a.action, a.CreatedAt, a.seq) > 0:
			c.report.Removed++
		case ok && first < a.seq:
			c.report.Folded++
		case a.pending:
			c.report.Pending++
		default:
			c.report.add(Finding{Kind: Missing, Partition: c.partition, Batch: a.batch, Seq: a.seq, Tenant: a.Tenant.String(), ID: a.ID.String(),
				Detail: "the event is not in the table"})
		}
	}
	return nil
}

// settleDead looks whether what was refused is among the dead letters. Once letters were removed there, their absence proves nothing.
func (v *verifier) settleDead(ctx context.Context) (err error) {
	if len(v.undelivered) == 0 {
		return nil
	}
	if v.dead == nil {
		if v.dead, v.deadRemoved, err = v.Reader.DeadLetters(ctx); err != nil {
			return err
		}
	}
	for _, f := range v.undelivered {
		if _, there := v.dead[f.Seq]; !there && !v.deadRemoved {
			v.report.add(f)
		}
	}
	v.undelivered = v.undelivered[:0]
	return nil
}

// differences names the fields in which a row is not what its message says.
func differences(r *clickhouse.Row, tenant uuid.UUID, ingested time.Time, ev *events.Raw) (fields []string) {
	for _, f := range []struct {
		name string
		same bool
	}{
		{"tenant_id", r.TenantID == tenant},
		{"id", r.ID == ev.ID},
		{"created_at", r.CreatedAt.UnixMicro() == ev.CreatedAt},
		{"actor_id", r.ActorID == string(ev.ActorID)},
		{"actor_type", r.ActorType == string(ev.ActorType)},
		{"action", r.Action == string(ev.Action)},
		{"resource_type", r.ResourceType == string(ev.ResourceType)},
		{"resource_id", r.ResourceID == string(ev.ResourceID)},
		{"metadata", r.Metadata == string(ev.Metadata)},
		{"reasoning", (r.Reasoning != nil) == ev.HasReasoning && (r.Reasoning == nil || *r.Reasoning == string(ev.Reasoning))},
		{"ingested_at", r.IngestedAt.UnixMicro() == ingested.UnixMicro()},
	} {
		if !f.same {
			fields = append(fields, f.name)
		}
	}
	return fields
}

// shortfall is rows of a batch that are not there and of which the stream has no message any more.
type shortfall struct {
	entry ledger.Record
	rows  uint64
}

// trimmed compares the part of an entry that the stream does not hold any more by count; known is how many rows the rest is.
func (c *comparison) trimmed(e ledger.Record, known int, streamFirst uint64) (shortfall, bool) {
	if streamFirst <= e.FirstSeq {
		return shortfall{}, false
	}
	there := 0
	for seq := range c.rows {
		if seq >= e.FirstSeq && seq <= e.LastSeq && seq < streamFirst {
			there++
		}
	}
	for seq := range c.removed {
		if seq >= e.FirstSeq && seq <= e.LastSeq && seq < streamFirst {
			there++
		}
	}
	want := e.Rows - known
	if there > want {
		c.report.addMany(Finding{Kind: Surplus, Partition: c.partition, Batch: e.Batch,
			Detail: fmt.Sprintf("%d rows more than the ledger says, of messages the stream does not hold any more", there-want)}, uint64(there-want))
	}
	c.report.Messages += uint64(max(0, e.Messages-known))
	return shortfall{e, uint64(max(0, want-there))}, there < want
}

// settleTrimmed says of rows that are not there whether they can have been folded: the first copy of an event has its created_at, so there must be
// enough older rows in the batch's own span of time.
func (v *verifier) settleTrimmed(ctx context.Context, p int, all []shortfall) error {
	for _, s := range all {
		var older uint64
		for _, b := range s.entry.Blocks {
			n, err := v.Table.CountCreated(ctx, p, s.entry.LastSeq, b.MinCreated, b.MaxCreated)
			if err != nil {
				return err
			}
			older += n
		}
		// An older copy may have been removed since.
		n, err := v.Table.CountBuried(ctx, p, s.entry.LastSeq)
		if err != nil {
			return err
		}
		older += n
		if older >= s.rows {
			v.report.Unproven += s.rows
			continue
		}
		v.report.addMany(Finding{Kind: Missing, Partition: p, Batch: s.entry.Batch, Detail: fmt.Sprintf(
			"%d rows fewer than the ledger says, and the stream does not hold the messages any more", s.rows)}, s.rows)
	}
	return nil
}

// sortFindings puts them in the order of partition and sequence.
func sortFindings(f []Finding) {
	slices.SortStableFunc(f, func(a, b Finding) int {
		if a.Partition != b.Partition {
			return a.Partition - b.Partition
		}
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
}
