package rebuild_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/rebuild"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/replay"
	"example.com/auditlog/services/ingester/internal/verify/verifytest"
)

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

var tenants = verifytest.Tenants

func setup(t *testing.T, events int) *verifytest.Fixture {
	t.Helper()
	f := verifytest.Setup(t, shared)
	f.Fill(t, events)
	return f
}

var discard = slog.New(slog.DiscardHandler)

func run(t *testing.T, f *verifytest.Fixture, opts rebuild.Options) rebuild.Report {
	t.Helper()
	r, err := rebuild.Run(t.Context(), f.System, opts, discard)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantSound fails unless a deep verification finds nothing and a rebuild has left nothing behind.
func wantSound(t *testing.T, f *verifytest.Fixture, rows string) {
	t.Helper()
	r := f.Verify(t, verify.Options{Deep: true})
	if !r.OK() {
		t.Errorf("verify: %v %+v", r.Counts, r.Findings[0])
	}
	if got := f.Exec(t, "SELECT count() FROM event_log"); rows != "" && got != rows {
		t.Errorf("%s rows, want %s", got, rows)
	}
	if left := f.Exec(t, "SELECT groupArray(name) FROM system.tables WHERE database = currentDatabase() AND name NOT IN ('event_log', 'events', 'schema_migrations', 'event_hours', 'event_hours_progress', 'events_hourly', 'control_log', 'tombstones')"); left != "[]" {
		t.Errorf("left behind: %s", left)
	}
	if comment := f.Exec(t, "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = 'event_log'"); comment != "" {
		t.Errorf("the live table still has the mark %s", comment)
	}
}

// hurt damages the table in each way a rebuild repairs: rows gone, changed, and invented.
func hurt(t *testing.T, f *verifytest.Fixture) {
	t.Helper()
	f.Exec(t, "ALTER TABLE event_log DELETE WHERE stream_seq % 5 = 0 SETTINGS mutations_sync = 1")
	f.Exec(t, "ALTER TABLE event_log UPDATE resource_id = 'other' WHERE stream_seq % 7 = 0 SETTINGS mutations_sync = 1")
	f.Exec(t, "INSERT INTO event_log SELECT * REPLACE (generateUUIDv4() AS id) FROM event_log WHERE stream_seq % 11 = 0")
	f.Exec(t, "INSERT INTO event_log SELECT * REPLACE (99 AS partition) FROM event_log WHERE stream_seq = 1")
}

// Ensure a rebuild brings a damaged table back to what the stream says, row by row, with its schema unchanged.
func TestRebuildAll(t *testing.T) {
	f := setup(t, 120)
	f.Publish(t, tenants[0], []byte("not an event"))
	f.Ingest(t)
	schema := f.Exec(t, "SHOW CREATE TABLE event_log")
	hash := f.Exec(t, contents)
	f.Exec(t, "ALTER TABLE event_log UPDATE resource_id = 'other' WHERE stream_seq = 1 SETTINGS mutations_sync = 1")
	if got := f.Exec(t, contents); got == hash {
		t.Fatalf("%q does not tell a row that was changed", contents)
	}
	hurt(t, f)
	if r := run(t, f, rebuild.Options{}); r.Rebuilt != 120 || r.Kept != 0 || r.Resumed {
		t.Errorf("%+v", r)
	}
	wantSound(t, f, "120")
	if got := f.Exec(t, contents); got != hash {
		t.Errorf("the rows are not those that were there before")
	}
	if got := f.Exec(t, "SHOW CREATE TABLE event_log"); got != schema {
		t.Errorf("the schema has changed:\n%s\nwas\n%s", got, schema)
	}
	f.Fill(t, 30) // ingest goes on with the new table
	wantSound(t, f, "150")
}

// contents is a query for a hash over all rows. It hashes their text: the hash of columns of which one is NULL is NULL, and a sum passes over it.
const contents = "SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM event_log"

// Ensure rows whose messages the stream has trimmed are kept as they were.
func TestRebuildTrimmed(t *testing.T) {
	f := setup(t, 120)
	hash := f.Exec(t, contents)
	s, err := f.JS.Stream(t.Context(), events.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(51)); err != nil {
		t.Fatal(err)
	}
	f.Exec(t, "ALTER TABLE event_log DELETE WHERE stream_seq % 5 = 0 AND stream_seq > 50 SETTINGS mutations_sync = 1")
	if r := run(t, f, rebuild.Options{}); r.Rebuilt != 70 || r.Kept != 50 || r.From != 51 {
		t.Errorf("%+v", r)
	}
	if got := f.Exec(t, contents); got != hash {
		t.Errorf("the rows are not those that were there before")
	}
	wantSound(t, f, "120")
}

// Ensure --tenant and --from leave alone what they do not name.
func TestRebuildPart(t *testing.T) {
	for _, tc := range []struct {
		name    string
		opts    func(t *testing.T, f *verifytest.Fixture) rebuild.Options
		rebuilt uint64
		where   string // what is made anew
	}{
		{"tenant", func(*testing.T, *verifytest.Fixture) rebuild.Options { return rebuild.Options{Tenant: &tenants[1]} },
			40, "tenant_id = '" + tenants[1].String() + "'"},
		{"sequence", func(*testing.T, *verifytest.Fixture) rebuild.Options { return rebuild.Options{FromSeq: 100} }, 21, "stream_seq >= 100"},
		{"tenant and sequence", func(*testing.T, *verifytest.Fixture) rebuild.Options {
			return rebuild.Options{Tenant: &tenants[1], FromSeq: 100}
		},
			7, "stream_seq >= 100 AND tenant_id = '" + tenants[1].String() + "'"},
		{"time", func(t *testing.T, f *verifytest.Fixture) rebuild.Options {
			return rebuild.Options{FromTime: f.Message(t, 60).Time}
		},
			61, "stream_seq >= 60"},
		{"time to come", func(*testing.T, *verifytest.Fixture) rebuild.Options {
			return rebuild.Options{FromTime: time.Now().Add(time.Hour)}
		}, 0, "0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := setup(t, 120)
			f.Exec(t, "ALTER TABLE event_log UPDATE resource_id = 'other' WHERE 1 SETTINGS mutations_sync = 1")
			r := run(t, f, tc.opts(t, f))
			if r.Rebuilt != tc.rebuilt || r.Kept != 120-tc.rebuilt {
				t.Errorf("%+v, want %d rebuilt", r, tc.rebuilt)
			}
			if got, want := f.Exec(t, "SELECT count(), countIf((resource_id != 'other') = ("+tc.where+")) FROM event_log"), "120\t120"; got != want {
				t.Errorf("rows, and rows that are as they should be: %s, want %s", got, want)
			}
		})
	}
}

