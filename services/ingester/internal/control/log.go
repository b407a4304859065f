package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/scan"
)

// Errors of the log.
var (
	// ErrLost is returned when decisions are gone: the stream, its beginning or its end.
	ErrLost = errors.New("decisions of the control log are gone")
	// ErrCorrupt is returned for a decision that cannot be read, does not fit the one before, or is not what its copy says.
	ErrCorrupt = errors.New("the control log is corrupt")
	// ErrMoved is returned by Append when another decision was taken after the state the caller built on: load and decide anew.
	ErrMoved = errors.New("another decision has been taken meanwhile")
	// ErrUnknown is returned by Append when it is not known whether the decision was written: load and look.
	ErrUnknown = errors.New("outcome of the append to the control log is unknown")
)

// codeWrongLastSequence is the server's answer to a compare-and-set that failed; codeSequenceBusy is it in a cluster, where another append was still on its way.
const (
	codeWrongLastSequence jetstream.ErrorCode = 10071
	codeSequenceBusy      jetstream.ErrorCode = 10164
)

const (
	// requestTimeout bounds one append.
	requestTimeout = 5 * time.Second
	// copyAtOnce bounds the decisions that are copied by one insert.
	copyAtOnce = 5000
)

// Copy is the copy of the log in ClickHouse.
type Copy interface {
	// LastDecision returns the sequence and the hash of the newest decision that is copied, 0 when there is none, or no table yet.
	LastDecision(ctx context.Context) (seq uint64, hash ledger.Digest, err error)
	// CopyDecisions adds decisions, of which some may be there already.
	CopyDecisions(ctx context.Context, records []Record) error
	// Decisions returns up to limit decisions after a sequence, in order.
	Decisions(ctx context.Context, after uint64, limit int) ([]Record, error)
}

// Log reads and appends decisions. It is safe for concurrent use.
type Log struct {
	js     jetstream.JetStream
	copies Copy

	mu    sync.Mutex
	state *State
	// hashes are those of all decisions, by sequence from 1.
	hashes []ledger.Digest
	made   time.Time // when the stream was that they were read from
}

// New makes a Log. It asks neither server: the stream may be made later.
func New(js jetstream.JetStream, copies Copy) *Log {
	return &Log{js: js, copies: copies, state: newState()}
}

// end is where log and copy end.
type end struct {
	copied uint64
	hash   ledger.Digest // of the decision at copied
	last   uint64        // in the stream
	made   time.Time     // when the stream was
}

// lookAtEnd asks the copy first: the stream runs ahead of it. It returns an ErrLost when the copy has more, or the stream lacks something before its end.
func lookAtEnd(ctx context.Context, js jetstream.JetStream, copies Copy) (e end, err error) {
	if e.copied, e.hash, err = copies.LastDecision(ctx); err != nil {
		return e, err
	}
	stream, err := js.Stream(ctx, events.StreamControl)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if e.copied > 0 {
			return e, fmt.Errorf("%w: there is no stream %s, and its copy in ClickHouse has %d", ErrLost, events.StreamControl, e.copied)
		}
		return e, nil
	}
	if err != nil {
		return e, fmt.Errorf("open stream %s: %w", events.StreamControl, err)
	}
	state := stream.CachedInfo().State
	e.last, e.made = state.LastSeq, stream.CachedInfo().Created
	switch {
	case state.Msgs != state.LastSeq:
		return e, fmt.Errorf("%w: stream %s holds %d of %d", ErrLost, events.StreamControl, state.Msgs, state.LastSeq)
	case e.copied > e.last:
		return e, fmt.Errorf("%w: stream %s ends at decision %d, its copy in ClickHouse at %d", ErrLost, events.StreamControl, e.last, e.copied)
	}
	return e, nil
}

// Check returns an ErrLost when the stream is not there, or ends before its copy does. It is for who would make the stream: a new one begins with
// nothing decided.
func Check(ctx context.Context, js jetstream.JetStream, copies Copy) error {
	_, err := lookAtEnd(ctx, js, copies)
	return err
}

