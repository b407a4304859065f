package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// publisherTimeout bounds each test of the publisher.
const publisherTimeout = 60 * time.Second

// broker is a NATS server with the stream the publisher writes to. It can be restarted on the same port and folder.
type broker struct {
	tb   testing.TB
	dir  string
	port int
	srv  *server.Server
}

func startBroker(tb testing.TB, change func(*jetstream.StreamConfig)) *broker {
	tb.Helper()
	b := &broker{tb: tb, dir: tb.TempDir(), port: server.RANDOM_PORT}
	b.start()
	tb.Cleanup(func() { b.stop() })
	config := jetstream.StreamConfig{
		Name: events.StreamAudit, Subjects: []string{events.SubjectEvents}, Storage: jetstream.FileStorage,
		AllowAtomicPublish: true, AllowDirect: true, Discard: jetstream.DiscardNew,
		SubjectTransform: &jetstream.SubjectTransformConfig{
			Source: events.SubjectEvents, Destination: "audit.log.{{partition(16,1)}}.{{wildcard(1)}}",
		},
	}
	if change != nil {
		change(&config)
	}
	js, err := jetstream.New(b.connect(b.url()))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err = js.CreateStream(tb.Context(), config); err != nil {
		tb.Fatal(err)
	}
	return b
}

func (b *broker) start() {
	b.tb.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: b.port, JetStream: true, StoreDir: b.dir, SyncAlways: true, NoSigs: true, NoLog: true,
		MaxPayload: 256 << 10,
	})
	if err != nil {
		b.tb.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		b.tb.Fatal("NATS is not ready after 10 s")
	}
	b.srv, b.port = srv, srv.Addr().(*net.TCPAddr).Port
}

func (b *broker) stop() {
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
}

func (b *broker) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", b.port) }

func (b *broker) connect(url string, options ...nats.Option) *nats.Conn {
	b.tb.Helper()
	options = append(options, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ErrorHandler(nil))
	nc, err := nats.Connect(url, options...)
	if err != nil {
		b.tb.Fatal(err)
	}
	b.tb.Cleanup(nc.Close)
	return nc
}

// publisher makes one over its own connection, through url, and closes it at the end.
func (b *broker) publisher(url string, options ...events.Option) *events.Publisher {
	b.tb.Helper()
	return b.publisherOver(b.connect(url), options...)
}

func (b *broker) publisherOver(nc *nats.Conn, options ...events.Option) *events.Publisher {
	b.tb.Helper()
	p, err := events.NewPublisher(nc, options...)
	if err != nil {
		b.tb.Fatal(err)
	}
	b.tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx) // tests that care about Close call it themselves
	})
	return p
}

// stored reads the whole stream: ids in order of their sequences for each tenant, and how many messages came in a batch.
func (b *broker) stored() (byTenant map[uuid.UUID][]uuid.UUID, batched int) {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.tb.Context(), publisherTimeout)
	defer cancel()
	js, err := jetstream.New(b.connect(b.url()))
	if err != nil {
		b.tb.Fatal(err)
	}
	stream, err := js.Stream(ctx, events.StreamAudit)
	if err != nil {
		b.tb.Fatal(err)
	}
	byTenant = map[uuid.UUID][]uuid.UUID{}
	total := stream.CachedInfo().State.Msgs
	if total == 0 {
		return byTenant, 0
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		b.tb.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		b.tb.Fatal(err)
	}
	defer messages.Stop()
	var decoder events.Decoder
	for range total {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			b.tb.Fatal(err)
		}
		partition, tenant, err := events.ParseLogSubject(m.Subject())
		if err != nil {
			b.tb.Fatal(err)
		}
		if want := events.Partition(tenant, 16); partition != want {
			b.tb.Fatalf("the server puts tenant %s into partition %d, events.Partition says %d", tenant, partition, want)
		}
		var raw events.Raw
		if err := decoder.Decode(m.Data(), tenant, time.Now(), &raw); err != nil {
			b.tb.Fatal(err)
		}
		if got := m.Headers().Get("Nats-Msg-Id"); got != raw.ID.String() {
			b.tb.Fatalf("message id %q, event id %s", got, raw.ID)
		}
		if m.Headers().Get("Nats-Batch-Id") != "" {
			batched++
		}
		byTenant[tenant] = append(byTenant[tenant], raw.ID)
	}
	return byTenant, batched
}

func publisherContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), publisherTimeout)
	tb.Cleanup(cancel)
	return ctx
}

func newEvent(tenant uuid.UUID) events.Event {
	return events.Event{
		ID: events.NewID(), TenantID: tenant, ActorID: "user_17", ActorType: "user", Action: "invoice.approve",
		ResourceType: "invoice", ResourceID: "inv_42", Metadata: json.RawMessage(`{"n": 1.0}`), CreatedAt: time.Now(),
	}
}

// publishAll publishes n events of each tenant from a goroutine of its own and returns their ids in the order of the calls.
func publishAll(ctx context.Context, tb testing.TB, p *events.Publisher, tenants, n int) map[uuid.UUID][]uuid.UUID {
	tb.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	sent := map[uuid.UUID][]uuid.UUID{}
	for range tenants {
		wg.Go(func() {
			tenant := uuid.New()
			var ids []uuid.UUID
			var futures []*events.Future
			for range n {
				f, err := p.PublishAsync(ctx, newEvent(tenant))
				if err != nil {
					tb.Error(err)
					return
				}
				futures = append(futures, f)
				ids = append(ids, f.ID())
			}
			for _, f := range futures {
				if _, err := f.Wait(ctx); err != nil {
					tb.Error(err)
				}
			}
			mu.Lock()
			sent[tenant] = ids
			mu.Unlock()
		})
	}
	wg.Wait()
	return sent
}

// sameOrder fails unless each tenant's events are stored once and in the order of the calls.
func sameOrder(tb testing.TB, got, want map[uuid.UUID][]uuid.UUID) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Errorf("%d tenants stored, %d published", len(got), len(want))
	}
	for tenant, ids := range want {
		if len(got[tenant]) != len(ids) {
			tb.Errorf("tenant %s: %d events stored, %d published", tenant, len(got[tenant]), len(ids))
			continue
		}
		for i := range ids {
			if got[tenant][i] != ids[i] {
				tb.Errorf("tenant %s: event %d of %d is not the one published there", tenant, i, len(ids))
				break
			}
		}
	}
}

func TestPublisherStoresOnceInOrderByBatches(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	p := b.publisher(b.url())
	want := publishAll(ctx, t, p, 8, 500)
	got, batched := b.stored()
	sameOrder(t, got, want)
	if batched < 3500 {
		t.Errorf("%d of 4000 events came in batches: concurrent publishes must share the flush", batched)
	}
}

