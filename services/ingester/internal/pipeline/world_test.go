package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a stream, a ledger, a table and dead letters in memory. It outlives the processes that work on it.
type world struct {
	mu     sync.Mutex
	stream map[int][]Message
	ledger map[int][]ledger.Record
	table  map[uint64]int   // how often each sequence is there
	made   map[uint64]int64 // created_at of each message, in microseconds
	tokens map[string]bool
	dead   map[uint64]string
	pos    map[int]ledger.Position
	insert func(token string) outcome // what happens to the next insert; nil: it works
	append func() outcome
	bury   func() outcome
	valid  bool
}

// outcome is what becomes of a request.
type outcome int

const (
	works        outcome = iota
	refused              // not done, and said so
	replyLost            // done, and not known
	requestLost          // not done, and not known
	tokenWritten         // inserts only: not known, and the token is used up without the rows
	fenced               // appends only: somebody else was there
)

func newWorld() *world {
	return &world{stream: map[int][]Message{}, ledger: map[int][]ledger.Record{}, table: map[uint64]int{}, made: map[uint64]int64{}, tokens: map[string]bool{},
		dead: map[uint64]string{}, pos: map[int]ledger.Position{}, valid: true}
}

// add puts n messages into the partition, every poisonth of them no event, over two months.
func (w *world) add(partition, n, poison int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seq := uint64(0)
	for _, msgs := range w.stream {
		for _, m := range msgs {
			seq = max(seq, m.Seq)
		}
	}
	for i := range n {
		seq += 2
		tenant := uuid.New()
		created := time.Date(2025+i%2, time.October, 3, 4, 5, 6, 0, time.UTC)
		e := events.Event{ID: uuid.New(), TenantID: tenant, ActorID: "a", ActorType: "t", Action: "x", ResourceType: "r", ResourceID: "i", CreatedAt: created}
		data, err := e.Encode()
		if err != nil {
			panic(err)
		}
		if poison > 0 && i%poison == poison-1 {
			data = []byte("poison")
		}
		w.made[seq] = created.UnixMicro()
		w.stream[partition] = append(w.stream[partition], Message{Seq: seq, Time: created.Add(time.Hour), Subject: events.LogSubject(partition, tenant), Data: data})
	}
}

// process is one run of a pipeline in a world. Once dead, nothing it does has an effect.
type process struct {
	*world
	dead   atomic.Bool
	driven []int
	made   func(*Pipeline)
	origin func()        // called with each question where the stream began
	early  bool          // a reader begins before what was asked for, as one does that serves several partitions
	read   chan struct{} // receives a value when all messages were delivered to a reader
}

var errLink = errors.New("link is down")

func (p *process) alive() error {
	if p.dead.Load() {
		return context.Canceled
	}
	return nil
}

