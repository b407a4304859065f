package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// stopPatience bounds how long a process may take to end in order.
	stopPatience = 30 * time.Second
	// restartPause is how long one that ended by itself rests before it is started again, as a service manager would do.
	restartPause = 300 * time.Millisecond
)

// service is a process that is kept running unless a fault has taken it down.
type service struct {
	name string
	path string
	args []string
	env  []string
	log  string // file that takes its standard error, over all its runs

	wg sync.WaitGroup

	mu    sync.Mutex // guards what follows
	up    bool       // it should run
	run   *run       // nil while it does not
	exits []string   // how it ended when nobody told it to
}

// run is one life of a process.
type run struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it is gone and reaped
	err  error         // how it ended; read after done
}

// start makes the service run from now on.
func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up {
		return fmt.Errorf("start %s: it runs", s.name)
	}
	s.up = true
	return s.launch()
}

// launch starts the process and watches it. The caller holds mu.
func (s *service) launch() error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", s.name, err)
	}
	cmd := exec.Command(s.path, s.args...)
	cmd.Env, cmd.Stderr, cmd.SysProcAttr = append(os.Environ(), s.env...), log, childAttributes()
	r := &run{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	s.wg.Go(func() {
		// The kernel ends the child with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		r.err = cmd.Wait()
		close(r.done)
		s.ended(r)
	})
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	s.run = r
	return nil
}

// ended starts a process again that nobody told to end.
func (s *service) ended(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.up || s.run != r {
		return
	}
	s.run = nil
	s.exits = append(s.exits, r.cmd.ProcessState.String())
	s.wg.Go(func() {
		time.Sleep(restartPause)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.up && s.run == nil {
			if err := s.launch(); err != nil {
				s.exits = append(s.exits, err.Error())
			}
		}
	})
}

// end takes the service down by a signal, until start, and waits for it; past stopPatience it is killed, which is an error.
func (s *service) end(sig syscall.Signal) error {
	s.mu.Lock()
	r := s.run
	s.up, s.run = false, nil
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	r.signal(syscall.SIGCONT)
	r.signal(sig)
	select {
	case <-r.done:
		return nil
	case <-time.After(stopPatience):
		r.signal(syscall.SIGKILL)
		<-r.done
		return fmt.Errorf("%s did not stop within %s", s.name, stopPatience)
	}
}

// signal sends sig to the process if it runs.
func (s *service) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != nil {
		s.run.signal(sig)
	}
}

func (r *run) signal(sig syscall.Signal) {
	select {
	case <-r.done: // the pid may be somebody else's by now
	default:
		_ = r.cmd.Process.Signal(sig) // it may end at this moment
	}
}

// close ends the service for good.
func (s *service) close(sig syscall.Signal) error {
	err := s.end(sig)
	s.wg.Wait()
	return err
}

// ownExits says how it ended by itself, each time.
func (s *service) ownExits() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.exits...)
}

// pid is the process id, 0 while it does not run.
func (s *service) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return 0
	}
	return s.run.cmd.Process.Pid
}

var errNoProcess = errors.New("no such process")
