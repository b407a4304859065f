package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/scan"
)

// Errors of the ledger.
var (
	// ErrFenced is returned by Append when the partition's last entry is not the one the caller built on: another writer drives it.
	ErrFenced = errors.New("another writer has appended to the partition's ledger")
	// ErrUnknown is returned by Append when it is not known whether the entry was written: ask again with Last.
	ErrUnknown = errors.New("outcome of the ledger append is unknown")
	// ErrCorrupt is returned for an entry that cannot be read or does not fit the one before.
	ErrCorrupt = errors.New("ledger entry is corrupt")
	// ErrTruncated is returned when the newest entries of a partition, or all of them, are gone.
	ErrTruncated = errors.New("entries of the ledger are gone")
)

// codeWrongLastSequence is the server's answer to a compare-and-set that failed; codeSequenceBusy is it in a cluster, where another append
// to the subject was still on its way.
const (
	codeWrongLastSequence jetstream.ErrorCode = 10071
	codeSequenceBusy      jetstream.ErrorCode = 10164
)

// appendTimeout bounds one append and one read; the server answers within milliseconds or not at all.
const appendTimeout = 2 * time.Second

// Ledger reads and appends entries. It is safe for concurrent use.
type Ledger struct {
	js     jetstream.JetStream
	stream jetstream.Stream
}

// Open binds to the ledger's stream, which must exist.
func Open(ctx context.Context, js jetstream.JetStream) (*Ledger, error) {
	s, err := js.Stream(ctx, events.StreamLedger)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", events.StreamLedger, err)
	}
	return &Ledger{js: js, stream: s}, nil
}

// Last returns the newest entry of the partition, or a Record with Seq 0 when it has none.
func (l *Ledger) Last(ctx context.Context, partition int) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	m, err := l.stream.GetLastMsgForSubject(ctx, events.LedgerSubject(partition))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Record{Entry: Entry{Partition: partition}}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("read last ledger entry of partition %d: %w", partition, gone(err))
	}
	return decode(m.Data, m.Sequence, m.Time)
}

// At returns the entry at a sequence of the ledger's stream, such as another entry's Follows.
func (l *Ledger) At(ctx context.Context, seq uint64) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	m, err := l.stream.GetMsg(ctx, seq)
	if err != nil {
		return Record{}, fmt.Errorf("read ledger entry at sequence %d: %w", seq, err)
	}
	return decode(m.Data, m.Sequence, m.Time)
}

