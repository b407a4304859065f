package hourly_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/hourly"
	"example.com/auditlog/services/ingester/internal/ledger"
)

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

// partitions is how many the tests use; tenant t is of partition t%partitions.
const partitions = 2

// world is a migrated database with a counter over it.
type world struct {
	t     *testing.T
	store *clickhouse.Store
	db    driver.Conn
	*hourly.Counter
	metrics   *prometheus.Registry
	positions positions
	rng       *rand.Rand
	seq       uint64
}

type positions map[int]uint64

func (p positions) Get(_ context.Context, partition int) (ledger.Position, error) {
	return ledger.Position{LastSeq: p[partition]}, nil
}

func both() []int { return []int{0, 1} }

func newWorld(t *testing.T) *world {
	t.Helper()
	dsn := fmt.Sprintf("clickhouse://127.0.0.1:%d/%s", shared.ClickHousePort(), "hourly_"+uuid.New().String()[:8])
	store, err := clickhouse.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	must(t, store.Migrate(t.Context()))
	opts, err := chgo.ParseDSN(dsn)
	must(t, err)
	db, err := chgo.Open(opts)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	w := &world{t: t, store: store, db: db, metrics: prometheus.NewRegistry(), positions: positions{}, rng: rand.New(rand.NewPCG(1, 2))}
	w.Counter = hourly.New(store, w.positions, both, hourly.DefaultEvery, w.metrics, slog.New(slog.DiscardHandler))
	return w
}

func tenant(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("5eed0000-0000-4000-8000-%012d", n))
}

// event is what the counts see of one.
type event struct {
	tenant        int
	at            time.Time
	id            uuid.UUID
	actor, action string
}

var november = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// random makes n events of the tenants within the hours from november on.
func (w *world) random(n, tenants, hours int) []event {
	out := make([]event, n)
	for i := range out {
		out[i] = event{
			w.rng.IntN(tenants), november.Add(time.Duration(w.rng.Int64N(int64(hours) * int64(time.Hour)))).Truncate(time.Microsecond),
			uuid.New(), fmt.Sprintf("user_%d", w.rng.IntN(5)), fmt.Sprintf("act.%d", w.rng.IntN(3)),
		}
	}
	return out
}

// insert writes the events under the next sequences, and says that they are committed.
func (w *world) insert(events ...event) {
	w.t.Helper()
	batch, err := w.db.PrepareBatch(w.t.Context(), `INSERT INTO event_log (partition, tenant_id, created_at, id, actor_id, actor_type, action,
		resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq)`)
	must(w.t, err)
	for _, e := range events {
		w.seq++
		must(w.t, batch.Append(uint16(e.tenant%partitions), tenant(e.tenant), e.at, e.id, e.actor, "user", e.action, "r", "r1", "{}", nil, e.at, w.seq))
		w.positions[e.tenant%partitions] = w.seq
	}
	must(w.t, batch.Send())
}

// wantRight fails unless the counts are those of the view of events, in both directions.
func (w *world) wantRight() {
	w.t.Helper()
	if n := w.number(wrongCounts); n != 0 {
		w.t.Fatalf("%d counts differ from the events", n)
	}
}

const wrongCounts = `SELECT count() FROM (
	SELECT tenant_id, hour, actor_id, action, sum(is) AS a, sum(counted) AS b FROM (
		SELECT tenant_id, toStartOfHour(created_at)::DateTime('UTC') AS hour, actor_id, action, count() AS is, 0::UInt64 AS counted FROM events GROUP BY ALL
		UNION ALL SELECT tenant_id, hour, actor_id, action, 0, events FROM events_hourly)
	GROUP BY ALL HAVING a != b)`

func (w *world) number(sql string) (n uint64) {
	w.t.Helper()
	must(w.t, w.db.QueryRow(w.t.Context(), sql).Scan(&n))
	return n
}

