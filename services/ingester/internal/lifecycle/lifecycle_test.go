package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/hourly"
	natsside "example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/lifecycle"
	"example.com/auditlog/services/ingester/internal/rebuild"
	"example.com/auditlog/services/ingester/internal/repair"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/verifytest"
)

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

// now is when the tests run: 400 days back is in 2025.
var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// bound is the first created_at that stays by the rule that is built in.
var bound = now.AddDate(0, 0, -control.DefaultDays)

var ann, ben = verifytest.Tenants[0], verifytest.Tenants[1]

// world is a system with events in it.
type world struct {
	*verifytest.Fixture
	system lifecycle.System
	counts *hourly.Counter
}

func newWorld(t *testing.T) *world {
	t.Helper()
	f := verifytest.Setup(t, shared)
	all := func() []int { return []int{0, 1, 2, 3} }
	w := &world{Fixture: f, counts: hourly.New(f.Table, f.Positions, all, time.Hour, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))}
	w.system = lifecycle.System{
		Log: f.Control, Table: f.Table, Positions: f.Positions, Stream: f.Reader, Counts: w.counts, Announcer: lifecycle.NewEvents(f.JS.Conn()),
		Partitions: verifytest.Partitions, Logger: slog.New(slog.DiscardHandler),
	}
	return w
}

// add publishes an event and returns its sequence.
func (w *world) add(t *testing.T, tenant uuid.UUID, action string, created time.Time) uint64 {
	t.Helper()
	return w.Publish(t, tenant, fmt.Appendf(nil,
		`{"id":"%s","actor_id":"user_1","actor_type":"user","action":"%s","resource_type":"r","resource_id":"x","created_at":"%s"}`,
		uuid.New(), action, created.Format(time.RFC3339Nano)))
}

// ingest brings what was published into table and hourly counts.
func (w *world) ingest(t *testing.T) {
	t.Helper()
	w.Ingest(t)
	must(t, w.counts.CountNew(t.Context()))
}

func (w *world) decide(t *testing.T, d control.Decision) control.Record {
	t.Helper()
	if d.By == "" {
		d.By = "olga"
	}
	r, err := lifecycle.Decide(t.Context(), w.Control, func(*control.State) (control.Decision, error) { return d, nil })
	must(t, err)
	return r
}

func (w *world) rule(t *testing.T, tenant *uuid.UUID, prefix string, days int) {
	t.Helper()
	w.decide(t, control.Decision{Kind: control.RetentionSet, Tenant: tenant, Retention: &control.Retention{Prefix: prefix, Days: days}})
}

func (w *world) about(t *testing.T, kind control.Kind, tenant uuid.UUID) {
	t.Helper()
	w.decide(t, control.Decision{Kind: kind, Tenant: &tenant})
}

func (w *world) run(t *testing.T, opts lifecycle.Options) lifecycle.Report {
	t.Helper()
	opts.By, opts.Now = "olga", now
	r, err := lifecycle.Run(t.Context(), w.system, opts)
	must(t, err)
	return r
}

// differing counts hourly counts that are not those of the events.
const differing = `SELECT count() FROM (SELECT tenant_id, hour, actor_id, action, sum(n) AS d FROM (
	SELECT tenant_id, toStartOfHour(created_at)::DateTime('UTC') AS hour, actor_id, action, toInt64(count()) AS n FROM events GROUP BY ALL
	UNION ALL SELECT tenant_id, hour, actor_id, action, -toInt64(events) FROM events_hourly) GROUP BY ALL HAVING d != 0)`

// want fails unless the table has the rows of these sequences alone, the hourly counts are those of the events, and verification, of both kinds, finds
// nothing.
func (w *world) want(t *testing.T, seqs ...uint64) {
	t.Helper()
	slices.Sort(seqs)
	if got := w.Exec(t, "SELECT arraySort(groupArray(stream_seq)) FROM event_log"); got != strings.ReplaceAll(fmt.Sprint(seqs), " ", ",") {
		t.Errorf("rows %s, want %v", got, seqs)
	}
	if got := w.Exec(t, differing); got != "0" {
		t.Errorf("%s hourly counts are not those of the events", got)
	}
	w.sound(t)
}

