package events

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
)

// Headers of JetStream's publish protocol; the batch ones are those of atomic batches (NATS ADR-50).
const (
	headerMsgID       = "Nats-Msg-Id"
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
	headerStatus      = "Status"

	// maxHeaderBytes is more than all of them take, with the names of the headers of a trace.
	maxHeaderBytes = 256
)

// Headers of a message whose publish was part of a trace: the W3C trace context.
const (
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"

	maxTraceParentBytes = 128
	maxTraceStateBytes  = 512
)

// Codes of JetStream errors that have a meaning of their own here.
const (
	codeBatchDisabled = 10174
	codeBatchTooLarge = 10199
	codeBatchInFlight = 10210
	codeStoreFailed   = 10077

	statusTooMany     = 429
	statusUnavailable = 503
)

const (
	// batchAttempts is after how many attempts a group goes out singly, whatever the reason.
	batchAttempts = 4
	// batchRecheck is how long a stream that takes no batches is not asked again.
	batchRecheck = time.Minute

	minPause = 10 * time.Millisecond
	maxPause = time.Second

	// denialEvery is how often it is looked whether the server has said that the connection may not publish: it does not say so in an answer.
	denialEvery = 50 * time.Millisecond
	// denialWait is how long the other events of a round that held such an event wait for the next answer, before they are tried again without it.
	denialWait = 250 * time.Millisecond
)

var (
	errDisconnected = errors.New("no connection to NATS")
	errNoResponders = errors.New("no stream answers (is JetStream up, and does a stream take audit.events.*?)")
	errNoAck        = errors.New("the server did not answer in time")
	errBadAck       = errors.New("the answer is not JetStream's (does something else listen on audit.events.*?)")
	// errBatchIgnored is what a server before 2.12 amounts to: it stores the messages of a batch one by one.
	errBatchIgnored = errors.New("the server does not know atomic batches")
	// errDenied ends a batch that holds an event which the connection may not publish.
	errDenied = errors.New("the connection may not publish to a subject")
)

// RefusalError is the error JetStream answered with.
type RefusalError struct {
	// Status is like an HTTP status.
	Status int `json:"code"`
	// Code is JetStream's own number for the error.
	Code int `json:"err_code"`
	// Description is the server's text.
	Description string `json:"description"`
}

// Error is the server's text with its number.
func (r *RefusalError) Error() string {
	return fmt.Sprintf("JetStream error %d: %s", r.Code, r.Description)
}

// passing says that the same message may be taken later: servers change, queues empty. A full stream does not count, its producers have to
// know at once.
func (r *RefusalError) passing() bool {
	if r.Code == codeStoreFailed {
		return !strings.Contains(r.Description, "exceeded")
	}
	return r.Status == statusUnavailable || r.Status == statusTooMany
}

// pubAck is JetStream's answer to a message or to the last message of a batch.
type pubAck struct {
	Stream    string        `json:"stream"`
	Sequence  uint64        `json:"seq"`
	Duplicate bool          `json:"duplicate"`
	Batch     string        `json:"batch"`
	Count     int           `json:"count"`
	Error     *RefusalError `json:"error"`
}

// wire speaks JetStream's publish protocol for one group of events at a time. It is used by one goroutine.
type wire struct {
	nc      *nats.Conn
	ackWait time.Duration
	// inbox is the subject of the answers, followed by the round and the event's place in it.
	inbox   string
	sub     *nats.Subscription
	answers chan *nats.Msg
	status  chan nats.Status
	round   uint64
	// maxBatch shrinks when the server says that it takes smaller ones; at 1 there are none.
	maxBatch int
	// batchesFrom is when batches may be tried (again).
	batchesFrom time.Time
	// denial is the connection's last error when the round began: only another one says something about the round.
	denial error
}

func newWire(nc *nats.Conn, o publisherOptions) (*wire, error) {
	w := &wire{nc: nc, ackWait: o.ackWait, inbox: nc.NewInbox() + ".", maxBatch: o.maxBatch}
	// Room for two rounds, so that late answers of one do not push out those of the next.
	w.answers = make(chan *nats.Msg, 2*MaxBatch+2)
	var err error
	if w.sub, err = nc.ChanSubscribe(w.inbox+"*.*", w.answers); err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	w.status = nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	return w, nil
}

func (w *wire) close() {
	_ = w.sub.Unsubscribe() // fails only on a closed connection, which has no subscriptions
	w.nc.RemoveStatusListener(w.status)
}

