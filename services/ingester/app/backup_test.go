package app

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/backup"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
)

// keepLong is a decision that removes nothing.
var keepLong = control.Decision{Kind: control.RetentionSet, By: "ann", Retention: &control.Retention{Days: 4000}}

// servers is the rig as a backup sees it. between is called after each of its steps, with the line that tells of it.
func (r *rig) servers(t *testing.T, between func(line string)) backup.System {
	t.Helper()
	table, err := clickhouse.Open(t.Context(), r.cfg.ClickHouseURL, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	return backup.System{JetStream: r.js, Shape: r.cfg.shape(), Table: table, Shard: r.cfg.Shard, Progress: between}
}

// published publishes events one after the other until it is told to stop, and returns the ids of those that were acknowledged.
func (r *rig) published(t *testing.T) (stop func() []uuid.UUID) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var ids []uuid.UUID
	var wg sync.WaitGroup
	wg.Go(func() {
		p, err := events.NewPublisher(r.nc)
		if err != nil {
			t.Error(err)
			return
		}
		for i := 0; ctx.Err() == nil; i++ {
			e := events.Event{ID: uuid.New(), CreatedAt: time.Now(), TenantID: tenantOf(i % 30), ActorID: "user_18", ActorType: "user", Action: "invoice.read",
				ResourceType: "invoice", ResourceID: "inv_1", Metadata: []byte(`{}`)}
			if p.Publish(ctx, e) == nil {
				ids = append(ids, e.ID)
			}
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return func() []uuid.UUID {
		cancel()
		wg.Wait()
		return ids
	}
}

// Ensure a backup that is taken while events come in, and between whose steps more of them are committed, comes up in empty servers as a log that goes on
// as after a crash: all that was acknowledged before is there, each event once, and ledger, stream and table agree.
func TestBackupUnderLoad(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	r.publish(t, 300, 30)
	r.refuse(t, 3)
	r.wantRows(t, 300, 20*time.Second)
	r.wantDeadLetters(t, 3)

	r.decide(t, keepLong)
	end := r.published(t)
	dir := filepath.Join(t.TempDir(), "b")
	rows := func() string {
		lines, err := r.query("SELECT count() FROM audit.event_log")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(lines, "")
	}
	more := func() { // than are in the table now
		before := rows()
		for deadline := time.Now().Add(20 * time.Second); rows() == before; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nothing comes into the table")
			}
		}
	}
	more()
	m, err := backup.Write(t.Context(), r.servers(t, func(string) { more() }), dir)
	if err != nil {
		t.Fatal(err)
	}
	all := end()
	stop()

	to := emptyRig(t)
	if _, err := to.js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "OTHERS", Subjects: []string{"others"}}); err != nil { // no business of ours
		t.Fatal(err)
	}
	report, err := backup.Restore(t.Context(), to.servers(t, func(string) {}), dir)
	if err != nil {
		t.Fatal(err)
	}
	if report.Again == 0 {
		t.Error("the table was not ahead of the ledger: nothing was tried")
	}
	stream := m.Streams[slices.IndexFunc(m.Streams, func(s backup.Stream) bool { return s.Name == events.StreamAudit })]
	_, stop = to.serve(t, nil)
	to.wantRows(t, int(stream.Messages)-3, 20*time.Second) //nolint:gosec // a few thousand
	stop()
	if code, out := to.run(t, "verify", "--deep"); code != exitOK {
		t.Errorf("verify: %d %s", code, out)
	}
	to.wantDeadLetters(t, 3)
	if state, err := control.New(to.js, to.servers(t, nil).Table).Load(t.Context()); err != nil || state.Seq != 1 {
		t.Errorf("decisions: %+v, %v", state, err)
	}
	there, err := to.query("SELECT toString(id) FROM audit.event_log WHERE actor_id = 'user_18' ORDER BY stream_seq")
	if err != nil {
		t.Fatal(err)
	}
	// The publisher waited for each event, so what is missing at the end came after the stream was copied.
	for i, id := range there {
		if all[i].String() != id {
			t.Fatalf("event %d is %s, want %s", i, id, all[i])
		}
	}
	if n := len(there); n == 0 || n >= len(all) {
		t.Errorf("%d events of %d are there: they should go on after the backup", n, len(all))
	}
	if code, out := to.run(t, "recount"); code != exitOK {
		t.Errorf("recount: %d %s", code, out)
	}
	counted, err := to.query("SELECT sum(events) = (SELECT count() FROM audit.events) FROM audit.events_hourly")
	if err != nil || len(counted) != 1 || counted[0] != "1" {
		t.Errorf("hourly counts agree: %v (%v)", counted, err)
	}
}

