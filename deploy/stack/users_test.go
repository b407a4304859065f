package stack_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/auditlog/deploy"
	"example.com/auditlog/deploy/stack"
)

const (
	tenantA = "0193aaaa-0000-7000-8000-000000000001"
	tenantB = "0193aaaa-0000-7000-8000-000000000002"
)

// startWithUsers runs a stack with the users of the services and one analyst of tenantA, and a
// small audit.event_log with a view over it, both tenants in it.
func startWithUsers(t *testing.T) *stack.Stack {
	t.Helper()
	dir := t.TempDir()
	secrets := filepath.Join(dir, "secrets.xml")
	text := "<clickhouse><ingester_password_sha256_hex>" + sha256Hex("secret-i") + "</ingester_password_sha256_hex>" +
		"<query_password_sha256_hex>" + sha256Hex("secret-q") + "</query_password_sha256_hex></clickhouse>"
	if err := os.WriteFile(secrets, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AUDIT_CLICKHOUSE_SECRETS", secrets)
	users := filepath.Join(dir, "clickhouse", "conf", "users.d")
	if err := os.MkdirAll(users, 0o750); err != nil {
		t.Fatal(err)
	}
	analyst := strings.NewReplacer("PASSWORD_SHA256", sha256Hex("secret-a"), "TENANT_ID", tenantA).
		Replace(embedded(t, deploy.AnalystExample))
	for name, text := range map[string]string{"acme.xml": analyst, "services.xml": embedded(t, deploy.ClickHouseServices)} {
		if err := os.WriteFile(filepath.Join(users, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, stack.Options{Dir: dir})
	for _, sql := range []string{
		"CREATE DATABASE IF NOT EXISTS audit",
		"CREATE TABLE audit.event_log (tenant_id UUID, n UInt64, v UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY (tenant_id, n)",
		"CREATE VIEW audit.events DEFINER = CURRENT_USER SQL SECURITY DEFINER AS SELECT tenant_id, n FROM audit.event_log FINAL",
		"INSERT INTO audit.event_log VALUES ('" + tenantA + "', 1, 1), ('" + tenantB + "', 2, 1)",
	} {
		if answer, err := askAs(s, "ingester", "secret-i", sql); err != nil {
			t.Fatalf("%s: %v: %s", sql, err, answer)
		}
	}
	return s
}

func TestAnalystSeesOneTenantAlone(t *testing.T) {
	s := startWithUsers(t)
	for _, sql := range []string{
		"SELECT DISTINCT tenant_id FROM audit.events",
		"SELECT DISTINCT tenant_id FROM audit.events WHERE tenant_id != '" + tenantA + "' OR 1",
	} {
		if got, err := askAs(s, "analyst_acme", "secret-a", sql); err != nil || got != tenantA {
			t.Errorf("%s: %q, %v; want %s alone", sql, got, err, tenantA)
		}
	}
	if got, err := askAs(s, "analyst_acme", "secret-a", "SELECT count() FROM audit.events"); err != nil || got != "1" {
		t.Errorf("count: %q, %v", got, err)
	}
	for _, sql := range []string{
		"INSERT INTO audit.event_log VALUES ('" + tenantA + "', 3, 1)",
		"SELECT tenant_id FROM audit.event_log",
		"SELECT tenant_id FROM mergeTreeIndex('audit', 'event_log')",
		"DROP VIEW audit.events",
		"CREATE TABLE audit.mine (n UInt8) ENGINE = Memory",
		"SELECT query FROM system.query_log",
		"SELECT * FROM file('/etc/passwd', 'LineAsString')",
		"SELECT 1 SETTINGS max_memory_usage = 100000000000",
	} {
		if got, err := askAs(s, "analyst_acme", "secret-a", sql); err == nil {
			t.Errorf("an analyst may: %s (%q)", sql, got)
		}
	}
}

func TestServicesMayDoTheirWorkAlone(t *testing.T) {
	s := startWithUsers(t)
	for _, sql := range []string{
		"SELECT count() FROM audit.event_log",
		"SELECT count() FROM audit.event_log SETTINGS max_execution_time = 5, max_threads = 1, enable_analyzer = 0",
	} {
		if got, err := askAs(s, "query", "secret-q", sql); err != nil || got != "2" {
			t.Errorf("query service: %s: %q, %v", sql, got, err)
		}
	}
	for _, sql := range []string{"SELECT count() FROM audit.events", "TRUNCATE TABLE audit.event_log", "INSERT INTO audit.event_log VALUES ('" + tenantA + "', 9, 1)"} {
		if _, err := askAs(s, "query", "secret-q", sql); err == nil {
			t.Errorf("the query service may: %s", sql)
		}
	}
	for _, sql := range []string{
		"KILL QUERY WHERE query_id = 'none' SYNC",
		"SELECT count() FROM system.processes WHERE query_id = 'none'",
		"ALTER TABLE audit.event_log ADD COLUMN extra UInt8",
	} {
		if _, err := askAs(s, "ingester", "secret-i", sql); err != nil {
			t.Errorf("the ingester may not: %s: %v", sql, err)
		}
	}
	if _, err := askAs(s, "ingester", "secret-i", "CREATE DATABASE other"); err == nil {
		t.Error("the ingester may make any database")
	}
	for _, wrong := range []string{"wrong", "", "query", sha256Hex("secret-q")} {
		if _, err := askAs(s, "query", wrong, "SELECT 1"); err == nil {
			t.Errorf("the password %q is taken", wrong)
		}
	}
}

// Without the passwords there is no server, rather than one that anybody may enter.
func TestNoServerWithoutSecrets(t *testing.T) {
	half := filepath.Join(t.TempDir(), "half.xml")
	text := "<clickhouse><ingester_password_sha256_hex>" + sha256Hex("secret-i") + "</ingester_password_sha256_hex></clickhouse>"
	if err := os.WriteFile(half, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{half, half + ".missing", ""} {
		t.Setenv("AUDIT_CLICKHOUSE_SECRETS", file)
		dir := t.TempDir()
		users := filepath.Join(dir, "clickhouse", "conf", "users.d")
		if err := os.MkdirAll(users, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(users, "services.xml"), []byte(embedded(t, deploy.ClickHouseServices)), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := stack.Start(t.Context(), stack.Options{Dir: dir})
		if err == nil {
			_ = s.Close()
			t.Errorf("with secrets in %q ClickHouse starts", file)
		} else if !strings.Contains(err.Error(), "ended at once") {
			t.Errorf("with secrets in %q: %v", file, err)
		}
	}
}

// The settings that no insert and no laptop should be without, as the running engine sees them.
func TestEngineSettings(t *testing.T) {
	s := start(t, stack.Options{Dir: t.TempDir()})
	query(t, s, "SYSTEM FLUSH LOGS") // makes the table of the query log
	for sql, want := range map[string]string{
		"SELECT value FROM system.merge_tree_settings WHERE name = 'fsync_after_insert'":                                    "1",
		"SELECT value FROM system.merge_tree_settings WHERE name = 'fsync_part_directory'":                                  "1",
		"SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage_to_ram_ratio'":                      "0.35",
		"SELECT value FROM system.server_settings WHERE name = 'mark_cache_size'":                                           "134217728",
		"SELECT value FROM system.settings WHERE name = 'max_threads'":                                                      "2",
		"SELECT position(engine_full, 'TTL event_date + toIntervalDay(7)') > 0 FROM system.tables WHERE name = 'query_log'": "1",
		"SELECT groupArray(name) FROM system.tables WHERE database = 'system' AND endsWith(name, '_log')":                   "['query_log']",
		"SELECT name, host_names, host_ip FROM system.users":                                                                "default\t['localhost']\t[]",
	} {
		if got := query(t, s, sql); got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func embedded(t *testing.T, path string) string {
	t.Helper()
	text, err := deploy.Files.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func askAs(s *stack.Stack, user, password, sql string) (string, error) {
	req, err := http.NewRequest(http.MethodPost, s.ClickHouseHTTPURL(), strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	req.Close = true
	req.SetBasicAuth(user, password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(body))
	}
	return strings.TrimSpace(string(body)), err
}