// send makes one attempt. Events whose fate is known afterwards are settled; the error is why the others are not.
func (w *wire) send(ctx context.Context, group []*Future, attempt int) error {
	w.begin()
	if !w.nc.IsConnected() {
		return errDisconnected
	}
	if len(group) > 1 && w.maxBatch > 1 && attempt < batchAttempts && !time.Now().Before(w.batchesFrom) {
		err := w.sendBatch(ctx, group)
		if err == nil || !w.isolate(err) {
			return err
		}
		w.begin()
	}
	return w.sendSingly(ctx, group)
}

// groupSize is how many events may go in one round.
func (w *wire) groupSize() int {
	if w.maxBatch > 1 {
		return w.maxBatch
	}
	return MaxBatch
}

// begin starts a round: nothing that arrived before belongs to it.
func (w *wire) begin() {
	w.round++
	w.denial = w.nc.LastError()
	for {
		select {
		case <-w.status:
		default:
			return
		}
	}
}

// isolate decides whether the events of a failed batch go out singly. A batch is refused as a whole for what may be wrong with one of its events: its
// id is known (10201), it is too large for the stream, or the connection may not publish for its tenant, which leaves a gap (10176).
func (w *wire) isolate(err error) bool {
	var refusal *RefusalError
	switch {
	case errors.Is(err, errBatchIgnored):
		w.batchesFrom = time.Now().Add(batchRecheck)
		return true
	case errors.Is(err, errDenied):
		return true
	case !errors.As(err, &refusal):
		return false
	case refusal.Code == codeBatchDisabled:
		w.batchesFrom = time.Now().Add(batchRecheck)
		return true
	case refusal.Code == codeBatchTooLarge:
		w.maxBatch = max(w.maxBatch/2, 1)
		return true
	}
	return refusal.Code != codeBatchInFlight && !refusal.passing()
}

// sendBatch publishes the group as one atomic batch: all of it is stored, or nothing.
func (w *wire) sendBatch(ctx context.Context, group []*Future) error {
	batch, last := uuid.NewString(), len(group)-1
	for i, f := range group {
		m := f.message()
		m.Header[headerBatchID] = []string{batch}
		m.Header[headerBatchSeq] = []string{strconv.Itoa(i + 1)}
		if i == 0 {
			m.Reply = w.reply(i) // tells when there are too many batches in flight; an empty answer is fine
		}
		if i == last {
			m.Header[headerBatchCommit] = []string{"1"}
			m.Reply = w.reply(i)
		}
		if err := w.nc.PublishMsg(m); err != nil {
			return fmt.Errorf("send batch: %w", err)
		}
	}
	var result, first error
	denied := func(err error) (wait time.Duration, done bool) {
		if !slices.ContainsFunc(group, func(f *Future) bool { return f.deniedBy(err) }) {
			return w.ackWait, false
		}
		result = fmt.Errorf("%w: %w", errDenied, err)
		return 0, true
	}
	err := w.collect(ctx, denied, func(i int, ack pubAck, err error) bool {
		if i != last {
			first = err
			return false
		}
		switch {
		case first != nil && err != nil:
			result = first
		case err != nil:
			result = err
		case ack.Batch != batch || ack.Count != len(group):
			result = errBatchIgnored
		default:
			for i, f := range group {
				f.succeed(Ack{Sequence: ack.Sequence - uint64(last-i)}) //nolint:gosec // i <= last
			}
		}
		return true
	})
	return cmp.Or(result, err)
}

