package app_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
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
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/query/app"
)

// shared is for tests that leave the engines alone; those that stop one start their own.
var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

const patience = 20 * time.Second

var databases atomic.Int32

// system is a query service on a database of its own.
type system struct {
	*app.Service
	db  driver.Conn
	nc  *nats.Conn
	env map[string]string
	url string

	client *http.Client
}

// migrations are the ingester's own, so that no other table can pass for it.
const migrations = "../../ingester/internal/clickhouse/migrations/*.sql"

// newSystem starts a service with settings beside those that tests need.
func newSystem(t *testing.T, s *stack.Stack, settings map[string]string) *system {
	t.Helper()
	name := fmt.Sprintf("app_%d", databases.Add(1))
	sys := &system{env: map[string]string{
		"AUDIT_NATS_URL": s.NATSURL(), "AUDIT_CLICKHOUSE_URL": fmt.Sprintf("clickhouse://127.0.0.1:%d/%s", s.ClickHousePort(), name),
		"AUDIT_HTTP_ADDR": "127.0.0.1:0", "AUDIT_OPS_ADDR": "127.0.0.1:0", "AUDIT_RATE_LIMIT": "0",
	}}
	for k, v := range settings {
		sys.env[k] = v
	}
	sys.db = migrate(t, s, name)
	nc, err := nats.Connect(s.NATSURL())
	must(t, err)
	t.Cleanup(nc.Close)
	sys.nc = nc
	cfg, err := app.ConfigFromEnv(sys.getenv)
	must(t, err)
	sys.Service, err = app.New(t.Context(), cfg, app.Deps{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	must(t, err)
	sys.client = &http.Client{Transport: newChecked(t)}
	sys.url = "http://" + sys.Addr() + "/v1/audit-log"
	background(t, sys.Run)
	return sys
}

func (s *system) getenv(name string) string { return s.env[name] }

// background runs f until the test ends and fails the test if f did.
func background(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the service stopped with an error: %v", err)
			}
		case <-time.After(patience):
			t.Error("the service does not stop")
		}
	})
}

// migrate makes a database with the ingester's table.
func migrate(t *testing.T, s *stack.Stack, name string) driver.Conn {
	t.Helper()
	open := func(database string) driver.Conn {
		db, err := chgo.Open(&chgo.Options{Addr: []string{fmt.Sprintf("127.0.0.1:%d", s.ClickHousePort())}, Auth: chgo.Auth{Database: database}})
		must(t, err)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	must(t, open("default").Exec(t.Context(), "CREATE DATABASE "+name))
	db := open(name)
	files, err := filepath.Glob(migrations)
	must(t, err)
	if len(files) == 0 {
		t.Fatalf("no migrations in %s", migrations)
	}
	slices.Sort(files)
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(t, err)
		for statement := range strings.SplitSeq(string(text), ";\n") {
			if strings.TrimSpace(statement) != "" {
				must(t, db.Exec(t.Context(), statement))
			}
		}
	}
	return db
}

// row is an event as a test puts it into the table.
type row struct {
	tenant                                             uuid.UUID
	id                                                 uuid.UUID
	at                                                 time.Time
	actor, actorType, action, resourceType, resourceID string
	metadata                                           string
	reasoning                                          *string
	seq                                                uint64
}

var sequences atomic.Uint64

// newRow is an ordinary event.
func newRow(tenant uuid.UUID, at time.Time) row {
	return row{tenant: tenant, id: uuid.New(), at: at, actor: "user_1", actorType: "user", action: "invoice.approve", resourceType: "invoice",
		resourceID: "inv_1", metadata: `{"ip":"203.0.113.9"}`, seq: sequences.Add(1)}
}

// insert writes rows as one part for each partition and year. As when the ingester does, copies in it stay.
func (s *system) insert(t *testing.T, rows ...row) {
	t.Helper()
	ctx := chgo.Context(t.Context(), chgo.WithSettings(chgo.Settings{"optimize_on_insert": 0}))
	b, err := s.db.PrepareBatch(ctx, "INSERT INTO event_log (partition, tenant_id, created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq)")
	must(t, err)
	for _, r := range rows {
		must(t, b.Append(uint16(events.Partition(r.tenant, app.DefaultPartitions)), r.tenant, r.at, r.id, r.actor, r.actorType, r.action, r.resourceType,
			r.resourceID, r.metadata, r.reasoning, r.at.Add(time.Second), r.seq))
	}
	must(t, b.Send())
}

func (s *system) key(t *testing.T, spec app.KeySpec) app.CreatedKey {
	t.Helper()
	if spec.Name == "" {
		spec.Name = "test"
	}
	k, err := app.CreateKey(t.Context(), s.nc, spec)
	must(t, err)
	return k
}

// answer is a response whose body has been read.
type answer struct {
	Status        string
	StatusCode    int
	Header        http.Header
	ContentLength int64
}

func answerOf(r *http.Response) answer {
	return answer{r.Status, r.StatusCode, r.Header, r.ContentLength}
}

// get asks with a key, waiting until the service knows it.
func (s *system) get(t *testing.T, key string, tenant uuid.UUID, query string) (answer, string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		res, body := s.getOnce(t, key, tenant, query)
		if res.StatusCode != http.StatusUnauthorized || time.Now().After(deadline) {
			return res, body
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *system) getOnce(t *testing.T, key string, tenant uuid.UUID, query string) (answer, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+query, nil)
	must(t, err)
	req.Header.Set("X-API-Key", key)
	req.Header.Set("X-Tenant-ID", strings.ToUpper(tenant.String()))
	res, err := s.client.Do(req)
	must(t, err)
	body, err := io.ReadAll(res.Body)
	must(t, err)
	must(t, res.Body.Close())
	return answerOf(res), string(body)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var november = time.Date(2026, 11, 23, 1, 2, 3, 123456000, time.UTC)

// Ensure an event in the table comes out of the API field by field, and that the page after it is known to be empty.
func TestReadsAPage(t *testing.T) {
	s := newSystem(t, shared, nil)
	tenant := uuid.New()
	key := s.key(t, app.KeySpec{Tenant: tenant})
	reasoning := `said "yes" \ 💡`
	first, second := newRow(tenant, november), newRow(tenant, november.Add(time.Microsecond))
	first.id = uuid.MustParse("01937b7e-0000-7000-8000-000000000001")
	first.reasoning, first.metadata = &reasoning, `{"b":1.0,"a":12345678901234567890,"b":null}`
	second.id = uuid.MustParse("01937b7e-0000-7000-8000-000000000002")
	s.insert(t, first, second, newRow(uuid.New(), november))
	res, body := s.get(t, key.Key, tenant, "")
	want := `{"data":[` +
		`{"id":"01937b7e-0000-7000-8000-000000000002","actor_id":"user_1","actor_type":"user","action":"invoice.approve","resource_type":"invoice","resource_id":"inv_1","metadata":{"ip":"203.0.113.9"},"created_at":"2026-11-23T01:02:03.123457Z"},` +
		`{"id":"01937b7e-0000-7000-8000-000000000001","actor_id":"user_1","actor_type":"user","action":"invoice.approve","resource_type":"invoice","resource_id":"inv_1","metadata":{"b":1.0,"a":12345678901234567890,"b":null},"reasoning":"said \"yes\" \\ 💡","created_at":"2026-11-23T01:02:03.123456Z"}` +
		`],"has_more":false}`
	if res.StatusCode != http.StatusOK || body != want {
		t.Fatalf("status %d\n got %s\nwant %s", res.StatusCode, body, want)
	}
}