func (w *world) sound(t *testing.T) {
	t.Helper()
	for _, deep := range []bool{false, true} {
		if r := w.Verify(t, verify.Options{Deep: deep}); !r.OK() {
			t.Errorf("verify, deep %t: %v, first: %+v", deep, r.Counts, r.Findings[0])
		}
	}
}

// finds fails unless verification, of the kind, has findings of one kind alone.
func (w *world) finds(t *testing.T, deep bool, want verify.Kind) {
	t.Helper()
	if r := w.Verify(t, verify.Options{Deep: deep}); len(r.Counts) != 1 || r.Counts[want] == 0 {
		t.Errorf("verify, deep %t: %v %v, want %s", deep, r.Counts, r.Findings, want)
	}
}

// Ensure what is over goes and nothing goes early: at the microsecond, by tenant and by prefix; that a year whose newest event is over leaves no part of the
// table behind, and one with a newer event keeps that alone; and that none of it comes back by a rebuild, a repair of the ledger or trimming of the stream.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.rule(t, nil, "auth.", 30)
	w.rule(t, &ben, "", 1000)
	month, long := now.AddDate(0, 0, -30), now.AddDate(0, 0, -1000)
	var stay, gone []uint64
	for _, e := range []struct {
		tenant  uuid.UUID
		action  string
		created time.Time
		stays   bool
	}{
		{ann, "pay", bound.Add(-time.Microsecond), false}, {ann, "pay", bound, true}, {ann, "pay", bound.Add(time.Microsecond), true},
		{ann, "auth.login", month.Add(-time.Microsecond), false}, {ann, "auth.login", month, true}, {ann, "auth", month.Add(-time.Hour), true},
		{ben, "auth.login", month.Add(-time.Hour), true}, {ben, "pay", long.Add(-time.Microsecond), false}, {ben, "pay", long, true},
		{ann, "pay", time.Date(2019, 5, 5, 0, 0, 0, 0, time.UTC), false}, {ann, "pay", time.Unix(0, 0), false},
		{ann, "pay", time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), false}, // of the year of the bound
		{ann, "pay", now, true},
	} {
		seq := w.add(t, e.tenant, e.action, e.created)
		if e.stays {
			stay = append(stay, seq)
		} else {
			gone = append(gone, seq)
		}
	}
	w.ingest(t)
	w.want(t, append(stay, gone...)...)
	r := w.run(t, lifecycle.Options{})
	if r.Rows != uint64(len(gone)) || r.Cuts != 2 {
		t.Errorf("report: %+v", r)
	}
	w.want(t, stay...)
	if got := w.Exec(t, "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'event_log' AND active AND partition IN ('(0,2019)','(1,2019)','(2,2019)','(3,2019)')"); got != "0" {
		t.Errorf("%s parts of 2019 are left", got)
	}
	if r := w.run(t, lifecycle.Options{}); r.Rows != 0 || r.Cuts != 0 || r.Finished != 0 {
		t.Errorf("a second run: %+v", r)
	}

	// Late: an event of a year that is over, and one of the same year as events that stay. They are in parts of their own until a merge.
	w.add(t, ann, "pay", time.Date(2019, 5, 6, 0, 0, 0, 0, time.UTC))
	w.add(t, ann, "pay", time.Date(2025, 2, 1, 0, 0, 0, 0, time.UTC))
	w.ingest(t)
	w.Exec(t, "OPTIMIZE TABLE event_log FINAL")
	// What was decided are events of the log meanwhile.
	own := w.Exec(t, "SELECT arraySort(groupArray(stream_seq)) FROM event_log WHERE actor_type = 'operator'")
	if r := w.run(t, lifecycle.Options{}); r.Rows != 2 {
		t.Errorf("a run after late events: %+v", r)
	}
	for _, s := range strings.Split(strings.Trim(own, "[]"), ",") {
		var seq uint64
		if _, err := fmt.Sscan(s, &seq); err != nil {
			t.Fatal(err)
		}
		stay = append(stay, seq)
	}
	w.want(t, stay...)

	_, err := rebuild.Run(t.Context(), w.System, rebuild.Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	w.want(t, stay...)

	must(t, w.JS.DeleteStream(t.Context(), events.StreamLedger))
	must(t, natsside.Setup(t.Context(), w.JS, verifytest.Shape, slog.New(slog.DiscardHandler)))
	w.Ledger, err = ledger.Open(t.Context(), w.JS)
	must(t, err)
	_, err = repair.Run(t.Context(), w.System, repair.Options{Writer: "test"}, slog.New(slog.DiscardHandler))
	must(t, err)
	w.sound(t)
	w.trim(t)
	w.sound(t)
	w.Exec(t, "ALTER TABLE event_log DELETE WHERE stream_seq = "+fmt.Sprint(stay[0])+" SETTINGS mutations_sync = 2")
	r2 := w.Verify(t, verify.Options{})
	if r2.OK() && r2.Unproven == 0 {
		t.Error("a row that is missing is not noticed beside removed ones")
	}
}

