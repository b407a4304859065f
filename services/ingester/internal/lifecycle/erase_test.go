package lifecycle_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
	natsside "example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/lifecycle"
	"example.com/auditlog/services/ingester/internal/rebuild"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/verifytest"
)

// name is of whom these tests erase. No statement of theirs has it.
const name = "marie.curie@example.com"

// event publishes an event with an actor, resource and metadata of its own.
func (w *world) event(t *testing.T, tenant uuid.UUID, actor, resourceType, resource, metadata string, created time.Time) uint64 {
	t.Helper()
	return w.Publish(t, tenant, fmt.Appendf(nil,
		`{"id":"%s","actor_id":"%s","actor_type":"user","action":"pay","resource_type":"%s","resource_id":"%s","metadata":%s,"created_at":"%s"}`,
		uuid.New(), actor, resourceType, resource, metadata, created.Format(time.RFC3339Nano)))
}

func (w *world) eraseRule(t *testing.T, tenant uuid.UUID, rule control.EraseRule) {
	t.Helper()
	w.decide(t, control.Decision{Kind: control.EraseRuleSet, Tenant: &tenant, EraseRule: &rule})
}

func (w *world) erase(t *testing.T, tenant uuid.UUID) (control.Record, lifecycle.EraseReport) {
	t.Helper()
	d, r, err := lifecycle.Erase(t.Context(), w.system, tenant, name, lifecycle.Options{By: "olga", Reason: "request 12"})
	must(t, err)
	return d, r
}

// settle makes what was erased known to be done.
func (w *world) settle(t *testing.T) lifecycle.EraseReport {
	t.Helper()
	w.ingest(t) // the event of the decision, too
	r, err := lifecycle.FinishErasures(t.Context(), w.system, lifecycle.Options{By: "olga", Now: time.Now().Add(time.Hour)})
	must(t, err)
	state, err := w.Control.Load(t.Context())
	must(t, err)
	if open := state.Erasing(); len(open) > 0 {
		t.Errorf("erasures are open after a pass: %+v", open)
	}
	return r
}

// rows are the events of a tenant as readers see them, in the order of the stream, but for those of operators.
func (w *world) rows(t *testing.T, tenant uuid.UUID) string {
	t.Helper()
	return w.Exec(t, "SELECT actor_id, resource_id, metadata_text FROM events WHERE tenant_id = '"+tenant.String()+"' AND actor_type = 'user' ORDER BY stream_seq FORMAT TSVRaw")
}

