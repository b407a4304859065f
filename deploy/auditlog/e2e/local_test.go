package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// readyLine is the last line that the local stack prints when everything works.
const readyLine = "Stop with Ctrl-C."

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := binaries(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// binaries builds the commands once for all tests and returns their folder.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "auditlog-bin-")
	if err != nil {
		return "", err
	}
	for name, pkg := range map[string]string{
		"auditlog": "example.com/auditlog/deploy/auditlog", "publish": "example.com/auditlog/pkg/events/cmd/publish",
		"query": "example.com/auditlog/services/query", "ingester": "example.com/auditlog/services/ingester",
	} {
		if out, err := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, name), pkg).CombinedOutput(); err != nil {
			return dir, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
})

func bin(t *testing.T, name string) string {
	t.Helper()
	dir, err := binaries()
	must(t, err)
	return filepath.Join(dir, name)
}

// local is a bin/auditlog that runs as a process of its own.
type local struct {
	cmd    *exec.Cmd
	env    []string
	stderr bytes.Buffer

	mu    sync.Mutex
	lines []string
	done  chan error
}

func localEnv(t *testing.T, dir string) []string {
	t.Helper()
	env := []string{"AUDIT_DATA_DIR=" + dir}
	for _, name := range []string{"AUDIT_NATS_PORT", "AUDIT_CLICKHOUSE_PORT", "AUDIT_CLICKHOUSE_HTTP_PORT"} {
		env = append(env, name+"="+strconv.Itoa(freePort(t)))
	}
	for _, name := range []string{"AUDIT_HTTP_ADDR", "AUDIT_OPS_ADDR"} {
		env = append(env, name+"=127.0.0.1:"+strconv.Itoa(freePort(t)))
	}
	return env
}

func freePort(t *testing.T) int {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer lis.Close()
	return lis.Addr().(*net.TCPAddr).Port
}

// startLocal starts the stack and returns when it says that it is ready.
func startLocal(t *testing.T, env []string, args ...string) *local {
	t.Helper()
	l := &local{cmd: exec.Command(bin(t, "auditlog"), args...), env: env, done: make(chan error, 1)}
	l.cmd.Env = append(os.Environ(), env...)
	l.cmd.Stderr = &l.stderr
	out, err := l.cmd.StdoutPipe()
	must(t, err)
	must(t, l.cmd.Start())
	ready := make(chan struct{})
	go func() {
		in := bufio.NewScanner(out)
		for in.Scan() {
			l.mu.Lock()
			l.lines = append(l.lines, in.Text())
			l.mu.Unlock()
			if in.Text() == readyLine {
				close(ready)
			}
		}
		l.done <- l.cmd.Wait()
	}()
	t.Cleanup(func() { _ = l.cmd.Process.Kill() })
	select {
	case <-ready:
	case err := <-l.done:
		t.Fatalf("the stack stopped: %v\n%s\n%s", err, l.output(), l.stderr.String())
	case <-time.After(5 * time.Minute): // the engine may have to be installed
		t.Fatalf("the stack is not ready:\n%s", l.output())
	}
	return l
}

