package repartition_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	mark "example.com/auditlog/pkg/service/repartition"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/hourly"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/lifecycle"
	"example.com/auditlog/services/ingester/internal/repartition"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/verifytest"
)

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

const to = 6

var discard = slog.New(slog.DiscardHandler)

// errKilled is the end of a run that a test kills.
var errKilled = errors.New("killed")

// now is when events are removed: all that the fixture publishes are older than a month, and not than a year.
var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

var gone, going = verifytest.Tenants[1], verifytest.Tenants[2]

// world is a system with events in it, counted by hour. The events of one tenant were removed, those of another are about to be: the run that does it has died.
type world struct {
	*verifytest.Fixture
	counts *hourly.Counter
	keep   string // file for the ledger as it was
	old    []byte // the ledger as it was
	rows   string // in the table
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Fixture: verifytest.Setup(t, shared), keep: filepath.Join(t.TempDir(), "ledger.ndjson")}
	all := func() []int { return []int{0, 1, 2, 3} }
	w.counts = hourly.New(w.Table, w.Positions, all, time.Hour, prometheus.NewRegistry(), discard)
	w.Fill(t, 60)
	w.Publish(t, verifytest.Tenants[0], []byte("no event"))
	w.Ingest(t)
	must(t, w.counts.CountNew(t.Context()))
	w.removeSoon(t, gone)
	if r, err := w.retention(t, verifytest.Partitions, nil); err != nil || r.Rows != 20 {
		t.Fatalf("%+v %v", r, err)
	}
	w.removeSoon(t, going)
	if _, err := w.retention(t, verifytest.Partitions, func(s lifecycle.Step) error {
		if s == lifecycle.Cut {
			return errKilled
		}
		return nil
	}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	w.Ingest(t) // the events that tell of it
	must(t, w.counts.CountNew(t.Context()))
	w.rows = w.Exec(t, "SELECT count() FROM event_log")
	for p := range verifytest.Partitions {
		must(t, w.Ledger.Walk(t.Context(), p, func(r ledger.Record) error {
			line, err := json.Marshal(r.Entry)
			w.old = append(append(w.old, line...), '\n')
			return err
		}))
	}
	return w
}

// removeSoon lets the next run of retention remove what the tenant has.
func (w *world) removeSoon(t *testing.T, tenant uuid.UUID) {
	t.Helper()
	rule := control.Decision{Kind: control.RetentionSet, Tenant: &tenant, By: "olga", Retention: &control.Retention{Days: 30}}
	_, err := lifecycle.Decide(t.Context(), w.Control, func(*control.State) (control.Decision, error) { return rule, nil })
	must(t, err)
}

func (w *world) retention(t *testing.T, partitions int, after func(lifecycle.Step) error) (lifecycle.Report, error) {
	t.Helper()
	system := lifecycle.System{Log: w.Control, Table: w.Table, Positions: w.Positions, Counts: w.counts, Announcer: lifecycle.NewEvents(w.JS.Conn()),
		Partitions: partitions, Logger: discard}
	return lifecycle.Run(t.Context(), system, lifecycle.Options{By: "olga", Now: now, After: after})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) change(after func(repartition.Step) error) *repartition.Change {
	return &repartition.Change{System: w.System, JS: w.JS, Shape: verifytest.Shape, To: to, Wait: 20 * time.Second, Writer: "test",
		Say: func(string) {}, Log: discard, After: after}
}

// run does what an operator does: the run that is next, and the other one after it.
func (w *world) run(t *testing.T, after func(repartition.Step) error) error {
	t.Helper()
	state, err := jetstream.Repartition(t.Context(), w.JS)
	must(t, err)
	c := w.change(after)
	if state == nil || state.Readable() != 0 && state.Phase != mark.Copied {
		if err := c.Begin(t.Context()); err != nil {
			return err
		}
	}
	_, err = c.Finish(t.Context(), w.keep)
	return err
}

// takes says whether the stream takes an event.
func (w *world) takes(t *testing.T, n int) bool {
	t.Helper()
	_, err := w.JS.Publish(t.Context(), events.Subject(verifytest.Tenants[n%len(verifytest.Tenants)]), verifytest.Event(n))
	return err == nil
}