// Ensure an actor who is erased is a pseudonym wherever the rule says, in table and counts, that everything else is as it was, to the byte, and that neither
// a rebuild nor verification brings the name back or takes offence. Another tenant's actor of that name is not touched.
func TestErase(t *testing.T) {
	w := newWorld(t)
	near := uuid.New() // whose rows lie beside ann's
	for events.Partition(near, verifytest.Partitions) != events.Partition(ann, verifytest.Partitions) {
		near = uuid.New()
	}
	w.eraseRule(t, ann, control.EraseRule{Fields: []string{"email", "ip"}, ResourceTypes: []string{"user"}})
	old := time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC)
	const odd = `{ "email" : {"a":["}"]} ,"n":1.0,"\u0069p":"1.2.3.4","note":"it\\'s \"ip\": 'a'","big":12345678901234567890,"u":[{"ip":7}]}`
	const left = `{ "email" : null ,"n":1.0,"\u0069p":null,"note":"it\\'s \"ip\": 'a'","big":12345678901234567890,"u":[{"ip":null}]}`
	w.event(t, ann, name, "invoice", "i1", odd, old)
	w.event(t, ann, name, "user", name, `{"k":"v"}`, now)
	w.event(t, ann, "user_2", "user", name, `{"ip":"x"}`, now)
	w.event(t, ann, "user_2", "invoice", name, `{"ip":"x"}`, now)
	w.event(t, ann, name+"2", "user", "user_2", odd, now)
	w.event(t, near, name, "user", name, `{"email":"y"}`, now)
	w.ingest(t)
	before := w.rows(t, near)
	plan, err := lifecycle.PlanErase(t.Context(), w.system, ann, name)
	must(t, err)
	if got := w.Exec(t, "SELECT countIf(startsWith(actor_id, 'erased-')) FROM event_log"); got != "0" {
		t.Errorf("a dry run changed %s rows", got)
	}
	d, r := w.erase(t, ann)
	if r.Events != 3 || fmt.Sprint(plan.Lines) != fmt.Sprint(r.Lines) || len(r.Lines) != 2 || r.Pseudonym != d.Erase.Pseudonym {
		t.Errorf("planned %+v, done %+v", plan, r)
	}
	p := r.Pseudonym
	want := strings.Join([]string{p + "\ti1\t" + left, p + "\t" + p + "\t{\"k\":\"v\"}", "user_2\t" + p + "\t{\"ip\":null}", "user_2\t" + name + "\t{\"ip\":\"x\"}",
		name + "2\tuser_2\t" + odd}, "\n")
	check := func(when string) {
		t.Helper()
		if got := w.rows(t, ann); got != want {
			t.Errorf("%s:\n%s\nwant:\n%s", when, got, want)
		}
		if got := w.rows(t, near); got != before {
			t.Errorf("%s: another tenant has\n%s\nwant\n%s", when, got, before)
		}
		if got := w.Exec(t, differing); got != "0" {
			t.Errorf("%s: %s hourly counts are not those of the events", when, got)
		}
		w.sound(t)
	}
	check("after the erasure")
	if got := w.Exec(t, "SELECT sum(events) FROM events_hourly WHERE actor_id = '"+p+"'"); got != "2" {
		t.Errorf("%s events are counted under the pseudonym", got)
	}
	if again, report := w.erase(t, ann); again.Seq != 0 || report.Events != 0 || report.Pseudonym != p {
		t.Errorf("once more: %+v %+v", again, report)
	}
	if r := w.settle(t); r.Events != 0 {
		t.Errorf("a pass after it: %+v", r)
	}
	check("once it is known to be done")
	_, err = rebuild.Run(t.Context(), w.System, rebuild.Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	check("after a rebuild")
	if report := w.Verify(t, verify.Options{Deep: true}); report.Erased != 3 || report.Erasing != 0 {
		t.Errorf("verify: %+v", report)
	}
	w.ingest(t)
	got := w.Exec(t, "SELECT action, reasoning, metadata.pseudonym::String, metadata_text LIKE '%\"email\",\"ip\"%' FROM events WHERE tenant_id = '"+ann.String()+"' AND actor_type = 'operator' ORDER BY stream_seq")
	if got != "audit.erase\trequest 12\t"+p+"\t1" {
		t.Errorf("events of the decision: %s", got)
	}
	if _, _, err := lifecycle.Erase(t.Context(), w.system, ann, p, lifecycle.Options{By: "olga"}); !errors.Is(err, lifecycle.ErrPseudonym) {
		t.Errorf("erasing a pseudonym: %v", err)
	}
}

// Ensure what came in beside an erasure is replaced by the next pass and by the next run of retention, that verification says so of what should not be there
// any more, and still sees a row that was changed otherwise.
func TestEraseLate(t *testing.T) {
	w := newWorld(t)
	w.eraseRule(t, ann, control.EraseRule{Fields: []string{"ip"}})
	w.event(t, ann, name, "r", "1", `{"ip":1}`, now)
	w.ingest(t)
	_, r := w.erase(t, ann)
	late := func() {
		w.event(t, ann, name, "r", "2", `{"ip":2}`, now)
		w.ingest(t) // as by an ingester that does not know yet
	}
	late()
	if r := w.Verify(t, verify.Options{Deep: true}); !r.OK() || r.Erasing != 1 || r.Erased != 1 {
		t.Errorf("verify while it is open: %+v", r)
	}
	w.Exec(t, "ALTER TABLE event_log UPDATE resource_id = 'x' WHERE resource_id = '2' SETTINGS mutations_sync = 2")
	w.finds(t, true, verify.Differing)
	w.Exec(t, "ALTER TABLE event_log UPDATE resource_id = '2' WHERE resource_id = 'x' SETTINGS mutations_sync = 2")
	if r := w.settle(t); r.Events != 1 {
		t.Errorf("a pass: %+v", r)
	}
	w.sound(t)
	late()
	w.finds(t, true, verify.Unerased)
	report := w.run(t, lifecycle.Options{})
	if report.Erased != 1 {
		t.Errorf("a run: %+v", report)
	}
	want := r.Pseudonym + "\t1\t{\"ip\":null}\n" + r.Pseudonym + "\t2\t{\"ip\":null}\n" + r.Pseudonym + "\t2\t{\"ip\":null}"
	if got := w.rows(t, ann); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	w.ingest(t)
	w.sound(t)
	w.Exec(t, "ALTER TABLE event_log UPDATE resource_id = 'x' WHERE resource_id = '1' SETTINGS mutations_sync = 2")
	w.finds(t, true, verify.Differing)
	w.Exec(t, "ALTER TABLE event_log UPDATE resource_id = '1', actor_id = 'erased-2' WHERE resource_id = 'x' SETTINGS mutations_sync = 2")
	w.finds(t, true, verify.Differing)
}