// trim empties the stream of events, as the ingester does with what is in the table.
func (w *world) trim(t *testing.T) {
	t.Helper()
	s, err := w.JS.Stream(t.Context(), events.StreamAudit)
	must(t, err)
	must(t, s.Purge(t.Context(), jetstream.WithPurgeSequence(s.CachedInfo().State.LastSeq)))
}

// Ensure nothing of a tenant on hold is removed, whenever the hold comes before the cut, that a run goes on with the others, and that what was cut before a
// hold is finished.
func TestHold(t *testing.T) {
	old := bound.Add(-time.Hour)
	hold := func(w *world, at lifecycle.Step) lifecycle.Options {
		held := false
		return lifecycle.Options{After: func(s lifecycle.Step) error {
			if s == at && !held {
				held = true
				w.about(t, control.HoldSet, ann)
			}
			return nil
		}}
	}
	f := func(name string, opts func(*world) lifecycle.Options, stays bool) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			seq, of := w.add(t, ann, "pay", old), w.add(t, ben, "pay", bound)
			w.add(t, ben, "pay", old)
			w.ingest(t)
			r := w.run(t, opts(w))
			if stays {
				w.want(t, seq, of)
				if r.Rows != 1 {
					t.Errorf("report: %+v", r)
				}
				w.about(t, control.HoldRelease, ann)
				w.run(t, lifecycle.Options{})
			}
			w.want(t, of)
			if got := w.Exec(t, "SELECT count() FROM tombstones"); got != "2" {
				t.Errorf("%s tombstones", got)
			}
		})
	}
	f("before the run", func(w *world) lifecycle.Options {
		w.about(t, control.HoldSet, ann)
		return lifecycle.Options{}
	}, true)
	f("after the log was read", func(w *world) lifecycle.Options { return hold(w, lifecycle.Looked) }, true)
	f("after the tombstones", func(w *world) lifecycle.Options { return hold(w, lifecycle.Buried) }, true)
	f("after the cut", func(w *world) lifecycle.Options { return hold(w, lifecycle.Cut) }, false)
}