// Ensure nothing is lost, doubled or out of sight while ingest goes on through all of it.
func TestRebuildBesideIngest(t *testing.T) {
	f := setup(t, 200)
	hurt(t, f)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				f.Fill(t, 9)
			}
		}
	})
	seen, below := uint64(0), time.Time{}
	wg.Go(func() { // a reader: what was there stays there, but for the blink of a running insert
		for {
			select {
			case <-stop:
				return
			default:
			}
			var n uint64
			if _, err := fmt.Sscan(f.Exec(t, "SELECT uniqExact(stream_seq) FROM event_log WHERE stream_seq > 200"), &n); err != nil {
				t.Error(err)
				return
			}
			switch {
			case n >= seen:
				seen, below = n, time.Time{}
			case below.IsZero():
				below = time.Now()
			case time.Since(below) > 2*time.Second:
				t.Errorf("%d new rows are there, %d were 2 s before", n, seen)
				return
			}
		}
	})
	var err error
	for i := 0; i < 3 && err == nil; i++ {
		_, err = rebuild.Run(t.Context(), f.System, rebuild.Options{}, discard)
	}
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	f.Ingest(t)
	if seen == 0 {
		t.Error("no ingest went on")
	}
	wantSound(t, f, "")
	if got := f.Exec(t, "SELECT count() = uniqExact(stream_seq), max(stream_seq) = count() FROM event_log"); got != "1\t1" {
		t.Errorf("rows are doubled or missing: %s", got)
	}
}