func (w *world) exec(sql string) {
	w.t.Helper()
	must(w.t, w.db.Exec(w.t.Context(), sql))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Ensure the counts are those of the events after each pass, with events that come late, and again, and under another name.
func TestCountsAreThoseOfTheEvents(t *testing.T) {
	w := newWorld(t)
	must(t, w.CountNew(t.Context())) // of nothing
	w.wantRight()
	first := w.random(3000, 7, 30)
	w.insert(first...)
	must(t, w.CountNew(t.Context()))
	w.wantRight()
	if n := w.number("SELECT sum(events) FROM events_hourly"); n != 3000 {
		t.Fatalf("%d events are counted, want 3000", n)
	}
	for range 5 {
		again := first[w.rng.IntN(2000):][:500]
		forged := again[3]
		forged.actor = "somebody else" // the first copy of an event wins
		late := w.random(3, 7, 10)
		for i := range late {
			late[i].at = late[i].at.AddDate(0, -w.rng.IntN(30), 0)
		}
		w.insert(append(append(append(w.random(100, 7, 30), again...), forged), late...)...)
		must(t, w.CountNew(t.Context()))
		w.wantRight()
	}
	if n := w.number("SELECT sum(events) FROM events_hourly"); n != 3000+5*103 {
		t.Errorf("%d events are counted, want %d", n, 3000+5*103)
	}
}

// Ensure what is right already is not written again, and what was not committed since is not read again.
func TestNothingToDo(t *testing.T) {
	w := newWorld(t)
	w.insert(w.random(500, 5, 10)...)
	must(t, w.CountNew(t.Context()))
	rows := w.number("SELECT count() FROM event_hours")
	w.insert(w.random(1, 1, 1)...)
	must(t, w.CountNew(t.Context()))
	if n := w.number("SELECT count() FROM event_hours"); n != rows+1 {
		t.Errorf("%d rows more for one event", n-rows)
	}
	for range 2 * partitions {
		must(t, w.Round(t.Context()))
	}
	changed, err := w.Recount(t.Context(), nil)
	must(t, err)
	if n := w.number("SELECT count() FROM event_hours"); n != rows+1 || changed != 0 {
		t.Errorf("counting all again wrote %d rows and put %d right", n-rows-1, changed)
	}
	spy := &breaking{Table: w.store, at: -1}
	c := hourly.New(spy, w.positions, both, hourly.DefaultEvery, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	must(t, c.CountNew(t.Context()))
	if spy.calls != partitions {
		t.Errorf("%d calls when there is nothing new, want one for the progress of each partition", spy.calls)
	}
}

var errKilled = errors.New("killed")

// breaking fails one of the calls that are made of the table, after it was done or in place of it.
type breaking struct {
	hourly.Table
	at, calls int
	after     bool
}

func (b *breaking) do(f func() error) error {
	b.calls++
	if b.calls-1 != b.at {
		return f()
	}
	if b.after {
		if err := f(); err != nil {
			return err
		}
	}
	return errKilled
}

func (b *breaking) HoursProgress(ctx context.Context, p int) (out clickhouse.HoursProgress, err error) {
	err = b.do(func() (err error) { out, err = b.Table.HoursProgress(ctx, p); return err })
	return out, err
}

func (b *breaking) SetHoursProgress(ctx context.Context, p int, to clickhouse.HoursProgress) error {
	return b.do(func() error { return b.Table.SetHoursProgress(ctx, p, to) })
}

func (b *breaking) HoursOf(ctx context.Context, p int, after, through uint64) (out []clickhouse.Hours, err error) {
	err = b.do(func() (err error) { out, err = b.Table.HoursOf(ctx, p, after, through); return err })
	return out, err
}

func (b *breaking) CountHours(ctx context.Context, p int, h clickhouse.Hours) (n uint64, err error) {
	err = b.do(func() (err error) { n, err = b.Table.CountHours(ctx, p, h); return err })
	return n, err
}

// Ensure a counter that ends at any step, with the step done or not, is gone on from by the next.
func TestKilledAtEachStep(t *testing.T) {
	w := newWorld(t)
	step, ended := 0, false
	for ; !ended; step++ {
		for _, after := range []bool{false, true} {
			events := w.random(40, 4, 50)
			w.insert(append(events, events[:10]...)...)
			b := &breaking{Table: w.store, at: step, after: after}
			err := hourly.New(b, w.positions, both, hourly.DefaultEvery, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)).CountNew(t.Context())
			if ended = err == nil; !ended && !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			must(t, w.CountNew(t.Context()))
			w.wantRight()
		}
	}
	if step < 8 {
		t.Errorf("only %d steps", step)
	}
}

// Ensure two counters of one partition do no harm.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.insert(w.random(200, 4, 20)...)
		done := make(chan error)
		for range 3 {
			go func() { done <- w.CountNew(t.Context()) }()
		}
		for range 3 {
			must(t, <-done)
		}
		w.wantRight()
	}
}