// Ensure a dry run says what a run does and changes nothing.
func TestPlan(t *testing.T) {
	w := newWorld(t)
	w.rule(t, nil, "auth.", 30)
	w.add(t, ann, "pay", bound.Add(-2*time.Hour))
	w.add(t, ann, "pay", bound.Add(-time.Hour))
	w.add(t, ann, "auth.x", now.AddDate(0, 0, -31))
	w.add(t, ben, "pay", bound.Add(-time.Hour))
	w.about(t, control.HoldSet, ben)
	w.ingest(t)
	_, before, err := w.Reader.Bounds(t.Context())
	must(t, err)
	r, err := lifecycle.Plan(t.Context(), w.system, lifecycle.Options{Now: now})
	must(t, err)
	want := []lifecycle.Line{
		{Tenant: ann, Rows: 2, Oldest: bound.Add(-2 * time.Hour), Newest: bound.Add(-time.Hour)},
		{Tenant: ann, Prefix: "auth.", Rows: 1, Oldest: now.AddDate(0, 0, -31), Newest: now.AddDate(0, 0, -31)},
		{Tenant: ben, Rows: 1, Oldest: bound.Add(-time.Hour), Newest: bound.Add(-time.Hour), Held: true},
	}
	if !slices.Equal(r.Lines, want) {
		t.Errorf("plan: %+v, want %+v", r.Lines, want)
	}
	state, err := w.Control.Load(t.Context())
	must(t, err)
	_, after, err := w.Reader.Bounds(t.Context())
	must(t, err)
	if rows := w.Exec(t, "SELECT count() FROM event_log"); rows != "4" || state.Seq != 2 || after != before || w.Exec(t, "SELECT count() FROM tombstones") != "0" {
		t.Errorf("%s rows, %d decisions, stream ends at %d after %d", rows, state.Seq, after, before)
	}
	if got := w.run(t, lifecycle.Options{}); !slices.Equal(got.Lines, want) || got.Rows != 3 {
		t.Errorf("the run: %+v", got)
	}
}

// errDeath is the end of a run that dies.
var errDeath = errors.New("killed")

// dieAt ends a run after a step.
func dieAt(at lifecycle.Step) func(lifecycle.Step) error {
	return func(s lifecycle.Step) error {
		if s == at {
			return errDeath
		}
		return nil
	}
}

// Ensure a run that dies after any of its steps leaves a system that verifies, and that the next run finishes it, also when the tenant is on hold since.
func TestDeath(t *testing.T) {
	for _, at := range []lifecycle.Step{lifecycle.Looked, lifecycle.Buried, lifecycle.Cut, lifecycle.Removed} {
		t.Run(string(at), func(t *testing.T) {
			w := newWorld(t)
			w.add(t, ann, "pay", bound.Add(-time.Hour))
			stays := w.add(t, ann, "pay", bound)
			w.ingest(t)
			_, err := lifecycle.Run(t.Context(), w.system, lifecycle.Options{By: "olga", Now: now, After: dieAt(at)})
			if !errors.Is(err, errDeath) {
				t.Fatal(err)
			}
			w.sound(t)
			if at == lifecycle.Cut {
				w.about(t, control.HoldSet, ann)
			}
			r := w.run(t, lifecycle.Options{})
			if cut := at == lifecycle.Cut || at == lifecycle.Removed; (r.Finished == 1) != cut || (r.Rows == 1) == cut {
				t.Errorf("the next run: %+v", r)
			}
			w.want(t, stays)
			if got := w.Exec(t, "SELECT count() FROM tombstones FINAL"); got != "1" {
				t.Errorf("%s tombstones", got)
			}
		})
	}
}

// Ensure rows that are inserted while their year is removed stay, until a run of their own.
func TestInsertMeanwhile(t *testing.T) {
	w := newWorld(t)
	old := time.Date(2019, 5, 5, 0, 0, 0, 0, time.UTC)
	for i := range 5 {
		w.add(t, ann, "pay", old.Add(time.Duration(i)*time.Hour))
	}
	w.ingest(t)
	var late uint64
	w.run(t, lifecycle.Options{After: func(s lifecycle.Step) error {
		if s == lifecycle.Cut {
			late = w.add(t, ann, "pay", old)
			w.ingest(t)
		}
		return nil
	}})
	w.want(t, late)
	if r := w.run(t, lifecycle.Options{}); r.Rows != 1 {
		t.Errorf("the next run: %+v", r)
	}
}