// Ensure an erasure is not called done while what came in before ingesters knew of it is on its way to the table, for as long as that takes.
func TestEraseWaits(t *testing.T) {
	w := newWorld(t)
	w.event(t, ann, name, "r", "1", `{}`, now)
	w.ingest(t)
	w.erase(t, ann)
	w.event(t, ann, name, "r", "2", `{}`, now) // in the memory of an ingester that does not know
	later := lifecycle.Options{By: "olga", Now: time.Now().Add(time.Hour)}
	_, err := lifecycle.FinishErasures(t.Context(), w.system, later)
	must(t, err)
	state, err := w.Control.Load(t.Context())
	must(t, err)
	if len(state.Erasing()) != 1 {
		t.Errorf("done before all is in the table: %+v", state.Erasing())
	}
	if r := w.settle(t); r.Events != 1 {
		t.Errorf("the last pass: %+v", r)
	}
	w.sound(t)
}

// Ensure an erasure that dies after any of its steps is one already, and that the same command, or the next pass, brings it to the same end.
func TestEraseDeath(t *testing.T) {
	for _, at := range []lifecycle.Step{lifecycle.Decided, lifecycle.Stripped, lifecycle.Renamed, lifecycle.Recounted} {
		t.Run(string(at), func(t *testing.T) {
			command := at != lifecycle.Stripped // else the next pass alone
			w := newWorld(t)
			w.eraseRule(t, ann, control.EraseRule{Fields: []string{"ip"}})
			w.event(t, ann, name, "r", "1", `{"ip":1}`, now)
			w.event(t, ann, name, "r", "2", `{}`, bound)
			w.ingest(t)
			d, _, err := lifecycle.Erase(t.Context(), w.system, ann, name, lifecycle.Options{By: "olga", After: dieAt(at)})
			if !errors.Is(err, errDeath) {
				t.Fatal(err)
			}
			w.sound(t)
			w.about(t, control.HoldSet, ann) // what was decided before it is done
			if command {
				if again, _ := w.erase(t, ann); again.Seq != 0 {
					t.Errorf("decided once more: %+v", again)
				}
			}
			w.settle(t)
			p := d.Erase.Pseudonym
			if got := w.rows(t, ann); got != p+"\t1\t{\"ip\":null}\n"+p+"\t2\t{}" {
				t.Errorf("%s", got)
			}
			if got := w.Exec(t, "SELECT groupUniqArray(actor_id) FROM event_hours WHERE actor_id != 'olga'"); got != "['"+p+"']" {
				t.Errorf("counts are of %s", got)
			}
			w.sound(t)
		})
	}
}

// Ensure nobody of a tenant on hold is erased, whenever the hold comes before the decision, and that a rule that names more than it did is followed by the
// same command, under the same pseudonym.
func TestEraseHoldAndRule(t *testing.T) {
	w := newWorld(t)
	w.event(t, ann, name, "r", "1", `{"ip":1}`, now)
	w.ingest(t)
	w.about(t, control.HoldSet, ann)
	_, before, err := w.Reader.Bounds(t.Context())
	must(t, err)
	if _, _, err := lifecycle.Erase(t.Context(), w.system, ann, name, lifecycle.Options{By: "olga"}); !errors.Is(err, lifecycle.ErrHeld) {
		t.Errorf("erasing on hold: %v", err)
	}
	if _, err := lifecycle.PlanErase(t.Context(), w.system, ann, name); !errors.Is(err, lifecycle.ErrHeld) {
		t.Errorf("planning on hold: %v", err)
	}
	if _, after, err := w.Reader.Bounds(t.Context()); err != nil || after != before || w.rows(t, ann) != name+"\t1\t{\"ip\":1}" {
		t.Errorf("on hold: %d events after %d, %s, %v", after, before, w.rows(t, ann), err)
	}
	w.about(t, control.HoldRelease, ann)
	first, _ := w.erase(t, ann)
	w.settle(t)
	w.eraseRule(t, ann, control.EraseRule{Fields: []string{"ip"}})
	plan, err := lifecycle.PlanErase(t.Context(), w.system, ann, name)
	must(t, err)
	second, r := w.erase(t, ann)
	if r.Events != 1 || plan.Events != 1 || second.Seq == 0 || second.Erase.Pseudonym != first.Erase.Pseudonym {
		t.Errorf("%+v %+v %+v", plan, r, second)
	}
	if got := w.rows(t, ann); got != r.Pseudonym+"\t1\t{\"ip\":null}" {
		t.Errorf("%s", got)
	}
	w.sound(t)
	w.settle(t)
	w.sound(t)
}

