// Package replay reads again what was ingested: the entries of the ledger, and the messages of the stream with the verdict on each.
package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// errDone ends a walk before its end.
var errDone = errors.New("done")

// stall is how long a walk waits for a message that the server has said is there. A walk of a server that went away ends with an error rather than never.
const stall = 30 * time.Second

// forgetTimeout bounds telling the server that a reader is done.
const forgetTimeout = 2 * time.Second

// idle is after which the server forgets a reader that does not come back.
const idle = time.Minute

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
	_, last, err := r.Bounds(ctx)
	if err != nil {
		return 0, err
	}
	seq := last + 1
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &t, HeadersOnly: true}
	err = r.walk(ctx, events.StreamAudit, cfg, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		seq = meta.Sequence.Stream
		return errDone
	})
	return seq, err
}

// Entries calls fn for every entry of the partition from the given sequence of the ledger's stream on, oldest first, that was there when it began. An
// entry that cannot be read is a ledger.ErrCorrupt.
func (r *Reader) Entries(ctx context.Context, partition int, fromLedgerSeq uint64, fn func(ledger.Record) error) error {
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{events.LedgerSubject(partition)},
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(fromLedgerSeq, 1),
	}
	err := r.walk(ctx, events.StreamLedger, cfg, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
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
	filter := partitionFilter(partition)
	if tenant != nil {
		filter = events.LogSubject(partition, *tenant)
	}
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{filter}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(first, 1),
	}
	err := r.walk(ctx, events.StreamAudit, cfg, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if meta.Sequence.Stream > last {
			return errDone
		}
		if err := fn(Message{Seq: meta.Sequence.Stream, Time: meta.Timestamp, Subject: m.Subject(), Data: m.Data()}); err != nil {
			return err
		}
		if meta.Sequence.Stream == last {
			return errDone
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read messages of partition %d: %w", partition, err)
	}
	return nil
}

// Waiting counts the messages of the partition from a sequence on.
func (r *Reader) Waiting(ctx context.Context, partition int, from uint64) (uint64, error) {
	cons, err := r.js.OrderedConsumer(ctx, events.StreamAudit, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{partitionFilter(partition)}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		HeadersOnly: true, InactiveThreshold: idle,
	})
	if err != nil {
		return 0, fmt.Errorf("count waiting messages of partition %d: %w", partition, err)
	}
	info := cons.CachedInfo()
	r.forget(events.StreamAudit, cons)
	return info.NumPending, nil
}

// forget removes a reader from the server, which would do so itself after a while.
func (r *Reader) forget(stream string, cons jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
	defer cancel()
	_ = r.js.DeleteConsumer(ctx, stream, cons.CachedInfo().Name)
}

// partitionFilter is the subjects of a partition's messages.
func partitionFilter(p int) string { return "audit.log." + strconv.Itoa(p) + ".>" }

// DeadLetters returns the sequences in the event stream of all dead letters that are kept, and whether any were removed.
func (r *Reader) DeadLetters(ctx context.Context) (seqs map[uint64]struct{}, removed bool, err error) {
	s, err := r.js.Stream(ctx, events.StreamDLQ)
	if err != nil {
		return nil, false, fmt.Errorf("look at stream %s: %w", events.StreamDLQ, err)
	}
	state := s.CachedInfo().State
	seqs = make(map[uint64]struct{})
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy, HeadersOnly: true}
	err = r.walk(ctx, events.StreamDLQ, cfg, func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
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

// walk calls fn for every message the consumer would get now. errDone of fn ends it in peace.
func (r *Reader) walk(ctx context.Context, stream string, cfg jetstream.OrderedConsumerConfig, fn func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	cfg.InactiveThreshold = idle
	cons, err := r.js.OrderedConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	defer r.forget(stream, cons)
	if cons.CachedInfo().NumPending == 0 {
		return nil
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(500))
	if err != nil {
		return err
	}
	defer it.Stop()
	for {
		m, err := next(ctx, it)
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if err := fn(m, meta); err != nil {
			if errors.Is(err, errDone) {
				return nil
			}
			return err
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// next waits for the next message, but not for ever.
func next(ctx context.Context, it jetstream.MessagesContext) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stall, fmt.Errorf("no message within %s that should be there", stall))
	defer cancel()
	m, err := it.Next(jetstream.NextContext(ctx))
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return m, err
}