// wantPartitions fails unless each tenant's rows of a table are in its partition of so many.
func (w *world) wantPartitions(t *testing.T, table string, partitions int) {
	t.Helper()
	for _, tenant := range verifytest.Tenants {
		want := fmt.Sprintf("[%d]", events.Partition(tenant, partitions))
		if got := w.Exec(t, fmt.Sprintf("SELECT groupUniqArray(partition) FROM %s WHERE tenant_id = '%s'", table, tenant)); got != want {
			t.Errorf("%s has tenant %s in partitions %s, want %s", table, tenant, got, want)
		}
	}
}

// want fails unless the system has the new number of partitions and everything in them, as if nothing had happened; waiting events came meanwhile.
func (w *world) want(t *testing.T, waiting int) {
	t.Helper()
	shape, system := verifytest.Shape, w.System
	shape.Partitions, system.Partitions = to, to
	must(t, jetstream.CheckPartitions(t.Context(), w.JS, shape))
	r, err := verify.Run(t.Context(), system, verify.Options{Deep: true})
	must(t, err)
	if !r.OK() || fmt.Sprint(r.Rows) != w.rows || r.Waiting != uint64(waiting) || r.Tombstones != 40 { //nolint:gosec // a handful
		t.Errorf("verify: %d rows, %d waiting, %d tombstones, want %s, %d and 40; %v %v", r.Rows, r.Waiting, r.Tombstones, w.rows, waiting, r.Counts, r.Findings)
	}
	w.wantPartitions(t, "event_log", to)
	w.wantPartitions(t, "event_hours", to)
	if got := w.Exec(t, "SELECT sum(events) FROM events_hourly"); got != w.rows {
		t.Errorf("%s events by the counts of the hours, want %s", got, w.rows)
	}
	const others = "database = currentDatabase() AND (name LIKE '%building%' OR name LIKE '%next%' OR comment != '')"
	if left := w.Exec(t, "SELECT groupArray(name) FROM system.tables WHERE "+others); left != "[]" {
		t.Errorf("tables are left over or marked: %s", left)
	}
	if kept, err := os.ReadFile(w.keep); err != nil || !bytes.Equal(kept, w.old) {
		t.Errorf("the ledger that was kept has %d bytes, want %d: %v", len(kept), len(w.old), err)
	}
	if files, err := os.ReadDir(filepath.Dir(w.keep)); err != nil || len(files) != 1 {
		t.Errorf("beside the ledger that was kept: %v %v", files, err)
	}
	if r, err := w.retention(t, to, nil); err != nil || r.Finished != 1 || r.Rows != 0 {
		t.Errorf("the run of retention that had died, finished: %+v %v", r, err)
	}
	if left := w.Exec(t, fmt.Sprintf("SELECT count() FROM event_log WHERE tenant_id IN ('%s', '%s') AND actor_type != 'operator'", gone, going)); left != "0" {
		t.Errorf("%s rows that were removed are there", left)
	}
	if r, err = verify.Run(t.Context(), system, verify.Options{}); err != nil || !r.OK() {
		t.Errorf("verify, after that run: %+v %v", r, err)
	}
}

// Ensure a change that is killed at any of its steps, and at each of them in turn, is finished by running it again in the same words, as if nothing had happened.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	before, err := w.JS.Stream(t.Context(), events.StreamLedger)
	must(t, err)
	steps := []repartition.Step{
		repartition.Closed, repartition.Drained, repartition.Opened, repartition.Copied, repartition.Begun,
		repartition.Saved, repartition.Shut, repartition.Swapped, repartition.Counted, repartition.Resetting, repartition.Forgotten, repartition.Proven, repartition.Dropped,
	}
	waiting := 0
	for i, at := range steps {
		err := w.run(t, func(s repartition.Step) error {
			if s == at {
				return errKilled
			}
			if slices.Index(steps, s) > i {
				t.Errorf("step %s comes before %s", s, at)
			}
			return nil
		})
		if !errors.Is(err, errKilled) {
			t.Fatalf("killed after %q: %v", at, err)
		}
		opened := i >= slices.Index(steps, repartition.Opened)
		if took := w.takes(t, 1000+i); took != opened {
			t.Fatalf("killed after %q the stream takes an event: %t", at, took)
		}
		if opened {
			waiting++
		}
		number := verifytest.Partitions
		if i >= slices.Index(steps, repartition.Swapped) {
			number = to
		}
		w.wantPartitions(t, "event_log", number)
		switch at {
		case repartition.Opened: // and in the middle of the copy
			w.Exec(t, "CREATE TABLE event_log_building AS event_log")
			w.Exec(t, "INSERT INTO event_log_building SELECT * FROM event_log LIMIT 5")
		case repartition.Begun: // and while the ledger is saved
			must(t, os.WriteFile(w.keep+".part", w.old[:100], 0o600))
		case repartition.Resetting: // and in the middle of that
			must(t, w.JS.DeleteStream(t.Context(), events.StreamLedger))
		}
	}
	must(t, w.run(t, nil))
	w.want(t, waiting)
	after, err := w.JS.Stream(t.Context(), events.StreamLedger)
	must(t, err)
	if first, last := after.CachedInfo().Config.FirstSeq, before.CachedInfo().State.LastSeq; first <= last {
		t.Errorf("the new ledger counts from %d: a writer that knows the old one, up to %d, is not refused", first, last)
	}
}

