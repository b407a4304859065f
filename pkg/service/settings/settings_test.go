package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/auditlog/pkg/service/settings"
)

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

// Ensure absent variables take their fallback and cause no fault.
func TestFallbacks(t *testing.T) {
	r := settings.New(env(nil))
	if got := r.Int("A", 7, 1, 9); got != 7 {
		t.Errorf("Int = %d, want 7", got)
	}
	if got := r.Duration("D", time.Second, 0, time.Minute); got != time.Second {
		t.Errorf("Duration = %s, want 1s", got)
	}
	if got := r.URL("U", "nats://h:1", "nats"); got != "nats://h:1" {
		t.Errorf("URL = %q", got)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
}

// Ensure every fault is reported, each by the name of its variable, and that no URL text leaks into one.
func TestAllFaultsAtOnce(t *testing.T) {
	r := settings.New(env(map[string]string{
		"A": "10", "F": "NaN", "B": "maybe", "D": "1", "AD": "nohost", "U": "http://u:hunter2@h", "P": "/no/such/file", "AUDIT_LOG_LEVEL": "loud",
	}))
	r.Int("A", 7, 1, 9)
	r.Float("F", 1, 0, 2)
	r.Bool("B", false)
	r.Duration("D", time.Second, 0, time.Minute)
	r.Addr("AD", "127.0.0.1:1")
	r.URL("U", "nats://h:1", "nats")
	r.File("P")
	r.LogLevel()
	err := r.Err()
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 8 {
		t.Errorf("%d lines, want 8:\n%s", len(lines), err)
	}
	for i, name := range []string{"A:", "F:", "B:", "D:", "AD:", "U:", "P:", "AUDIT_LOG_LEVEL:"} {
		if i < len(lines) && !strings.HasPrefix(lines[i], name) {
			t.Errorf("line %d = %q, want it to begin with %q", i, lines[i], name)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("a password got into the error")
	}
}

// Ensure a setting may come from a file, and that neither two sources nor a file that is missing, empty or huge pass in silence.
func TestSettingFromFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	r := settings.New(env(map[string]string{"U_FILE": write("url", "nats://u:hunter2@h:1\n"), "N_FILE": write("n", "5")}))
	if got := r.URL("U", "", "nats"); got != "nats://u:hunter2@h:1" {
		t.Errorf("URL = %q", got)
	}
	if got := r.Int("N", 1, 1, 9); got != 5 {
		t.Errorf("Int = %d, want 5", got)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]map[string]string{
		"both":    {"U": "nats://h:1", "U_FILE": write("both", "nats://u:hunter2@h:1")},
		"missing": {"U_FILE": filepath.Join(dir, "none")},
		"empty":   {"U_FILE": write("empty", "\n")},
		"huge":    {"U_FILE": write("huge", strings.Repeat("x", 65<<10))},
		"wrong":   {"U_FILE": write("wrong", "http://u:hunter2@h")},
	} {
		r := settings.New(env(set))
		r.URL("U", "nats://h:1", "nats")
		if err := r.Err(); err == nil || !strings.HasPrefix(err.Error(), "U") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
