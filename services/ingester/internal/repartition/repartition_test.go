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
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	mark "example.com/auditlog/pkg/service/repartition"
	"example.com/auditlog/services/ingester/internal/hourly"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
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

// world is a system with events in it, counted by hour.
type world struct {
	*verifytest.Fixture
	keep string // file for the ledger as it was
	old  []byte // the ledger as it was
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Fixture: verifytest.Setup(t, shared), keep: filepath.Join(t.TempDir(), "ledger.ndjson")}
	w.Fill(t, 60)
	w.Publish(t, verifytest.Tenants[0], []byte("no event"))
	w.Ingest(t)
	all := func() []int { return []int{0, 1, 2, 3} }
	must(t, hourly.New(w.Table, w.Positions, all, time.Hour, prometheus.NewRegistry(), discard).CountNew(t.Context()))
	for p := range verifytest.Partitions {
		must(t, w.Ledger.Walk(t.Context(), p, func(r ledger.Record) error {
			line, err := json.Marshal(r.Entry)
			w.old = append(append(w.old, line...), '\n')
			return err
		}))
	}
	return w
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

// want fails unless the system has the new number of partitions and everything in them, as if nothing had happened; waiting events came meanwhile.
func (w *world) want(t *testing.T, waiting int) {
	t.Helper()
	shape, system := verifytest.Shape, w.System
	shape.Partitions, system.Partitions = to, to
	must(t, jetstream.CheckPartitions(t.Context(), w.JS, shape))
	r, err := verify.Run(t.Context(), system, verify.Options{Deep: true})
	must(t, err)
	if !r.OK() || r.Rows != 60 || r.Waiting != uint64(waiting) { //nolint:gosec // a handful
		t.Errorf("verify: %d rows, %d waiting, want 60 and %d; %v %v", r.Rows, r.Waiting, waiting, r.Counts, r.Findings)
	}
	for _, table := range []string{"event_log", "event_hours"} {
		for _, tenant := range verifytest.Tenants {
			want := fmt.Sprintf("[%d]", events.Partition(tenant, to))
			if got := w.Exec(t, fmt.Sprintf("SELECT groupUniqArray(partition) FROM %s WHERE tenant_id = '%s'", table, tenant)); got != want {
				t.Errorf("%s has tenant %s in partitions %s, want %s", table, tenant, got, want)
			}
		}
	}
	if got := w.Exec(t, "SELECT sum(events), (SELECT count() FROM events) FROM events_hourly"); got != "60\t60" {
		t.Errorf("events by the counts of the hours, and by the table: %s", got)
	}
	if left := w.Exec(t, "SELECT groupArray(name) FROM system.tables WHERE database = currentDatabase() AND (name LIKE '%building%' OR name LIKE '%next%' OR comment != '')"); left != "[]" {
		t.Errorf("tables are left over or marked: %s", left)
	}
	if kept, err := os.ReadFile(w.keep); err != nil || !bytes.Equal(kept, w.old) {
		t.Errorf("the ledger that was kept has %d bytes, want %d: %v", len(kept), len(w.old), err)
	}
	if files, err := os.ReadDir(filepath.Dir(w.keep)); err != nil || len(files) != 1 {
		t.Errorf("beside the ledger that was kept: %v %v", files, err)
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

// Ensure a change that died while the stream was closed can be taken back, and a file that is not the ledger is not written over.
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
	if r := w.Verify(t, verify.Options{Deep: true}); !r.OK() || r.Rows != 61 || r.Waiting != 0 {
		t.Errorf("verify: %d rows, %d waiting, %v", r.Rows, r.Waiting, r.Findings)
	}
	if err := w.change(nil).Abort(t.Context()); !errors.Is(err, repartition.ErrPhase) {
		t.Errorf("taken back twice: %v", err)
	}
	must(t, os.WriteFile(w.keep, []byte("precious"), 0o600))
	err := w.run(t, nil)
	if text, rerr := os.ReadFile(w.keep); err == nil || rerr != nil || string(text) != "precious" {
		t.Errorf("over a file that is there: %v, it has %q (%v)", err, text, rerr)
	}
}
