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

	mu      sync.Mutex
	current *child             // nil when ClickHouse is not meant to run
	cancel  context.CancelFunc // ends watch
	watched chan struct{}      // closed when watch has returned
	failed  chan error         // receives once, when restarts did not help
}

// start launches ClickHouse and watches over it.
func (s *supervisor) start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		return errors.New("ClickHouse is running already")
	}
	c, err := s.launch(ctx)
	if err != nil {
		return err
	}
	s.current = c
	watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.watched = cancel, make(chan struct{})
	go s.watch(watchCtx, s.watched)
	return nil
}

// watch restarts ClickHouse whenever it dies, until ctx ends or restarts do not help.
func (s *supervisor) watch(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	restarts, backoff := 0, firstBackoff
	for {
		c := s.child()
		select {
		case <-ctx.Done():
			return
		case <-c.exited:
		}
		if time.Since(c.began) > steadyAfter {
			restarts, backoff = 0, firstBackoff
		}
		s.log.Error("clickhouse died", slog.Int("pid", c.pid), slog.String("ending", c.ending()), slog.String("log", s.paths.log))
		for next := (*child)(nil); next == nil; {
			if restarts++; restarts > maxRestarts {
				s.giveUp()
				return
			}
			if !sleep(ctx, backoff) {
				return
			}
			backoff = min(2*backoff, maxBackoff)
			var err error
			if next, err = s.launch(ctx); err != nil {
				s.log.Error("restart clickhouse", slog.Int("attempt", restarts), slog.Any("error", err))
				continue
			}
			s.setChild(next)
		}
	}
}

func (s *supervisor) giveUp() {
	err := fmt.Errorf("ClickHouse died and %d restarts did not help; see %s", maxRestarts, s.paths.log)
	s.log.Error("clickhouse stays down", slog.Any("error", err))
	select {
	case s.failed <- err:
	default:
	}
}

// stop ends the watch, then the process by end. It does nothing when ClickHouse is not running.
func (s *supervisor) stop(end func(*child) error) error {
	s.mu.Lock()
	cancel, watched := s.cancel, s.watched
	s.cancel = nil
	s.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	<-watched
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
