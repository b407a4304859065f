package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// judgement is what a batch comes to: rows by month, dead letters, and the ledger entry that says so. It is a pure function of the messages,
// the ledger entry before them and ledger.SchemaVersion.
type judgement struct {
	msgs   []Message
	entry  ledger.Entry // complete but for CommittedThrough and Writer
	months []monthRows  // in the order of entry.Blocks
	dead   []DeadLetter
}

// monthRows is one block of a batch: where its rows are among the messages, and the rows.
type monthRows struct {
	ledger.Block
	rows Block
	seqs []uint64
	msgs []Message // of the whole batch
}

// judge decides on every message of a batch that follows prev in the ledger.
func (d *driver) judge(msgs []Message, prev ledger.Record) judgement {
	j := judgement{msgs: msgs, entry: ledger.Entry{
		Partition: d.partition,
		Batch:     prev.Batch + 1,
		FirstSeq:  msgs[0].Seq,
		LastSeq:   msgs[len(msgs)-1].Seq,
		Messages:  len(msgs),
		Schema:    ledger.SchemaVersion,
		PrevHash:  prev.Hash,
		Follows:   prev.Seq,
		Blocks:    []ledger.Block{},
	}}
	hasher := ledger.NewHasher(prev.Hash)
	for i := range msgs {
		m := &msgs[i]
		hasher.Add(m.Seq, m.Time, m.Subject, m.Data)
		tenant, err := d.decode(m)
		if err != nil {
			j.dead = append(j.dead, deadLetter(m, err))
			continue
		}
		b := j.month(d, d.raw.CreatedAt)
		b.rows.Append(d.partition, tenant, m.Seq, m.Time, &d.raw)
		b.seqs = append(b.seqs, m.Seq)
	}
	slices.SortFunc(j.months, func(a, b monthRows) int { return cmp.Compare(a.Month, b.Month) })
	for i := range j.months {
		j.months[i].Rows = len(j.months[i].seqs)
		j.entry.Blocks = append(j.entry.Blocks, j.months[i].Block)
		j.entry.Rows += j.months[i].Rows
	}
	j.entry.Rejected = len(j.dead)
	j.entry.Hash = hasher.Sum()
	return j
}

// decode reads m into d.raw.
func (d *driver) decode(m *Message) (uuid.UUID, error) {
	_, tenant, err := events.ParseLogSubject(m.Subject)
	if err != nil {
		return tenant, err
	}
	return tenant, d.decoder.Decode(m.Data, tenant, m.Time, &d.raw)
}

// month returns the block that a row created at the time belongs to. Almost always that is the block of the row before.
func (j *judgement) month(d *driver, created int64) *monthRows {
	t := time.UnixMicro(created).UTC()
	month := t.Year()*100 + int(t.Month())
	i := slices.IndexFunc(j.months, func(b monthRows) bool { return b.Month == month })
	if i < 0 {
		i = len(j.months)
		j.months = append(j.months, monthRows{Block: ledger.Block{Month: month, MinCreated: created, MaxCreated: created}, rows: d.blocks.get(), msgs: j.msgs})
	}
	b := &j.months[i]
	b.MinCreated = min(b.MinCreated, created)
	b.MaxCreated = max(b.MaxCreated, created)
	return b
}

// release gives the memory of the rows back.
func (j *judgement) release(d *driver) {
	for _, b := range j.months {
		d.blocks.put(b.rows)
	}
	j.months = nil
}

func deadLetter(m *Message, err error) DeadLetter {
	var invalid *events.ValidationError
	if !errors.As(err, &invalid) {
		return DeadLetter{Message: *m, Reason: "subject: the last token is not a tenant's UUID in lower case", Fields: []string{"subject"}}
	}
	l := DeadLetter{Message: *m}
	reasons := make([]string, 0, len(invalid.Faults)+1)
	for _, f := range invalid.Faults {
		reasons = append(reasons, f.String())
		if !slices.Contains(l.Fields, f.Field) {
			l.Fields = append(l.Fields, f.Field)
		}
	}
	if invalid.More > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", invalid.More))
	}
	l.Reason = strings.Join(reasons, "; ")
	return l
}

// blockPool keeps the memory of blocks between batches; there are never more than a few at a time.
type blockPool struct {
	fresh func() Block
	free  chan Block
}

func newBlockPool(fresh func() Block, keep int) *blockPool {
	return &blockPool{fresh: fresh, free: make(chan Block, keep)}
}

func (p *blockPool) get() Block {
	select {
	case b := <-p.free:
		return b
	default:
		return p.fresh()
	}
}

func (p *blockPool) put(b Block) {
	b.Reset()
	select {
	case p.free <- b:
	default:
	}
}
