package control_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/verify/verifytest"
)

var tenant, other = verifytest.Tenants[0], verifytest.Tenants[1]

func rule(of *uuid.UUID, prefix string, days int) control.Decision {
	return control.Decision{Kind: control.RetentionSet, Tenant: of, By: "ann", Reason: "policy 7", Retention: &control.Retention{Prefix: prefix, Days: days}}
}

func about(kind control.Kind, t uuid.UUID) control.Decision {
	return control.Decision{Kind: kind, Tenant: &t, By: "ann"}
}

func cut(t uuid.UUID, through uint64, mark uint64, bounds ...control.Bound) control.Decision {
	return control.Decision{Kind: control.Removal, Tenant: &t, By: "run", Cut: &control.Cut{Mark: mark, Bounds: bounds, Through: through, Rows: 1}}
}

// take appends decisions, each on the newest state, and returns what is in force then.
func take(t *testing.T, l *control.Log, decisions ...control.Decision) *control.State {
	t.Helper()
	for _, d := range decisions {
		state, err := l.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Append(t.Context(), state, d)
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq != state.Seq+1 || r.ID == uuid.Nil || r.At.IsZero() || r.PrevHash != state.Hash {
			t.Fatalf("appended after %d: %+v", state.Seq, r)
		}
	}
	state, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// Ensure what one process decides is in force for another, that of two who decide on the same state one is refused, and that nothing that makes no sense
// gets in.
func TestAppend(t *testing.T) {
	f := verifytest.Setup(t, shared)
	second := control.New(f.JS, f.Table)
	before, err := second.Load(t.Context())
	if err != nil || before.Seq != 0 {
		t.Fatalf("a log without decisions: %+v, %v", before, err)
	}
	take(t, f.Control, rule(nil, "", 90), about(control.HoldSet, tenant))
	// second has not seen the hold.
	if _, err := second.Append(t.Context(), before, cut(tenant, 9, 1, control.Bound{Before: 5})); !errors.Is(err, control.ErrMoved) {
		t.Fatalf("a cut on the ground of an old state: %v", err)
	}
	state, err := second.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, held := state.Held(tenant); !held || r.By != "ann" || state.Seq != 2 {
		t.Errorf("held %t: %+v", held, r)
	}
	if _, err := second.Append(t.Context(), before, cut(tenant, 9, 1, control.Bound{Before: 5})); !errors.Is(err, control.ErrMoved) {
		t.Fatalf("a cut on a state that was loaded before the newest: %v", err)
	}
	for _, d := range []control.Decision{
		{Kind: "unheard of"}, {Kind: control.HoldSet}, {Kind: control.RetentionSet}, rule(nil, "", 0), rule(nil, "", control.MaxDays+1), rule(nil, string(make([]byte, 257)), 1),
		{Kind: control.Erased, Tenant: &tenant, Erase: &control.Erase{Pseudonym: "p"}}, {Kind: control.Removal, Tenant: &tenant, Cut: &control.Cut{}}, {Kind: control.Done},
		{Kind: control.HoldSet, Tenant: &tenant, Retention: &control.Retention{Days: 1}},
	} {
		if r, err := second.Append(t.Context(), state, d); err == nil {
			t.Errorf("%+v was taken as %d", d, r.Seq)
		}
	}
	if got := take(t, f.Control).Seq; got != 2 {
		t.Errorf("the log ends at %d", got)
	}
}

// Ensure many who decide at once all get their turn, and that log, copy and every reader have the same chain.
func TestAppendAtOnce(t *testing.T) {
	const writers, each = 4, 5
	f := verifytest.Setup(t, shared)
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			l := control.New(f.JS, f.Table)
			errs <- func() error {
				for n := 0; n < each; {
					state, err := l.Load(t.Context())
					if err != nil {
						return err
					}
					switch _, err = l.Append(t.Context(), state, rule(&tenant, fmt.Sprint(w), n+1)); {
					case err == nil:
						n++
					case !errors.Is(err, control.ErrMoved):
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	state := take(t, f.Control)
	fresh := take(t, control.New(f.JS, f.Table))
	copied, err := f.Table.Decisions(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if state.Seq != writers*each || fresh.Hash != state.Hash || len(copied) != writers*each || copied[len(copied)-1].Hash != state.Hash {
		t.Errorf("log %d %s, read anew %d %s, %d copied", state.Seq, state.Hash, fresh.Seq, fresh.Hash, len(copied))
	}
	if rules := state.Rules(); len(rules) != writers || rules[0].Retention.Days != each {
		t.Errorf("rules: %+v", rules)
	}
}

// Ensure a log that has lost its stream, its beginning or its end, or holds another decision than its copy, is refused by who starts and by who runs, and
// that a repair brings back what was lost and nothing else.
func TestLost(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	f := func(name string, want error, harm func(*testing.T, *verifytest.Fixture)) {
		t.Run(name, func(t *testing.T) {
			f := verifytest.Setup(t, shared)
			before := take(t, f.Control, rule(nil, "", 90), about(control.HoldSet, tenant), rule(&other, "auth.", 30))
			harm(t, f)
			if _, err := f.Control.Load(t.Context()); !errors.Is(err, want) {
				t.Errorf("who runs: %v", err)
			}
			if _, err := jetstream.SetupControl(t.Context(), f.JS, verifytest.Shape, f.Table, log); !errors.Is(err, want) {
				t.Errorf("who starts: %v", err)
			}
			if _, err := f.Control.Append(t.Context(), before, rule(nil, "", 1)); err == nil {
				t.Error("a decision was taken on a log that is lost")
			}
			n, err := jetstream.RepairControl(t.Context(), f.JS, verifytest.Shape, f.Table, log)
			if errors.Is(want, control.ErrCorrupt) {
				if !errors.Is(err, want) {
					t.Errorf("repair: %d, %v", n, err)
				}
				return
			}
			if err != nil || n == 0 {
				t.Fatalf("repair: %d, %v", n, err)
			}
			if after := take(t, control.New(f.JS, f.Table)); after.Seq != before.Seq || after.Hash != before.Hash {
				t.Errorf("repaired to %d %s, was %d %s", after.Seq, after.Hash, before.Seq, before.Hash)
			}
			if n, err := jetstream.RepairControl(t.Context(), f.JS, verifytest.Shape, f.Table, log); n != 0 || err != nil {
				t.Errorf("a second repair: %d, %v", n, err)
			}
		})
	}
	remake := func(t *testing.T, f *verifytest.Fixture, decisions int) {
		t.Helper()
		records, err := f.Table.Decisions(t.Context(), 0, 100)
		if err == nil {
			err = f.JS.DeleteStream(t.Context(), events.StreamControl)
		}
		if err == nil { // as one was made that nobody watched over
			_, err = f.JS.CreateStream(t.Context(), natsjs.StreamConfig{Name: events.StreamControl, Subjects: []string{events.SubjectControl}, DenyDelete: true, DenyPurge: true, Discard: natsjs.DiscardNew})
		}
		for _, r := range records[:decisions] {
			if err == nil {
				_, err = f.JS.Publish(t.Context(), events.ControlSubject(r.Tenant), r.Data)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f("stream deleted", control.ErrLost, func(t *testing.T, f *verifytest.Fixture) {
		if err := f.JS.DeleteStream(t.Context(), events.StreamControl); err != nil {
			t.Fatal(err)
		}
	})
	f("stream empty", control.ErrLost, func(t *testing.T, f *verifytest.Fixture) { remake(t, f, 0) })
	f("end gone", control.ErrLost, func(t *testing.T, f *verifytest.Fixture) { remake(t, f, 2) })
	f("another decision", control.ErrCorrupt, func(t *testing.T, f *verifytest.Fixture) {
		remake(t, f, 0)
		for range 3 {
			if _, err := f.JS.Publish(t.Context(), events.ControlSubject(nil), []byte(`{"kind":"retention.set","retention":{"days":1}}`)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Ensure decisions that are not in the copy, because a process died in between or the copy is of an older state, are copied by the next who reads.
func TestCopyCatchesUp(t *testing.T) {
	f := verifytest.Setup(t, shared)
	state := take(t, f.Control, rule(nil, "", 90), rule(nil, "", 91), rule(nil, "", 92))
	for _, l := range []*control.Log{f.Control, control.New(f.JS, f.Table)} {
		f.Exec(t, "ALTER TABLE control_log DELETE WHERE seq > 1 SETTINGS mutations_sync = 2")
		if got := take(t, l); got.Seq != state.Seq || len(got.Rules()) != 1 {
			t.Errorf("in force: %+v", got)
		}
		if last, hash, err := f.Table.LastDecision(t.Context()); err != nil || last != state.Seq || hash != state.Hash {
			t.Errorf("the copy ends at %d %s, %v", last, hash, err)
		}
	}
}

// Ensure a tenant's rules come before those of all tenants, the longest beginning of an action counts among them, and a bound lies at the microsecond.
func TestBounds(t *testing.T) {
	f := verifytest.Setup(t, shared)
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	check := func(state *control.State, of uuid.UUID, days map[string]int) {
		t.Helper()
		c := &control.Cut{Bounds: state.Bounds(&of, now), Through: 10}
		for action, n := range days {
			bound := now.AddDate(0, 0, -n).UnixMicro()
			if !c.Covers(action, bound-1, 10) || c.Covers(action, bound, 10) || c.Covers(action, bound-1, 11) {
				t.Errorf("%s of %s does not go after %d days: %+v", action, of, n, c.Bounds)
			}
		}
	}
	check(take(t, f.Control), tenant, map[string]int{"auth.login": control.DefaultDays, "x": control.DefaultDays})
	state := take(t, f.Control, rule(nil, "", 500), rule(nil, "auth.", 30), rule(nil, "auth.admin.", 900), rule(nil, "pay.", 60), rule(&tenant, "auth.", 40), rule(&tenant, "pay.card.", 5))
	check(state, other, map[string]int{"auth.login": 30, "auth.admin.add": 900, "pay.card.use": 60, "x": 500})
	check(state, tenant, map[string]int{"auth.login": 40, "auth.admin.add": 40, "pay.card.use": 5, "pay.x": 60, "aut": 500})
	if !slices.Equal(state.OwnTenants(), []uuid.UUID{tenant}) {
		t.Errorf("tenants with rules of their own: %v", state.OwnTenants())
	}
	unset := func(of *uuid.UUID, prefix string) control.Decision {
		return control.Decision{Kind: control.RetentionUnset, Tenant: of, Retention: &control.Retention{Prefix: prefix}}
	}
	state = take(t, f.Control, unset(&tenant, "auth."), unset(&tenant, "pay.card."), unset(nil, ""))
	check(state, tenant, map[string]int{"auth.login": 30, "pay.card.use": 60, "x": control.DefaultDays})
	if state.Own(tenant) {
		t.Error("the tenant has rules of its own still")
	}
	state = take(t, f.Control, about(control.Offboarded, tenant))
	if b := state.Bounds(&tenant, now); len(b) != 1 || b[0].Before != math.MaxInt64 || !state.Own(tenant) {
		t.Errorf("of a tenant that has left may go: %+v", b)
	}
}

// Ensure what cuts cover stays covered whatever is decided later, and nothing else is; that a cut is open until it is done; and that a hold ends.
func TestCuts(t *testing.T) {
	f := verifytest.Setup(t, shared)
	state := take(t, f.Control,
		cut(tenant, 100, 7, control.Bound{Before: 1000}, control.Bound{Prefix: "auth.", Before: 2000}),
		cut(tenant, 200, 8, control.Bound{Before: 1500}, control.Bound{Prefix: "auth.", Before: 2500}), // covers all of the first
		cut(tenant, 300, 9, control.Bound{Before: 10}))                                                 // the rules were changed
	for _, c := range []struct {
		action  string
		created int64
		seq     uint64
		want    uint64
	}{
		{"x", 1499, 200, 2}, {"x", 1500, 200, 0}, {"x", 1499, 201, 0}, {"auth.x", 2499, 1, 2}, {"auth.x", 2500, 1, 0}, {"x", 9, 300, 3}, {"x", 10, 300, 0}, {"x", 9, 301, 0},
	} {
		if got := state.Covered(tenant, c.action, c.created, c.seq); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
		if got := state.Covered(other, c.action, c.created, c.seq); got != 0 {
			t.Errorf("%+v of another tenant: %d", c, got)
		}
	}
	marks := state.Marks()
	if len(marks) != 3 || marks[0] != (control.Mark{Mark: 7, Rows: 1, Cut: 1, Tenant: tenant}) || len(state.Open()) != 3 {
		t.Errorf("marks %+v, open %d", marks, len(state.Open()))
	}
	done := control.Decision{Kind: control.Done, By: "run", Done: &control.Finished{Shard: "1/1", Cuts: []uint64{1, 3}, Whole: true}}
	state = take(t, f.Control, done, about(control.HoldSet, other), about(control.HoldSet, tenant), about(control.HoldRelease, other))
	if open := state.Open(); len(open) != 1 || open[0].Seq != 2 || state.IsOpen(3) || !state.IsOpen(2) {
		t.Errorf("open: %+v", open)
	}
	if last := state.LastRun("1/1"); last.Seq != 4 || state.LastRun("2/2").Seq != 0 {
		t.Errorf("last run: %+v", last)
	}
	if _, held := state.Held(other); held || len(state.Holds()) != 1 || *state.Holds()[0].Tenant != tenant {
		t.Errorf("holds: %+v", state.Holds())
	}
	if d := state.Decided(5); len(d) != 2 || d[0].Seq != 6 {
		t.Errorf("decided after 5: %+v", d)
	}
}