func (l *local) output() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// find returns the first group of the first line of the output that matches.
func (l *local) find(t *testing.T, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)` + pattern).FindStringSubmatch(l.output())
	if m == nil {
		t.Fatalf("no line matches %s:\n%s", pattern, l.output())
	}
	return m[1]
}

// paste runs the printed curl line in a shell, as a user would, and returns the page.
func (l *local) paste(t *testing.T) page {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bash", "-c", l.find(t, `^ *(curl .*)$`)).Output()
	must(t, err)
	var p page
	if err := json.Unmarshal(out, &p); err != nil || p.Data == nil {
		t.Fatalf("the printed curl answers %q (%v)", out, err)
	}
	return p
}

// stop ends the stack by sig and returns how it exited.
func (l *local) stop(t *testing.T, sig syscall.Signal) error {
	t.Helper()
	must(t, l.cmd.Process.Signal(sig))
	select {
	case err := <-l.done:
		return err
	case <-time.After(patience):
		t.Fatalf("the stack does not stop:\n%s", l.stderr.String())
		return nil
	}
}

// Ensure the stack runs, its printed curl works, the demo shows, and a restart on the same folder keeps all of it.
func TestLocalStack(t *testing.T) {
	env := localEnv(t, t.TempDir())
	l := startLocal(t, env)
	if p := l.paste(t); len(p.Data) != 0 {
		t.Fatalf("a new log has events: %+v", p.Data)
	}
	demo := exec.CommandContext(t.Context(), bin(t, "auditlog"), "demo", "--events", "2000")
	demo.Env = append(os.Environ(), env...)
	if out, err := demo.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(`"next_cursor"`)) {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	before, key := l.paste(t), l.find(t, `demo key +(\S+)`)
	if len(before.Data) != 5 || !before.HasMore {
		t.Fatalf("after the demo the printed curl gives %d events", len(before.Data))
	}
	if err := l.stop(t, syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM: %v\n%s", err, l.stderr.String())
	}

	l = startLocal(t, env)
	if again := l.find(t, `demo key +(\S+)`); again != key {
		t.Errorf("another demo key after a restart")
	}
	if after := l.paste(t); fmt.Sprint(after) != fmt.Sprint(before) && after.Data[0].ID != before.Data[0].ID {
		t.Errorf("the first page changed over a restart:\n%+v\n%+v", before, after)
	}
	if err := l.stop(t, syscall.SIGINT); err != nil {
		t.Errorf("SIGINT: %v", err)
	}
}

// Ensure no process outlives a stack that was killed.
func TestKilledStackLeavesNoProcess(t *testing.T) {
	l := startLocal(t, localEnv(t, t.TempDir()))
	children := childrenOf(t, l.cmd.Process.Pid)
	if len(children) == 0 {
		t.Fatal("the stack has no child: where is ClickHouse?")
	}
	_ = l.stop(t, syscall.SIGKILL)
	for _, pid := range children {
		waitGone(t, pid)
	}
}

// Ensure what a user gets wrong is one clear line and exit status 1.
func TestLocalStackRefuses(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer busy.Close()
	taken := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)
	dir := t.TempDir()
	startLocal(t, localEnv(t, dir))
	goOnly := t.TempDir() // a PATH without npm and without ClickHouse

	for name, c := range map[string]struct {
		env    []string
		status int
		want   string
	}{
		"BusyNATSPort":       {[]string{"AUDIT_NATS_PORT=" + taken}, 1, "AUDIT_NATS_PORT"},
		"BusyClickHousePort": {[]string{"AUDIT_CLICKHOUSE_PORT=" + taken}, 1, "AUDIT_CLICKHOUSE_PORT"},
		"BusyHTTPPort":       {[]string{"AUDIT_HTTP_ADDR=127.0.0.1:" + taken}, 1, "AUDIT_HTTP_ADDR"},
		"BusyOpsPort":        {[]string{"AUDIT_OPS_ADDR=127.0.0.1:" + taken}, 1, "AUDIT_OPS_ADDR"},
		"FolderInUse":        {[]string{"AUDIT_DATA_DIR=" + dir}, 1, "in use by another stack"},
		"NoNPM":              {[]string{"AUDIT_ENGINE_DIR=" + t.TempDir(), "PATH=" + goOnly}, 1, "npm"},
		"WrongSettings":      {[]string{"AUDIT_NATS_PORT=many", "AUDIT_RATE_LIMIT=much"}, 2, "AUDIT_RATE_LIMIT"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), bin(t, "auditlog"))
			cmd.Env = append(append(os.Environ(), localEnv(t, t.TempDir())...), append(c.env, "AUDIT_LOG_LEVEL=error")...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err := cmd.Run()
			if cmd.ProcessState.ExitCode() != c.status || !strings.Contains(stderr.String(), c.want) {
				t.Errorf("%v, stderr %q; want exit status %d and a word of %q", err, stderr.String(), c.status, c.want)
			}
			if n := strings.Count(strings.TrimSpace(stderr.String()), "\n"); c.status == 1 && n != 0 {
				t.Errorf("%d lines, want one:\n%s", n+1, stderr.String())
			}
		})
	}
}

// childrenOf lists the live children of a process.
func childrenOf(t *testing.T, parent int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	var pids []int
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (name) state ppid …; the name may hold blanks and brackets.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(text), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs: %s", pid, text)
		}
	}
}
