package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// Shape of the publish measurements.
const (
	publishCallers = 1000
	asyncPending   = 1000
	loneMessages   = 1000
)

// benchPublish compares the publisher with raw publishing to the same stream, both flushed before they are acknowledged.
func benchPublish(ctx context.Context, o options, targets *verdicts) (err error) {
	e, err := startEngines(o.bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := setUp(ctx, e, o.bin); err != nil {
		return err
	}
	nc, err := nats.Connect(e.natsURL())
	if err != nil {
		return err
	}
	defer nc.Close()
	o.events = min(o.events, 200_000)
	backlog := makeBacklog(o)

	raw := backlog[:min(len(backlog), 20_000)]
	async, err := rawAsync(nc, raw)
	if err != nil {
		return fmt.Errorf("raw async publish: %w", err)
	}
	report(fmt.Sprintf("raw async publish, %d pending", asyncPending), float64(len(raw)), async, "")
	rest := backlog[len(raw):]
	many, err := callers(ctx, nc, rest)
	if err != nil {
		return fmt.Errorf("concurrent Publish: %w", err)
	}
	report(fmt.Sprintf("Publish from %d goroutines", publishCallers), float64(len(rest)), many, "")

	quick, err := rawDefaultSync(ctx, rest[:min(len(rest), 100_000)])
	if err != nil {
		return fmt.Errorf("raw async publish with default sync: %w", err)
	}
	quickN := float64(min(len(rest), 100_000))
	report("raw async publish, NATS's default sync", quickN, quick, "")

	backlog = makeBacklog(options{events: 4 * loneMessages, tenants: 1})
	rawOne, pubOne, err := lone(ctx, nc, backlog)
	if err != nil {
		return fmt.Errorf("lone publish: %w", err)
	}
	fmt.Printf("  one at a time: raw %s, Publish %s a message\n", rawOne.Round(time.Microsecond), pubOne.Round(time.Microsecond))
	rate := float64(len(rest)) / many.Seconds()
	targets.atLeast("concurrent Publish / raw async publish", rate/(float64(len(raw))/async.Seconds()), 10)
	targets.atLeast("concurrent Publish / raw async publish with NATS's default sync", rate/(quickN/quick.Seconds()), 0.6)
	targets.atMost("time of a lone Publish / of a raw one", pubOne.Seconds()/rawOne.Seconds(), 1.2)
	return nil
}

// rawDefaultSync publishes to a server of its own that flushes every two minutes, as NATS does unless told otherwise.
func rawDefaultSync(ctx context.Context, backlog []event) (took time.Duration, err error) {
	dir, err := os.MkdirTemp("", "auditlog-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true})
	if err != nil {
		return 0, err
	}
	srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(startPatience) {
		return 0, errors.New("the server is not ready")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: events.StreamAudit, Subjects: []string{events.SubjectEvents}}); err != nil {
		return 0, err
	}
	return rawAsync(nc, backlog)
}

func rawAsync(nc *nats.Conn, backlog []event) (time.Duration, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(asyncPending))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	futures := make([]jetstream.PubAckFuture, 0, len(backlog))
	for _, ev := range backlog {
		f, err := js.PublishAsync(events.Subject(ev.tenant), ev.wire, jetstream.WithMsgID(ev.id.String()), jetstream.WithStallWait(time.Minute))
		if err != nil {
			return 0, err
		}
		futures = append(futures, f)
	}
	<-js.PublishAsyncComplete()
	took := time.Since(began)
	for _, f := range futures {
		select {
		case err := <-f.Err():
			return 0, err
		default:
		}
	}
	return took, nil
}

// callers publishes from many goroutines, each waiting for the acknowledgement of one event before its next.
func callers(ctx context.Context, nc *nats.Conn, backlog []event) (time.Duration, error) {
	decoded := make([]events.Event, len(backlog))
	for i, ev := range backlog {
		var err error
		if decoded[i], err = events.Decode(withTenant(ev), time.Now()); err != nil {
			return 0, err
		}
	}
	pub, err := events.NewPublisher(nc)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	errs := make([]error, publishCallers)
	var wg sync.WaitGroup
	for c := range publishCallers {
		wg.Go(func() {
			for i := c; i < len(decoded); i += publishCallers {
				if err := pub.Publish(ctx, decoded[i]); err != nil {
					errs[c] = err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	return took, errors.Join(append(errs, pub.Close(ctx))...)
}

// lone publishes one at a time, raw and by the publisher in turn, and returns the mean time of each.
func lone(ctx context.Context, nc *nats.Conn, backlog []event) (raw, pub time.Duration, err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, 0, err
	}
	p, err := events.NewPublisher(nc)
	if err != nil {
		return 0, 0, err
	}
	for i, ev := range backlog {
		decoded, err := events.Decode(withTenant(ev), time.Now())
		if err != nil {
			return 0, 0, err
		}
		began := time.Now()
		if i%2 == 0 {
			_, err = js.Publish(ctx, events.Subject(ev.tenant), ev.wire, jetstream.WithMsgID(ev.id.String()))
			raw += time.Since(began)
		} else {
			err = p.Publish(ctx, decoded)
			pub += time.Since(began)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	half := time.Duration(len(backlog) / 2)
	return raw / half, pub / half, p.Close(ctx)
}