// Ensure many rows are changed a few at a time, by number and by size, and all of them.
func TestEraseMany(t *testing.T) {
	for _, bounds := range [][2]int{{7, 1 << 20}, {1000, 60_000}} {
		w := newWorld(t)
		lifecycle.LowerEraseLimits(t, time.Minute, bounds[0], bounds[1])
		w.Batch = 100
		w.eraseRule(t, ann, control.EraseRule{Fields: []string{"ip"}})
		long := strings.Repeat(`\\x'\"`, 1000)
		const rows = 30
		for i := range rows {
			w.event(t, ann, name, "r", fmt.Sprint(i), `{"ip":1,"l":"`+long+`"}`, bound.AddDate(0, 0, 100*(i%2)))
		}
		w.ingest(t)
		if _, r := w.erase(t, ann); r.Events != rows || len(r.Lines) != 2 {
			t.Errorf("%+v", r)
		}
		if got := w.Exec(t, "SELECT count() FROM event_log WHERE startsWith(actor_id, 'erased-') AND startsWith(metadata, '{\"ip\":null,')"); got != fmt.Sprint(rows) {
			t.Errorf("%s rows are erased", got)
		}
		if got := w.Exec(t, "SELECT count() >= 4 FROM system.mutations WHERE database = currentDatabase() AND table = 'event_log' AND position(command, 'transform(stream_seq') > 0"); got != "1" {
			t.Error("all at once")
		}
		w.sound(t)
	}
}

