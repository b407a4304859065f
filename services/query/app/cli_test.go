package app_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/app"
)

// run runs a command with the environment of the system.
func (s *system) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = app.Main(t.Context(), args, s.getenv, nil, &out, &errs)
	return out.String(), errs.String(), code
}

// Ensure keys can be made, listed, shown, rotated and revoked from the command line, and that a running service follows within a second.
func TestKeyCommands(t *testing.T) {
	s := newSystem(t, shared, nil)
	tenant := uuid.New()
	out, errs, code := s.run(t, "keys", "create", "--tenant", strings.ToUpper(tenant.String()), "--name", "ci & <co>", "--expires", "90d", "--json")
	if code != 0 {
		t.Fatalf("create: %d %s", code, errs)
	}
	var fields map[string]json.RawMessage
	must(t, json.Unmarshal([]byte(out), &fields))
	for _, name := range []string{"id", "key", "tenant_id", "name", "roles", "created_at", "expires_at"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("%s is missing: %s", name, out)
		}
	}
	var key app.CreatedKey
	must(t, json.Unmarshal([]byte(out), &key))
	if len(fields) != 7 || key.TenantID != tenant || key.Name != "ci & <co>" || key.Roles[0] != "auditor" || key.ExpiresAt.Sub(key.CreatedAt) != 90*24*time.Hour {
		t.Errorf("created %s", out)
	}
	time.Sleep(time.Second)
	if res, body := s.getOnce(t, key.Key, tenant, ""); res.StatusCode != http.StatusOK {
		t.Errorf("after a second: %d %s", res.StatusCode, body)
	}
	if out, _, code := s.run(t, "keys", "list"); code != 0 || !strings.Contains(out, key.ID) || strings.Contains(out, key.Key) {
		t.Errorf("list: %d\n%s", code, out)
	}
	if out, _, code := s.run(t, "keys", "list", "--json"); code != 0 || !json.Valid([]byte(out)) || strings.Contains(out, "hash") {
		t.Errorf("list --json: %d\n%s", code, out)
	}
	if out, _, code := s.run(t, "keys", "show", key.ID); code != 0 || !strings.Contains(out, `"state":"active"`) {
		t.Errorf("show: %d %s", code, out)
	}
	if out, _, code := s.run(t, "policy", "explain", "--key", key.ID, "--resource-type", "invoice"); code != 0 || !strings.Contains(out, "allow") || !strings.Contains(out, "tenant_id = ") {
		t.Errorf("explain: %d %s", code, out)
	}
	if out, _, code := s.run(t, "keys", "revoke", key.ID); code != 0 || !strings.Contains(out, "revoked") {
		t.Errorf("revoke: %d %s", code, out)
	}
	time.Sleep(time.Second)
	if res, _ := s.getOnce(t, key.Key, tenant, ""); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a second after it was revoked: %d", res.StatusCode)
	}
	if out, _, _ := s.run(t, "keys", "create", "--tenant", tenant.String(), "--name", "x", "--json"); !strings.Contains(out, `"expires_at":null`) {
		t.Errorf("a key without end: %s", out)
	}
}

// Ensure programs can read what is wrong with policies, and that nothing is.
func TestCheckAsJSON(t *testing.T) {
	s := &system{}
	broken := t.TempDir()
	must(t, os.WriteFile(filepath.Join(broken, "x.cedar"), []byte("permit ("), 0o600))
	out, _, code := s.run(t, "policy", "check", "--json", broken)
	var problems []struct {
		File, What string
		Line       int
	}
	must(t, json.Unmarshal([]byte(out), &problems))
	if code != 1 || len(problems) == 0 || problems[0].File != "x.cedar" || problems[0].Line != 1 || problems[0].What == "" {
		t.Errorf("exit status %d, %s", code, out)
	}
	if out, _, code := s.run(t, "policy", "check", "--json"); code != 0 || out != "[]\n" {
		t.Errorf("built-in: exit status %d, %q", code, out)
	}
}