// Ensure a change that died while the stream was closed can be taken back, that one is refused beside tombstones of which nobody knows the tenant, and that a
// file that is not the ledger is not written over.
func TestTakenBack(t *testing.T) {
	w := newWorld(t)
	closed := func(s repartition.Step) error {
		if s == repartition.Closed {
			return errKilled
		}
		return nil
	}
	if err := w.run(t, closed); !errors.Is(err, errKilled) || w.takes(t, 1000) {
		t.Fatalf("killed with the stream closed: %v", err)
	}
	must(t, w.change(nil).Abort(t.Context()))
	if state, err := jetstream.Repartition(t.Context(), w.JS); err != nil || state != nil || !w.takes(t, 1001) {
		t.Errorf("taken back: %+v %v", state, err)
	}
	w.Ingest(t)
	if r := w.Verify(t, verify.Options{Deep: true}); !r.OK() || r.Waiting != 0 {
		t.Errorf("verify: %d waiting, %v", r.Waiting, r.Findings)
	}
	if err := w.change(nil).Abort(t.Context()); !errors.Is(err, repartition.ErrPhase) {
		t.Errorf("taken back twice: %v", err)
	}

	w.Exec(t, fmt.Sprintf("INSERT INTO tombstones SELECT partition, stream_seq, 42 FROM event_log WHERE tenant_id = '%s' LIMIT 3", going))
	if err := w.run(t, nil); !errors.Is(err, repartition.ErrPhase) || !strings.Contains(err.Error(), "ingester retention run") || !w.takes(t, 1002) {
		t.Errorf("beside tombstones of no cut: %v", err)
	}
	w.Ingest(t)
	w.Exec(t, "ALTER TABLE tombstones DELETE WHERE cut = 42 SETTINGS mutations_sync = 2")

	must(t, os.WriteFile(w.keep, []byte("precious"), 0o600))
	err := w.run(t, nil)
	if text, rerr := os.ReadFile(w.keep); err == nil || rerr != nil || string(text) != "precious" {
		t.Errorf("over a file that is there: %v, it has %q (%v)", err, text, rerr)
	}
}

// Ensure no change goes on beside an ingester that runs: it waits, and opens the stream as it was; and that one that has left is not waited for.
func TestIngesterRuns(t *testing.T) {
	w := newWorld(t)
	heartbeats, err := w.JS.KeyValue(t.Context(), jetstream.BucketIngesters)
	must(t, err)
	begin := func() error {
		c := w.change(nil)
		c.Wait = time.Millisecond
		return c.Begin(t.Context())
	}
	_, err = heartbeats.PutString(t.Context(), "other", "{}")
	must(t, err)
	if err := begin(); !errors.Is(err, repartition.ErrWaited) || !strings.Contains(err.Error(), "other") || !w.takes(t, 1000) {
		t.Fatalf("begun beside an ingester: %v", err)
	}
	w.Ingest(t)
	w.rows = w.Exec(t, "SELECT count() FROM event_log")
	must(t, heartbeats.Delete(t.Context(), "other"))
	must(t, begin())
	_, err = heartbeats.PutString(t.Context(), "another", "{}")
	must(t, err)
	if err := w.run(t, nil); !errors.Is(err, repartition.ErrPhase) || !strings.Contains(err.Error(), "another") {
		t.Fatalf("finished beside an ingester: %v", err)
	}
	must(t, heartbeats.Delete(t.Context(), "another"))
	must(t, w.run(t, nil))
}