// Ensure a run that died is finished whatever lies in the partitions before its own, as forged tombstones that no run may delete.
func TestFinishBesideForged(t *testing.T) {
	w := newWorld(t)
	late := ann
	for events.Partition(late, verifytest.Partitions) == 0 {
		late = uuid.New()
	}
	w.add(t, late, "pay", bound.Add(-time.Hour))
	stays := w.add(t, late, "pay", bound)
	w.ingest(t)
	death := errors.New("killed")
	_, err := lifecycle.Run(t.Context(), w.system, lifecycle.Options{By: "olga", Now: now, After: func(s lifecycle.Step) error {
		if s == lifecycle.Cut {
			return death
		}
		return nil
	}})
	if !errors.Is(err, death) {
		t.Fatal(err)
	}
	w.Exec(t, "INSERT INTO tombstones VALUES (0, 1000000, 42)")
	if r := w.run(t, lifecycle.Options{}); r.Finished != 1 {
		t.Errorf("the next run: %+v", r)
	}
	if got := w.Exec(t, "SELECT groupArray(stream_seq) FROM event_log"); got != fmt.Sprintf("[%d]", stays) {
		t.Errorf("rows %s, want %d alone", got, stays)
	}
	w.finds(t, false, verify.Tombstones)
}

// Ensure a row that was made to vanish under a forged tombstone is a finding, whichever mark the tombstone has and whether or not the stream still holds the
// message; so is a tombstone that vanished, and a row that is there again.
func TestForged(t *testing.T) {
	f := func(name string, harm func(*testing.T, *world, uint64), shallow, deep verify.Kind) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.add(t, ann, "pay", bound.Add(-time.Hour))
			stays := w.add(t, ann, "pay", bound)
			w.ingest(t)
			w.run(t, lifecycle.Options{})
			w.want(t, stays)
			harm(t, w, stays)
			w.finds(t, false, shallow)
			if deep != "" {
				w.finds(t, true, deep)
			}
			w.trim(t)
			w.finds(t, false, shallow)
		})
	}
	forge := func(mark string) func(*testing.T, *world, uint64) {
		return func(t *testing.T, w *world, seq uint64) {
			w.Exec(t, fmt.Sprintf("INSERT INTO tombstones SELECT partition, stream_seq, %s FROM event_log WHERE stream_seq = %d", mark, seq))
			w.Exec(t, fmt.Sprintf("DELETE FROM event_log WHERE stream_seq = %d", seq))
		}
	}
	f("of no decision", forge("42"), verify.Tombstones, "")
	f("of a decision", forge("(SELECT any(cut) FROM tombstones)"), verify.Tombstones, "")
	f("tombstone gone", func(t *testing.T, w *world, _ uint64) {
		w.Exec(t, "ALTER TABLE tombstones DELETE WHERE 1 SETTINGS mutations_sync = 2")
	}, verify.Tombstones, verify.Tombstones)
}

