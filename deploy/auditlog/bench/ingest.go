package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// drainPatience bounds the drain of the backlog.
const drainPatience = 10 * time.Minute

// benchIngest compares the drain of a backlog with bare consumption of the same stream and a bare insert of the same rows.
func benchIngest(ctx context.Context, o options, targets *verdicts) (err error) {
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
	backlog := makeBacklog(o)
	if err := fill(ctx, nc, backlog); err != nil {
		return fmt.Errorf("fill the stream: %w", err)
	}

	n := float64(o.events)
	consume, err := bareConsume(ctx, nc, o.events)
	if err != nil {
		return fmt.Errorf("bare consumption: %w", err)
	}
	report("bare consumption (fetch, ack all, no decode)", n, consume, "")
	insert, err := bareInsert(ctx, e, backlog)
	if err != nil {
		return fmt.Errorf("bare insert: %w", err)
	}
	report("bare native insert of the same rows", n, insert, "")

	ch, nats := e.clickhouseCPU(), processCPU(e.cmd.Process.Pid)
	took, cost, err := drain(ctx, e, nc, o)
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	report("the ingester's drain, start to last ack", n, took,
		fmt.Sprintf("%.2f CPU s and %.0f MiB peak in the ingester, CPU s of NATS %.2f and ClickHouse %.2f",
			cost.cpu, cost.peakMiB, processCPU(e.cmd.Process.Pid)-nats, e.clickhouseCPU()-ch))
	parts, err := e.query(ctx, "SELECT value FROM system.events WHERE event = 'MergedRows'")
	if err != nil {
		return err
	}
	fmt.Printf("  rows merged by then: %s\n", parts)
	rows, err := e.query(ctx, "SELECT count(), uniqExact(stream_seq), max(parts) FROM event_log, (SELECT max(n) AS parts FROM (SELECT count() AS n FROM system.parts WHERE active AND table = 'event_log' GROUP BY partition)) AS p")
	if err != nil {
		return err
	}
	fmt.Printf("  rows, distinct sequences, most parts in a partition: %s\n", rows)
	fmt.Printf("  drain / bare consumption %.2f, drain / bare insert %.2f\n", consume.Seconds()/took.Seconds(), insert.Seconds()/took.Seconds())
	targets.atLeast("drain / bare consumption", consume.Seconds()/took.Seconds(), 0.65)
	targets.atMost("ingester, CPU s for a million events", cost.cpu*1e6/n, 4)
	targets.atMost("ingester, peak resident MiB", cost.peakMiB, 256)
	return nil
}

// manyTenants is how many tenants benchTenants spreads a backlog over.
const manyTenants = 10_000

// benchTenants compares the drain of a backlog of one tenant with that of many.
func benchTenants(ctx context.Context, o options, targets *verdicts) error {
	var took [2]time.Duration
	for i, tenants := range []int{1, manyTenants} {
		o.tenants = tenants
		var err error
		if took[i], err = drainAlone(ctx, o); err != nil {
			return err
		}
		report(fmt.Sprintf("drain of %d tenants", tenants), float64(o.events), took[i], "")
	}
	fmt.Printf("  many tenants / one %.2f\n", took[0].Seconds()/took[1].Seconds())
	targets.atLeast(fmt.Sprintf("drain of %d tenants / of one", manyTenants), took[0].Seconds()/took[1].Seconds(), 0.8)
	return nil
}

func drainAlone(ctx context.Context, o options) (took time.Duration, err error) {
	e, err := startEngines(o.bin)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := setUp(ctx, e, o.bin); err != nil {
		return 0, err
	}
	nc, err := nats.Connect(e.natsURL())
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	if err := fill(ctx, nc, makeBacklog(o)); err != nil {
		return 0, fmt.Errorf("fill the stream: %w", err)
	}
	took, _, err = drain(ctx, e, nc, o)
	return took, err
}

func report(what string, n float64, took time.Duration, more string) {
	fmt.Printf("  %-46s %8.0f events/s  %6.2f s  %s\n", what, n/took.Seconds(), took.Seconds(), more)
}

// setUp lets the ingester make the streams and the table, and stops it again.
func setUp(ctx context.Context, e *engines, bin string) error {
	cmd, ops, err := startIngester(e, bin)
	if err != nil {
		return err
	}
	err = waitReady(ctx, ops)
	_, stopErr := stop(cmd)
	return errors.Join(err, stopErr)
}

func startIngester(e *engines, bin string) (cmd *exec.Cmd, ops string, err error) {
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	ops = "127.0.0.1:" + strconv.Itoa(port)
	cmd = exec.Command(filepath.Join(bin, "ingester"), "serve")
	cmd.Env = append(e.env(), "AUDIT_OPS_ADDR="+ops)
	cmd.Stderr = os.Stderr
	return cmd, ops, cmd.Start()
}

// event is one message of the backlog, kept decoded too for the bare insert.
type event struct {
	tenant uuid.UUID
	id     uuid.UUID
	at     time.Time
	wire   []byte
}