func TestPublisherConcurrentPublishGroups(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	p := b.publisher(b.url())
	tenant := uuid.New()
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 10 {
				if err := p.Publish(ctx, newEvent(tenant)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, batched := b.stored()
	if len(got[tenant]) != 640 || batched < 320 {
		t.Errorf("%d of 640 events stored, %d in batches", len(got[tenant]), batched)
	}
}

func TestPublisherLonePublishIsPlain(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	p := b.publisher(b.url())
	e := newEvent(uuid.New())
	e.ID, e.CreatedAt = uuid.Nil, time.Time{}
	f, err := p.PublishAsync(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	ack, err := f.Wait(ctx)
	if err != nil || ack.Sequence != 1 || ack.Duplicate || f.ID().Version() != 7 {
		t.Errorf("ack %+v, error %v, id %s; want sequence 1 and a version 7 id", ack, err, f.ID())
	}
	got, batched := b.stored()
	if batched != 0 || len(got[e.TenantID]) != 1 || got[e.TenantID][0] != f.ID() {
		t.Errorf("stored %v, %d in batches", got, batched)
	}
}

// holdFirst publishes one event through a proxy that holds its answer back, so that what enqueue publishes meanwhile gathers in one
// group, which goes when the answer is let through.
func holdFirst(ctx context.Context, t *testing.T, px *proxy, p *events.Publisher, enqueue func()) {
	t.Helper()
	release := px.hold()
	f, err := p.PublishAsync(ctx, newEvent(uuid.New()))
	if err != nil {
		t.Fatal(err)
	}
	enqueue()
	release()
	if _, err := f.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestPublisherDuplicatesInsideABatch(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	px := startProxy(t, b.port)
	nc := b.connect(px.url())
	p := b.publisherOver(nc)
	tenant := uuid.New()
	old := newEvent(tenant)
	if err := p.Publish(ctx, old); err != nil {
		t.Fatal(err)
	}
	twin := newEvent(tenant)
	var futures []*events.Future
	holdFirst(ctx, t, px, p, func() {
		for _, e := range []events.Event{newEvent(tenant), old, twin, newEvent(tenant), twin, newEvent(tenant)} {
			f, err := p.PublishAsync(ctx, e)
			if err != nil {
				t.Fatal(err)
			}
			futures = append(futures, f)
		}
	})
	want := []uuid.UUID{old.ID, futures[0].ID(), twin.ID, futures[3].ID(), futures[5].ID()}
	for i, f := range futures {
		ack, err := f.Wait(ctx)
		if err != nil || ack.Duplicate != (i == 1 || i == 4) || ack.Sequence == 0 {
			t.Errorf("event %d: %+v, %v", i, ack, err)
		}
	}
	if n, most := nc.Stats().OutMsgs, uint64(1+7+7); n > most {
		t.Errorf("%d messages sent, want at most %d: one alone, the batch once, then each of it singly", n, most)
	}
	got, _ := b.stored()
	sameOrder(t, map[uuid.UUID][]uuid.UUID{tenant: got[tenant]}, map[uuid.UUID][]uuid.UUID{tenant: want})
}

func TestPublisherRefusedMessageFailsAlone(t *testing.T) {
	b := startBroker(t, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 2000 })
	ctx := publisherContext(t)
	px := startProxy(t, b.port)
	p := b.publisher(px.url())
	tenant := uuid.New()
	large := newEvent(tenant)
	large.Metadata = json.RawMessage(`{"pad":"` + strings.Repeat("x", 3000) + `"}`)
	for _, place := range []int{0, 2, 4} { // first, middle and last of a batch of five
		var futures []*events.Future
		holdFirst(ctx, t, px, p, func() {
			for i := range 5 {
				e := newEvent(tenant)
				if i == place {
					e.Metadata = large.Metadata
				}
				f, err := p.PublishAsync(ctx, e)
				if err != nil {
					t.Fatal(err)
				}
				futures = append(futures, f)
			}
		})
		for i, f := range futures {
			_, err := f.Wait(ctx)
			var refusal *events.RefusalError
			if i != place && err != nil {
				t.Errorf("neighbour %d of the refused event %d: %v", i, place, err)
			}
			if i == place && (!errors.Is(err, events.ErrRefused) || !errors.As(err, &refusal) || refusal.Code != 10054) {
				t.Errorf("event %d: error %v, want ErrRefused with code 10054", i, err)
			}
		}
	}
	if got, _ := b.stored(); len(got[tenant]) != 12 {
		t.Errorf("%d events stored, want 12", len(got[tenant]))
	}
}

func TestPublisherTooLargeForTheServer(t *testing.T) {
	b := startBroker(t, nil)
	b.stop()
	b.tb = t
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: b.port, JetStream: true, StoreDir: b.dir, NoSigs: true,
		NoLog: true, MaxPayload: 1024})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	b.srv = srv
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("not ready")
	}
	e := newEvent(uuid.New())
	e.Metadata = json.RawMessage(`{"pad":"` + strings.Repeat("x", 1000) + `"}`)
	if err := b.publisher(b.url()).Publish(publisherContext(t), e); !errors.Is(err, events.ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
}

func TestPublisherFullStreamRefuses(t *testing.T) {
	b := startBroker(t, func(c *jetstream.StreamConfig) { c.MaxMsgs = 3 })
	ctx := publisherContext(t)
	p := b.publisher(b.url())
	tenant := uuid.New()
	for i := range 5 {
		err := p.Publish(ctx, newEvent(tenant))
		if (i < 3) != (err == nil) || i >= 3 && !errors.Is(err, events.ErrRefused) {
			t.Errorf("event %d: %v", i, err)
		}
	}
}

func TestPublisherRetriesLostAcks(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	px := startProxy(t, b.port)
	p := b.publisher(px.url(), events.WithAckWait(300*time.Millisecond))
	want := publishAll(ctx, t, p, 4, 50)
	for range 3 {
		px.dropAnswers.Store(true)
		time.AfterFunc(200*time.Millisecond, px.cut) // the connection dies with the answers
		time.AfterFunc(220*time.Millisecond, func() { px.dropAnswers.Store(false) })
		for tenant, ids := range publishAll(ctx, t, p, 4, 50) {
			want[tenant] = ids
		}
	}
	got, _ := b.stored()
	if n := count(got); n != 4*4*50 {
		t.Errorf("%d events stored, want %d", n, 4*4*50)
	}
	sameOrder(t, got, want)
}

func TestPublisherRetriesWhenOnlyTheAckIsLost(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	px := startProxy(t, b.port)
	p := b.publisher(px.url(), events.WithAckWait(200*time.Millisecond))
	px.swallowAcks.Store(2) // the next two messages of the stream to us vanish, the connection lives
	tenant := uuid.New()
	f, err := p.PublishAsync(ctx, newEvent(tenant))
	if err != nil {
		t.Fatal(err)
	}
	ack, err := f.Wait(ctx)
	if err != nil || !ack.Duplicate || ack.Sequence != 1 {
		t.Errorf("ack %+v, error %v; want the sequence of the first attempt as a duplicate", ack, err)
	}
	if got, _ := b.stored(); len(got[tenant]) != 1 {
		t.Errorf("stored %d times", len(got[tenant]))
	}
}

func TestPublisherSurvivesServerRestart(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	p := b.publisher(b.url(), events.WithMaxPending(300))
	done := make(chan map[uuid.UUID][]uuid.UUID)
	go func() { done <- publishAll(ctx, t, p, 4, 3000) }()
	for range 3 {
		time.Sleep(100 * time.Millisecond)
		b.stop()
		b.start()
	}
	want := <-done
	got, _ := b.stored()
	if n := count(got); n != 12000 {
		t.Errorf("%d events stored, want 12000", n)
	}
	for tenant, ids := range want {
		seen := map[uuid.UUID]bool{}
		for _, id := range got[tenant] {
			seen[id] = true
		}
		for _, id := range ids {
			if !seen[id] {
				t.Errorf("event %s was acknowledged and is not stored", id)
			}
		}
	}
}

func TestPublisherCloseDrains(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	p := b.publisher(b.url())
	tenant := uuid.New()
	var futures []*events.Future
	for range 2500 {
		f, err := p.PublishAsync(ctx, newEvent(tenant))
		if err != nil {
			t.Fatal(err)
		}
		futures = append(futures, f)
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for i, f := range futures {
		select {
		case <-f.Done():
		default:
			t.Fatalf("event %d is not settled after Close", i)
		}
		if _, err := f.Wait(ctx); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	if got, _ := b.stored(); len(got[tenant]) != 2500 {
		t.Errorf("%d events stored, want 2500", len(got[tenant]))
	}
	if err := p.Publish(ctx, newEvent(tenant)); !errors.Is(err, events.ErrClosed) {
		t.Errorf("publish after Close: %v, want ErrClosed", err)
	}
	if err := p.Close(ctx); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestPublisherCloseGivesUpWithItsContext(t *testing.T) {
	b := startBroker(t, nil)
	p := b.publisher(b.url())
	b.stop()
	f, err := p.PublishAsync(publisherContext(t), newEvent(uuid.New()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v, want the deadline", err)
	}
	if _, err := f.Wait(t.Context()); !errors.Is(err, events.ErrUnconfirmed) {
		t.Errorf("pending event: %v, want ErrUnconfirmed", err)
	}
	b.start()
}

func TestPublisherContextEnds(t *testing.T) {
	b := startBroker(t, nil)
	p := b.publisher(b.url(), events.WithMaxPending(1), events.WithRetryFor(2*time.Second))
	b.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := p.Publish(ctx, newEvent(uuid.New())); !errors.Is(err, events.ErrUnconfirmed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish without a server: %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %s to hear the context", took)
	}
	// Nobody waits for that event: its place must become free although the server stays away.
	f, err := p.PublishAsync(publisherContext(t), newEvent(uuid.New()))
	if err != nil {
		t.Fatal(err)
	}
	full, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Publish(full, newEvent(uuid.New())); !errors.Is(err, events.ErrPushback) {
		t.Errorf("publish without room: %v, want ErrPushback", err)
	}
	if _, err := f.Wait(publisherContext(t)); !errors.Is(err, events.ErrUnconfirmed) {
		t.Errorf("event after WithRetryFor: %v, want ErrUnconfirmed", err)
	}
	if err := p.Publish(full, newEvent(uuid.New())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish with an ended context: %v", err)
	}
	b.start()
}

func TestPublisherWithoutAtomicPublish(t *testing.T) {
	b := startBroker(t, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false })
	ctx := publisherContext(t)
	nc := b.connect(b.url())
	want := publishAll(ctx, t, b.publisherOver(nc), 4, 250)
	got, batched := b.stored()
	sameOrder(t, got, want)
	if n := nc.Stats().OutMsgs; n > 2000 {
		t.Errorf("%d messages sent for 1000 events: the refused batch must be tried once", n)
	}
	if batched != 0 {
		t.Errorf("%d events in batches", batched)
	}
}

func TestPublisherReportsInvalidEvents(t *testing.T) {
	b := startBroker(t, nil)
	p := b.publisher(b.url())
	e := newEvent(uuid.New())
	e.Action, e.ActorID = "", "a\x00b"
	var invalid *events.ValidationError
	if err := p.Publish(publisherContext(t), e); !errors.As(err, &invalid) || len(invalid.Faults) != 2 {
		t.Errorf("error %v, want both faults", err)
	}
}

func count(m map[uuid.UUID][]uuid.UUID) (n int) {
	for _, ids := range m {
		n += len(ids)
	}
	return n
}

// proxy stands between publisher and server and loses answers.
type proxy struct {
	tb       testing.TB
	listener net.Listener
	target   string

	// dropAnswers loses whatever the server sends.
	dropAnswers atomic.Bool
	// swallowAcks is how many more MSG frames of the server get lost.
	swallowAcks atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
	gate  sync.Mutex // held while answers are held back
}

func startProxy(tb testing.TB, port int) *proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	px := &proxy{tb: tb, listener: l, target: fmt.Sprintf("127.0.0.1:%d", port)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", px.target)
			if err != nil {
				_ = client.Close()
				continue
			}
			px.mu.Lock()
			px.conns = append(px.conns, client, up)
			px.mu.Unlock()
			wg.Go(func() { _, _ = io.Copy(up, client); _ = up.Close() })
			wg.Go(func() { px.answers(client, up) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		px.cut()
		wg.Wait()
	})
	return px
}

func (px *proxy) url() string { return "nats://" + px.listener.Addr().String() }

// hold keeps answers back until release is called.
func (px *proxy) hold() (release func()) {
	px.gate.Lock()
	return px.gate.Unlock
}

// cut breaks every connection.
func (px *proxy) cut() {
	px.mu.Lock()
	defer px.mu.Unlock()
	for _, c := range px.conns {
		_ = c.Close()
	}
	px.conns = nil
}

func (px *proxy) answers(client, up net.Conn) {
	defer func() { _ = client.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := up.Read(buffer)
		if err != nil {
			return
		}
		px.gate.Lock()
		px.gate.Unlock() //nolint:staticcheck // waits until answers may pass
		part := buffer[:n]
		if px.dropAnswers.Load() {
			continue
		}
		if bytes.HasPrefix(part, []byte("MSG ")) && px.swallowAcks.Load() > 0 && px.swallowAcks.Add(-1) >= 0 {
			continue
		}
		if _, err := client.Write(part); err != nil {
			return
		}
	}
}

func buildPublish(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "publish")
	if out, err := exec.Command("go", "build", "-o", bin, "example.com/auditlog/pkg/events/cmd/publish").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// runPublish runs the command and returns what it printed and its exit status.
func runPublish(t *testing.T, bin, url string, stdin io.Reader, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx := publisherContext(t)
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), "AUDIT_NATS_URL="+url, "AUDIT_NATS_CREDS=", "AUDIT_NATS_CA=")
	cmd.Stdin = stdin
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func TestPublishCommand(t *testing.T) {
	b := startBroker(t, nil)
	bin := buildPublish(t)
	tenant := uuid.New()
	var plain bytes.Buffer
	for range 1500 {
		_, _ = fmt.Fprintf(&plain, `{"tenant_id":%q,"id":%q,"actor_id":"a","actor_type":"user","action":"x","resource_type":"r","resource_id":"1",`+
			`"metadata":{"n": 1.0, "n":2},"created_at":"2026-01-02T03:04:05.123456789+01:00"}`+"\n", tenant, events.NewID())
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(plain.Bytes())
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "day.ndjson.gz")
	if err := os.WriteFile(file, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}

	out, errOut, status := runPublish(t, bin, b.url(), nil, file)
	if status != 0 || errOut != "" || !strings.HasPrefix(out, "published 1500, duplicates 0, refused lines 0, failed 0, ") {
		t.Errorf("first run: %d\n%s%s", status, out, errOut)
	}
	out, errOut, status = runPublish(t, bin, b.url(), &plain)
	if status != 0 || errOut != "" || !strings.HasPrefix(out, "published 0, duplicates 1500, ") {
		t.Errorf("second run, from standard input: %d\n%s%s", status, out, errOut)
	}
	bad := strings.NewReader("\n{\"action\":1}\nnonsense\n")
	out, errOut, status = runPublish(t, bin, b.url(), bad, "-")
	if status != 1 || !strings.HasPrefix(out, "published 0, duplicates 0, refused lines 2, ") ||
		!strings.Contains(errOut, "line 2: action: must be a string, not a number\n") || !strings.Contains(errOut, "line 2: tenant_id: is missing\n") ||
		!strings.Contains(errOut, "line 3: message: is not valid JSON") {
		t.Errorf("bad lines: %d\n%s%s", status, out, errOut)
	}
	if got, _ := b.stored(); len(got[tenant]) != 1500 {
		t.Errorf("%d events stored, want 1500", len(got[tenant]))
	}
}

func TestPublishCommandInterrupted(t *testing.T) {
	b := startBroker(t, nil)
	bin := buildPublish(t)
	ctx := publisherContext(t)
	cmd := exec.CommandContext(ctx, bin)
	cmd.Env = append(os.Environ(), "AUDIT_NATS_URL="+b.url())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tenant := uuid.New()
	_, _ = fmt.Fprintf(stdin, `{"tenant_id":%q,"id":%q,"actor_id":"a","actor_type":"user","action":"x","resource_type":"r","resource_id":"1",`+
		`"created_at":"2026-01-02T03:04:05Z"}`+"\n", tenant, events.NewID())
	for got := 0; got == 0 && ctx.Err() == nil; { // standard input stays open: the command waits for more
		m, _ := b.stored()
		got = len(m[tenant])
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(out.String(), "published 1, ") {
		t.Errorf("exit status %d, output %q", cmd.ProcessState.ExitCode(), out.String())
	}
}

func TestPublisherWithoutBatchesStillPipelines(t *testing.T) {
	b := startBroker(t, nil)
	ctx := publisherContext(t)
	want := publishAll(ctx, t, b.publisher(b.url(), events.WithMaxBatch(1)), 4, 250)
	got, batched := b.stored()
	sameOrder(t, got, want)
	if batched != 0 {
		t.Errorf("%d events in batches", batched)
	}
}
