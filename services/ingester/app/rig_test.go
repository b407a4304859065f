package app

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/lifecycle"
	"example.com/auditlog/services/ingester/internal/pipeline"
	"example.com/auditlog/services/ingester/internal/repair"
	"example.com/auditlog/services/ingester/internal/verify"
)

// testHeartbeat makes a silent ingester count as dead after 1.2 seconds.
const testHeartbeat = 300 * time.Millisecond

// Variables that make the test binary an ingester, and where it kills itself.
const (
	envChild = "TEST_INGESTER"
	envStep  = "TEST_INGESTER_STEP"
	envPause = "TEST_INGESTER_PAUSE"

	envHeartbeat = "TEST_INGESTER_HEARTBEAT"
	envRepair    = "TEST_INGESTER_REPAIR"
	envRetention = "TEST_INGESTER_RETENTION"

	envErase       = "TEST_INGESTER_ERASE"
	envEraseTenant = "TEST_INGESTER_ERASE_TENANT"
	envEraseActor  = "TEST_INGESTER_ERASE_ACTOR"
)

func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

// repairUntilStep is a repair of the ledger that sends itself SIGKILL at its first step.
func repairUntilStep(ctx context.Context) int {
	c := &commands{getenv: os.Getenv, stdout: os.Stdout, stderr: os.Stderr}
	if err := c.withSystem(ctx, "ledger repair", func(system verify.System, log *slog.Logger) error {
		_, err := repair.Run(ctx, system, repair.Options{Writer: "repair " + instanceName(), Hook: func(repair.Step) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // a signal to oneself may take a moment
		}}, log)
		return err
	}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFault
	}
	return exitOK
}

// killedAt sends SIGKILL to this process at a step.
func killedAt(step lifecycle.Step) func(lifecycle.Step) error {
	return func(at lifecycle.Step) error {
		if at == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // a signal to oneself may take a moment
		}
		return nil
	}
}

// lifecycleUntilStep is a run of retention, or an erasure, that is killed at a step.
func lifecycleUntilStep(ctx context.Context, do func(lifecycle.System) error) int {
	c := &commands{getenv: os.Getenv, stdout: os.Stdout, stderr: os.Stderr}
	if err := c.withLifecycle(ctx, "test", do); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFault
	}
	return exitOK
}

