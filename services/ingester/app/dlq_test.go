package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// command runs the ingester's command line in this process.
func (r *rig) command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, err bytes.Buffer
	code = Main(ctx, args, r.getenv, strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

// Ensure what is refused is kept byte for byte with its reason, can be listed and shown, and that the partition goes on.
func TestDeadLetters(t *testing.T) {
	r := newRig(t)
	r.serve(t, nil)
	tenant := tenantOf(1).String()
	valid := func(created time.Time) string {
		return fmt.Sprintf(`{"id":"%s","actor_id":"a","actor_type":"u","action":"x","resource_type":"r","resource_id":"i","created_at":"%s"}`,
			uuid.New(), created.UTC().Format(time.RFC3339Nano))
	}
	cases := []struct{ token, data, reason string }{
		{tenant, "\x00\xff not JSON at all", "message"},
		{tenant, `{"id":"` + uuid.NewString() + `"}`, "actor_id: is missing; actor_type: is missing"},
		{tenant, strings.Replace(valid(time.Now()), `"action"`, `"acton"`, 1), "acton: is not a field"},
		{tenant, strings.TrimSuffix(valid(time.Now()), "}") + `,"tenant_id":"` + tenantOf(2).String() + `"}`, "tenant_id"},
		{strings.ToUpper(tenant), valid(time.Now()), "subject"},
		{"not-a-tenant", valid(time.Now()), "subject"},
		{tenant, valid(time.Now().Add(48 * time.Hour)), "created_at"},
		{tenant, "", "message"},
	}
	sent := map[uint64]int{}
	for i, c := range cases {
		ack, err := r.js.Publish(t.Context(), strings.TrimSuffix(events.SubjectEvents, "*")+c.token, []byte(c.data))
		if err != nil {
			t.Fatal(err)
		}
		sent[ack.Sequence] = i
	}
	r.publish(t, 50, 30)
	r.wantRows(t, 50, 10*time.Second)
	letters := r.wantDeadLetters(t, len(cases))
	for _, l := range letters {
		c := cases[sent[l.StreamSeq]]
		if string(l.data) != c.data || l.Tenant != c.token || !strings.Contains(l.Error, c.reason) || l.Fields == "" || l.Received == "" || l.Refused == "" {
			t.Errorf("sent %q to %s; kept %+v with %q, want reason %q", c.data, c.token, l, l.data, c.reason)
		}
		if code, out, err := r.command(t, "dlq", "show", "--raw", fmt.Sprint(l.Seq)); code != exitOK || out != c.data {
			t.Errorf("show --raw: %d, %q, %s", code, out, err)
		}
		if code, out, err := r.command(t, "dlq", "show", fmt.Sprint(l.Seq)); code != exitOK || !strings.Contains(out, visible(l.Error, "")) || !strings.Contains(out, visible(c.data, "")) {
			t.Errorf("show: %d, %q, %s", code, out, err)
		}
	}
	code, out, stderr := r.command(t, "dlq", "list", "--json", "--tenant", tenant)
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != exitOK || len(lines) != 6 {
		t.Errorf("list: %d, %q, %s", code, out, stderr)
	} else if err := json.Unmarshal([]byte(lines[0]), &deadLetter{}); err != nil {
		t.Error(err)
	}
	if code, out, stderr := r.command(t, "dlq", "list"); code != exitOK || strings.Count(out, "\n") != 9 {
		t.Errorf("list: %d, %q, %s", code, out, stderr)
	}
	// None of them would be accepted now, so none is replayed.
	if code, out, stderr := r.command(t, "dlq", "replay", "--all"); code != exitOK || !strings.Contains(out, "0 replayed, 8 left alone") {
		t.Errorf("replay: %d, %q, %s", code, out, stderr)
	}
	if code, _, _ := r.command(t, "dlq", "replay", fmt.Sprint(letters[0].Seq)); code != exitFault {
		t.Errorf("replay of what would be refused again: status %d", code)
	}
	if code, _, stderr := r.command(t, "dlq", "show", "12345"); code != exitFault || !strings.Contains(stderr, "12345") {
		t.Errorf("show of what is not there: %d, %s", code, stderr)
	}
	if code, out, stderr := r.command(t, "verify", "--deep"); code != exitOK {
		t.Errorf("verify: %d, %s%s", code, out, stderr)
	}
	if code, out, stderr := r.command(t, "rebuild"); code != exitOK || !strings.Contains(out, "50 rows made anew") {
		t.Errorf("rebuild: %d, %s%s", code, out, stderr)
	}
	r.wantRows(t, 50, 10*time.Second)
}

// Ensure a dead letter that would be accepted now is replayed, becomes a row, and a second replay of it adds none.
func TestReplay(t *testing.T) {
	r := newRig(t)
	r.serve(t, nil)
	// What another version refused: the message is in order.
	tenant := tenantOf(1)
	data := fmt.Sprintf(`{"id":"%s","actor_id":"a","actor_type":"u","action":"x","resource_type":"r","resource_id":"i","created_at":"%s"}`,
		uuid.New(), time.Now().UTC().Format(time.RFC3339Nano))
	if _, err := r.js.Publish(t.Context(), events.DLQSubject(tenant), []byte(data)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if code, out, stderr := r.command(t, "dlq", "replay", "1"); code != exitOK || !strings.Contains(out, "1 replayed") {
			t.Fatalf("replay: %d, %q, %s", code, out, stderr)
		}
		r.wantRows(t, 1, 10*time.Second)
	}
}

// Ensure nothing of a dead letter acts on the terminal of whoever looks at it, and that the bytes can be had all the same.
func TestDeadLettersDoNotActOnTerminals(t *testing.T) {
	r := newRig(t)
	r.serve(t, nil)
	const data = "{\"\u001b]0;owned\u0007\":1,\n\"id\":\"\x1b[2J\xff\u202e\"}"
	if _, err := r.js.Publish(t.Context(), strings.TrimSuffix(events.SubjectEvents, "*")+"\x1b[31mred", []byte(data)); err != nil {
		t.Fatal(err)
	}
	r.wantDeadLetters(t, 1)
	for _, args := range [][]string{{"list"}, {"show", "1"}, {"replay", "--all"}} {
		_, out, stderr := r.command(t, append([]string{"dlq"}, args...)...)
		if i := strings.IndexFunc(out+stderr, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); out == "" || i >= 0 {
			t.Errorf("dlq %v: %q acts on a terminal at byte %d", args, out+stderr, i)
		}
	}
	if _, out, _ := r.command(t, "dlq", "show", "1"); !strings.Contains(out, `\x1b[2J\xff\u202e`) || !strings.Contains(out, `\x1b[31mred`) {
		t.Errorf("show does not show what is there: %q", out)
	}
	if _, out, _ := r.command(t, "dlq", "show", "--raw", "1"); out != data {
		t.Errorf("show --raw: %q", out)
	}
	if code, out, stderr := r.command(t, "dlq", "list", "--tenant", "nobody"); code != exitOK || !strings.Contains(stderr, `no dead letters of "nobody"`) {
		t.Errorf("list of a tenant without: %d, %q, %q", code, out, stderr)
	}
}

// Ensure commands whose settings are not those of the system refuse, say which, and change nothing: with fewer partitions, or those of another shard, a
// rebuild would leave rows out of the new table. And that one that is interrupted says so.
func TestCommandsRefuseForeignSettings(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	r.publish(t, 100, 30)
	r.wantRows(t, 100, 10*time.Second)
	stop()
	f := func(setting, value string, commands []string, words ...string) {
		t.Helper()
		for _, name := range commands {
			var out, stderr bytes.Buffer
			code := Main(t.Context(), strings.Fields(name), func(k string) string {
				if k == setting {
					return value
				}
				return r.getenv(k)
			}, strings.NewReader(""), &out, &stderr)
			if code != exitFault || out.Len() > 0 {
				t.Errorf("%s with %s=%s: status %d, %s%s", name, setting, value, code, out.String(), stderr.String())
			}
			for _, word := range append(words, setting) {
				if !strings.Contains(stderr.String(), word) {
					t.Errorf("%s with %s=%s: %q does not say %q", name, setting, value, stderr.String(), word)
				}
			}
		}
	}
	all := []string{"verify", "rebuild", "recount", "ledger repair"}
	f("AUDIT_PARTITIONS", "8", all, events.StreamAudit)
	f("AUDIT_SHARD", "1/2", []string{"rebuild"}, "rows of partition")
	f("AUDIT_NATS_URL", "nats://u:hunter2@127.0.0.1:1", append([]string{"dlq list"}, all...), "127.0.0.1:1")
	f("AUDIT_CLICKHOUSE_URL", "clickhouse://u:hunter2@127.0.0.1:1/audit", all, "127.0.0.1:1")
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range append([]string{"dlq list"}, all...) {
		var out, stderr bytes.Buffer
		code := Main(interrupted, strings.Fields(name), r.getenv, strings.NewReader(""), &out, &stderr)
		if code != exitFault || !strings.HasPrefix(stderr.String(), "ingester: interrupted: ") || strings.Contains(stderr.String(), "repair`") {
			t.Errorf("%s, interrupted: status %d, %s", name, code, stderr.String())
		}
	}
	r.wantRows(t, 100, time.Second)
	if code, out := r.run(t, "rebuild"); code != exitOK {
		t.Errorf("rebuild: %d %s", code, out)
	}
	r.wantRows(t, 100, time.Second)
}

// Ensure wrong arguments and settings are all named, and nothing is tried.
func TestUsage(t *testing.T) {
	f := func(want string, env map[string]string, args ...string) {
		t.Helper()
		var out, stderr bytes.Buffer
		code := Main(t.Context(), args, func(k string) string { return env[k] }, strings.NewReader(""), &out, &stderr)
		if code != exitUsage {
			t.Errorf("%v: status %d, want %d", args, code, exitUsage)
		}
		for _, part := range strings.Fields(want) {
			if !strings.Contains(stderr.String(), part) {
				t.Errorf("%v: %q does not name %s", args, stderr.String(), part)
			}
		}
		if strings.Contains(stderr.String(), "hunter2") {
			t.Errorf("%v: a password is shown", args)
		}
	}
	f("--help", nil)
	f("sevre", nil, "sevre")
	f("--nonsense", nil, "serve", "--nonsense")
	f("extra", nil, "serve", "extra")
	f("list", nil, "dlq")
	f("number", nil, "dlq", "show")
	f("--all", nil, "dlq", "replay")
	f("--tenant", nil, "verify", "--tenant", "acme")
	f("--from", nil, "rebuild", "--from", "yesterday")
	f("AUDIT_PARTITIONS AUDIT_NATS_REPLICAS AUDIT_RETENTION AUDIT_CLICKHOUSE_URL AUDIT_STREAM_MAX_BYTES AUDIT_OPS_ADDR AUDIT_LOG_LEVEL AUDIT_FLUSHERS",
		map[string]string{"AUDIT_PARTITIONS": "0", "AUDIT_NATS_REPLICAS": "2", "AUDIT_RETENTION": "never", "AUDIT_CLICKHOUSE_URL": "http://u:hunter2@h",
			"AUDIT_STREAM_MAX_BYTES": "5", "AUDIT_OPS_ADDR": "x", "AUDIT_LOG_LEVEL": "loud", "AUDIT_FLUSHERS": "many"}, "serve")
	var out bytes.Buffer
	if code := Main(t.Context(), []string{"version"}, os.Getenv, strings.NewReader(""), &out, &out); code != exitOK || !strings.HasPrefix(out.String(), "ingester ") {
		t.Errorf("version: %d, %q", code, out.String())
	}
}
