package verify_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	natsside "example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

const partitions = 4

var databases atomic.Int32

// fixture is a system of its own on the shared engines: fresh streams, a fresh database, and an ingester in ten lines.
type fixture struct {
	verify.System
	js jetstream.JetStream
	db driver.Conn
	// events and dlq count what was published to the stream by fill, and as dead letters.
	events, dlq int
}

func setup(t *testing.T) *fixture {
	t.Helper()
	nc, err := nats.Connect(shared.NATSURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	f := &fixture{}
	if f.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	// One stream stays: with the last one the server removes a folder that the next one is just about to need.
	if _, err := f.js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "KEEP"}); err != nil {
		t.Fatal(err)
	}
	for name := range f.js.StreamNames(t.Context()).Name() {
		if name == "KEEP" {
			continue
		}
		if err := f.js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	shape := natsside.Shape{Partitions: partitions, Replicas: 1, MaxBytes: -1, HeartbeatTTL: time.Minute}
	if err := natsside.Setup(t.Context(), f.js, shape, log); err != nil {
		t.Fatal(err)
	}
	dsn := fmt.Sprintf("clickhouse://127.0.0.1:%d/verify_%d", shared.ClickHousePort(), databases.Add(1))
	f.System = verify.System{Reader: replay.New(f.js), Partitions: partitions}
	if f.Ledger, err = ledger.Open(t.Context(), f.js); err != nil {
		t.Fatal(err)
	}
	if f.Positions, err = ledger.OpenPositions(t.Context(), f.js); err != nil {
		t.Fatal(err)
	}
	if f.Table, err = clickhouse.Open(t.Context(), dsn, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Table.Close() })
	if err := f.Table.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	opts, err := chgo.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	if f.db, err = chgo.Open(opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.db.Close() })
	return f
}

// tenants live in different partitions of 4.
var tenants = []uuid.UUID{
	uuid.MustParse("11111111-2222-4333-8444-555555555550"), uuid.MustParse("11111111-2222-4333-8444-555555555551"),
	uuid.MustParse("11111111-2222-4333-8444-555555555552"),
}

var began = time.Date(2026, 10, 31, 23, 59, 50, 0, time.UTC)

func event(n int) []byte {
	return fmt.Appendf(nil, `{"id":"%s","actor_id":"user_%d","actor_type":"user","action":"a","resource_type":"r","resource_id":"%d","metadata":{"n":%d},"created_at":"%s"}`,
		uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)), n%7, n, n, began.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano))
}

func (f *fixture) publish(t *testing.T, tenant uuid.UUID, data []byte) uint64 {
	t.Helper()
	ack, err := f.js.Publish(t.Context(), events.Subject(tenant), data)
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

// fill publishes n events, one after the other for each tenant, and ingests them in batches of 7.
func (f *fixture) fill(t *testing.T, n int) {
	t.Helper()
	for range n {
		f.publish(t, tenants[f.events%len(tenants)], event(f.events))
		f.events++
	}
	f.ingest(t)
}

// ingest does what the pipeline does, in batches of 7.
func (f *fixture) ingest(t *testing.T) {
	t.Helper()
	for p := range partitions {
		last, err := f.Ledger.Last(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		_, end, err := f.Reader.Bounds(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var batch []replay.Message
		flush := func() {
			last = f.append(t, p, last, batch)
			f.insert(t, p, last.Batch, batch)
			batch = nil
		}
		err = f.Reader.Messages(t.Context(), p, nil, last.LastSeq+1, end, func(m replay.Message) error {
			if batch = append(batch, m); len(batch) == 7 {
				flush()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) > 0 {
			flush()
		}
		if err := f.Positions.Put(t.Context(), p, ledger.Position{Batch: last.Batch, LastSeq: last.LastSeq}); err != nil {
			t.Fatal(err)
		}
	}
}

// entry makes the ledger's entry for a batch.
func entry(p int, last ledger.Record, batch []replay.Message) ledger.Entry {
	e := ledger.Entry{
		Partition: p, Batch: last.Batch + 1, FirstSeq: batch[0].Seq, LastSeq: batch[len(batch)-1].Seq, Messages: len(batch),
		Schema: ledger.SchemaVersion, PrevHash: last.Hash, CommittedThrough: last.Batch, Follows: last.Seq, Writer: "test",
	}
	h := ledger.NewHasher(last.Hash)
	var judge replay.Judge
	blocks := map[int]*ledger.Block{}
	for i := range batch {
		m := &batch[i]
		h.Add(m.Seq, m.Time, m.Subject, m.Data)
		_, ev, ok := judge.Row(m)
		if !ok {
			e.Rejected++
			continue
		}
		e.Rows++
		at := time.UnixMicro(ev.CreatedAt).UTC()
		month := at.Year()*100 + int(at.Month())
		b := blocks[month]
		if b == nil {
			b = &ledger.Block{Month: month, MinCreated: ev.CreatedAt, MaxCreated: ev.CreatedAt}
			blocks[month] = b
		}
		b.Rows++
		b.MinCreated, b.MaxCreated = min(b.MinCreated, ev.CreatedAt), max(b.MaxCreated, ev.CreatedAt)
	}
	for _, b := range blocks {
		e.Blocks = append(e.Blocks, *b)
	}
	e.Hash = h.Sum()
	return e
}

func (f *fixture) append(t *testing.T, p int, last ledger.Record, batch []replay.Message) ledger.Record {
	t.Helper()
	r, err := f.Ledger.Append(t.Context(), entry(p, last, batch))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// insert writes a batch's rows and dead letters.
func (f *fixture) insert(t *testing.T, p int, number uint64, batch []replay.Message) {
	t.Helper()
	var judge replay.Judge
	c := new(clickhouse.Columns)
	for i := range batch {
		m := &batch[i]
		tenant, ev, ok := judge.Row(m)
		if ok {
			c.Append(p, tenant, m.Seq, m.Time, ev)
			continue
		}
		f.dlq++
		letter := nats.NewMsg(events.DLQSubject(tenant))
		letter.Data = m.Data
		letter.Header.Set(events.HeaderSequence, strconv.FormatUint(m.Seq, 10))
		if _, err := f.js.PublishMsg(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Table.Insert(t.Context(), c, fmt.Sprintf("%d:%d", p, number)); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	if err := f.db.Exec(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func (f *fixture) verify(t *testing.T, opts verify.Options) *verify.Report {
	t.Helper()
	r, err := verify.Run(t.Context(), f.System, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
