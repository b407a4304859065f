package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// Shape of the load.
const (
	tenants    = 24
	writers    = 4
	partitions = 16 // the ingester's default
	// poisonEvery and againEvery are the time between two messages that cannot be rows, and between two events published once more.
	poisonEvery = 200 * time.Millisecond
	againEvery  = 50 * time.Millisecond
	// retryFor is how long the publisher tries one event. Longer than any fault; what still fails may be in the log or not.
	retryFor = 60 * time.Second
	// lateShare: one in so many events happened a month ago, so that batches have two blocks.
	lateShare = 20
	// impostor is the actor of an event published once more. The first copy wins, so it must never be seen.
	impostor = "impostor"
)

// producer publishes without pause, and writes down what was acknowledged.
type producer struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	pub     *events.Publisher
	journal *journal
	tenants []uuid.UUID
	rate    int // events a second, over all writers
	seed    uint64
	again   chan events.Event // acknowledged events to be published once more
}

func newProducer(url string, seed uint64, rate int, j *journal) (*producer, error) {
	nc, err := nats.Connect(url, nats.Name("producer"), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("connect the producer: %w", err)
	}
	p := &producer{nc: nc, journal: j, rate: rate, seed: seed, again: make(chan events.Event, 256)}
	if p.js, err = jetstream.New(nc); err == nil {
		p.pub, err = events.NewPublisher(nc, events.WithRetryFor(retryFor), events.WithAckWait(time.Second))
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("make the producer: %w", err)
	}
	for i := range tenants {
		p.tenants = append(p.tenants, uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "chaos %d %d", seed, i)))
	}
	return p, nil
}

// run publishes until ctx is done, then waits until the outcome of everything is known, or close ends.
func (p *producer) run(ctx, closing context.Context) error {
	defer p.nc.Close()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { p.write(ctx, w) })
	}
	wg.Go(func() { p.poison(ctx) })
	wg.Go(func() { p.repeat(ctx) })
	<-ctx.Done()
	err := p.pub.Close(closing)
	wg.Wait()
	return err
}

// write is one writer. What it publishes of one tenant must be in the log in this order.
func (p *producer) write(ctx context.Context, writer int) {
	rng := rand.New(rand.NewPCG(p.seed, uint64(writer)+1))
	var wg sync.WaitGroup
	defer wg.Wait()
	futures := make(chan sent, events.DefaultMaxPending)
	wg.Go(func() { p.collect(futures) })
	defer close(futures)
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		// Without catching up after a pause: a flood would only measure the machine.
		if due := began.Add(time.Duration(n) * time.Second * writers / time.Duration(p.rate)); time.Until(due) > 0 {
			time.Sleep(time.Until(due))
		} else if time.Since(due) > time.Second {
			began = began.Add(time.Since(due))
		}
		e := p.event(rng, writer, n)
		p.journal.published(e.ID, e.TenantID, writer, n)
		f, err := p.pub.PublishAsync(ctx, e)
		if err != nil {
			p.journal.unsent(e.ID)
			continue
		}
		futures <- sent{e, f}
	}
}

type sent struct {
	event  events.Event
	future *events.Future
}

// collect waits for the outcome of what one writer has sent.
func (p *producer) collect(futures <-chan sent) {
	for s := range futures {
		ack, err := s.future.Wait(context.Background()) // closing the publisher ends it
		if err != nil {
			continue // it may be in the log or not
		}
		p.journal.acknowledged(s.event.ID, events.Partition(s.event.TenantID, partitions), ack.Sequence)
		select {
		case p.again <- s.event:
		default:
		}
	}
}

func (p *producer) event(rng *rand.Rand, writer, n int) events.Event {
	e := events.Event{
		ID: uuid.New(), TenantID: p.tenants[rng.IntN(len(p.tenants))], ActorID: fmt.Sprintf("user_%03d", rng.IntN(500)), ActorType: "user",
		Action: "invoice.approve", ResourceType: "invoice", ResourceID: fmt.Sprintf("inv_%d_%d", writer, n),
		Metadata:  fmt.Appendf(nil, `{"ip":"203.0.113.%d","writer":%d,"n":%d,"request_id":"req_%016x"}`, rng.IntN(250), writer, n, rng.Uint64()),
		CreatedAt: time.Now().Truncate(time.Microsecond),
	}
	if rng.IntN(lateShare) == 0 {
		e.CreatedAt = e.CreatedAt.AddDate(0, -1, 0)
	}
	return e
}

// poison publishes messages that cannot be rows.
func (p *producer) poison(ctx context.Context) {
	for n := 0; sleep(ctx, poisonEvery); n++ {
		text := fmt.Sprintf(`{"poison":%d,"mark":%q}`, n, uuid.NewString())
		tenant := p.tenants[n%len(p.tenants)]
		p.journal.refuse(text, tenant)
		if p.raw(ctx, tenant, []byte(text), fmt.Sprintf("poison-%d", n)) {
			p.journal.refused(text)
		}
	}
}

// repeat publishes acknowledged events once more, some time later, as another message and with another actor.
func (p *producer) repeat(ctx context.Context) {
	for n := 0; sleep(ctx, againEvery); n++ {
		var e events.Event
		select {
		case e = <-p.again:
		default:
			continue
		}
		e.ActorID = impostor
		data, err := e.Encode()
		if err != nil {
			continue // cannot be: it was valid before
		}
		if p.raw(ctx, e.TenantID, data, fmt.Sprintf("again-%d", n)) {
			p.journal.repeated()
		}
	}
}

// raw publishes one message as any client would, and tells whether it was acknowledged.
func (p *producer) raw(ctx context.Context, tenant uuid.UUID, data []byte, msgID string) bool {
	for range 20 {
		actx, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := p.js.Publish(actx, events.Subject(tenant), data, jetstream.WithMsgID(msgID))
		cancel()
		if err == nil {
			return true
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return false
		}
	}
	return false
}

// sleep waits for d and reports whether ctx lasted that long.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
