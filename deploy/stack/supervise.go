package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// How a ClickHouse that died is brought back: this often in a row, with a pause that doubles. A run
// longer than steadyAfter counts as a success and starts the count anew.
const (
	maxRestarts  = 8
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
	steadyAfter  = time.Minute
)

var errNotRunning = errors.New("ClickHouse is not running")

// supervisor keeps one ClickHouse running between start and stop.
type supervisor struct {
	launcher
	pause  time.Duration // before the first restart in a row
	failed chan error    // receives once, when restarts did not help

	op      sync.Mutex         // held for a whole start or stop
	cancel  context.CancelFunc // ends watch; nil when stopped; owned by op
	watched chan struct{}      // closed when watch has returned; owned by op

	mu      sync.Mutex
	current *child // nil when ClickHouse is not meant to run
}

// start launches ClickHouse and watches over it.
func (s *supervisor) start(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	if s.cancel != nil {
		return errors.New("start ClickHouse: it was not stopped")
	}
	c, err := s.launch(ctx)
	if err != nil {
		return err
	}
	s.setChild(c)
	watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.watched = cancel, make(chan struct{})
	go s.watch(watchCtx, c, s.watched)
	return nil
}

// watch restarts ClickHouse whenever it dies, until ctx ends or restarts do not help.
func (s *supervisor) watch(ctx context.Context, c *child, done chan<- struct{}) {
	defer close(done)
	r := retry{pause: s.pause}
	for c != nil {
		select {
		case <-ctx.Done():
			return
		case <-c.exited:
		}
		s.log.Error("clickhouse died", slog.Int("pid", c.pid), slog.String("ending", c.ending()), slog.String("log", s.paths.log))
		if time.Since(c.began) > steadyAfter {
			r = retry{pause: s.pause}
		}
		c = s.revive(ctx, &r)
	}
}

// retry counts the restarts in a row.
type retry struct {
	count int
	pause time.Duration
}

// revive launches ClickHouse anew. It returns nil when ctx ended or the last restart failed.
func (s *supervisor) revive(ctx context.Context, r *retry) *child {
	for r.count < maxRestarts {
		r.count++
		if !sleep(ctx, r.pause) {
			return nil
		}
		r.pause = min(2*r.pause, maxBackoff)
		c, err := s.launch(ctx)
		if err == nil {
			s.setChild(c)
			return c
		}
		s.log.Error("restart clickhouse", slog.Int("attempt", r.count), slog.Any("error", err))
	}
	s.giveUp()
	return nil
}

func (s *supervisor) giveUp() {
	err := fmt.Errorf("ClickHouse died and %d restarts did not help; see %s", maxRestarts, s.paths.log)
	s.log.Error("clickhouse stays down", slog.Any("error", err))
	select {
	case s.failed <- err:
	default:
	}
}

// stop ends the watch, then the process by end. It does nothing when ClickHouse is stopped.
func (s *supervisor) stop(end func(*child) error) error {
	s.op.Lock()
	defer s.op.Unlock()
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	<-s.watched // nobody starts another one from here on
	s.cancel = nil
	c := s.child()
	s.setChild(nil)
	return end(c)
}

// signal sends sig to the running process.
func (s *supervisor) signal(sig syscall.Signal) error {
	c := s.child()
	if c == nil {
		return errNotRunning
	}
	c.signal(sig)
	return nil
}

func (s *supervisor) child() *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

func (s *supervisor) setChild(c *child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = c
}

// sleep waits for d and reports whether ctx lasted that long.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
