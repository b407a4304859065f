package clickhouse_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/clickhouse"
	"example.com/auditlog/services/query/internal/policy"
)

// shared is for tests that leave the engines alone; those that stop one start their own.
var shared *stack.Stack

// propertyRuns is enough for every run of the tests; -rapid.checks asks for more.
const propertyRuns = "25"

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.checks", propertyRuns) // the command line, parsed later, wins
	os.Exit(stacktest.Main(m, &shared))
}

const (
	partitions = 16
	// migrations are the ingester's own, so that no other table can pass for it.
	migrations = "../../../ingester/internal/clickhouse/migrations/*.sql"
)

var (
	databases atomic.Int32
	sequences atomic.Uint64
	noon      = time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)
)

// fixture is a reader on a database of its own.
type fixture struct {
	*clickhouse.Reader
	db     driver.Conn
	engine *policy.Engine

	rows, queries uint64 // seen by readRows
}

func setup(tb testing.TB, s *stack.Stack, change ...func(*clickhouse.Config)) *fixture {
	tb.Helper()
	name := fmt.Sprintf("reader_%d", databases.Add(1))
	admin := connect(tb, s, "default")
	must(tb, admin.Exec(tb.Context(), "CREATE DATABASE "+name))
	f := &fixture{db: connect(tb, s, name)}
	files, err := filepath.Glob(migrations)
	must(tb, err)
	if len(files) == 0 {
		tb.Fatalf("no migrations in %s", migrations)
	}
	slices.Sort(files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(tb, err)
		for statement := range strings.SplitSeq(string(text), ";\n") {
			if strings.TrimSpace(statement) != "" {
				must(tb, f.db.Exec(tb.Context(), statement))
			}
		}
	}
	// Copies must stay copies until a test merges them.
	must(tb, f.db.Exec(tb.Context(), "SYSTEM STOP MERGES event_log"))
	cfg := clickhouse.Config{DSN: fmt.Sprintf("clickhouse://127.0.0.1:%d/%s", s.ClickHousePort(), name), Partitions: partitions}
	for _, c := range change {
		c(&cfg)
	}
	f.Reader, err = clickhouse.Open(cfg, slog.New(slog.DiscardHandler))
	must(tb, err)
	tb.Cleanup(func() { _ = f.Close() })
	f.engine, err = policy.Open("", slog.New(slog.DiscardHandler), nil)
	must(tb, err)
	return f
}

func connect(tb testing.TB, s *stack.Stack, database string) driver.Conn {
	tb.Helper()
	db, err := chgo.Open(&chgo.Options{Addr: []string{fmt.Sprintf("127.0.0.1:%d", s.ClickHousePort())}, Auth: chgo.Auth{Database: database}})
	must(tb, err)
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// scope is what an auditor of the tenant may see, or a key changed as asked.
func (f *fixture) scope(tb testing.TB, tenant uuid.UUID, change ...func(*policy.Principal)) policy.Scope {
	tb.Helper()
	p := policy.Principal{KeyID: "k", Tenant: tenant, Roles: []string{"auditor"}}
	for _, c := range change {
		c(&p)
	}
	d := f.engine.Decide(tb.Context(), policy.Request{Principal: p, Tenant: tenant, Action: policy.QueryLog, Limit: 50})
	if !d.Allowed {
		tb.Fatalf("denied: %+v", d)
	}
	return d.Scope
}

// newEvent is an ordinary event, of which tests change what they are about.
func newEvent(at time.Time) audit.Event {
	seq := sequences.Add(1)
	return audit.Event{ID: uuid.New(), ActorID: "user_1", ActorType: "user", Action: "invoice.approve", ResourceType: "invoice", ResourceID: "inv_1",
		Metadata: []byte(`{"n":1}`), CreatedAt: at.UTC(), IngestedAt: at.Add(time.Second).UTC().Truncate(time.Microsecond), Seq: seq}
}

// insert writes events of one tenant as one block.
func (f *fixture) insert(tb testing.TB, tenant uuid.UUID, rows ...audit.Event) {
	tb.Helper()
	b, err := f.db.PrepareBatch(context.Background(), "INSERT INTO event_log (partition, tenant_id, created_at, id, actor_id, actor_type, action, "+
		"resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq)")
	must(tb, err)
	for _, e := range rows {
		must(tb, b.Append(uint16(events.Partition(tenant, partitions)), tenant, e.CreatedAt, e.ID, e.ActorID, e.ActorType, e.Action, e.ResourceType,
			e.ResourceID, string(e.Metadata), e.Reasoning, e.IngestedAt, e.Seq))
	}
	must(tb, b.Send())
}

// page reads one page.
func (f *fixture) page(tb testing.TB, scope policy.Scope, q audit.PageQuery) audit.Page {
	tb.Helper()
	q.Tenant = scope.Tenant()
	if q.Limit == 0 {
		q.Limit = audit.DefaultLimit
	}
	p, err := f.Page(context.Background(), scope, q)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// walk reads all pages of a limit and fails on an empty page that was promised.
func (f *fixture) walk(tb interface {
	Helper()
	Fatalf(string, ...any)
}, scope policy.Scope, filter audit.Filter, limit int, between func()) []audit.Event {
	tb.Helper()
	var all []audit.Event
	q := audit.PageQuery{Tenant: scope.Tenant(), Filter: filter, Limit: limit}
	for {
		p, err := f.Page(context.Background(), scope, q)
		if err != nil {
			tb.Fatalf("page after %d events: %v", len(all), err)
		}
		if len(p.Events) > limit || (p.More && len(p.Events) != limit) || (q.After != nil && len(p.Events) == 0) {
			tb.Fatalf("page of %d events with limit %d, more %v, after %v", len(p.Events), limit, p.More, q.After)
		}
		all = append(all, p.Events...)
		if !p.More {
			return all
		}
		last := all[len(all)-1].Position()
		q.After = &last
		if between != nil {
			between()
		}
	}
}

func partitionOf(tenant uuid.UUID) int { return events.Partition(tenant, partitions) }
