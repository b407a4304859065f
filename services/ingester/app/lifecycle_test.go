package app

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/lifecycle"
)

// The tenants of the page on retention.
var (
	pageTenant = uuid.MustParse("7e57c0de-0000-4000-8000-000000000001")
	pageLeaver = uuid.MustParse("5eed0001-0000-4000-8000-000000000001")
)

// publishAt publishes one event.
func (r *rig) publishAt(t *testing.T, tenant uuid.UUID, created time.Time) {
	t.Helper()
	data := fmt.Appendf(nil, `{"id":"%s","actor_id":"a","actor_type":"user","action":"pay","resource_type":"r","resource_id":"i","created_at":"%s"}`,
		uuid.New(), created.UTC().Format(time.RFC3339Nano))
	if _, err := r.js.Publish(t.Context(), events.Subject(tenant), data); err != nil {
		t.Fatal(err)
	}
}

// waitIngested waits until every message of the stream is known to be in the table.
func (r *rig) waitIngested(t *testing.T) {
	t.Helper()
	stream, err := r.js.Stream(t.Context(), events.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	want := stream.CachedInfo().State.LastSeq
	var last uint64
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		last = 0
		for p := range r.cfg.Partitions {
			pos, err := mustPositions(t, r).Get(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			last = max(last, pos.LastSeq)
		}
		if last == want {
			return
		}
	}
	t.Fatalf("ingested up to %d, want %d", last, want)
}

// recently is a time, a year of events or a pseudonym that is another one each time; times of long ago are the page's own.
var recently = regexp.MustCompile(`202[6-9]-\d\d-\d\dT\d\d:\d\d:\d\dZ|erased-[0-9a-f]{32}|(?m:^202[6-9]  )`)

// Ensure each command of the page on retention gives what the page says, in its order, on a running system.
func TestLifecyclePage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "lifecycle.md"))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	_, stop := r.serve(t, nil)
	defer stop()
	for _, e := range []struct {
		tenant uuid.UUID
		at     time.Time
	}{
		{pageLeaver, time.Date(2019, 5, 5, 0, 0, 0, 0, time.UTC)}, {pageLeaver, time.Date(2019, 5, 6, 0, 0, 0, 0, time.UTC)}, {pageLeaver, time.Now()},
		{pageTenant, time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC)}, {pageTenant, time.Now()},
	} {
		r.publishAt(t, e.tenant, e.at)
	}
	commands := 0
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		for _, part := range strings.Split("\n"+block[1], "\n$ ingester ")[1:] {
			line, want, _ := strings.Cut(part, "\n")
			r.waitIngested(t)
			code, out := r.run(t, words(line)...)
			if got, want := recently.ReplaceAllString(strings.TrimSpace(out), "T"), recently.ReplaceAllString(strings.TrimSpace(want), "T"); code != exitOK || got != want {
				t.Errorf("ingester %s: status %d\n%s\nwant:\n%s", line, code, got, want)
			}
			commands++
		}
	}
	if commands < 8 {
		t.Errorf("the page has only %d commands", commands)
	}
	r.waitIngested(t)
	if code, out := r.run(t, "verify", "--deep"); code != exitOK {
		t.Errorf("verify: %d %s", code, out)
	}
}

