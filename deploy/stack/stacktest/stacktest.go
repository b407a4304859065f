// Package stacktest runs a real NATS and a real ClickHouse for tests. It never skips: a missing
// engine is installed, and what cannot be started fails the test.
package stacktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"example.com/auditlog/deploy/stack"
)

// startTimeout bounds a start; the first one on a machine may install the engine.
const startTimeout = 10 * time.Minute

// Option changes the options a stack is started with.
type Option func(*stack.Options)

// Dir makes the stack live in dir instead of a temporary folder.
func Dir(dir string) Option { return func(o *stack.Options) { o.Dir = dir } }

// Start runs a stack on free ports and a temporary folder and stops it when the test is over. When
// the test failed, the log of the stack is added to the test's.
func Start(tb testing.TB, opts ...Option) *stack.Stack {
	tb.Helper()
	log := &logBuffer{}
	options := stack.Options{OpsLog: log.logger(), Progress: func(step string) { tb.Log(step) }}
	for _, opt := range opts {
		opt(&options)
	}
	if options.Dir == "" {
		options.Dir = tb.TempDir()
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := stack.Start(ctx, options)
	if err != nil {
		tb.Fatalf("%v\n%s", err, log)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("stop stack: %v", err)
		}
		if tb.Failed() {
			tb.Logf("log of the stack:\n%s", log)
		}
	})
	return s
}

// Main runs the tests of a package with one stack for all of them, which *shared points to while
// they run, and returns the exit status for os.Exit:
//
//	var shared *stack.Stack
//
//	func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }
//
// Tests that share a stack keep apart by their own names of streams and databases.
func Main(m *testing.M, shared **stack.Stack, opts ...Option) int {
	log := &logBuffer{}
	code, err := runShared(m, shared, log, opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "log of the shared stack:\n%s", log)
	}
	return code
}

func runShared(m *testing.M, shared **stack.Stack, log *logBuffer, opts []Option) (code int, err error) {
	dir, err := os.MkdirTemp("", "auditlog-stack-")
	if err != nil {
		return 1, fmt.Errorf("make a folder for the shared stack: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	options := stack.Options{Dir: dir, OpsLog: log.logger(), Progress: func(step string) { log.logger().Info(step) }}
	for _, opt := range opts {
		opt(&options)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := stack.Start(ctx, options)
	if err != nil {
		return 1, err
	}
	*shared = s
	code = m.Run()
	if err := s.Close(); err != nil {
		return code, fmt.Errorf("stop shared stack: %w", err)
	}
	return code, nil
}

// logBuffer keeps the log of a stack until it is known whether anybody wants to read it.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
