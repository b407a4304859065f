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

// judgement is what the messages of a batch come to: rows by year, dead letters, and the ledger entry that says so. The messages themselves
// are not kept.
type judgement struct {
	entry     ledger.Entry // once sealed, complete but for its place in the ledger and the writer
	years     []yearRows   // once sealed, in the order of entry.Blocks
	dead      []DeadLetter
	firstTime time.Time // the stream's, of the first message
}

// yearRows is one block of a batch.
type yearRows struct {
	ledger.Block
	rows Block
}

// judge decides on the messages of a partition one by one, as they are read. What it says of a batch is a pure function of the batch's messages,
// the hash it begins with, and ledger.SchemaVersion; what rows are made of them, of who was erased, too.
type judge struct {
	partition int
	blocks    *blockPool
	erase     func(uuid.UUID, *events.Raw) // nil for nobody
	decoder   events.Decoder
	raw       events.Raw
	hasher    *ledger.Hasher // over the batch that is open
}

func newJudge(partition int, blocks *blockPool, erase func(uuid.UUID, *events.Raw)) *judge {
	return &judge{partition: partition, blocks: blocks, erase: erase, hasher: ledger.NewHasher(ledger.Digest{})}
}

// begin opens a batch that follows the one with the hash prev. There is one open batch at a time.
func (g *judge) begin(prev ledger.Digest) judgement {
	g.hasher.Reset(prev)
	return judgement{entry: ledger.Entry{Partition: g.partition, Schema: ledger.SchemaVersion, PrevHash: prev, Blocks: []ledger.Block{}}}
}

// add decides on the next message of the open batch, and returns about how many bytes of memory it takes from now on.
func (g *judge) add(j *judgement, m *Message) int {
	if j.entry.Messages == 0 {
		j.entry.FirstSeq, j.firstTime = m.Seq, m.Time
	}
	j.entry.LastSeq = m.Seq
	j.entry.Messages++
	g.hasher.Add(m.Seq, m.Time, m.Subject, m.Data)
	tenant, err := g.decode(m)
	if err != nil {
		j.dead = append(j.dead, deadLetter(m, err))
		return m.bytes()
	}
	if g.erase != nil {
		g.erase(tenant, &g.raw)
	}
	year := g.year(j, g.raw.CreatedAt)
	year.rows.Append(g.partition, tenant, m.Seq, m.Time, &g.raw)
	return rowOverhead + len(g.raw.ActorID) + len(g.raw.ResourceID) + len(g.raw.Metadata) + len(g.raw.Reasoning)
}

// seal ends the open batch.
func (g *judge) seal(j *judgement) {
	slices.SortFunc(j.years, func(a, b yearRows) int { return cmp.Compare(a.Year, b.Year) })
	for i := range j.years {
		j.years[i].Rows = j.years[i].rows.Rows()
		j.entry.Blocks = append(j.entry.Blocks, j.years[i].Block)
		j.entry.Rows += j.years[i].Rows
	}
	j.entry.Rejected = len(j.dead)
	j.entry.Hash = g.hasher.Sum()
}

// decode reads m into g.raw.
func (g *judge) decode(m *Message) (uuid.UUID, error) {
	_, tenant, err := events.ParseLogSubject(m.Subject)
	if err != nil {
		return tenant, err
	}
	return tenant, g.decoder.Decode(m.Data, tenant, m.Time, &g.raw)
}

// year returns the block that a row created at the time belongs to. Almost always that is the block of the row before.
func (g *judge) year(j *judgement, created int64) *yearRows {
	year := time.UnixMicro(created).UTC().Year()
	i := slices.IndexFunc(j.years, func(b yearRows) bool { return b.Year == year })
	if i < 0 {
		i = len(j.years)
		j.years = append(j.years, yearRows{Block: ledger.Block{Year: year, MinCreated: created, MaxCreated: created}, rows: g.blocks.get()})
	}
	b := &j.years[i]
	b.MinCreated = min(b.MinCreated, created)
	b.MaxCreated = max(b.MaxCreated, created)
	return b
}

// release gives the memory of the rows back.
func (g *judge) release(j *judgement) {
	for _, b := range j.years {
		g.blocks.put(b.rows)
	}
	j.years = nil
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

// blockPool keeps the memory of blocks between batches.
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
