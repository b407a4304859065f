// Package verifytest makes a system for tests of what reads ledger, stream and table together: fresh streams and a fresh database on real engines, and
// an ingester in ten lines, so that tests can also write down what a real one never would.
package verifytest

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	natsside "example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

// Partitions is how many the stream has.
const Partitions = 4

// batchMessages is how many messages Ingest puts into a batch.
const batchMessages = 7

// Shape is that of the streams.
var Shape = natsside.Shape{Partitions: Partitions, Replicas: 1, MaxBytes: -1, HeartbeatTTL: time.Minute}

var databases atomic.Int32

// Fixture is a system of its own.
type Fixture struct {
	verify.System
	JS jetstream.JetStream
	// DSN is of the database.
	DSN string
	// Batch is how many messages Ingest puts into a batch: few, unless a test changes it.
	Batch int

	http, database string
	// events and dlq count what was published to the stream by fill, and as dead letters.
	events, dlq int
}

// Setup empties the stack's NATS and makes a new database.
func Setup(t testing.TB, s *stack.Stack) *Fixture {
	t.Helper()
	nc, err := nats.Connect(s.NATSURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	f := &Fixture{Batch: batchMessages}
	if f.JS, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	// One stream stays: with the last one the server removes a folder that the next one is just about to need.
	if _, err := f.JS.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "KEEP"}); err != nil {
		t.Fatal(err)
	}
	for name := range f.JS.StreamNames(t.Context()).Name() {
		if name == "KEEP" {
			continue
		}
		if err := f.JS.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	if err := natsside.Setup(t.Context(), f.JS, Shape, log); err != nil {
		t.Fatal(err)
	}
	f.http, f.database = s.ClickHouseHTTPURL(), fmt.Sprintf("verify_%d", databases.Add(1))
	f.DSN = fmt.Sprintf("clickhouse://127.0.0.1:%d/%s", s.ClickHousePort(), f.database)
	f.System = verify.System{Reader: replay.New(f.JS), Partitions: Partitions}
	if f.Ledger, err = ledger.Open(t.Context(), f.JS); err != nil {
		t.Fatal(err)
	}
	if f.Positions, err = ledger.OpenPositions(t.Context(), f.JS); err != nil {
		t.Fatal(err)
	}
	if f.Table, err = clickhouse.Open(t.Context(), f.DSN, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Table.Close() })
	if err := f.Table.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.Control, err = natsside.SetupControl(t.Context(), f.JS, Shape, f.Table, log); err != nil {
		t.Fatal(err)
	}
	return f
}

// Tenants live in different Partitions of 4.
var Tenants = []uuid.UUID{
	uuid.MustParse("11111111-2222-4333-8444-555555555550"), uuid.MustParse("11111111-2222-4333-8444-555555555551"),
	uuid.MustParse("11111111-2222-4333-8444-555555555552"),
}

// began is shortly before a year ends, so that events lie in two.
var began = time.Date(2025, 12, 31, 23, 59, 50, 0, time.UTC)

// Event is the n-th event, as it is published.
func Event(n int) []byte {
	return fmt.Appendf(nil, `{"id":"%s","actor_id":"user_%d","actor_type":"user","action":"a","resource_type":"r","resource_id":"%d","metadata":{"n":%d},"created_at":"%s"}`,
		uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)), n%7, n, n, began.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano))
}

// Publish publishes one message and returns its sequence.
func (f *Fixture) Publish(t testing.TB, tenant uuid.UUID, data []byte) uint64 {
	t.Helper()
	ack, err := f.JS.Publish(t.Context(), events.Subject(tenant), data)
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

// Fill publishes n events, one after the other for each tenant, and ingests them in batches of f.Batch.
func (f *Fixture) Fill(t testing.TB, n int) {
	t.Helper()
	for range n {
		f.Publish(t, Tenants[f.events%len(Tenants)], Event(f.events))
		f.events++
	}
	f.Ingest(t)
}

// Ingest does what the pipeline does, in batches of f.Batch.
func (f *Fixture) Ingest(t testing.TB) {
	t.Helper()
	for p := range Partitions {
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
			last = f.Append(t, p, last, batch)
			f.Insert(t, p, last.Batch, batch)
			batch = nil
		}
		err = f.Reader.Messages(t.Context(), p, nil, last.LastSeq+1, end, func(m replay.Message) error {
			if batch = append(batch, m); len(batch) == f.Batch {
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

// Entry makes the ledger's entry for a batch.
func Entry(p int, last ledger.Record, batch []replay.Message) ledger.Entry {
	var judge replay.Judge
	e := judge.Entry(last.Hash, batch)
	e.Partition, e.Batch, e.Schema, e.Writer = p, last.Batch+1, ledger.SchemaVersion, "test"
	e.PrevHash, e.CommittedThrough, e.Follows = last.Hash, last.Batch, last.Seq
	return e
}

// Append writes the entry of a batch into the ledger.
func (f *Fixture) Append(t testing.TB, p int, last ledger.Record, batch []replay.Message) ledger.Record {
	t.Helper()
	r, err := f.Ledger.Append(t.Context(), Entry(p, last, batch))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Insert writes a batch's rows and dead letters.
func (f *Fixture) Insert(t testing.TB, p int, number uint64, batch []replay.Message) {
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
		if _, err := f.JS.PublishMsg(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Table.Insert(t.Context(), c, fmt.Sprintf("%d:%d", p, number)); err != nil {
		t.Fatal(err)
	}
}

// Exec runs one statement and returns its answer as text.
func (f *Fixture) Exec(t testing.TB, query string) string {
	t.Helper()
	resp, err := http.Post(f.http+"/?database="+url.QueryEscape(f.database), "text/plain", strings.NewReader(query))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", query, resp.Status, body, err)
	}
	return strings.TrimSpace(string(body))
}

// Verify runs verify.Run.
func (f *Fixture) Verify(t testing.TB, opts verify.Options) *verify.Report {
	t.Helper()
	r, err := verify.Run(t.Context(), f.System, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Message reads one message of the stream.
func (f *Fixture) Message(t testing.TB, seq uint64) (out replay.Message) {
	t.Helper()
	for p := range Partitions {
		err := f.Reader.Messages(t.Context(), p, nil, seq, seq, func(m replay.Message) error {
			out = m
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}