// Ensure an ingester finishes by itself what died once it was decided, of several people together, each under the pseudonym that was decided.
func TestEraseByKeeper(t *testing.T) {
	w := newWorld(t)
	lifecycle.LowerEraseLimits(t, 0, 1000, 1<<20)
	lifecycle.LookOften(t)
	w.event(t, ann, name, "r", "0", `{"ip":1}`, now)
	w.event(t, ann, "user_2", "r", "1", `{"ip":1}`, bound)
	w.event(t, ann, "user_3", "r", "2", `{"ip":1}`, bound)
	w.event(t, ann, "user_4", "r", "3", `{"ip":1}`, bound)
	w.ingest(t)
	death := errors.New("killed")
	var want, salts []string
	for i, actor := range []string{name, "user_2", "user_3"} {
		if i == 2 {
			w.eraseRule(t, ann, control.EraseRule{Fields: []string{"ip"}})
		}
		d, _, err := lifecycle.Erase(t.Context(), w.system, ann, actor, lifecycle.Options{By: "olga", After: func(lifecycle.Step) error { return death }})
		if !errors.Is(err, death) {
			t.Fatal(err)
		}
		if salts = append(salts, d.Erase.Salt.String()); salts[i] != salts[0] || d.Erase.ActorHash.String() == fmt.Sprintf("%x", sha256.Sum256([]byte(actor))) {
			t.Errorf("salts %v, hash %s", salts, d.Erase.ActorHash)
		}
		want = append(want, d.Erase.Pseudonym+fmt.Sprintf("\t%d\t{\"ip\":%s}", i, []string{"1", "1", "null"}[i]))
	}
	want = append(want, `user_4	3	{"ip":1}`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	looks := 0
	// It never runs by itself: erasures do not wait for that.
	k := lifecycle.NewKeeper(w.system, "keeper", 0, func() bool {
		if looks++; looks == 2 {
			cancel()
		}
		return true
	}, prometheus.NewRegistry())
	must(t, k.Run(ctx))
	if got := w.rows(t, ann); got != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	state, err := w.Control.Load(t.Context())
	must(t, err)
	if open := state.Erasing(); len(open) > 0 {
		t.Errorf("open: %+v", open)
	}
	w.sound(t)
}

// Ensure that after an erasure the name is in no file of the tables once the server has let go of the parts that were replaced, in no statement that the
// server has written down, and in no decision.
func TestEraseLeavesNoName(t *testing.T) {
	w := newWorld(t)
	for _, table := range []string{"event_log", "event_hours"} {
		w.Exec(t, "ALTER TABLE "+table+" MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0, min_bytes_for_wide_part = 0")
		w.Exec(t, "DETACH TABLE "+table+" SYNC") // who clears up is asleep for as long as the settings said before
		w.Exec(t, "ATTACH TABLE "+table)
	}
	w.Exec(t, "ALTER TABLE event_log MODIFY COLUMN actor_id CODEC(NONE), MODIFY COLUMN resource_id CODEC(NONE), MODIFY COLUMN metadata CODEC(NONE)")
	w.Exec(t, "ALTER TABLE event_hours MODIFY COLUMN actor_id CODEC(NONE)")
	w.run(t, lifecycle.Options{}) // so that the next run of the week leaves on the disk what it hides
	w.eraseRule(t, ann, control.EraseRule{Fields: []string{"email"}, ResourceTypes: []string{"user"}})
	w.event(t, ann, name, "user", name, `{"email":"`+name+`"}`, now)
	w.event(t, ann, name, "user", name, `{"email":"`+name+`"}`, bound.Add(-time.Hour))
	w.event(t, ann, "user_2", "user", "user_2", `{}`, bound)
	w.ingest(t)
	w.run(t, lifecycle.Options{}) // hides one
	if tables := w.naming(t); len(tables) != 2 {
		t.Fatalf("before the erasure the name is in files of %v", tables)
	}
	w.erase(t, ann)
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if left = w.naming(t); len(left) == 0 {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("the name is in files of %v", left)
	}
	w.Exec(t, "SYSTEM FLUSH LOGS")
	const written = `SELECT count() > 0, countIf(position(text, reverse('moc.elpmaxe@eiruc.eiram')) > 0 OR position(lower(text), hex(reverse('moc.elpmaxe@eiruc.eiram'))) > 0)
		FROM (SELECT toString(tuple(*)) AS text FROM %s)`
	for _, table := range []string{"system.query_log WHERE current_database = currentDatabase()", "system.mutations WHERE database = currentDatabase()", "control_log"} {
		if got := w.Exec(t, fmt.Sprintf(written, table)); got != "1\t0" {
			t.Errorf("%s: there are any, with the name: %s", table, got)
		}
	}
	s, err := w.JS.Stream(t.Context(), events.StreamControl)
	must(t, err)
	for seq := range s.CachedInfo().State.LastSeq {
		m, err := s.GetMsg(t.Context(), seq+1)
		must(t, err)
		if bytes.Contains(m.Data, []byte(name)) {
			t.Errorf("decision %d: %s", seq+1, m.Data)
		}
	}
	w.sound(t)
}

// naming are the tables that have files with the name.
func (w *world) naming(t *testing.T) (tables []string) {
	t.Helper()
	for _, table := range []string{"event_log", "event_hours"} {
		dir := w.Exec(t, "SELECT data_paths[1] FROM system.tables WHERE database = currentDatabase() AND name = '"+table+"'")
		found := false
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			found = found || bytes.Contains(data, []byte(name))
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // parts come and go
			t.Fatal(err)
		}
		if found || err != nil {
			tables = append(tables, table)
		}
	}
	return tables
}

// Ensure a copy of the decisions in ClickHouse is enough: after the stream was lost and repaired from it, the same people are erased.
func TestEraseAfterRepair(t *testing.T) {
	w := newWorld(t)
	w.event(t, ann, name, "r", "1", `{}`, now)
	w.ingest(t)
	_, r := w.erase(t, ann)
	must(t, w.JS.DeleteStream(t.Context(), events.StreamControl))
	_, err := natsside.RepairControl(t.Context(), w.JS, verifytest.Shape, w.Table, slog.New(slog.DiscardHandler))
	must(t, err)
	w.Control = control.New(w.JS, w.Table)
	_, err = rebuild.Run(t.Context(), w.System, rebuild.Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	if got := w.rows(t, ann); got != r.Pseudonym+"\t1\t{}" {
		t.Errorf("%s", got)
	}
	w.sound(t)
}