// Ensure all of a tenant that has left goes and stays away, what is ingested later too, nothing of others does, and nothing at all while it is on hold.
func TestOffboard(t *testing.T) {
	w := newWorld(t)
	w.add(t, ann, "pay", now)
	w.add(t, ann, "auth.login", bound)
	stays := w.add(t, ben, "pay", now)
	w.ingest(t)
	w.about(t, control.HoldSet, ann)
	_, _, err := lifecycle.Offboard(t.Context(), w.system, ann, lifecycle.Options{By: "olga", Now: now})
	if !errors.Is(err, lifecycle.ErrHeld) {
		t.Fatalf("offboarding a tenant on hold: %v", err)
	}
	if _, err := lifecycle.PlanOffboard(t.Context(), w.system, ann); !errors.Is(err, lifecycle.ErrHeld) {
		t.Errorf("the plan: %v", err)
	}
	w.about(t, control.HoldRelease, ann)
	plan, err := lifecycle.PlanOffboard(t.Context(), w.system, ann)
	must(t, err)
	if len(plan.Lines) != 1 || plan.Lines[0].Rows != 2 {
		t.Errorf("plan: %+v", plan)
	}
	r, report, err := lifecycle.Offboard(t.Context(), w.system, ann, lifecycle.Options{By: "olga", Reason: "contract ended", Now: now})
	must(t, err)
	if r.Kind != control.Offboarded || report.Rows != 2 {
		t.Errorf("decision %+v, report %+v", r, report)
	}
	w.want(t, stays)
	if got := w.Exec(t, "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'event_log' AND active AND has_lightweight_delete"); got != "0" {
		t.Errorf("%s parts still have its rows on the disk", got)
	}
	w.add(t, ann, "pay", now.Add(-time.Minute))
	w.ingest(t)
	if r := w.run(t, lifecycle.Options{}); r.Rows != 1 {
		t.Errorf("the next run: %+v", r)
	}
	again, report, err := lifecycle.Offboard(t.Context(), w.system, ann, lifecycle.Options{By: "olga", Now: now})
	if err != nil || again.Seq != 0 || report.Rows != 0 {
		t.Errorf("once more: %+v %+v %v", again, report, err)
	}
	w.ingest(t)
	_, err = rebuild.Run(t.Context(), w.System, rebuild.Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	w.sound(t)
	if got := w.Exec(t, "SELECT count() FROM event_log WHERE tenant_id = '"+ann.String()+"'"); got != "0" {
		t.Errorf("%s rows of the tenant after a rebuild", got)
	}
}

// Ensure decisions and removals are events in the logs of those they are about, once, however often they are published.
func TestAnnounce(t *testing.T) {
	w := newWorld(t)
	w.add(t, ann, "pay", bound.Add(-time.Hour))
	w.add(t, ben, "pay", now)
	w.ingest(t)
	all := w.decide(t, control.Decision{Kind: control.RetentionSet, Reason: "policy 7", Retention: &control.Retention{Prefix: "auth.", Days: 30}})
	must(t, lifecycle.Announce(t.Context(), w.system, all))
	w.run(t, lifecycle.Options{}) // publishes it once more
	w.ingest(t)
	got := w.Exec(t, `SELECT tenant_id = toUUID('`+ann.String()+`') AS a, action, actor_id, actor_type, reasoning, metadata.days::Int64, metadata.rows::Int64
		FROM events WHERE actor_type = 'operator' ORDER BY a, action`)
	want := "0\taudit.retention.set\tolga\toperator\tpolicy 7\t30\t0\n" +
		"1\taudit.retention.removed\tolga\toperator\t\\N\t0\t1\n" +
		"1\taudit.retention.set\tolga\toperator\tpolicy 7\t30\t0"
	if got != want {
		t.Errorf("events:\n%s\nwant:\n%s", got, want)
	}
}

// Ensure the keeper runs when it is its turn and not else, and ends when decisions are lost.
func TestKeeper(t *testing.T) {
	w := newWorld(t)
	w.add(t, ann, "pay", time.Now().AddDate(0, 0, -control.DefaultDays-1))
	w.ingest(t)
	reg := prometheus.NewRegistry()
	mine := make(chan bool)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	k := lifecycle.NewKeeper(w.system, "keeper", time.Millisecond, func() bool {
		select {
		case m := <-mine:
			return m
		case <-ctx.Done():
			return false
		}
	}, reg)
	go func() { ended <- k.Run(ctx) }()
	for range 3 {
		mine <- false
	}
	if got := w.Exec(t, "SELECT count() FROM event_log"); got != "1" {
		t.Fatalf("%s rows", got)
	}
	mine <- true
	mine <- false // asked again: the run has ended
	if got := w.Exec(t, "SELECT count() FROM event_log"); got != "0" {
		t.Errorf("%s rows after the run", got)
	}
	err := testutil.GatherAndCompare(reg, strings.NewReader(`# HELP audit_ingester_retention_removed_rows_total Rows removed because their time was over, or their tenant has left.
# TYPE audit_ingester_retention_removed_rows_total counter
audit_ingester_retention_removed_rows_total 1
`), "audit_ingester_retention_removed_rows_total")
	if err != nil {
		t.Error(err)
	}
	must(t, w.JS.DeleteStream(t.Context(), events.StreamControl))
	for {
		select {
		case mine <- false:
		case err := <-ended:
			if !errors.Is(err, control.ErrLost) {
				t.Errorf("the keeper ended with %v", err)
			}
			return
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
