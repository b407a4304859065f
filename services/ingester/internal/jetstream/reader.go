package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/services/ingester/internal/pipeline"
)

// reader is one consumer without acknowledgements and what has come from it. It ends itself with the first thing that is not in order: where
// to go on is known elsewhere.
type reader struct {
	deliver    func(partition int, m pipeline.Message) bool
	fail       context.CancelCauseFunc
	partitions []int // that it is to deliver; others may be among them
	traced     bool  // messages are looked at for a producer's span

	name     string
	consumer jetstream.Consumer
	consume  jetstream.ConsumeContext

	at atomic.Uint64 // sequence of the newest message that was delivered; one that waits for room in memory was not

	mu       sync.Mutex // held while a message is delivered
	received uint64     // deliveries
	stopped  bool
}

// start begins to deliver from the sequence on; filter is a subject or empty.
func (r *reader) start(ctx context.Context, stream jetstream.Stream, from uint64, filter string) error {
	r.at.Store(from - 1)
	cctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var err error
	r.consumer, err = stream.CreateConsumer(cctx, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		FilterSubject:     filter,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: consumerIdle,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return fmt.Errorf("make a consumer from sequence %d: %w", from, err)
	}
	r.name = r.consumer.CachedInfo().Name
	r.consume, err = r.consumer.Consume(r.take, jetstream.PullMaxMessagesWithBytesLimit(pullMessages, pullBytes),
		jetstream.PullHeartbeat(pullHeartbeat), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { r.fail(err) }))
	if err != nil {
		return fmt.Errorf("read from sequence %d: %w", from, err)
	}
	return nil
}

// take is called with one message after the other. While it waits for room in memory nothing is pulled.
func (r *reader) take(msg jetstream.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	d, err := parseReply(msg.Reply())
	partition := partitionOf(msg.Subject())
	switch {
	case err != nil:
	case d.consumer != r.received+1:
		err = errGap
	case partition < 0:
		err = fmt.Errorf("%w: sequence %d of the stream has the subject %q", pipeline.ErrFatal, d.stream, msg.Subject())
	}
	if err != nil {
		r.stopped = true
		r.fail(err)
		return
	}
	r.received++
	m := pipeline.Message{Seq: d.stream, Time: d.at, Subject: msg.Subject(), Data: msg.Data(), Behind: d.pending}
	if r.traced {
		m.Parent = parentOf(msg.Headers())
	}
	if !r.deliver(partition, m) {
		r.stopped = true
		r.fail(errStopped)
		return
	}
	r.at.Store(d.stream)
}

// errStopped ends a reader whose receiver takes nothing more.
var errStopped = errors.New("receiver stopped")

// stop ends the reader; when it returns, nothing is delivered any more. The context it was started with must be done.
func (r *reader) stop() {
	if r.consume != nil {
		r.consume.Stop()
	}
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
}