// Ensure the round finds what sequences do not tell: rows that were deleted, changed, and a table that was swapped for another.
func TestRoundPutsRight(t *testing.T) {
	w := newWorld(t)
	w.insert(w.random(2000, 4, 100)...)
	must(t, w.CountNew(t.Context()))
	w.exec("ALTER TABLE event_log DELETE WHERE toHour(created_at) < 6 SETTINGS mutations_sync = 2")
	w.exec("ALTER TABLE event_log UPDATE actor_id = 'pseudonym' WHERE actor_id = 'user_3' SETTINGS mutations_sync = 2")
	if w.number(wrongCounts) == 0 {
		t.Fatal("the counts were right before the round")
	}
	for range 5 { // 100 hours
		must(t, w.Round(t.Context()))
	}
	w.wantRight()
	w.insert(w.random(200, 4, 100)...)
	must(t, w.CountNew(t.Context()))
	w.exec("CREATE TABLE other AS event_log")
	w.exec("INSERT INTO other (partition, tenant_id, created_at, id, actor_id, action, stream_seq) SELECT partition, tenant_id, created_at, id, actor_id, action, stream_seq FROM event_log WHERE tenant_id != '" + tenant(1).String() + "'")
	w.exec("EXCHANGE TABLES other AND event_log")
	for range 6 {
		must(t, w.Round(t.Context()))
	}
	w.wantRight()
	if n, err := testutil.GatherAndCount(w.metrics); err != nil || n != 3 {
		t.Errorf("%d metrics, %v", n, err)
	}
}

// Ensure a recount after an erasure leaves no trace of the name, and one of a tenant leaves the others alone.
func TestRecountForgets(t *testing.T) {
	w := newWorld(t)
	w.insert(w.random(1000, 4, 30)...)
	must(t, w.CountNew(t.Context()))
	w.exec("ALTER TABLE event_log UPDATE actor_id = 'pseudonym' WHERE actor_id = 'user_3' SETTINGS mutations_sync = 2")
	one := tenant(1)
	changed, err := w.Recount(t.Context(), &one)
	must(t, err)
	if n := w.number("SELECT count() FROM event_hours WHERE actor_id = 'user_3' AND tenant_id = '" + one.String() + "'"); n != 0 || changed == 0 {
		t.Errorf("%d rows are left of the name, %d counts changed", n, changed)
	}
	if n := w.number("SELECT count() FROM event_hours WHERE actor_id = 'user_3'"); n == 0 {
		t.Error("other tenants were counted too")
	}
	_, err = w.Recount(t.Context(), nil)
	must(t, err)
	if n := w.number("SELECT count() FROM event_hours WHERE actor_id = 'user_3' OR events = 0"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	w.wantRight()
}

// Ensure the gap behind a stream that was lost is passed over, not walked through.
func TestGapOfSequences(t *testing.T) {
	w := newWorld(t)
	w.insert(w.random(100, 4, 5)...)
	w.seq += 1 << 40
	w.insert(w.random(100, 4, 5)...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, w.CountNew(ctx))
	w.wantRight()
}

// Ensure it goes on where it was in its round over the days when it is started again.
func TestRoundGoesOnAfterARestart(t *testing.T) {
	w := newWorld(t)
	for d := range 6 {
		w.insert(event{0, november.AddDate(0, 0, d), uuid.New(), "a", "b"})
	}
	var days []time.Time
	for range 8 {
		spy := &daysSeen{Table: w.store, seen: &days}
		must(t, hourly.New(spy, w.positions, both, hourly.DefaultEvery, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)).Round(t.Context()))
	}
	for i, d := range days {
		if want := november.AddDate(0, 0, i%6); !d.Equal(want) {
			t.Errorf("step %d looked at %s, want %s", i, d, want)
		}
	}
	if len(days) != 8 {
		t.Errorf("%d days were looked at", len(days))
	}
}

type daysSeen struct {
	hourly.Table
	seen *[]time.Time
}

func (d *daysSeen) CountHours(ctx context.Context, p int, h clickhouse.Hours) (uint64, error) {
	*d.seen = append(*d.seen, h.From)
	return d.Table.CountHours(ctx, p, h)
}