func (p *process) Read(ctx context.Context, after map[int]uint64, deliver func(int, Message) bool) error {
	for partition, seq := range after {
		p.mu.Lock()
		msgs := slices.Clone(p.stream[partition])
		p.mu.Unlock()
		for _, m := range msgs {
			if (m.Seq > seq || p.early) && !deliver(partition, m) {
				return nil
			}
		}
	}
	select {
	case p.read <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return nil
}

func (p *process) Range(_ context.Context, partition int, first, last uint64, fn func(Message) error) error {
	p.mu.Lock()
	msgs := slices.Clone(p.stream[partition])
	p.mu.Unlock()
	if !slices.ContainsFunc(msgs, func(m Message) bool { return m.Seq == first }) {
		return ErrGone
	}
	for _, m := range msgs {
		if m.Seq >= first && m.Seq <= last {
			if err := fn(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *process) Unread(context.Context, []int, map[int]uint64) (Unread, error) {
	return Unread{}, nil
}

func (p *process) Last(_ context.Context, partition int) (ledger.Record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.ledger[partition]; len(l) > 0 {
		return l[len(l)-1], p.alive()
	}
	return ledger.Record{}, p.alive()
}

func (p *process) Uncommitted(_ context.Context, partition int) ([]ledger.Record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.ledger[partition]
	if len(l) == 0 {
		return nil, p.alive()
	}
	return slices.Clone(l[l[len(l)-1].CommittedThrough:]), p.alive()
}

func (p *process) Append(_ context.Context, e ledger.Entry) (ledger.Record, error) {
	if err := p.alive(); err != nil {
		return ledger.Record{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	does := works
	if p.append != nil {
		does = p.append()
	}
	l := p.ledger[e.Partition]
	mine := len(l) > 0 && l[len(l)-1].Batch == e.Batch && l[len(l)-1].Writer == e.Writer
	switch {
	case does == fenced, !mine && uint64(len(l)) != e.Follows:
		return ledger.Record{}, ledger.ErrFenced
	case does == refused:
		return ledger.Record{}, errLink
	case does == requestLost:
		return ledger.Record{}, ledger.ErrUnknown
	}
	r := ledger.Record{Entry: e, Seq: uint64(len(l)) + 1}
	if mine {
		r.Seq--
	} else {
		p.ledger[e.Partition] = append(l, r)
	}
	if does == replyLost {
		return ledger.Record{}, ledger.ErrUnknown
	}
	return r, nil
}

// positions and letters are separate types because the method names collide.
type positions struct{ *process }

func (p positions) Get(_ context.Context, partition int) (ledger.Position, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pos[partition], nil
}

func (p positions) Put(_ context.Context, partition int, pos ledger.Position) error {
	if err := p.alive(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pos[partition] = pos
	return nil
}

type letters struct{ *process }

func (p letters) Publish(_ context.Context, ls []DeadLetter) error {
	if err := p.alive(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	does := works
	if p.bury != nil {
		does = p.bury()
	}
	if does == refused || does == requestLost {
		return errLink
	}
	for _, l := range ls {
		p.world.dead[l.Seq] = l.Reason
	}
	if does != works {
		return errLink
	}
	return nil
}

// block is rows by sequence.
type block struct{ seqs []uint64 }

func (b *block) Append(_ int, _ uuid.UUID, seq uint64, _ time.Time, _ *events.Raw) {
	b.seqs = append(b.seqs, seq)
}
func (b *block) Rows() int      { return len(b.seqs) }
func (b *block) Seqs() []uint64 { return b.seqs }
func (b *block) Retain(keep map[uint64]struct{}) {
	b.seqs = slices.DeleteFunc(b.seqs, func(seq uint64) bool { _, ok := keep[seq]; return !ok })
}
func (b *block) Reset() { b.seqs = b.seqs[:0] }

func (p *process) NewBlock() Block { return &block{} }

func (p *process) Insert(_ context.Context, b Block, token string) error {
	if err := p.alive(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	does := works
	if p.insert != nil {
		does = p.insert(token)
	}
	switch does {
	case refused:
		return ErrTransient
	case requestLost:
		return ErrInDoubt
	case tokenWritten:
		p.tokens[token] = true
		return ErrInDoubt
	}
	if !p.tokens[token] {
		p.tokens[token] = true
		for _, seq := range b.(*block).seqs {
			p.table[seq]++
		}
	}
	if does == replyLost {
		return ErrInDoubt
	}
	return nil
}

func (p *process) Settle(context.Context, string) error { return p.alive() }

func (p *process) ReadBack(_ context.Context, partition int, first, last uint64, lo, hi int64) (map[uint64]struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	there := map[uint64]struct{}{}
	for _, m := range p.stream[partition] {
		created := p.world.made[m.Seq]
		if m.Seq >= first && m.Seq <= last && created >= lo && created <= hi && p.table[m.Seq] > 0 {
			there[m.Seq] = struct{}{}
		}
	}
	return there, p.alive()
}

func (p *process) Origin(context.Context) (uint64, error) {
	if p.origin != nil {
		p.origin()
	}
	return 1, p.alive()
}

func (p *process) LastSequence(_ context.Context, partition int, after uint64) (last uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.stream[partition] {
		if p.table[m.Seq] > 0 && m.Seq > after {
			last = max(last, m.Seq)
		}
	}
	return last, p.alive()
}

func (p *process) Wanted() []int            { return p.driven }
func (p *process) Changed() <-chan struct{} { return nil }
func (p *process) Hold(int)                 {}
func (p *process) Release(int)              {}
func (p *process) Valid() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.valid
}

var processes atomic.Int32

// run starts a process on the partitions; stop ends it in order and returns the pipeline's error.
func (w *world) run(t *testing.T, driven []int, change func(*Config, *process)) (p *process, stop func() error) {
	t.Helper()
	p = &process{world: w, driven: driven, read: make(chan struct{}, 1)}
	cfg := Config{BatchMaxEvents: 7, LingerMin: time.Millisecond, LingerMax: 5 * time.Millisecond, Drain: 5 * time.Second, BackoffMin: time.Millisecond,
		Instance: fmt.Sprint("process-", processes.Add(1)), TokenPrefix: "t:"}
	if change != nil {
		change(&cfg, p)
	}
	pipe := New(cfg, Deps{Source: p, Ledger: p, Positions: positions{p}, DeadLetters: letters{p}, Sink: p, Members: p,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if p.made != nil {
		p.made(pipe)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pipe.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("the pipeline did not stop")
		}
	})
	t.Cleanup(func() { _ = stop() })
	return p, stop
}

// complete says what keeps the world from having every message once where it belongs.
func (w *world) complete() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var wrong []string
	for partition, msgs := range w.stream {
		for _, m := range msgs {
			n, dead := w.table[m.Seq], w.dead[m.Seq] != ""
			if poison := string(m.Data) == "poison"; (poison && (n != 0 || !dead)) || (!poison && (n != 1 || dead)) {
				wrong = append(wrong, fmt.Sprintf("%d: %d rows, dead letter %t", m.Seq, n, dead))
			}
		}
		covered := 0
		prev := ledger.Record{Entry: ledger.Entry{Partition: partition}}
		for _, r := range w.ledger[partition] {
			if err := ledger.CheckLink(prev, r); err != nil {
				return err
			}
			prev = r
			covered += r.Messages
		}
		if covered != len(msgs) {
			wrong = append(wrong, fmt.Sprintf("partition %d: %d of %d messages in the ledger", partition, covered, len(msgs)))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%d faults: %s", len(wrong), strings.Join(wrong[:min(5, len(wrong))], "; "))
	}
	return nil
}

// wantComplete waits until it is.
func (w *world) wantComplete(t *testing.T) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err = w.complete(); err == nil {
			return
		}
	}
	t.Fatalf("%v (tokens %v)", err, slices.Sorted(maps.Keys(w.tokens)))
}

// script returns outcomes one after the other, then works.
func script[A any](outcomes ...outcome) func(A) outcome {
	return func(A) outcome {
		if len(outcomes) == 0 {
			return works
		}
		next := outcomes[0]
		outcomes = outcomes[1:]
		return next
	}
}
