package replay

import (
	"cmp"
	"slices"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// Judge decides on messages as the ingester does: a pure function of the message. It must not be used by several goroutines.
type Judge struct {
	decoder events.Decoder
	raw     events.Raw
}

// Row returns the event that the message is, valid until the next call, or ok false when it is a dead letter.
func (j *Judge) Row(m *Message) (tenant uuid.UUID, ev *events.Raw, ok bool) {
	_, tenant, err := events.ParseLogSubject(m.Subject)
	if err != nil {
		return tenant, nil, false
	}
	if err := j.decoder.Decode(m.Data, tenant, m.Time, &j.raw); err != nil {
		return tenant, nil, false
	}
	return tenant, &j.raw, true
}

// Entry makes of a batch's messages what the ledger says of them after an entry with the hash prev: all but the batch's place there.
func (j *Judge) Entry(prev ledger.Digest, batch []Message) ledger.Entry {
	e := ledger.Entry{FirstSeq: batch[0].Seq, LastSeq: batch[len(batch)-1].Seq, Messages: len(batch), Blocks: []ledger.Block{}}
	h := ledger.NewHasher(prev)
	for i := range batch {
		m := &batch[i]
		h.Add(m.Seq, m.Time, m.Subject, m.Data)
		if _, ev, ok := j.Row(m); ok {
			e.Rows++
			e.Blocks = count(e.Blocks, ev.CreatedAt)
		}
	}
	e.Rejected = e.Messages - e.Rows
	e.Hash = h.Sum()
	slices.SortFunc(e.Blocks, func(a, b ledger.Block) int { return cmp.Compare(a.Year, b.Year) })
	return e
}

// count adds a row, created at the time in microseconds, to the block of its year.
func count(blocks []ledger.Block, created int64) []ledger.Block {
	year := time.UnixMicro(created).UTC().Year()
	i := slices.IndexFunc(blocks, func(b ledger.Block) bool { return b.Year == year })
	if i < 0 {
		return append(blocks, ledger.Block{Year: year, Rows: 1, MinCreated: created, MaxCreated: created})
	}
	b := &blocks[i]
	b.Rows++
	b.MinCreated, b.MaxCreated = min(b.MinCreated, created), max(b.MaxCreated, created)
	return blocks
}