// Load returns what is in force now. What was taken since the last call is read from the stream and copied to ClickHouse, and both are held against each
// other. The error is an ErrLost when the stream lacks decisions that were seen before, by this process or by whoever made the copy. Where nothing was
// ever decided the stream need not be there.
func (l *Log) Load(ctx context.Context) (*State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.load(ctx)
}

func (l *Log) load(ctx context.Context) (*State, error) {
	at, err := lookAtEnd(ctx, l.js, l.copies)
	if err != nil {
		return nil, err
	}
	if at.last < l.state.Seq {
		return nil, fmt.Errorf("%w: stream %s ends at decision %d, and %d was read from it before", ErrLost, events.StreamControl, at.last, l.state.Seq)
	}
	if at.copied < l.state.Seq || !at.made.Equal(l.made) { // ClickHouse was restored to an older state, or the stream is another one
		l.state, l.hashes = newState(), nil
	}
	records, err := l.read(ctx, at.last)
	if err != nil {
		return nil, err
	}
	hashes := slices.Clip(l.hashes)
	for _, r := range records {
		hashes = append(hashes, r.Hash)
	}
	if at.copied > 0 && hashes[at.copied-1] != at.hash {
		return nil, fmt.Errorf("%w: decision %d in stream %s is not the one that its copy in ClickHouse has", ErrCorrupt, at.copied, events.StreamControl)
	}
	if err := l.copy(ctx, at.copied, records); err != nil {
		return nil, err
	}
	l.hashes, l.state, l.made = hashes, l.state.with(records), at.made
	return l.state, nil
}

// Last returns the sequence of the newest decision in the stream, which Load may not have read yet. It costs one question.
func (l *Log) Last(ctx context.Context) (uint64, error) {
	stream, err := l.js.Stream(ctx, events.StreamControl)
	if err != nil {
		return 0, fmt.Errorf("open stream %s: %w", events.StreamControl, err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// Made is when the stream was made that Load has read; zero before.
func (l *Log) Made() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made
}

// read returns the decisions after the newest one that is known, up to a sequence.
func (l *Log) read(ctx context.Context, last uint64) ([]Record, error) {
	if last == l.state.Seq {
		return nil, nil
	}
	records := make([]Record, 0, last-l.state.Seq)
	seq, hash := l.state.Seq, l.state.Hash
	of := scan.Range{Stream: events.StreamControl, Subject: events.SubjectControl, First: seq + 1, Last: last}
	err := scan.Walk(ctx, l.js, of, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		r, err := follow(seq, hash, meta.Sequence.Stream, m.Data())
		if err != nil {
			return err
		}
		records = append(records, r)
		seq, hash = r.Seq, r.Hash
		return nil
	})
	if err == nil && seq < last {
		err = fmt.Errorf("%w: decision %d is gone", ErrLost, seq+1)
	}
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", events.StreamControl, err)
	}
	return records, nil
}

// follow reads the decision after the one with a sequence and a hash.
func follow(prev uint64, hash ledger.Digest, seq uint64, data []byte) (Record, error) {
	r, err := decode(data, seq)
	switch {
	case err != nil:
		return r, err
	case seq != prev+1:
		return r, fmt.Errorf("%w: decision %d is gone", ErrLost, prev+1)
	case r.PrevHash != hash:
		return r, fmt.Errorf("%w: decision %d does not follow decision %d: it was taken by somebody who knew another one", ErrCorrupt, seq, prev)
	}
	return r, nil
}

