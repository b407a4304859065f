package replay

import (
	"fmt"

	"example.com/auditlog/services/ingester/internal/ledger"
)

// Tally recomputes one entry of the ledger from its messages.
type Tally struct {
	Entry ledger.Record
	// Messages and Rows count what was added.
	Messages, Rows int

	hasher *ledger.Hasher
}

// NewTally begins with no message.
func NewTally(r ledger.Record) *Tally { return &Tally{Entry: r, hasher: ledger.NewHasher(r.PrevHash)} }

// Add takes in the entry's next message; row says whether it is an event.
func (t *Tally) Add(m *Message, row bool) {
	t.hasher.Add(m.Seq, m.Time, m.Subject, m.Data)
	t.Messages++
	if row {
		t.Rows++
	}
}

// Fault says, after all messages, what the entry says otherwise; empty when nothing.
func (t *Tally) Fault() string {
	e := t.Entry
	switch {
	case t.Messages != e.Messages:
		return fmt.Sprintf("the stream holds %d messages of sequences %d to %d, the ledger %d", t.Messages, e.FirstSeq, e.LastSeq, e.Messages)
	case t.hasher.Sum() != e.Hash:
		return fmt.Sprintf("the messages of sequences %d to %d have another hash than the ledger says", e.FirstSeq, e.LastSeq)
	case t.Rows != e.Rows:
		return fmt.Sprintf("%d of the messages are events by the rules of version %d, %d by those of version %d", t.Rows, ledger.SchemaVersion, e.Rows, e.Schema)
	}
	return ""
}