// missing fails the test unless the backup left nothing at its place.
func missing(t *testing.T, dir string) {
	t.Helper()
	for _, path := range []string{dir, dir + ".part"} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there (%v)", path, err)
		}
	}
}

// Ensure a backup that cannot become whole fails and leaves nothing: interrupted at any of its steps, of a stream that is trimmed
// meanwhile, of another number of partitions, over one that is there.
func TestBackupFails(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	defer stop()
	r.publish(t, 100, 30)
	r.wantRows(t, 100, 20*time.Second)
	dir := filepath.Join(t.TempDir(), "deep", "b")

	for step := range 4 { // the fifth is the last
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := backup.Write(ctx, r.servers(t, func(string) {
			if n++; n > step {
				cancel()
			}
		}), dir)
		if cancel(); err == nil || !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted after step %d: %v", step, err)
		}
		missing(t, dir)
	}
	_, err := backup.Write(t.Context(), r.servers(t, func(line string) {
		if strings.HasPrefix(line, "ClickHouse") {
			r.publish(t, 50, 30)
			r.wantRows(t, 150, 20*time.Second)
			waitCommitted(t, r)
			trimAll(t, r)
		}
	}), dir)
	if err == nil || !strings.Contains(err.Error(), "AUDIT_RETENTION") {
		t.Errorf("trimmed meanwhile: %v", err)
	}
	missing(t, dir)
	_, err = backup.Write(t.Context(), r.servers(t, func(line string) {
		if strings.HasPrefix(line, "ClickHouse") {
			r.decide(t, keepLong)
		}
	}), dir)
	if err == nil || !strings.Contains(err.Error(), "decisions 1 to 1") {
		t.Errorf("decided meanwhile: %v", err)
	}
	missing(t, dir)
	if code, out := r.runWith(t, map[string]string{"AUDIT_PARTITIONS": "8"}, "backup", dir); code != exitFault || !strings.Contains(out, "AUDIT_PARTITIONS") {
		t.Errorf("other partitions: %d %s", code, out)
	}
	missing(t, dir)
	if err := os.MkdirAll(dir+".part", 0o700); err != nil {
		t.Fatal(err)
	}
	if code, out := r.run(t, "backup", dir); code != exitFault || !strings.Contains(out, "interrupted: then remove it") {
		t.Errorf("beside another: %d %s", code, out)
	}
	if err := os.Remove(dir + ".part"); err != nil {
		t.Fatal(err)
	}
	if code, out := r.run(t, "backup", dir); code != exitOK {
		t.Fatalf("%d %s", code, out)
	}
	if code, out := r.run(t, "backup", dir); code != exitFault || !strings.Contains(out, "name a new folder") {
		t.Errorf("over another: %d %s", code, out)
	}
	if err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		info, ierr := d.Info()
		if err == nil && ierr == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %s: others could read it", path, info.Mode())
		}
		return errors.Join(err, ierr)
	}); err != nil {
		t.Fatal(err)
	}
}