// copy copies those of the newest decisions that the copy, which ends at a sequence, lacks.
func (l *Log) copy(ctx context.Context, copied uint64, records []Record) error {
	i, _ := slices.BinarySearchFunc(records, copied+1, func(r Record, seq uint64) int { return cmp.Compare(r.Seq, seq) })
	for chunk := range slices.Chunk(records[i:], copyAtOnce) {
		if err := l.copies.CopyDecisions(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

// Append takes a decision on the ground of a state and returns it as it stands in the log and in its copy. ID, At and PrevHash are filled in. ErrMoved: another
// decision was taken after that state, and this one is not written. ErrUnknown: it may or may not be written. Other errors: it is not written, or is and
// could not be copied; the next Load copies it.
func (l *Log) Append(ctx context.Context, on *State, d Decision) (Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.Seq != on.Seq {
		return Record{}, fmt.Errorf("%s: %w", d.Kind, ErrMoved)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Record{}, fmt.Errorf("make the id of a decision: %w", err)
	}
	d.ID, d.At, d.PrevHash = id, time.Now().UTC().Truncate(time.Microsecond), on.Hash
	if err := d.validate(); err != nil {
		return Record{}, fmt.Errorf("%s: %w", d.Kind, err)
	}
	data, err := json.Marshal(d)
	if err != nil {
		return Record{}, fmt.Errorf("encode decision: %w", err)
	}
	if err := l.publish(ctx, on.Seq, d.Tenant, data); err != nil {
		return Record{}, fmt.Errorf("%s: %w", d.Kind, err)
	}
	if _, err := l.load(ctx); err != nil {
		return Record{}, fmt.Errorf("%s is written: %w", d.Kind, err)
	}
	return decode(data, on.Seq+1)
}

// publish writes the decision after the one at a sequence.
func (l *Log) publish(ctx context.Context, after uint64, tenant *uuid.UUID, data []byte) error {
	pctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// No retry inside the client: a second attempt whose first was applied would be refused as if by another writer.
	_, err := l.js.Publish(pctx, events.ControlSubject(tenant), data,
		jetstream.WithExpectLastSequence(after), jetstream.WithExpectStream(events.StreamControl), jetstream.WithRetryAttempts(0))
	if err == nil {
		return nil
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode != codeWrongLastSequence && api.ErrorCode != codeSequenceBusy {
		return fmt.Errorf("append to stream %s: %w", events.StreamControl, err)
	}
	// Either refused, perhaps because an earlier attempt of ours was applied, or without an answer: the stream itself knows.
	return l.settle(ctx, after, data, err)
}

// settle finds out whether data, whose append ended with cause, is the decision after the one at a sequence.
func (l *Log) settle(ctx context.Context, after uint64, data []byte, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := l.js.Stream(ctx, events.StreamControl)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("append to stream %s, which is not there: an ingester that serves makes it: %w", events.StreamControl, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, errors.Join(cause, err))
	}
	m, err := stream.GetMsg(ctx, after+1)
	switch {
	case err == nil && bytes.Equal(m.Data, data):
		return nil
	case err == nil:
		return ErrMoved
	}
	// Not there. It could still be on its way, so this is no proof that it never will be.
	return fmt.Errorf("%w: %w", ErrUnknown, errors.Join(cause, err))
}

// Repair writes decisions that the stream lacks anew, from their copy, and returns how many they were. The stream must be there and hold what the copy
// begins with, or nothing. It can be done over after a failure.
func Repair(ctx context.Context, js jetstream.JetStream, copies Copy) (n int, err error) {
	l := New(js, nothing{}) // the copy is what is to be believed, not what is to be brought up to date
	state, err := l.Load(ctx)
	if err != nil {
		return 0, err
	}
	for after := uint64(0); ; {
		records, err := copies.Decisions(ctx, after, copyAtOnce)
		if err != nil || len(records) == 0 {
			return n, err
		}
		for _, r := range records {
			if r.Seq != after+1 {
				return n, fmt.Errorf("%w: the copy in ClickHouse lacks decision %d", ErrLost, after+1)
			}
			if r.Seq <= state.Seq {
				if l.hashes[r.Seq-1] != r.Hash {
					return n, fmt.Errorf("%w: decision %d in stream %s is not the one that its copy in ClickHouse has", ErrCorrupt, r.Seq, events.StreamControl)
				}
			} else {
				if err := l.publish(ctx, after, r.Tenant, r.Data); err != nil {
					return n, fmt.Errorf("write decision %d anew: %w", r.Seq, err)
				}
				n++
			}
			after = r.Seq
		}
	}
}

// nothing is the copy of a log that has none.
type nothing struct{}

func (nothing) LastDecision(context.Context) (uint64, ledger.Digest, error) {
	return 0, ledger.Digest{}, nil
}
func (nothing) CopyDecisions(context.Context, []Record) error            { return nil }
func (nothing) Decisions(context.Context, uint64, int) ([]Record, error) { return nil, nil }

// Restore reads a decision from its copy.
func Restore(seq uint64, data []byte) (Record, error) { return decode(data, seq) }
