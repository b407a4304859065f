package app

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/lifecycle"
)

// publishBy publishes one event of an actor.
func (r *rig) publishBy(t *testing.T, tenant uuid.UUID, actor, metadata string) {
	t.Helper()
	data := fmt.Appendf(nil, `{"id":"%s","actor_id":"%s","actor_type":"user","action":"pay","resource_type":"r","resource_id":"i","metadata":%s,"created_at":"%s"}`,
		uuid.New(), actor, metadata, time.Now().UTC().Format(time.RFC3339Nano))
	if _, err := r.js.Publish(t.Context(), events.Subject(tenant), data); err != nil {
		t.Fatal(err)
	}
}

// mustRun runs a command and returns what it says.
func (r *rig) mustRun(t *testing.T, args ...string) string {
	t.Helper()
	code, out := r.run(t, args...)
	if code != exitOK {
		t.Errorf("%v: %d %s", args, code, out)
	}
	return out
}

// Ensure events of somebody who was erased that come later are in the table under the pseudonym alone, once the ingester knows, which a restarted one does
// from its first event on; that those of another tenant's actor of that name stay; and that wrong arguments are refused before anything is done.
func TestEraseLive(t *testing.T) {
	r := newRig(t)
	svc, stop := r.serve(t, nil)
	erased, other := tenantOf(1), tenantOf(2)
	r.publishBy(t, erased, "user_17", `{"ip":1}`)
	r.waitIngested(t)
	r.mustRun(t, "erase", "rule", "set", "--tenant", erased.String(), "--fields", "ip,email,ip", "--operator", "olga")
	r.mustRun(t, "erase", "--tenant", erased.String(), "--actor", "user_17", "--reason", "request", "--operator", "olga")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ev := events.Raw{ActorID: []byte("user_17")}
		if svc.erased.Apply(erased, &ev); string(ev.ActorID) != "user_17" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the ingester does not come to know of the erasure")
		}
	}
	for range 2 {
		r.publishBy(t, erased, "user_17", `{ "ip" : {"v6":"::1"}, "n":1.0 }`)
		r.publishBy(t, erased, "user_18", `{"ip":2}`)
		r.publishBy(t, other, "user_17", `{"ip":3}`)
		r.waitIngested(t)
		stop()
		_, stop = r.serve(t, nil)
	}
	stop()
	got, err := r.query("SELECT tenant_id = '" + other.String() + "' AS o, startsWith(actor_id, 'erased-') ? 'erased' : actor_id, metadata_text, count() FROM audit.events WHERE actor_type = 'user' GROUP BY ALL ORDER BY ALL")
	want := "0\terased\t{ \"ip\" : null, \"n\":1.0 }\t2\n0\terased\t{\"ip\":null}\t1\n0\tuser_18\t{\"ip\":2}\t2\n1\tuser_17\t{\"ip\":3}\t2"
	if lines := strings.Join(got, "\n"); err != nil || lines != want {
		t.Errorf("%v\n%s\nwant\n%s", err, lines, want)
	}
	r.mustRun(t, "verify", "--deep")
	tenant := erased.String()
	for _, args := range [][]string{
		{"erase"}, {"erase", "--tenant", tenant}, {"erase", "--actor", "x"}, {"erase", "--tenant", tenant, "--actor", "x"}, {"erase", "--tenant", "x", "--actor", "x", "--reason", "y"},
		{"erase", "--tenant", tenant, "--actor", "x.y", "--reason", "erase x.y, please"}, {"erase", "--tenant", tenant, "--actor", "x", "--reason", "y", "--operator", "x"},
		{"erase", "--tenant", tenant, "--actor", strings.Repeat("x", 257), "--reason", "y"}, {"erase", "rule"}, {"erase", "rule", "set", "--fields", "x"},
		{"erase", "rule", "set", "--tenant", tenant}, {"erase", "rule", "set", "--tenant", tenant, "--fields", strings.Repeat("x", 257)}, {"erase", "rule", "unset"},
	} {
		if code, out := r.run(t, args...); code != exitUsage {
			t.Errorf("%v: %d %s", args, code, out)
		}
	}
	r.mustRun(t, "erase", "--tenant", tenant, "--actor", "x", "--reason", "xx of x2", "--operator", "olga", "--json")
	r.mustRun(t, "erase", "rule", "unset", "--tenant", tenant, "--operator", "olga")
	if code, out := r.run(t, "erase", "rule", "unset", "--tenant", tenant); code != exitFault {
		t.Errorf("unset once more: %d %s", code, out)
	}
	if out := r.mustRun(t, "erase", "rule", "list", "--json"); out != "[]\n" {
		t.Errorf("rules: %s", out)
	}
}

// Ensure a process that is killed in the middle of an erasure, beside an ingester, has done it or not, and that the same command ends it.
func TestEraseKilled(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	tenant := tenantOf(1)
	for i, step := range []lifecycle.Step{lifecycle.Decided, lifecycle.Stripped, lifecycle.Renamed} {
		actor := fmt.Sprint("user_", i)
		r.publishBy(t, tenant, actor, `{}`)
		r.waitIngested(t)
		child := r.spawn(t, envErase+"="+string(step), envEraseTenant+"="+tenant.String(), envEraseActor+"="+actor)
		if err := child.Wait(); err == nil {
			t.Fatalf("the erasure was not killed after %s", step)
		} else if ws := child.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
			t.Fatalf("the erasure was not killed after %s: %v", step, err)
		}
		r.mustRun(t, "verify", "--deep")
		if out := r.mustRun(t, "erase", "--tenant", tenant.String(), "--actor", actor, "--reason", "r", "--operator", "olga"); strings.Contains(out, "decision") {
			t.Errorf("decided twice: %s", out)
		}
		r.mustRun(t, "verify", "--deep")
		if left, err := r.query("SELECT uniqExactIf(actor_id, startsWith(actor_id, 'erased-')), countIf(startsWith(actor_id, 'user_')) FROM audit.events"); err != nil || left[0] != fmt.Sprintf("%d\t0", i+1) {
			t.Errorf("after a death after %s: pseudonyms, names: %v, %v", step, left, err)
		}
	}
	stop()
}