// waitCommitted waits until the positions are those of the table.
func waitCommitted(t *testing.T, r *rig) {
	t.Helper()
	positions := mustPositions(t, r)
	for p := range r.cfg.Partitions {
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			pos, err := positions.Get(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			table, err := r.servers(t, nil).Table.LastOfPartition(t.Context(), p, 0)
			if err != nil {
				t.Fatal(err)
			}
			if pos.LastSeq >= table {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("partition %d is at %d, the table at %d", p, pos.LastSeq, table)
			}
		}
	}
}

// runWith is run with other settings.
func (r *rig) runWith(t *testing.T, env map[string]string, args ...string) (int, string) {
	t.Helper()
	var out strings.Builder
	code := Main(t.Context(), args, func(name string) string {
		if v, ok := env[name]; ok {
			return v
		}
		return r.getenv(name)
	}, nil, &out, &out)
	return code, out.String()
}

// Ensure a restore touches nothing when the servers are not empty, or the backup is not whole, not as it was written, or of another shape; and that the
// same backup can be restored after all of that.
func TestRestoreRefuses(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	r.publish(t, 100, 30)
	r.wantRows(t, 100, 20*time.Second)
	stop()
	dir := filepath.Join(t.TempDir(), "b")
	if code, out := r.run(t, "backup", dir); code != exitOK {
		t.Fatalf("%d %s", code, out)
	}
	if code, out := r.run(t, "restore", dir); code != exitFault || !strings.Contains(out, "not empty: ClickHouse has the tables control_log, ") {
		t.Errorf("into itself: %d %s", code, out)
	}

	to := emptyRig(t)
	f := func(name, want string, env map[string]string, harm func(dir string) error) {
		t.Helper()
		broken := filepath.Join(t.TempDir(), "b")
		if err := errors.Join(os.CopyFS(broken, os.DirFS(dir)), harm(broken)); err != nil {
			t.Fatal(err)
		}
		if code, out := to.runWith(t, env, "restore", broken); code != exitFault || !strings.Contains(out, want) {
			t.Errorf("%s: %d %s", name, code, out)
		}
	}
	none := func(string) error { return nil }
	change := func(change func(*backup.Manifest)) func(string) error {
		return func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
			if err != nil {
				return err
			}
			var m backup.Manifest
			if err := json.Unmarshal(data, &m); err != nil {
				return err
			}
			change(&m)
			if data, err = json.Marshal(m); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "manifest.json"), data, 0o600)
		}
	}
	f("interrupted", "no backup: ", nil, func(dir string) error { return os.Remove(filepath.Join(dir, "manifest.json")) })
	f("file missing", "is not whole", nil, func(dir string) error { return os.Remove(filepath.Join(dir, "nats/AUDIT/backup.json")) })
	f("one byte changed", "is not as it was written", nil, func(dir string) error {
		path := filepath.Join(dir, "clickhouse/database.tar")
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 1
		return os.WriteFile(path, data, 0o600)
	})
	f("cut short", "is not as it was written", nil, func(dir string) error { return os.Truncate(filepath.Join(dir, "nats/AUDIT/stream.arc.s2"), 100) })
	f("file elsewhere", "which is not in it", nil, change(func(m *backup.Manifest) { m.Table.File.Path = "../../etc/passwd" }))
	f("later format", "is of format 2", nil, change(func(m *backup.Manifest) { m.Format = 2 }))
	f("later schema", "of version 999", nil, change(func(m *backup.Manifest) { m.Table.Schema = 999 }))
	f("other partitions", "AUDIT_PARTITIONS is 8", map[string]string{"AUDIT_PARTITIONS": "8"}, none)
	f("other shard", "AUDIT_SHARD is 2/2", map[string]string{"AUDIT_SHARD": "2/2"}, none)
	if _, err := to.js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "AUDIT_OLD", Subjects: []string{"old"}}); err != nil {
		t.Fatal(err)
	}
	f("not empty", "not empty: NATS has the streams AUDIT_OLD", nil, none)
	if err := to.js.DeleteStream(t.Context(), "AUDIT_OLD"); err != nil {
		t.Fatal(err)
	}
	if tables, err := to.query("SELECT count() FROM system.tables WHERE database = 'audit'"); err != nil || tables[0] != "0" {
		t.Errorf("tables were made: %v (%v)", tables, err)
	}
	if code, out := to.run(t, "restore", dir); code != exitOK || !strings.Contains(out, "100 rows") {
		t.Fatalf("%d %s", code, out)
	}
	_, stop = to.serve(t, nil)
	to.publish(t, 20, 30)
	to.wantRows(t, 120, 20*time.Second)
	stop()
	if code, out := to.run(t, "verify", "--deep"); code != exitOK {
		t.Errorf("verify: %d %s", code, out)
	}
}