// Ensure programs can read which cases of a file passed, and what the others expected.
func TestCasesAsJSON(t *testing.T) {
	s := &system{}
	cases := filepath.Join(t.TempDir(), "cases.yaml")
	must(t, os.WriteFile(cases, []byte("cases:\n- {name: reads, key: {roles: [auditor]}, expect: {decision: allow}}\n- {name: barred, key: {roles: [auditor]}, expect: {decision: deny}}\n"), 0o600))
	out, errs, code := s.run(t, "policy", "test", "--cases", cases, "--json")
	var results []struct {
		Name, SQL string
		Failures  []string
	}
	must(t, json.Unmarshal([]byte(out), &results))
	if code != 1 || !strings.Contains(errs, "1 of 2 cases failed") {
		t.Errorf("exit status %d, %s", code, errs)
	}
	if len(results) != 2 || results[0].Name != "reads" || len(results[0].Failures) != 0 || results[0].SQL == "" || len(results[1].Failures) != 1 {
		t.Errorf("results %s", out)
	}
}

// Ensure what is wrong with a call is said at once, with the exit status that stands for it.
func TestCommandFaults(t *testing.T) {
	s := &system{env: map[string]string{"AUDIT_NATS_URL": shared.NATSURL()}}
	broken := t.TempDir()
	must(t, os.WriteFile(filepath.Join(broken, "x.cedar"), []byte("permit ("), 0o600))
	tenant := uuid.NewString()
	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"Nothing":       {nil, 2, []string{"name a command"}},
		"Unknown":       {[]string{"fly"}, 2, []string{"fly"}},
		"UnknownKeys":   {[]string{"keys", "fly"}, 2, []string{"fly"}},
		"Flag":          {[]string{"keys", "list", "--bogus"}, 2, []string{"bogus"}},
		"CreateNothing": {[]string{"keys", "create"}, 2, []string{"--tenant", "--name"}},
		"CreateFaults":  {[]string{"keys", "create", "--tenant", "x", "--expires", "never", "--role", "self"}, 2, []string{"--tenant", "never", "--name", "--actor"}},
		"SelfAlone":     {[]string{"keys", "create", "--tenant", tenant, "--name", "n", "--role", "self"}, 2, []string{"--actor"}},
		"NoDays":        {[]string{"keys", "create", "--tenant", tenant, "--name", "n", "--expires", "-1d"}, 2, []string{"-1d"}},
		"RevokeNone":    {[]string{"keys", "revoke"}, 2, []string{"arg"}},
		"RevokeUnknown": {[]string{"keys", "revoke", "abcdefghijkl"}, 1, []string{"no key has this id"}},
		"CheckBuiltin":  {[]string{"policy", "check"}, 0, nil},
		"CheckBroken":   {[]string{"policy", "check", broken}, 1, []string{"not in order"}},
		"TestWithout":   {[]string{"policy", "test"}, 2, []string{"--cases"}},
		"ExplainNobody": {[]string{"policy", "explain"}, 2, []string{"--key"}},
		"Version":       {[]string{"version"}, 0, nil},
		"Help":          {[]string{"serve", "--help"}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := s.run(t, c.args...)
			if code != c.code {
				t.Errorf("exit status %d, want %d: %s%s", code, c.code, out, errs)
			}
			for _, want := range c.says {
				if !strings.Contains(errs, want) {
					t.Errorf("%q is not in: %s", want, errs)
				}
			}
		})
	}
}

// Ensure wrong settings are all reported at once, before anything starts.
func TestSettingsFaults(t *testing.T) {
	s := &system{env: map[string]string{"AUDIT_HTTP_ADDR": "x", "AUDIT_PARTITIONS": "0", "AUDIT_RATE_LIMIT": "-1", "AUDIT_QUERY_TIMEOUT": "1", "AUDIT_UNREADABLE": "maybe", "AUDIT_READ_AUDIT": "perhaps", "AUDIT_READ_AUDIT_OFF": "x", "AUDIT_READ_AUDIT_ON": "y", "AUDIT_MAX_QUEUED": "1", "AUDIT_CLIENT_STALL": "1ms", "AUDIT_READ_AUDIT_REQUIRED": "surely",
		"AUDIT_POLICY_DIR": "/no/such/dir", "AUDIT_CLICKHOUSE_URL": "http://u:hunter2@h", "AUDIT_NATS_URL": "", "AUDIT_LOG_LEVEL": "loud"}}
	_, errs, code := s.run(t, "serve")
	if code != 2 {
		t.Errorf("exit status %d", code)
	}
	for name := range s.env {
		if name != "AUDIT_NATS_URL" && !strings.Contains(errs, name) {
			t.Errorf("%s is not named:\n%s", name, errs)
		}
	}
	if strings.Contains(errs, "hunter2") {
		t.Error("a password is shown")
	}
}