// makeBacklog makes events of about 420 bytes on the wire, over the last hour.
func makeBacklog(o options) []event {
	rng := rand.New(rand.NewPCG(1, 2))
	tenants := make([]uuid.UUID, o.tenants)
	for i := range tenants {
		tenants[i] = uuid.New()
	}
	began := time.Now().Add(-time.Hour)
	out := make([]event, o.events)
	for i := range out {
		ev := events.Event{
			ID: uuid.New(), TenantID: tenants[rng.IntN(len(tenants))],
			ActorID: fmt.Sprintf("user_%05d", rng.IntN(20_000)), ActorType: "user", Action: actionNames[rng.IntN(len(actionNames))],
			ResourceType: "invoice", ResourceID: fmt.Sprintf("inv_%07d", rng.IntN(5_000_000)),
			CreatedAt: began.Add(time.Duration(i) * time.Hour / time.Duration(o.events)),
		}
		ev.Metadata = fmt.Appendf(nil, `{"ip":"198.51.100.%d","request_id":"req_%016x","user_agent":"Mozilla/5.0 (X11; Linux x86_64)","amount":{"value":"%d.%02d","currency":"EUR"}}`,
			rng.IntN(250), rng.Uint64(), rng.IntN(10_000), rng.IntN(100))
		wire, err := ev.Encode()
		if err != nil {
			panic(err) // the generator makes valid events
		}
		out[i] = event{tenant: ev.TenantID, id: ev.ID, at: ev.CreatedAt, wire: wire}
	}
	return out
}

var actionNames = []string{"invoice.create", "invoice.approve", "invoice.reject", "invoice.export", "invoice.view", "payment.capture", "payment.fail", "session.login"}

func fill(ctx context.Context, nc *nats.Conn, backlog []event) error {
	pub, err := events.NewPublisher(nc)
	if err != nil {
		return err
	}
	began := time.Now()
	for _, ev := range backlog {
		decoded, err := events.Decode(withTenant(ev), time.Now())
		if err != nil {
			return err
		}
		if _, err := pub.PublishAsync(ctx, decoded); err != nil {
			return err
		}
	}
	if err := pub.Close(ctx); err != nil {
		return err
	}
	report("filling the stream with the publisher", float64(len(backlog)), time.Since(began), fmt.Sprintf("%d bytes an event", len(backlog[0].wire)))
	return nil
}

func withTenant(ev event) []byte {
	return append(fmt.Appendf(nil, `{"tenant_id":%q,`, ev.tenant), ev.wire[1:]...)
}

// bareConsume fetches and acknowledges the whole stream and does nothing with it: the most that reading can reach.
func bareConsume(ctx context.Context, nc *nats.Conn, n int) (time.Duration, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	const batch = 5000
	cons, err := js.CreateConsumer(ctx, events.StreamAudit, jetstream.ConsumerConfig{AckPolicy: jetstream.AckAllPolicy, MaxAckPending: 4 * batch})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for got := 0; got < n; {
		msgs, err := cons.Fetch(batch)
		if err != nil {
			return 0, err
		}
		var last jetstream.Msg
		for m := range msgs.Messages() {
			got++
			last = m
		}
		if err := msgs.Error(); err != nil || last == nil {
			return 0, fmt.Errorf("after %d messages: %w", got, err)
		}
		if err := last.DoubleAck(ctx); err != nil {
			return 0, err
		}
	}
	took := time.Since(began)
	return took, js.DeleteConsumer(ctx, events.StreamAudit, cons.CachedInfo().Name)
}

// drain starts the ingester and waits until the whole backlog is written down as committed.
func drain(ctx context.Context, e *engines, nc *nats.Conn, o options) (time.Duration, usage, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, usage{}, err
	}
	want, err := lastSequences(ctx, js)
	if err != nil {
		return 0, usage{}, err
	}
	began := time.Now()
	cmd, _, err := startIngester(e, o.bin)
	if err != nil {
		return 0, usage{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	err = waitCommitted(ctx, js, want)
	took := time.Since(began)
	cost, stopErr := stop(cmd)
	return took, cost, errors.Join(err, stopErr)
}

// lastSequences is the sequence of each partition's last message.
func lastSequences(ctx context.Context, js jetstream.JetStream) (map[string]uint64, error) {
	stream, err := js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	for p := range 16 {
		m, err := stream.GetLastMsgForSubject(ctx, fmt.Sprintf("audit.log.%d.*", p))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[strconv.Itoa(p)] = m.Sequence
	}
	return out, nil
}

// waitCommitted polls the positions, which the ingester writes after each commit, until all of want are reached.
func waitCommitted(ctx context.Context, js jetstream.JetStream, want map[string]uint64) error {
	kv, err := js.KeyValue(ctx, "audit_positions")
	if err != nil {
		return err
	}
	for p, seq := range want {
		for {
			var pos struct {
				LastSeq uint64 `json:"last_seq"`
			}
			if entry, err := kv.Get(ctx, p); err == nil {
				if err := json.Unmarshal(entry.Value(), &pos); err != nil {
					return err
				}
			} else if !errors.Is(err, jetstream.ErrKeyNotFound) {
				return err
			}
			if pos.LastSeq >= seq {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("partition %s is at %d of %d: %w", p, pos.LastSeq, seq, ctx.Err())
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}