// child is an ingester that sends itself SIGKILL, or SIGSTOP, the first time a batch comes to a step.
func child() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if step := os.Getenv(envRetention); step != "" {
		return lifecycleUntilStep(ctx, func(s lifecycle.System) error {
			_, err := lifecycle.Run(ctx, s, lifecycle.Options{By: "olga", After: killedAt(lifecycle.Step(step))})
			return err
		})
	}
	if step := os.Getenv(envErase); step != "" {
		return lifecycleUntilStep(ctx, func(s lifecycle.System) error {
			_, _, err := lifecycle.Erase(ctx, s, uuid.MustParse(os.Getenv(envEraseTenant)), os.Getenv(envEraseActor),
				lifecycle.Options{By: "olga", After: killedAt(lifecycle.Step(step))})
			return err
		})
	}
	if os.Getenv(envRepair) != "" {
		return repairUntilStep(ctx)
	}
	cfg, err := ConfigFromEnv(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitUsage
	}
	cfg.heartbeat = testHeartbeat
	if d, err := time.ParseDuration(os.Getenv(envHeartbeat)); err == nil {
		cfg.heartbeat = d
	}
	sig := syscall.SIGKILL
	if os.Getenv(envPause) != "" {
		sig = syscall.SIGSTOP
	}
	var once sync.Once
	hook := func(_ int, s pipeline.Step) {
		if string(s) == os.Getenv(envStep) {
			once.Do(func() {
				_ = syscall.Kill(os.Getpid(), sig)
				if sig == syscall.SIGKILL {
					select {} // a signal to oneself may take a moment
				}
				time.Sleep(50 * time.Millisecond)
			})
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	svc, err := newService(ctx, cfg, Deps{Log: log, Registerer: prometheus.NewRegistry()}, hook)
	if err == nil {
		err = svc.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFault
	}
	return exitOK
}

// rig is a stack and a producer.
type rig struct {
	*stack.Stack
	nc  *nats.Conn
	js  natsjs.JetStream
	cfg Config

	metrics sync.Map // of each *Service in this process, a prometheus.Gatherer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := emptyRig(t)
	if err := jetstream.Setup(t.Context(), r.js, r.cfg.shape(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return r
}

// emptyRig is a rig without streams.
func emptyRig(t *testing.T) *rig {
	t.Helper()
	s := stacktest.Start(t)
	r := &rig{Stack: s}
	var err error
	if r.cfg, err = ConfigFromEnv(r.getenv); err != nil {
		t.Fatal(err)
	}
	r.cfg.heartbeat = testHeartbeat
	if r.nc, err = nats.Connect(s.NATSURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	if r.js, err = natsjs.New(r.nc); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) getenv(name string) string {
	return map[string]string{
		"AUDIT_NATS_URL":       r.NATSURL(),
		"AUDIT_CLICKHOUSE_URL": r.ClickHouseURL(),
		"AUDIT_OPS_ADDR":       "127.0.0.1:0",
	}[name]
}

// tenantOf is one of a few tenants, spread over the partitions.
func tenantOf(i int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte{byte(i)})
}

// publish sends n events over the given number of tenants, and of each tenant over two years, and waits until all of them are acknowledged.
func (r *rig) publish(t *testing.T, n, tenants int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := events.NewPublisher(r.nc)
	if err != nil {
		t.Fatal(err)
	}
	futures := make([]*events.Future, n)
	for i := range n {
		created := time.Now().AddDate(-(i / tenants % 2), 0, 0)
		if futures[i], err = p.PublishAsync(ctx, events.Event{
			CreatedAt: created, TenantID: tenantOf(i % tenants), ActorID: "user_17", ActorType: "user", Action: "invoice.approve", ResourceType: "invoice",
			ResourceID: fmt.Sprintf("inv_%d", i), Metadata: []byte(`{"ip":"203.0.113.9","user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36","amount":1250.00,"currency":"EUR"}`),
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range futures {
		if _, err := f.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// logBuffer keeps a log and shows it when the test fails.
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

func newLog(t *testing.T, name string) *logBuffer {
	b := &logBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, b)
		}
	})
	return b
}

// serve runs a service in this process; the returned function stops it and fails the test when it ended with an error. change may be nil.
func (r *rig) serve(t *testing.T, change func(*Config)) (*Service, func()) {
	t.Helper()
	cfg := r.cfg
	if change != nil {
		change(&cfg)
	}
	log := slog.New(slog.NewTextHandler(newLog(t, "ingester"), &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(context.Background())
	reg := prometheus.NewRegistry()
	svc, err := New(ctx, cfg, Deps{Log: log, Registerer: reg})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	r.metrics.Store(svc, reg)
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ingester: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("ingester did not stop")
		}
	})
	t.Cleanup(stop)
	return svc, stop
}

// spawn starts an ingester as a process of its own; env is added to its environment.
func (r *rig) spawn(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envChild+"=1", "AUDIT_NATS_URL="+r.NATSURL(), "AUDIT_CLICKHOUSE_URL="+r.ClickHouseURL(), "AUDIT_OPS_ADDR=127.0.0.1:0")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = newLog(t, fmt.Sprint("child ", env))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// query asks ClickHouse; every line of the answer is one row, tabs between columns.
func (r *rig) query(sql string) ([]string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(r.ClickHouseHTTPURL(), "text/plain", strings.NewReader(sql))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	}
	var lines []string
	for scan := bufio.NewScanner(resp.Body); scan.Scan(); {
		lines = append(lines, scan.Text())
	}
	return lines, nil
}

// wantRows waits until the table has the number of rows, and fails unless each is another sequence.
func (r *rig) wantRows(t *testing.T, want int, within time.Duration) {
	t.Helper()
	expected := fmt.Sprintf("%d\t%d\t%d", want, want, want)
	var last string
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		lines, err := r.query("SELECT count(), uniqExact(stream_seq), uniqExact(id) FROM audit.event_log")
		if err != nil {
			last = err.Error()
			continue
		}
		if last = strings.Join(lines, "\n"); last == expected {
			return
		}
	}
	t.Fatalf("rows, sequences, ids: %q, want %q", last, expected)
}

// refuse sends n messages that cannot be rows.
func (r *rig) refuse(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		if _, err := r.js.Publish(t.Context(), events.Subject(tenantOf(i)), []byte(`{"id":"`+uuid.NewString()+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantDeadLetters waits until there are as many, and fails unless each is of another sequence.
func (r *rig) wantDeadLetters(t *testing.T, want int) []deadLetter {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := r.js.Stream(ctx, events.StreamDLQ)
	if err != nil {
		t.Fatal(err)
	}
	for {
		var letters []deadLetter
		seqs := map[uint64]bool{}
		d := &deadLetters{nc: r.nc, js: r.js, stream: stream}
		if err := d.walk(ctx, "", func(l deadLetter) error {
			letters = append(letters, l)
			seqs[l.StreamSeq] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if len(letters) == want && len(seqs) == want {
			return letters
		}
		if len(letters) > want || ctx.Err() != nil {
			t.Fatalf("%d dead letters of %d messages, want %d", len(letters), len(seqs), want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// waitStopped waits until the process, a child of this one, is stopped by a signal.
func waitStopped(t *testing.T, pid int) {
	t.Helper()
	var status syscall.WaitStatus
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got, err := syscall.Wait4(pid, &status, syscall.WUNTRACED|syscall.WNOHANG, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got == pid {
			if !status.Stopped() {
				t.Fatalf("the process ended: %v", status)
			}
			return
		}
	}
	t.Fatal("the process did not stop")
}
