package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/pipeline"
)

const (
	// pulls is how many requests for messages a reader has open: while one is asked for, the server sends for the others.
	pulls = 3
	// pullMessages and pullBytes bound what the server sends for one request. A request holds the largest message that the stream takes.
	pullMessages = 3000
	pullBytes    = 2 << 20
	// pullExpires is after which the server ends a request that has nothing to send. pullSilence later the reader begins anew.
	pullExpires = 4 * time.Second
	pullSilence = 2 * time.Second
	// consumerIdle is how long the server keeps a consumer that nobody pulls from, which is what happens while the table cannot be written.
	consumerIdle = 5 * time.Minute
)

// Reasons for which a reader ends.
var (
	// errGap: the server's deliveries are not one after the other, some were lost on the way.
	errGap = errors.New("a delivery was lost")
	// errStopped: the receiver takes nothing more.
	errStopped = errors.New("receiver stopped")
	// errSilent: not even the ends of requests come.
	errSilent = errors.New("the server has stopped to answer")
	// errRefused: a request was ended at once with nothing.
	errRefused = errors.New("the server refuses to send")
)

// reader is one consumer without acknowledgements and what has come from it. It ends itself with the first thing that is not in order: where
// to go on is known elsewhere.
//
// It does the pulling itself, since it must do without headers (natsconn.WithoutHeaders): the client's own reader knows from headers which answers are
// no messages, and how much of a request they end. Here an answer that is no message has the subject of the request it ends, which it always does,
// for no heartbeats are asked for.
type reader struct {
	deliver    func(partition int, m pipeline.Message) bool
	fail       context.CancelCauseFunc
	partitions []int // that it is to deliver; others may be among them
	traced     bool  // messages are looked at for a producer's span

	name     string // the consumer's
	nc       *nats.Conn
	arrived  chan *nats.Msg
	lost     chan nats.Status // the connection was
	pulls    []*pull
	ended    chan struct{} // closed when nothing is delivered any more
	received uint64        // deliveries

	at atomic.Uint64 // sequence of the newest message that was delivered; one that waits for room in memory was not
}

// pull is a place for one request at a time. Its subscription is its own, so that each message says which request it comes for.
type pull struct {
	sub   *nats.Subscription
	inbox string // what its requests' answers begin with
	count int    // requests
	open  string // the subject of an answer that ends the one that is open
	left  int    // messages that it may still bring
	asked time.Time
}

// start begins to deliver from the sequence on until ctx is done; filter is a subject or empty. nc is what messages come by.
func (r *reader) start(ctx context.Context, nc *nats.Conn, stream jetstream.Stream, from uint64, filter string) error {
	r.at.Store(from - 1)
	cctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	consumer, err := stream.CreateConsumer(cctx, jetstream.ConsumerConfig{
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
	r.name, r.nc = consumer.CachedInfo().Name, nc
	// There is room for all that can come: the client drops what does not fit.
	r.arrived = make(chan *nats.Msg, pulls*(pullMessages+1))
	r.lost = nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	for range pulls {
		if err := r.open(); err != nil {
			return fmt.Errorf("read from sequence %d: %w", from, err)
		}
	}
	r.ended = make(chan struct{})
	go func() {
		defer close(r.ended)
		if err := r.run(ctx); err != nil {
			r.fail(err)
		}
	}()
	return nil
}

// open makes a place for requests and makes the first.
func (r *reader) open() error {
	p := &pull{inbox: r.nc.NewInbox() + "."}
	var err error
	if p.sub, err = r.nc.ChanSubscribe(p.inbox+"*", r.arrived); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	r.pulls = append(r.pulls, p)
	return r.ask(p)
}

// request is asked of a consumer: the protocol's JSApiConsumerGetNextRequest.
type request struct {
	Batch    int           `json:"batch"`
	MaxBytes int           `json:"max_bytes"`
	Expires  time.Duration `json:"expires"` // in nanoseconds
}

var requestBody, _ = json.Marshal(request{Batch: pullMessages, MaxBytes: pullBytes, Expires: pullExpires})

func (r *reader) ask(p *pull) error {
	p.count++
	p.open, p.left, p.asked = p.inbox+strconv.Itoa(p.count), pullMessages, time.Now()
	subject := jetstream.DefaultAPIPrefix + "CONSUMER.MSG.NEXT." + events.StreamAudit + "." + r.name
	if err := r.nc.PublishRequest(subject, p.open, requestBody); err != nil {
		return fmt.Errorf("ask for messages: %w", err)
	}
	return nil
}

// run delivers until something is not in order, or ctx is done.
func (r *reader) run(ctx context.Context) error {
	silence := time.NewTimer(0)
	defer silence.Stop()
	for {
		var msg *nats.Msg
		select {
		case msg = <-r.arrived:
		default:
			silence.Reset(pullExpires + pullSilence)
			select {
			case <-ctx.Done():
				return nil
			case status := <-r.lost:
				return fmt.Errorf("the connection is %s", status)
			case <-silence.C:
				return errSilent
			case msg = <-r.arrived:
			}
		}
		if err := r.take(ctx, msg); err != nil {
			return err
		}
	}
}

// take looks at what has arrived, and asks for more when it is the last of a request. While a message waits for room in memory nothing is asked for.
func (r *reader) take(ctx context.Context, msg *nats.Msg) error {
	if ctx.Err() != nil {
		return nil
	}
	i := slices.IndexFunc(r.pulls, func(p *pull) bool { return p.sub == msg.Sub })
	if i < 0 {
		return nil
	}
	p := r.pulls[i]
	if msg.Reply == "" && partitionOf(msg.Subject) < 0 {
		return r.over(p, msg)
	}
	if err := r.hand(msg); err != nil {
		return err
	}
	if p.left--; p.left > 0 {
		return nil
	}
	return r.ask(p)
}

// over is told of an answer that is no message: it ends its request.
func (r *reader) over(p *pull, msg *nats.Msg) error {
	if msg.Subject != p.open {
		return nil // of a request that had brought all it could
	}
	if p.left == pullMessages && time.Since(p.asked) < pullExpires-pullExpires/8 {
		// It did not end by itself: the consumer is gone, or has another leader. To ask again at once could go on for ever.
		return fmt.Errorf("%w %s", errRefused, msg.Header.Get("Description"))
	}
	return r.ask(p)
}

// hand delivers one message.
func (r *reader) hand(msg *nats.Msg) error {
	d, err := parseReply(msg.Reply)
	partition := partitionOf(msg.Subject)
	switch {
	case err != nil:
		return err
	case d.consumer != r.received+1:
		return errGap
	case partition < 0:
		return fmt.Errorf("%w: sequence %d of the stream has the subject %q", pipeline.ErrFatal, d.stream, msg.Subject)
	}
	r.received++
	m := pipeline.Message{Seq: d.stream, Time: d.at, Subject: msg.Subject, Data: msg.Data, Behind: d.pending}
	if r.traced {
		m.Parent = parentOf(msg.Header)
	}
	if !r.deliver(partition, m) {
		return errStopped
	}
	r.at.Store(d.stream)
	return nil
}

// stop ends the reader; when it returns, nothing is delivered any more. The context it was started with must be done.
func (r *reader) stop() {
	for _, p := range r.pulls {
		_ = p.sub.Unsubscribe() // a connection that is closed has no subscriptions any more
	}
	if r.ended != nil {
		<-r.ended
	}
	if r.lost != nil {
		r.nc.RemoveStatusListener(r.lost)
	}
}
