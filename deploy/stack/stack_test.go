package stack_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
)

// envParent makes this test binary a program that runs a stack in the folder it names and waits.
const envParent = "STACK_TEST_PARENT_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envParent); dir != "" {
		runParent(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// runParent prints the pid of ClickHouse and lives until it is killed or its input ends.
func runParent(dir string) {
	s, err := stack.Start(context.Background(), stack.Options{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.ClickHousePID())
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := s.Close(); err != nil {
		os.Exit(1)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	s := start(t, stack.Options{Dir: dir})
	query(t, s, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	query(t, s, "INSERT INTO kept SELECT number FROM numbers(1000)")
	publish(t, s, 25)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = start(t, stack.Options{Dir: dir})
	if got := query(t, s, "SELECT count(), sum(n) FROM kept"); got != "1000\t499500" {
		t.Errorf("after a restart the table holds %q", got)
	}
	if got := messages(t, s); got != 25 {
		t.Errorf("after a restart the stream holds %d messages, want 25", got)
	}
	// The engine cannot attach system tables of an earlier run: the log must be made anew.
	query(t, s, "SYSTEM FLUSH LOGS")
	if got := query(t, s, "SELECT count() > 0 FROM system.query_log"); got != "1" {
		t.Errorf("query_log after a restart: %q", got)
	}
}

func TestEnginesStopAndStartOneByOne(t *testing.T) {
	s := start(t, stack.Options{Dir: t.TempDir()})
	query(t, s, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	query(t, s, "INSERT INTO kept VALUES (7)")
	publish(t, s, 3)

	if err := s.StopNATS(); err != nil {
		t.Fatal(err)
	}
	if conn, err := nats.Connect(s.NATSURL(), nats.Timeout(time.Second)); err == nil {
		conn.Close()
		t.Error("NATS takes connections while stopped")
	}
	if err := s.StartNATS(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := messages(t, s); got != 3 {
		t.Errorf("the stream holds %d messages, want 3", got)
	}

	for name, down := range map[string]func() error{"stop": s.StopClickHouse, "kill": s.KillClickHouse} {
		if err := down(); err != nil {
			t.Fatal(name, err)
		}
		if s.ClickHousePID() != 0 {
			t.Errorf("%s: ClickHouse still has a pid", name)
		}
		if _, err := ask(s, "SELECT 1"); err == nil {
			t.Errorf("%s: ClickHouse answers while it is down", name)
		}
		if err := s.StartClickHouse(t.Context()); err != nil {
			t.Fatal(name, err)
		}
		if got := query(t, s, "SELECT n FROM kept"); got != "7" {
			t.Errorf("%s: the table holds %q", name, got)
		}
	}
	if err := s.StartClickHouse(t.Context()); err == nil {
		t.Error("a second ClickHouse was started beside the first")
	}
}

// Every acknowledged message must survive a kill, which flushes nothing.
func TestKilledNATSKeepsWhatItAcknowledged(t *testing.T) {
	s := start(t, stack.Options{Dir: t.TempDir(), NATSChild: true})
	for round := range 2 {
		publish(t, s, 20)
		if err := s.KillNATS(); err != nil {
			t.Fatal(err)
		}
		if conn, err := nats.Connect(s.NATSURL(), nats.Timeout(time.Second)); err == nil {
			conn.Close()
			t.Error("NATS takes connections after a kill")
		}
		if err := s.StartNATS(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := messages(t, s); got != uint64(20*(round+1)) {
			t.Errorf("after kill %d the stream holds %d messages, want %d", round+1, got, 20*(round+1))
		}
	}
	if err := s.StopNATS(); err != nil {
		t.Errorf("stop in order: %v", err)
	}
}

func TestNATSInProcessCannotBeKilled(t *testing.T) {
	s := start(t, stack.Options{Dir: t.TempDir()})
	if err := s.KillNATS(); err == nil || !strings.Contains(err.Error(), "NATSChild") {
		t.Errorf("got %v", err)
	}
	publish(t, s, 1)
}

func TestCrashedClickHouseComesBack(t *testing.T) {
	s := start(t, stack.Options{Dir: t.TempDir()})
	query(t, s, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	for i := range 3 {
		query(t, s, fmt.Sprintf("INSERT INTO kept VALUES (%d)", i))
		pid := s.ClickHousePID()
		if err := s.CrashClickHouse(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "ClickHouse is back", func() bool {
			_, err := ask(s, "SELECT 1")
			return s.ClickHousePID() != pid && err == nil
		})
		if got := query(t, s, "SELECT count() FROM kept"); got != strconv.Itoa(i+1) {
			t.Errorf("after crash %d the table holds %s rows", i+1, got)
		}
	}
}

func TestPausedClickHouseKeepsConnectionsButNoAnswer(t *testing.T) {
	s := start(t, stack.Options{Dir: t.TempDir()})
	if err := s.PauseClickHouse(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(s.ClickHouseHTTPURL(), "http://"), time.Second)
	if err != nil {
		t.Fatalf("connect while paused: %v", err)
	}
	_ = conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := askContext(ctx, s, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("query while paused: %v", err)
	}
	if err := s.ResumeClickHouse(); err != nil {
		t.Fatal(err)
	}
	if got := query(t, s, "SELECT 1"); got != "1" {
		t.Errorf("after the pause: %q", got)
	}
	// Closing a paused stack must not wait for the timeout.
	if err := s.PauseClickHouse(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Clients keep idle connections; a stop that waited for them would take five seconds a test.
func TestOpenConnectionsDoNotHoldUpAStop(t *testing.T) {
	dir := t.TempDir()
	s := start(t, stack.Options{Dir: dir})
	query(t, s, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	query(t, s, "INSERT INTO kept SELECT number FROM numbers(1000)")
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(s.ClickHouseHTTPURL() + "/ping")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if got := query(t, start(t, stack.Options{Dir: dir}), "SELECT count() FROM kept"); got != "1000" {
		t.Errorf("after the stop the table holds %s rows", got)
	}
}

// A parent that is killed runs no clean-up at all: the child must notice by itself.
func TestKilledParentLeavesNoChild(t *testing.T) {
	dir := t.TempDir()
	parent, pid := startParent(t, dir)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "the child is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	start(t, stack.Options{Dir: dir}) // neither locked nor damaged
}

// Ctrl-C goes to the terminal's whole process group; the child must not be in it.
func TestChildHasItsOwnProcessGroup(t *testing.T) {
	s := start(t, stack.Options{Dir: t.TempDir()})
	group, err := syscall.Getpgid(s.ClickHousePID())
	if err != nil {
		t.Fatal(err)
	}
	if group != s.ClickHousePID() {
		t.Errorf("process group %d, want its own %d", group, s.ClickHousePID())
	}
}

func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	parent, _ := startParent(t, dir)
	_, err := stack.Start(t.Context(), stack.Options{Dir: dir})
	want := fmt.Sprintf("data folder %s is in use by another stack (pid %d)", dir, parent.Process.Pid)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	port := l.Addr().(*net.TCPAddr).Port
	for variable, opts := range map[string]stack.Options{
		stack.EnvNATSPort:           {NATSPort: port},
		stack.EnvClickHousePort:     {ClickHousePort: port},
		stack.EnvClickHouseHTTPPort: {ClickHouseHTTPPort: port},
	} {
		opts.Dir = t.TempDir()
		_, err := stack.Start(t.Context(), opts)
		var busy *stack.PortError
		if !errors.As(err, &busy) || busy.Port != port || busy.Variable != variable {
			t.Fatalf("%s: got %v", variable, err)
		}
		text := err.Error()
		if strings.Contains(text, "\n") || !strings.Contains(text, strconv.Itoa(port)) || !strings.Contains(text, variable) {
			t.Errorf("%s: not one clear line: %s", variable, text)
		}
	}
	_, err = stack.Start(t.Context(), stack.Options{Dir: t.TempDir(), NATSPort: 31999, ClickHousePort: 31999})
	if err == nil || !strings.Contains(err.Error(), "it is the port for NATS too") {
		t.Errorf("one port wished twice: %v", err)
	}
}

func TestWishedPortsAreUsed(t *testing.T) {
	first := start(t, stack.Options{Dir: t.TempDir()})
	opts := stack.Options{Dir: t.TempDir(), NATSPort: first.NATSPort(), ClickHousePort: first.ClickHousePort(), ClickHouseHTTPPort: first.ClickHouseHTTPPort()}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	s := start(t, opts)
	if want := fmt.Sprintf("clickhouse://127.0.0.1:%d/audit", opts.ClickHousePort); s.ClickHouseURL() != want {
		t.Errorf("ClickHouseURL %s, want %s", s.ClickHouseURL(), want)
	}
	if want := fmt.Sprintf("nats://127.0.0.1:%d", opts.NATSPort); s.NATSURL() != want {
		t.Errorf("NATSURL %s, want %s", s.NATSURL(), want)
	}
	query(t, s, "SELECT 1")
	publish(t, s, 1)
}

// start runs a stack for a test that stops and restarts it by itself.
func start(t *testing.T, opts stack.Options) *stack.Stack {
	t.Helper()
	return stacktest.Start(t, func(o *stack.Options) {
		opts.OpsLog, opts.Progress = o.OpsLog, o.Progress
		*o = opts
	})
}

// startParent runs this test binary as a program with a stack; it returns the pid of its ClickHouse.
func startParent(t *testing.T, dir string) (*exec.Cmd, int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envParent+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("read the parent's first line: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent said %q", line)
	}
	return cmd, pid
}

func query(t *testing.T, s *stack.Stack, sql string) string {
	t.Helper()
	answer, err := ask(s, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func ask(s *stack.Stack, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return askContext(ctx, s, sql)
}

func askContext(ctx context.Context, s *stack.Stack, sql string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.ClickHouseHTTPURL(), strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	req.Close = true
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

// publish stores n messages in stream KEPT and waits for each acknowledgement.
func publish(t *testing.T, s *stack.Stack, n int) {
	t.Helper()
	withJetStream(t, s, func(js jetstream.JetStream) {
		if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}}); err != nil {
			t.Fatal(err)
		}
		for range n {
			if _, err := js.Publish(t.Context(), "kept", []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func messages(t *testing.T, s *stack.Stack) (n uint64) {
	t.Helper()
	withJetStream(t, s, func(js jetstream.JetStream) {
		stream, err := js.Stream(t.Context(), "KEPT")
		if err != nil {
			t.Fatal(err)
		}
		n = stream.CachedInfo().State.Msgs
	})
	return n
}

func withJetStream(t *testing.T, s *stack.Stack, use func(jetstream.JetStream)) {
	t.Helper()
	conn, err := nats.Connect(s.NATSURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	use(js)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}