// words splits a command line as a shell does; the page has no quotes within quotes.
func words(line string) (out []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// Ensure an ingester removes what is over by itself, that a restart brings nothing of it back, and that wrong arguments are refused before anything is done.
func TestRetentionByItself(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, func(c *Config) { c.RetentionEvery = 100 * time.Millisecond })
	for i := range 5 {
		r.publishAt(t, tenantOf(i), time.Now().AddDate(0, 0, -control.DefaultDays-1-i))
		r.publishAt(t, tenantOf(i), time.Now())
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left, err := r.query("SELECT countIf(action = 'pay' AND created_at < now() - INTERVAL 300 DAY), countIf(action = 'pay'), countIf(action = 'audit.retention.removed') >= 5 FROM audit.events")
		if err == nil && strings.Join(left, "") == "0\t5\ttrue" || strings.Join(left, "") == "0\t5\t1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("rows over, rows, events of removals: %v, %v", left, err)
		}
	}
	stop()
	_, stop = r.serve(t, nil)
	r.publishAt(t, tenantOf(1), time.Now())
	r.waitIngested(t)
	stop()
	if left, err := r.query("SELECT count() FROM audit.events WHERE action = 'pay'"); err != nil || left[0] != "6" {
		t.Errorf("rows after a restart: %v, %v", left, err)
	}
	if code, out := r.run(t, "verify", "--deep"); code != exitOK {
		t.Errorf("verify: %d %s", code, out)
	}
	code, out := r.run(t, "retention", "list", "--json")
	var rules []ruleLine
	if err := json.Unmarshal([]byte(out), &rules); code != exitOK || err != nil || len(rules) != 1 || rules[0].Days != control.DefaultDays {
		t.Errorf("list: %d %s %v", code, out, err)
	}
	tenant := tenantOf(1).String()
	for _, args := range [][]string{
		{"retention"}, {"retention", "set", "--days", "3"}, {"retention", "set", "--all", "--tenant", tenant, "--days", "3"}, {"retention", "set", "--all"},
		{"retention", "set", "--all", "--days", "0"}, {"retention", "set", "--all", "--days", "40000"}, {"retention", "set", "--tenant", "x", "--days", "3"},
		{"retention", "set", "--all", "--days", "3", "--operator", "a\nb"}, {"hold", "set", "--tenant", tenant}, {"hold", "set", "--reason", "x"},
		{"offboard", "--tenant", tenant, "--reason", "x"}, {"offboard", "--tenant", tenant, "--confirm", tenantOf(2).String(), "--reason", "x"}, {"offboard", "--tenant", tenant, "--confirm", tenant},
	} {
		if code, out := r.run(t, args...); code != exitUsage {
			t.Errorf("%v: %d %s", args, code, out)
		}
	}
}

// Ensure runs that are killed, at each step, beside an ingester, leave a log that verifies, and that the next run finishes them: nothing is left that should be
// gone, and nothing is gone that should be left, after a restart either.
func TestRetentionKilled(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	rows := 0
	for i, step := range []lifecycle.Step{lifecycle.Buried, lifecycle.Cut, lifecycle.Removed} {
		for tenant := range 3 {
			r.publishAt(t, tenantOf(tenant), time.Now().AddDate(0, 0, -control.DefaultDays-1-i))
			r.publishAt(t, tenantOf(tenant), time.Now())
			rows++
		}
		r.waitIngested(t)
		child := r.spawn(t, envRetention+"="+string(step))
		if err := child.Wait(); err == nil {
			t.Fatalf("the run was not killed after %s", step)
		} else if ws := child.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
			t.Fatalf("the run was not killed after %s: %v", step, err)
		}
		for _, args := range [][]string{{"verify"}, {"verify", "--deep"}, {"retention", "run", "--operator", "olga"}, {"verify", "--deep"}} {
			if code, out := r.run(t, args...); code != exitOK {
				t.Errorf("after a death after %s: %v: %d %s", step, args, code, out)
			}
		}
		left, err := r.query("SELECT countIf(created_at < now() - INTERVAL 300 DAY), countIf(action = 'pay'), (SELECT count() FROM audit.tombstones FINAL) FROM audit.events")
		if err != nil || left[0] != fmt.Sprintf("0\t%d\t%[1]d", rows) { // as many are gone as are left, each by one cut
			t.Errorf("after a death after %s: rows that are over, rows, tombstones: %v, %v", step, left, err)
		}
	}
	stop()
	_, stop = r.serve(t, nil)
	r.waitIngested(t)
	stop()
	if left, err := r.query("SELECT count() FROM audit.event_log WHERE created_at < now() - INTERVAL 300 DAY"); err != nil || left[0] != "0" {
		t.Errorf("rows that are over, after a restart: %v, %v", left, err)
	}
}