// Ensure a rebuild that dies before the swap changes nothing, is noticed, and can be cleared while ingest goes on.
func TestRebuildDiesBeforeSwap(t *testing.T) {
	f := setup(t, 60)
	hash := f.Exec(t, contents)
	ctx, cancel := context.WithCancel(t.Context())
	dying := func() error { cancel(); select {} } // never comes back, as a killed process
	go func() { _, _ = rebuild.Run(ctx, f.System, rebuild.Options{BeforeSwap: dying}, discard) }()
	<-ctx.Done()
	if _, err := rebuild.Run(t.Context(), f.System, rebuild.Options{}, discard); !errors.Is(err, rebuild.ErrInterrupted) {
		t.Fatalf("run after a death: %v", err)
	}
	if got := f.Exec(t, contents); got != hash {
		t.Error("the live table has changed")
	}
	f.Fill(t, 20)
	if err := rebuild.Abort(t.Context(), f.System); err != nil {
		t.Fatal(err)
	}
	f.Fill(t, 20)
	wantSound(t, f, "100")
	run(t, f, rebuild.Options{})
	wantSound(t, f, "100")
}

// Ensure a rebuild that dies right after the swap is finished by the next one, with what an insert wrote to the old table meanwhile.
func TestRebuildDiesAfterSwap(t *testing.T) {
	f := setup(t, 60)
	hurt(t, f)
	failed := errors.New("stop here")
	half := func() error {
		// The swap as Run does it, and then death: two rows are in the old table alone.
		border := map[int]uint64{0: 60, 1: 60, 2: 60, 3: 60}
		f.Fill(t, 20)
		mark := strings.NewReplacer("map[", "{", "]", "}").Replace(fmt.Sprint(border))
		for p := range verifytest.Partitions {
			mark = strings.Replace(mark, fmt.Sprintf("%d:60", p), fmt.Sprintf(`"%d":60`, p), 1)
		}
		mark = `{"rebuild":"x","borders":` + strings.ReplaceAll(mark, " ", ",") + `}`
		if err := f.Table.SwapBeside(context.Background(), mark); err != nil {
			t.Error(err)
		}
		f.Exec(t, "ALTER TABLE event_log DELETE WHERE stream_seq IN (70, 71) SETTINGS mutations_sync = 1")
		return failed
	}
	if _, err := rebuild.Run(t.Context(), f.System, rebuild.Options{BeforeSwap: half}, discard); !errors.Is(err, failed) {
		t.Fatalf("run: %v", err)
	}
	if err := rebuild.Abort(t.Context(), f.System); err == nil {
		t.Error("a rebuild whose table is live was aborted")
	}
	if r := run(t, f, rebuild.Options{}); !r.Resumed {
		t.Errorf("%+v", r)
	}
	wantSound(t, f, "80")
}

// Ensure a rebuild refuses to hide what is wrong with the stream, and leaves the live table alone.
func TestRebuildRefuses(t *testing.T) {
	f := setup(t, 60)
	hash := f.Exec(t, contents)
	p := events.Partition(tenants[0], verifytest.Partitions)
	f.Publish(t, tenants[0], verifytest.Event(1000))
	last, err := f.Ledger.Last(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	e := verifytest.Entry(p, last, []replay.Message{f.Message(t, 61)})
	e.Hash[0]++ // the ledger has seen other bytes
	if _, err := f.Ledger.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := rebuild.Run(t.Context(), f.System, rebuild.Options{SettleTimeout: time.Second}, discard); !errors.Is(err, rebuild.ErrUnfinished) {
		t.Errorf("with a batch that is not in the table: %v", err)
	}
	if err := f.Positions.Put(t.Context(), p, ledger.Position{Batch: e.Batch}); err != nil {
		t.Fatal(err)
	}
	if _, err := rebuild.Run(t.Context(), f.System, rebuild.Options{}, discard); !errors.Is(err, rebuild.ErrChanged) {
		t.Errorf("with a changed stream: %v", err)
	}
	if got := f.Exec(t, contents); got != hash {
		t.Error("the live table has changed")
	}
	state, err := f.Table.Beside(t.Context())
	if err != nil || state != (clickhouse.Beside{}) {
		t.Errorf("left behind: %+v, %v", state, err)
	}
}
