package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// Stack is a running NATS and ClickHouse. Its methods may be called from any goroutine.
type Stack struct {
	opts       Options
	dir        string
	lock       *flock.Flock
	clickhouse supervisor

	natsMu sync.Mutex
	nats   natsServer // nil while stopped
}

// Start runs NATS and ClickHouse on opts.Dir and returns when both can be used. What an earlier
// stack stored there is served again. ctx bounds the start only; end the stack with Close.
//
// It fails with a *[PortError] when a wished port is taken, and when another stack has the folder,
// no ClickHouse can be found or installed, or an engine does not come up.
func Start(ctx context.Context, opts Options) (*Stack, error) {
	opts = opts.withDefaults()
	if opts.Dir == "" {
		return nil, errors.New("start stack: Options.Dir is empty: name a data folder")
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("start stack: %w", err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Stack{opts: opts, dir: dir, lock: lock}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	engine, err := EnsureEngine(ctx, s.opts.Progress)
	if err != nil {
		return err
	}
	if err := choosePorts(&s.opts); err != nil {
		return err
	}
	s.clickhouse.launcher = launcher{
		engine: engine, paths: clickHousePaths(s.dir), log: s.opts.OpsLog,
		port: s.opts.ClickHousePort, httpPort: s.opts.ClickHouseHTTPPort,
	}
	s.clickhouse.pause = firstBackoff
	s.clickhouse.failed = make(chan error, 1)
	s.opts.Progress(fmt.Sprintf("starting NATS on port %d", s.opts.NATSPort))
	if err := s.StartNATS(ctx); err != nil {
		return err
	}
	s.opts.Progress(fmt.Sprintf("starting ClickHouse on ports %d and %d", s.opts.ClickHousePort, s.opts.ClickHouseHTTPPort))
	return s.StartClickHouse(ctx)
}

// Close stops ClickHouse, then NATS, and gives the data folder back. It waits for both; a
// ClickHouse that does not stop in time is killed and reported. Calling it again does nothing.
func (s *Stack) Close() error {
	err := errors.Join(s.StopClickHouse(), s.StopNATS())
	if unlockErr := s.lock.Unlock(); unlockErr != nil {
		err = errors.Join(err, fmt.Errorf("unlock data folder: %w", unlockErr))
	}
	return err
}

// Failed returns a channel that receives one error when ClickHouse died and restarting it did not
// help. The stack still has to be closed.
func (s *Stack) Failed() <-chan error { return s.clickhouse.failed }

// Dir is the absolute path of the data folder.
func (s *Stack) Dir() string { return s.dir }

// Engine says which ClickHouse runs.
func (s *Stack) Engine() Engine { return s.clickhouse.engine }

// NATSPort is the port NATS listens on, on 127.0.0.1.
func (s *Stack) NATSPort() int { return s.opts.NATSPort }

// ClickHousePort is the port of ClickHouse's native protocol, on 127.0.0.1.
func (s *Stack) ClickHousePort() int { return s.opts.ClickHousePort }

// ClickHouseHTTPPort is the port of ClickHouse's HTTP interface, on 127.0.0.1.
func (s *Stack) ClickHouseHTTPPort() int { return s.opts.ClickHouseHTTPPort }

// NATSURL is the value for AUDIT_NATS_URL.
func (s *Stack) NATSURL() string { return "nats://" + address(s.opts.NATSPort) }

// ClickHouseURL is the value for AUDIT_CLICKHOUSE_URL. It names the database audit, which a real server
// has once the ingester has migrated it, and the engine library from the start.
func (s *Stack) ClickHouseURL() string {
	return "clickhouse://" + address(s.opts.ClickHousePort) + "/audit"
}

// ClickHouseHTTPURL is the base address of ClickHouse's HTTP interface.
func (s *Stack) ClickHouseHTTPURL() string { return "http://" + address(s.opts.ClickHouseHTTPPort) }

// StartNATS starts NATS again after StopNATS or KillNATS, on the same port and data, and returns
// when it can be used.
func (s *Stack) StartNATS(ctx context.Context) error {
	s.natsMu.Lock()
	defer s.natsMu.Unlock()
	if s.nats != nil {
		return errors.New("start NATS: it was not stopped")
	}
	began := time.Now()
	srv, err := s.launchNATS(ctx)
	if err != nil {
		return err
	}
	s.nats = srv
	s.opts.OpsLog.Info("nats is ready", slog.Int("port", s.opts.NATSPort), slog.Duration("took", time.Since(began)))
	return nil
}

func (s *Stack) launchNATS(ctx context.Context) (natsServer, error) {
	if s.opts.NATSChild {
		return startNATSChild(ctx, s.dir, s.opts.NATSPort)
	}
	srv, err := startNATS(s.dir, s.opts.NATSPort, s.opts.OpsLog)
	if err != nil {
		return nil, err
	}
	return natsInProcess{srv}, nil
}

// StopNATS cuts all connections and stops the server in order. It does nothing when NATS is stopped.
func (s *Stack) StopNATS() error { return s.endNATS(natsServer.stop) }

// KillNATS ends NATS with SIGKILL: nothing is flushed, no connection is told. It is an error without
// Options.NATSChild, and does nothing when NATS is stopped.
func (s *Stack) KillNATS() error {
	if !s.opts.NATSChild {
		return errors.New("kill NATS: it runs in this process; set Options.NATSChild")
	}
	return s.endNATS(natsServer.kill)
}

func (s *Stack) endNATS(end func(natsServer) error) error {
	s.natsMu.Lock()
	defer s.natsMu.Unlock()
	if s.nats == nil {
		return nil
	}
	err := end(s.nats)
	s.nats = nil // it is gone, in order or not
	s.opts.OpsLog.Info("nats has stopped")
	return err
}

// StartClickHouse starts ClickHouse again after StopClickHouse or KillClickHouse, on the same ports
// and data, and returns when it can be used.
func (s *Stack) StartClickHouse(ctx context.Context) error { return s.clickhouse.start(ctx) }

// StopClickHouse ends ClickHouse in order; it stays down until StartClickHouse. It does nothing
// when ClickHouse is stopped.
func (s *Stack) StopClickHouse() error {
	return s.clickhouse.stop(func(c *child) error {
		if c.server {
			return c.stop(clickHouseStopTimeout)
		}
		if err := c.stop(engineStopGrace); err != nil {
			s.opts.OpsLog.Info("clients kept connections to clickhouse open", slog.Any("error", err))
		}
		return nil
	})
}

// KillClickHouse ends ClickHouse with SIGKILL; it stays down until StartClickHouse.
func (s *Stack) KillClickHouse() error {
	return s.clickhouse.stop(func(c *child) error { c.kill(); return nil })
}

// CrashClickHouse ends ClickHouse with SIGKILL as an accident would: it is started again at once.
func (s *Stack) CrashClickHouse() error { return s.clickhouse.signal(syscall.SIGKILL) }

// PauseClickHouse freezes ClickHouse (SIGSTOP): its connections stay open and nothing answers.
func (s *Stack) PauseClickHouse() error { return s.clickhouse.signal(syscall.SIGSTOP) }

// ResumeClickHouse ends a pause.
func (s *Stack) ResumeClickHouse() error { return s.clickhouse.signal(syscall.SIGCONT) }

// ClickHousePID is the process id of the running ClickHouse, 0 when there is none.
func (s *Stack) ClickHousePID() int {
	if c := s.clickhouse.child(); c != nil {
		return c.pid
	}
	return 0
}
