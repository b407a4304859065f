package stacktest_test

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
)

// envFail makes TestStackOfAFailedTest fail, in a run of this binary whose output is looked at.
const envFail = "STACKTEST_FAIL"

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

func TestSharedStackServes(t *testing.T) { checkServes(t, shared) }

func TestStartServesBesideTheSharedOne(t *testing.T) {
	own := stacktest.Start(t)
	checkServes(t, own)
	checkServes(t, shared)
	if own.NATSPort() == shared.NATSPort() || own.Dir() == shared.Dir() {
		t.Error("two stacks share a port or a folder")
	}
}

func TestStackStopsWithItsTest(t *testing.T) {
	var s *stack.Stack
	t.Run("inner", func(t *testing.T) { s = stacktest.Start(t) })
	if s.ClickHousePID() != 0 {
		t.Error("ClickHouse still runs")
	}
	if conn, err := nats.Connect(s.NATSURL()); err == nil {
		conn.Close()
		t.Error("NATS still runs")
	}
}

func TestDirKeepsDataBetweenStacks(t *testing.T) {
	dir := t.TempDir()
	for _, sql := range []string{"CREATE TABLE kept (n UInt8) ENGINE = MergeTree ORDER BY n", "SELECT * FROM kept"} {
		t.Run("stack", func(t *testing.T) { query(t, stacktest.Start(t, stacktest.Dir(dir)), sql) })
	}
}

// When a test fails, what the stack said must be in its output.
func TestFailedTestShowsTheLogOfItsStack(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestStackOfAFailedTest$")
	cmd.Env = append(os.Environ(), envFail+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("the failed test passed")
	}
	for _, want := range []string{"log of the stack:", "log of the shared stack:", "clickhouse is ready", "nats is ready"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output does not say %q:\n%s", want, out)
		}
	}
}

func TestStackOfAFailedTest(t *testing.T) {
	checkServes(t, stacktest.Start(t))
	if os.Getenv(envFail) != "" {
		t.Error("failed as told")
	}
}

func checkServes(t *testing.T, s *stack.Stack) {
	t.Helper()
	if got := query(t, s, "SELECT 1"); got != "1" {
		t.Errorf("SELECT 1: %q", got)
	}
	conn, err := nats.Connect(s.NATSURL())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func query(t *testing.T, s *stack.Stack, sql string) string {
	t.Helper()
	resp, err := http.Post(s.ClickHouseHTTPURL(), "text/plain", strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", sql, body, err)
	}
	return strings.TrimSpace(string(body))
}
