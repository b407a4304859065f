// Package replay reads again what was ingested: the entries of the ledger, and the messages of the stream with the verdict on each.
package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/scan"
)

// Reader reads the streams.
type Reader struct{ js jetstream.JetStream }

// New reads by js.
func New(js jetstream.JetStream) *Reader { return &Reader{js: js} }

// Bounds returns the first and last sequence the event stream holds; first is above last when it is empty.
func (r *Reader) Bounds(ctx context.Context) (first, last uint64, err error) {
	s, err := r.js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return 0, 0, fmt.Errorf("look at stream %s: %w", events.StreamAudit, err)
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 {
		return state.LastSeq + 1, state.LastSeq, nil
	}
	return state.FirstSeq, state.LastSeq, nil
}

// Origin returns the first sequence the event stream ever had; below it is what an earlier one, that is lost, may have had.
func (r *Reader) Origin(ctx context.Context) (uint64, error) {
	s, err := r.js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return 0, fmt.Errorf("look at stream %s: %w", events.StreamAudit, err)
	}
	return max(1, s.CachedInfo().Config.FirstSeq), nil
}

// SeqAt returns the sequence of the first message the event stream took in at or after t, or one past its last when there is none.
func (r *Reader) SeqAt(ctx context.Context, t time.Time) (uint64, error) {
	first, last, err := r.Bounds(ctx)
	if err != nil {
		return 0, err
	}
	return scan.Since(ctx, r.js.Conn(), events.StreamAudit, events.SubjectLog, first, last+1, t)
}

// Entries calls fn for every entry of the partition from the given sequence of the ledger's stream on, oldest first, that was there when it began. An
// entry that cannot be read is a ledger.ErrCorrupt.
func (r *Reader) Entries(ctx context.Context, partition int, fromLedgerSeq uint64, fn func(ledger.Record) error) error {
	of := scan.Range{Stream: events.StreamLedger, Subject: events.LedgerSubject(partition), First: fromLedgerSeq, Last: math.MaxUint64}
	err := scan.Walk(ctx, r.js, of, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		rec := ledger.Record{Seq: meta.Sequence.Stream, At: meta.Timestamp}
		if err := json.Unmarshal(m.Data(), &rec.Entry); err != nil {
			return fmt.Errorf("%w: ledger sequence %d: %w", ledger.ErrCorrupt, rec.Seq, err)
		}
		return fn(rec)
	})
	if err != nil {
		return fmt.Errorf("read ledger of partition %d: %w", partition, err)
	}
	return nil
}

// Message is one message of the event stream.
type Message struct {
	Seq     uint64
	Time    time.Time
	Subject string
	Data    []byte
}

// Messages calls fn for every message of the partition from first to last, in order, that was there when it began; of one tenant unless it is nil.
func (r *Reader) Messages(ctx context.Context, partition int, tenant *uuid.UUID, first, last uint64, fn func(Message) error) error {
	if first > last {
		return nil
	}
	of := scan.Range{Stream: events.StreamAudit, Subject: events.PartitionSubject(partition), First: first, Last: last}
	if tenant != nil {
		of.Subject = events.LogSubject(partition, *tenant)
	}
	err := scan.Walk(ctx, r.js, of, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		return fn(Message{Seq: meta.Sequence.Stream, Time: meta.Timestamp, Subject: m.Subject(), Data: m.Data()})
	})
	if err != nil {
		return fmt.Errorf("read messages of partition %d: %w", partition, err)
	}
	return nil
}

// Waiting counts the messages of the partition from a sequence on. Beside a server that lacks messages it may be fewer than there are, but 0 only when there are none.
func (r *Reader) Waiting(ctx context.Context, partition int, from uint64) (uint64, error) {
	n, _, err := scan.Count(ctx, r.js, events.StreamAudit, []string{events.PartitionSubject(partition)}, from)
	if err != nil {
		return 0, fmt.Errorf("count waiting messages of partition %d: %w", partition, err)
	}
	return n, nil
}

// First asks the leader for the sequence of the partition's first message from a sequence on; found is false when there is none.
func (r *Reader) First(ctx context.Context, partition int, from uint64) (seq uint64, found bool, err error) {
	m, found, err := scan.Next(ctx, r.js.Conn(), events.StreamAudit, from, events.PartitionSubject(partition))
	return m.Seq, found, err
}

// DeadLetters returns the sequences in the event stream of all dead letters that are kept, and whether any were removed.
func (r *Reader) DeadLetters(ctx context.Context) (seqs map[uint64]struct{}, removed bool, err error) {
	s, err := r.js.Stream(ctx, events.StreamDLQ)
	if err != nil {
		return nil, false, fmt.Errorf("look at stream %s: %w", events.StreamDLQ, err)
	}
	state := s.CachedInfo().State
	seqs = make(map[uint64]struct{})
	all := scan.Range{Stream: events.StreamDLQ, Subject: events.SubjectDLQ, Last: math.MaxUint64, HeadersOnly: true}
	err = scan.Walk(ctx, r.js, all, func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
		seq, err := strconv.ParseUint(m.Headers().Get(events.HeaderSequence), 10, 64)
		if err == nil { // others were not put there by the ingester
			seqs[seq] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("read dead letters: %w", err)
	}
	return seqs, state.LastSeq != state.Msgs, nil
}
