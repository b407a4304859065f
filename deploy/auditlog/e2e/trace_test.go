package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// call is a system call as strace saw it. Times are numbers of lines: what completes on an earlier line than another begins, came before it.
type call struct {
	name, args string
	file       string // of the first argument's descriptor
	begin, end int
	failed     bool
}

// traced are the calls that tell what was written, flushed and answered.
const traced = "trace=write,writev,pwrite64,pwritev,sendto,sendmsg,recvfrom,fsync,fdatasync,rename,renameat,renameat2"

// startTrace follows every thread of a process until the returned function is called, which gives the calls back.
func startTrace(t *testing.T, pid int) (stop func() []call) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "trace")
	end := attach(t, pid, "-y", "-s", "100000", "-e", traced, "-o", out)
	return func() []call {
		end()
		text, err := os.ReadFile(out)
		must(t, err)
		return parseTrace(string(text))
	}
}

// fillDisk makes every write of a process to a place of a file fail for want of room until the returned function is called. Sockets and files that are
// written from one end to the other are left alone.
func fillDisk(t *testing.T, pid int) (makeRoom func()) {
	t.Helper()
	return attach(t, pid, "-o", os.DevNull, "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC")
}

// attach runs strace on every thread of a process until the returned function is called.
func attach(t *testing.T, pid int, args ...string) (detach func()) {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace (Debian package strace): %v", err)
	}
	cmd := exec.Command(path, append([]string{"-f", "-e", "signal=none", "-p", fmt.Sprint(pid)}, args...)...)
	must(t, cmd.Start())
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = cmd.Process.Signal(os.Interrupt) // it lets go of the process and writes its last lines
			_ = cmd.Wait()                       // it ends with the signal it was sent
		}
	}
	t.Cleanup(end)
	for deadline := time.Now().Add(20 * time.Second); untraced(pid) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("strace has not attached within 20 s (may this user trace processes?)")
		}
	}
	return end
}

// untraced counts the threads of a process that nobody traces.
func untraced(pid int) (n int) {
	status, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(status) == 0 {
		return 1
	}
	for _, path := range status {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), "TracerPid:\t0\n") { // else it has just ended
			n++
		}
	}
	return n
}

var (
	callLine    = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	resumedLine = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
	resultText  = regexp.MustCompile(`\) += (-?\d+)[^"]*$`)
	descriptor  = regexp.MustCompile(`^\d+<([^>]*)>`)
	// vectorSeam is between two pieces of a writev, which may cut a message anywhere.
	vectorSeam = regexp.MustCompile(`", iov_len=\d+}, {iov_base="`)
)

func parseTrace(text string) (calls []call) {
	open := map[string]int{} // thread → its call that has not returned
	finish := func(i, line int, rest string) {
		calls[i].end = line
		m := resultText.FindStringSubmatch(rest)
		calls[i].failed = m == nil || strings.HasPrefix(m[1], "-")
	}
	for n, line := range strings.Split(text, "\n") {
		if m := resumedLine.FindStringSubmatch(line); m != nil {
			if i, ok := open[m[1]]; ok {
				calls[i].args += m[3] // what a call receives is known when it returns
				finish(i, n, m[3])
				delete(open, m[1])
			}
			continue
		}
		m := callLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := call{name: m[2], args: vectorSeam.ReplaceAllLiteralString(m[3], ""), begin: n, end: 1 << 60, failed: true}
		if f := descriptor.FindStringSubmatch(c.args); f != nil {
			c.file = f[1]
		}
		calls = append(calls, c)
		if strings.HasSuffix(line, "<unfinished ...>") {
			open[m[1]] = len(calls) - 1
		} else {
			finish(len(calls)-1, n, m[3])
		}
	}
	return calls
}

func (c *call) flushes() bool { return (c.name == "fsync" || c.name == "fdatasync") && !c.failed }

func (c *call) writes() bool { return strings.Contains(c.name, "write") }

// sends says that it writes to a socket.
func (c *call) sends() bool {
	return strings.HasPrefix(c.file, "socket:") && (c.writes() || strings.HasPrefix(c.name, "send"))
}

// flushed says whether the file was flushed by a call that began after line from and was done before line until.
func flushed(calls []call, file string, from, until int) bool {
	for _, c := range calls {
		if c.file == file && c.flushes() && c.begin > from && c.end < until {
			return true
		}
	}
	return false
}
