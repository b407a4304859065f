package stack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// child is one run of an engine as a child process, from start to exit.
type child struct {
	name   string // what runs, for messages
	pid    int
	server bool           // a clickhouse server, stopped by SIGTERM rather than by closing stdin
	stdin  io.WriteCloser // open for as long as the engine shall live
	began  time.Time
	exited chan struct{} // closed when the process is gone and reaped
	err    error         // how it ended; read after exited is closed
}

// startChild runs cmd as a child that cannot outlive this process: its standard input is a pipe
// that closes with us, and on Linux the kernel kills it when we are killed. It has its own process
// group, so that Ctrl-C on the terminal reaches us alone and the child is stopped in order.
func startChild(cmd *exec.Cmd, server bool) (*child, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("open a pipe to the child: %w", err)
	}
	cmd.SysProcAttr = childAttributes()
	c := &child{name: filepath.Base(cmd.Args[0]), server: server, stdin: stdin, began: time.Now(), exited: make(chan struct{})}
	started := make(chan error, 1)
	go c.run(cmd, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// run starts the process and waits for its end on one locked thread: the parent-death signal is
// sent when the *thread* that forked ends, which the Go runtime is otherwise free to do.
func (c *child) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- fmt.Errorf("start %s: %w", cmd.Path, err)
		return
	}
	c.pid = cmd.Process.Pid
	started <- nil
	c.err = cmd.Wait()
	close(c.exited)
}

// stop ends the process in order and waits for it; past the timeout it is killed.
func (c *child) stop(timeout time.Duration) error {
	c.signal(syscall.SIGCONT) // a paused process could not notice
	_ = c.stdin.Close()
	if c.server {
		c.signal(syscall.SIGTERM)
	}
	select {
	case <-c.exited:
		return nil
	case <-time.After(timeout):
		c.kill()
		return fmt.Errorf("%s (pid %d) did not stop within %s and was killed", c.name, c.pid, timeout)
	}
}

// kill ends the process with SIGKILL and waits until it is gone.
func (c *child) kill() {
	c.signal(syscall.SIGKILL)
	<-c.exited
	_ = c.stdin.Close()
}

// signal sends sig to the child's process group; a child that is gone is not an error.
func (c *child) signal(sig syscall.Signal) {
	select {
	case <-c.exited:
		return // the pid may belong to somebody else by now
	default:
	}
	_ = syscall.Kill(-c.pid, sig)
}

// ending says how the process ended, for a log line.
func (c *child) ending() string {
	var exit *exec.ExitError
	if errors.As(c.err, &exit) {
		return exit.String()
	}
	if c.err != nil {
		return c.err.Error()
	}
	return "exit status 0"
}

// selfPath returns the running executable, to be started as the engine's host.
func selfPath() (string, error) {
	// The link, not its target: "go test" and "go run" remove their binaries while they still run.
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the running executable: %w", err)
	}
	return path, nil
}