// Uncommitted returns, oldest first, the entries of the partition whose commit is not written down by the newest one. They may be in the
// table all the same; the newest entry is always among them.
func (l *Ledger) Uncommitted(ctx context.Context, partition int) ([]Record, error) {
	last, err := l.Last(ctx, partition)
	if err != nil || last.Seq == 0 {
		return nil, err
	}
	n := int(last.Batch - last.CommittedThrough) //nolint:gosec // a handful
	if last.CommittedThrough >= last.Batch {
		return nil, fmt.Errorf("%w: partition %d: batch %d says batch %d is committed", ErrCorrupt, partition, last.Batch, last.CommittedThrough)
	}
	records := make([]Record, n)
	records[n-1] = last
	for i := n - 2; i >= 0; i-- {
		next := records[i+1]
		if records[i], err = l.At(ctx, next.Follows); err != nil {
			return nil, err
		}
		if err := CheckLink(records[i], next); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// CheckLink returns an ErrCorrupt that says why next cannot be the entry after prev, or nil. prev with Seq 0 stands for none.
func CheckLink(prev, next Record) error {
	fault := ""
	switch {
	case next.Partition != prev.Partition:
		fault = "is of another partition"
	case next.Batch != prev.Batch+1:
		fault = fmt.Sprintf("does not follow batch %d", prev.Batch)
	case next.Follows != prev.Seq:
		fault = fmt.Sprintf("follows ledger sequence %d, not %d", next.Follows, prev.Seq)
	case next.PrevHash != prev.Hash:
		fault = "breaks the chain of hashes"
	case next.FirstSeq <= prev.LastSeq:
		fault = fmt.Sprintf("begins at sequence %d, within the batch before, which ends at %d", next.FirstSeq, prev.LastSeq)
	case next.LastSeq < next.FirstSeq || next.Messages != next.Rows+next.Rejected || next.CommittedThrough >= next.Batch:
		fault = "contradicts itself"
	default:
		return nil
	}
	return fmt.Errorf("%w: partition %d batch %d (ledger sequence %d) %s", ErrCorrupt, next.Partition, next.Batch, next.Seq, fault)
}

// gone makes an ErrTruncated of a server's word that there is no such stream.
func gone(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: %w", ErrTruncated, err)
	}
	return err
}

// CheckEnd returns an ErrTruncated when last cannot be the partition's newest entry, because more than it tells was written to the table: pos says
// so, or a row with the sequence table. The ledger runs ahead of both, so both must have been read before last was. origin is the first sequence the
// stream ever had: rows below it are of a stream that is lost, as its ledger may be.
func CheckEnd(last Record, pos Position, table, origin uint64) error {
	switch {
	case pos.Batch > last.Batch || pos.LastSeq > last.LastSeq:
		return fmt.Errorf("%w: partition %d ends at batch %d, sequence %d; the position says that batch %d, sequence %d is in the table",
			ErrTruncated, last.Partition, last.Batch, last.LastSeq, pos.Batch, pos.LastSeq)
	case table > last.LastSeq && table >= origin:
		return fmt.Errorf("%w: partition %d ends at batch %d, sequence %d; the table has a row of sequence %d",
			ErrTruncated, last.Partition, last.Batch, last.LastSeq, table)
	}
	return nil
}

// Append writes e after the entry at ledger sequence e.Follows and returns it as it stands there. ErrFenced: another writer was faster, and e
// is not written. ErrUnknown: e may or may not be written; Append of the same e again settles it. Other errors: e is not written.
func (l *Ledger) Append(ctx context.Context, e Entry) (Record, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return Record{}, fmt.Errorf("encode ledger entry: %w", err)
	}
	actx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	// No retry inside the client: a second attempt whose first was applied would be refused as if by another writer.
	ack, err := l.js.Publish(actx, events.LedgerSubject(e.Partition), data,
		jetstream.WithExpectLastSequencePerSubject(e.Follows), jetstream.WithExpectStream(events.StreamLedger), jetstream.WithRetryAttempts(0))
	if err == nil {
		return Record{Entry: e, Seq: ack.Sequence, At: time.Now()}, nil
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode != codeWrongLastSequence && api.ErrorCode != codeSequenceBusy {
		return Record{}, fmt.Errorf("append batch %d of partition %d to the ledger: %w", e.Batch, e.Partition, err)
	}
	// Either refused, perhaps because an earlier attempt of ours was applied, or without an answer: the ledger itself knows.
	return l.settle(ctx, e, data, err)
}

// settle finds out whether e, whose append ended with cause, is the partition's last entry.
func (l *Ledger) settle(ctx context.Context, e Entry, data []byte, cause error) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	m, err := l.stream.GetLastMsgForSubject(ctx, events.LedgerSubject(e.Partition))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound) && e.Follows == 0, err == nil && m.Sequence == e.Follows:
		// Not there. It could still be on its way, so this is no proof that it never will be.
		return Record{}, fmt.Errorf("%w: batch %d of partition %d: %w", ErrUnknown, e.Batch, e.Partition, cause)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return Record{}, fmt.Errorf("append batch %d of partition %d to the ledger: %w", e.Batch, e.Partition, gone(err))
	case err != nil && !errors.Is(err, jetstream.ErrMsgNotFound):
		return Record{}, fmt.Errorf("%w: batch %d of partition %d: %w", ErrUnknown, e.Batch, e.Partition, errors.Join(cause, err))
	case err == nil && bytes.Equal(m.Data, data):
		return Record{Entry: e, Seq: m.Sequence, At: m.Time}, nil
	}
	return Record{}, fmt.Errorf("append batch %d of partition %d: %w", e.Batch, e.Partition, ErrFenced)
}

// Walk calls fn for each entry of the partition that was there when it began, oldest first, and stops at its first error.
func (l *Ledger) Walk(ctx context.Context, partition int, fn func(Record) error) error {
	last, err := l.Last(ctx, partition)
	if err != nil || last.Seq == 0 {
		return err
	}
	of := scan.Range{Stream: events.StreamLedger, Subject: events.LedgerSubject(partition), Last: last.Seq}
	err = scan.Walk(ctx, l.js, of, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		r, err := decode(m.Data(), meta.Sequence.Stream, meta.Timestamp)
		if err != nil {
			return err
		}
		return fn(r)
	})
	if err != nil {
		return fmt.Errorf("walk ledger of partition %d: %w", partition, err)
	}
	return nil
}