// Ensure a system of two shards comes back from the backup of the first, with the streams, and of the second's table, with events committed in between.
func TestBackupShards(t *testing.T) {
	shard := func(of *rig, url, i string) map[string]string {
		return map[string]string{"AUDIT_NATS_URL": of.NATSURL(), "AUDIT_CLICKHOUSE_URL": url, "AUDIT_SHARD": i}
	}
	serve := func(of *rig, url string) (stop func()) {
		var stops []func()
		for _, env := range []map[string]string{shard(of, of.ClickHouseURL(), "1/2"), shard(of, url, "2/2")} {
			_, stop := of.serve(t, func(cfg *Config) {
				var err error
				if *cfg, err = ConfigFromEnv(func(name string) string { return env[name] }); err != nil {
					t.Fatal(err)
				}
			})
			stops = append(stops, stop)
		}
		return func() {
			for _, stop := range stops {
				stop()
			}
		}
	}
	rows := func(want int, of ...*rig) {
		t.Helper()
		var have int
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			have = 0
			for _, r := range of {
				if lines, err := r.query("SELECT count() FROM audit.event_log FINAL"); err == nil && len(lines) == 1 {
					n, _ := strconv.Atoi(lines[0])
					have += n
				}
			}
			if have == want {
				return
			}
		}
		t.Fatalf("%d rows on both shards, want %d", have, want)
	}
	from, second := newRig(t), emptyRig(t)
	stop := serve(from, second.ClickHouseURL())
	from.publish(t, 200, 30)
	rows(200, from, second)
	dir := t.TempDir()
	all, table := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	if code, out := from.runWith(t, shard(from, from.ClickHouseURL(), "1/2"), "backup", all); code != exitOK {
		t.Fatalf("%d %s", code, out)
	}
	from.publish(t, 60, 30)
	rows(260, from, second)
	if code, out := from.runWith(t, shard(from, second.ClickHouseURL(), "2/2"), "backup", "--table-only", table); code != exitOK {
		t.Fatalf("%d %s", code, out)
	}
	stop()

	to, other := emptyRig(t), emptyRig(t)
	if code, out := to.runWith(t, shard(to, other.ClickHouseURL(), "2/2"), "restore", table); code != exitFault || !strings.Contains(out, "--table-only") {
		t.Errorf("a table as if it were all: %d %s", code, out)
	}
	if code, out := to.runWith(t, shard(to, to.ClickHouseURL(), "1/2"), "restore", all); code != exitOK {
		t.Fatalf("%d %s", code, out)
	}
	if code, out := to.runWith(t, shard(to, other.ClickHouseURL(), "2/2"), "restore", "--table-only", table); code != exitOK || strings.Contains(out, " 0 more ") {
		t.Fatalf("%d %s", code, out)
	}
	stop = serve(to, other.ClickHouseURL())
	to.publish(t, 20, 30)
	rows(220, to, other) // the 60 came after the streams were copied
	stop()
	for i, url := range map[string]string{"1/2": to.ClickHouseURL(), "2/2": other.ClickHouseURL()} {
		if code, out := to.runWith(t, shard(to, url, i), "verify", "--deep"); code != exitOK {
			t.Errorf("verify %s: %d %s", i, code, out)
		}
	}
}