// sendSingly publishes the group's messages one after the other without waiting in between.
func (w *wire) sendSingly(ctx context.Context, group []*Future) error {
	for i, f := range group {
		m := f.message()
		m.Reply = w.reply(i)
		if err := w.nc.PublishMsg(m); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	left := len(group)
	var passing error
	denied := func(err error) (wait time.Duration, done bool) {
		n := failDenied(group, err)
		if n == 0 {
			return w.ackWait, false
		}
		left -= n
		return min(denialWait, w.ackWait), left == 0
	}
	err := w.collect(ctx, denied, func(i int, ack pubAck, err error) bool {
		if i >= len(group) || group[i].settled {
			return false
		}
		left-- // each message is answered once
		var refusal *RefusalError
		if err == nil && ack.Stream == "" {
			err = errBadAck // only the first message of a batch is answered with nothing
		}
		switch {
		case err == nil:
			group[i].succeed(Ack{Sequence: ack.Sequence, Duplicate: ack.Duplicate})
		case errors.As(err, &refusal) && !refusal.passing():
			group[i].fail(fmt.Errorf("%w: %w", ErrRefused, err))
		default:
			passing = err
		}
		return left == 0
	})
	return cmp.Or(passing, err)
}

// failDenied settles the events that the server dropped because the connection may not publish them, as err says, and returns how many those are.
func failDenied(group []*Future, err error) (n int) {
	for _, f := range group {
		if !f.settled && f.deniedBy(err) {
			f.fail(fmt.Errorf("%w: %w", ErrRefused, err))
			n++
		}
	}
	return n
}

// newDenial returns what the server has said about permissions since the round began, or since this was last asked; nil when nothing.
func (w *wire) newDenial() error {
	err := w.nc.LastError()
	if err == w.denial { //nolint:errorlint // is it another one, though it may say the same?
		return nil
	}
	w.denial = err
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	return err
}

// deniedBy says whether a permission violation is about the event's subject.
func (f *Future) deniedBy(err error) bool {
	return strings.Contains(err.Error(), strconv.Quote(f.subject))
}

// message is the event as it goes out singly.
func (f *Future) message() *nats.Msg {
	m := &nats.Msg{Subject: f.subject, Data: f.data, Header: nats.Header{headerMsgID: {f.id.String()}}}
	if f.traceparent != "" {
		m.Header[HeaderTraceParent] = []string{f.traceparent}
		if f.tracestate != "" {
			m.Header[HeaderTraceState] = []string{f.tracestate}
		}
	}
	return m
}

// traceHeaders drops what cannot be a W3C trace context: a trace is never worth an event.
func traceHeaders(traceparent, tracestate string) (string, string) {
	printable := func(s string, limit int) bool {
		return len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	}
	switch {
	case !printable(traceparent, maxTraceParentBytes):
		return "", ""
	case !printable(tracestate, maxTraceStateBytes):
		return traceparent, ""
	}
	return traceparent, tracestate
}

// reply is the subject that answers event i of this round.
func (w *wire) reply(i int) string {
	return w.inbox + strconv.FormatUint(w.round, 10) + "." + strconv.Itoa(i)
}

// collect hands the answers of this round to each until that is done, the connection breaks, or none comes for the time of ackWait. What the server
// says about permissions meanwhile goes to denied, which says whether the round is done, or else how long to wait for each further answer.
func (w *wire) collect(ctx context.Context, denied func(error) (time.Duration, bool), each func(i int, ack pubAck, err error) (done bool)) error {
	prefix := w.inbox + strconv.FormatUint(w.round, 10) + "."
	wait := w.ackWait
	timer := time.NewTimer(wait)
	defer timer.Stop()
	look := time.NewTicker(min(denialEvery, wait))
	defer look.Stop()
	for {
		select {
		case m := <-w.answers:
			place, ours := strings.CutPrefix(m.Subject, prefix)
			i, err := strconv.Atoi(place)
			if !ours || err != nil {
				continue
			}
			ack, err := readAck(m)
			if each(i, ack, err) {
				return nil
			}
			timer.Reset(wait)
		case <-look.C:
			if err := w.newDenial(); err != nil {
				var done bool
				if wait, done = denied(err); done {
					return nil
				}
				timer.Reset(wait)
			}
		case s := <-w.status:
			if s != nats.CONNECTED {
				return errDisconnected
			}
		case <-timer.C:
			return errNoAck
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readAck reads an answer. The empty one of a batch's first message comes back as a zero ack.
func readAck(m *nats.Msg) (ack pubAck, err error) {
	if len(m.Data) == 0 {
		if m.Header.Get(headerStatus) != "" {
			return ack, errNoResponders
		}
		return ack, nil
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return ack, errBadAck
	}
	if ack.Error != nil {
		return ack, ack.Error
	}
	if ack.Stream == "" {
		return ack, errBadAck
	}
	return ack, nil
}

// pause waits before an attempt is repeated, longer each time, and with chance so that publishers do not march in step. A connection that comes back
// ends it.
func (w *wire) pause(ctx context.Context, attempt int) {
	d := min(minPause<<min(attempt-1, 10), maxPause)
	timer := time.NewTimer(d/2 + rand.N(d/2+1)) //nolint:gosec // not a secret
	defer timer.Stop()
	for {
		select {
		case s := <-w.status:
			if s == nats.CONNECTED {
				return
			}
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
