package clickhouse_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// shared is for tests that leave the engine alone; those that kill it start their own.
var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

// november is the month that test events are of, in microseconds.
var november = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

const day = int64(24 * time.Hour / time.Microsecond)

var databases atomic.Int32

// fixture is a migrated database of its own.
type fixture struct {
	*clickhouse.Store
	dsn string
	db  driver.Conn
}

// setup migrates a new database on s. params is appended to the DSN, such as "compress=lz4".
func setup(t testing.TB, s *stack.Stack, params string, opts ...clickhouse.Option) *fixture {
	t.Helper()
	dsn := fmt.Sprintf("clickhouse://127.0.0.1:%d/test_%d?%s", s.ClickHousePort(), databases.Add(1), params)
	f := &fixture{dsn: dsn, Store: openStore(t, dsn, opts...), db: openDB(t, strings.TrimSuffix(dsn, params))}
	if err := f.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func openStore(t testing.TB, dsn string, opts ...clickhouse.Option) *clickhouse.Store {
	t.Helper()
	s, err := clickhouse.Open(t.Context(), dsn, slog.New(slog.DiscardHandler), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}

func openDB(t testing.TB, dsn string) driver.Conn {
	t.Helper()
	opts, err := chgo.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	db, err := chgo.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// exec runs one statement on the fixture's database.
func (f *fixture) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	if err := f.db.Exec(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// number runs a query that gives one UInt64.
func (f *fixture) number(t testing.TB, query string, args ...any) (n uint64) {
	t.Helper()
	if err := f.db.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// block makes the rows of the sequences from first to last of partition 3, one a second from the beginning of November.
func block(first, last uint64) *clickhouse.Columns {
	c := new(clickhouse.Columns)
	for seq := first; seq <= last; seq++ {
		appendEvent(c, seq, november+int64(seq)*1e6)
	}
	return c
}

func appendEvent(c *clickhouse.Columns, seq uint64, createdAt int64) {
	ev := events.Raw{
		ID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, seq)), CreatedAt: createdAt,
		ActorID: fmt.Appendf(nil, "user_%d", seq%100), ActorType: []byte("user"), Action: []byte("invoice.approve"),
		ResourceType: []byte("invoice"), ResourceID: fmt.Appendf(nil, "inv_%d", seq), Metadata: []byte(`{"ip":"203.0.113.9"}`),
	}
	c.Append(3, tenant, seq, time.UnixMicro(createdAt).Add(time.Second), &ev)
}

var tenant = uuid.MustParse("11111111-2222-4333-8444-555555555555")

// readBack asks for the sequences first to last of the test's partition in November.
func (f *fixture) readBack(t testing.TB, first, last uint64) []uint64 {
	t.Helper()
	seqs, err := f.ReadBack(context.Background(), 3, first, last, november, november+30*day-1)
	if err != nil {
		t.Fatal(err)
	}
	return seqs
}

// wantSeqs fails unless exactly the sequences from first to last are there, each in one row.
func (f *fixture) wantSeqs(t testing.TB, first, last uint64) {
	t.Helper()
	seqs := f.readBack(t, first, last)
	if uint64(len(seqs)) != last-first+1 || seqs[0] != first || seqs[len(seqs)-1] != last {
		t.Fatalf("%d sequences are there, want all from %d to %d", len(seqs), first, last)
	}
	if rows := f.number(t, "SELECT count() FROM event_log WHERE stream_seq BETWEEN ? AND ?", first, last); rows != last-first+1 {
		t.Fatalf("%d rows, want %d", rows, last-first+1)
	}
}
