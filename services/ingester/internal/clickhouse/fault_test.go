package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// closedPort is a port on which nothing listens.
func closedPort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// proxy stands before ClickHouse. While it is deaf, clients' bytes go through and the server's answers are swallowed.
type proxy struct {
	port int
	deaf atomic.Bool
	// budget is how many bytes of clients still go through; none is no bound.
	budget atomic.Int64
}

func newProxy(t testing.TB, to int) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{port: l.Addr().(*net.TCPAddr).Port}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				_ = client.Close()
				continue
			}
			go pipe(server, p.within(client), nil)
			go pipe(client, server, &p.deaf)
		}
	}()
	return p
}

// within is a client of which no more is read than the budget says, without an end.
func (p *proxy) within(client net.Conn) net.Conn {
	return &frugal{Conn: client, p: p, closed: make(chan struct{})}
}

type frugal struct {
	net.Conn
	p      *proxy
	closed chan struct{}
}

func (c *frugal) Read(b []byte) (int, error) {
	left := c.p.budget.Load()
	if left == 0 {
		return c.Conn.Read(b)
	}
	if left < 0 {
		<-c.closed
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), left)])
	if c.p.budget.Add(-int64(n)) == 0 {
		c.p.budget.Store(-1)
	}
	return n, err
}

func (c *frugal) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return c.Conn.Close()
}

// pipe copies until one side ends, then closes both. What comes while drop is set is thrown away.
func pipe(to, from net.Conn, drop *atomic.Bool) {
	defer func() { _ = to.Close(); _ = from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if drop != nil && drop.Load() {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// through is a store that reaches f's database through p.
func (f *fixture) through(t testing.TB, p *proxy, opts ...clickhouse.Option) *clickhouse.Store {
	t.Helper()
	_, path, _ := strings.Cut(strings.TrimPrefix(f.dsn, "clickhouse://"), "/")
	return openStore(t, fmt.Sprintf("clickhouse://127.0.0.1:%d/%s", p.port, path), opts...)
}

// Ensure an insert whose answer is lost is in doubt, and that read-back finds it.
func TestReplyLostAfterInsert(t *testing.T) {
	f := setup(t, shared, "")
	p := newProxy(t, shared.ClickHousePort())
	s := f.through(t, p, clickhouse.WithInsertTimeout(2*time.Second))
	// A view holds the block back until the proxy is deaf; the answer to the INSERT's head has come through by then.
	f.slowView(t, 1)
	done := make(chan error, 1)
	go func() { done <- s.Insert(context.Background(), block(1, 1), "3:1:1") }()
	f.waitRunning(t, "3:1:")
	p.deaf.Store(true)
	if err := <-done; !errors.Is(err, clickhouse.ErrInDoubt) || errors.Is(err, clickhouse.ErrTransient) {
		t.Fatalf("insert: %v, want in doubt", err)
	}
	p.deaf.Store(false)
	if err := s.Settle(t.Context(), "3:1:"); err != nil {
		t.Fatal(err)
	}
	f.wantSeqs(t, 1, 1)
}

// slowView makes each inserted row take the given number of seconds, at most 3 at once.
func (f *fixture) slowView(t testing.TB, seconds int) {
	t.Helper()
	f.exec(t, "CREATE TABLE slow_target (s UInt8) ENGINE = Null")
	f.exec(t, fmt.Sprintf("CREATE MATERIALIZED VIEW slow TO slow_target AS SELECT sleepEachRow(%d) AS s FROM event_log", seconds))
}

// waitRunning waits until an insert with the prefix has brought its rows to the server.
func (f *fixture) waitRunning(t testing.TB, prefix string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if f.number(t, "SELECT count() FROM system.processes WHERE startsWith(query_id, ?) AND read_rows > 0", prefix) > 0 {
			return
		}
	}
	t.Fatalf("no insert %s* began within 10 s", prefix)
}

// Ensure an insert whose client stalls in the middle of sending it, as an ingester that is paused, is over soon after it was told to stop, and has left nothing.
func TestClientStallsInInsert(t *testing.T) {
	f := setup(t, shared, "")
	for name, limit := range map[string]int64{"in the block": 16 << 10, "in the head": 1 << 10} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, shared.ClickHousePort())
			s := f.through(t, p)
			p.budget.Store(limit)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Insert(ctx, block(1, 5000), "3:1:1") }()
			for deadline := time.Now().Add(10 * time.Second); f.number(t, "SELECT count() FROM system.processes WHERE query_id = '3:1:1'") == 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the insert did not begin")
				}
			}
			began := time.Now()
			within, stop := context.WithTimeout(t.Context(), time.Minute) // the server alone takes 300 s
			defer stop()
			err := f.Settle(within, "3:1:")
			t.Logf("settled after %s: %v", time.Since(began), err)
			if err != nil {
				t.Error(err)
			}
			cancel()
			<-done
			if n := len(f.readBack(t, 1, 5000)); n != 0 {
				t.Errorf("%d rows of a block that was not whole", n)
			}
		})
	}
}

// Ensure Settle returns only when a timed-out insert has ended, so that what is read back then does not change any more.
func TestTimeoutWithInsertRunning(t *testing.T) {
	f := setup(t, shared, "", clickhouse.WithInsertTimeout(300*time.Millisecond))
	f.slowView(t, 1)
	c := block(1, 3)
	if err := f.Insert(t.Context(), c, "3:1:1"); !errors.Is(err, clickhouse.ErrInDoubt) {
		t.Fatalf("insert: %v, want in doubt", err)
	}
	if err := f.Settle(t.Context(), "3:1:"); err != nil {
		t.Fatal(err)
	}
	if n := f.number(t, "SELECT count() FROM system.processes WHERE startsWith(query_id, '3:1:')"); n != 0 {
		t.Fatalf("%d inserts run after Settle", n)
	}
	before := len(f.readBack(t, 1, 3))
	f.exec(t, "DROP VIEW slow")
	if after := len(f.readBack(t, 1, 3)); after != before {
		t.Fatalf("%d rows after Settle became %d", before, after)
	}
	if before != 3 {
		if err := f.Insert(t.Context(), c, "3:1:1"); err != nil {
			t.Fatal(err)
		}
	}
	f.wantSeqs(t, 1, 3)
}

// Ensure Settle ends with the caller's context, and leaves inserts of other batches alone.
func TestSettleOthersAndCancel(t *testing.T) {
	f := setup(t, shared, "")
	f.slowView(t, 1)
	done := make(chan error, 1)
	go func() { done <- f.Insert(context.Background(), block(1, 2), "3:12:1") }()
	f.waitRunning(t, "3:12:")
	if err := f.Settle(t.Context(), "3:1:"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("an insert of another batch was hit: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Settle(ctx, "3:1:"); !errors.Is(err, context.Canceled) {
		t.Errorf("settle with a cancelled context: %v", err)
	}
}

// Ensure a server that is paused and goes on with the insert later ends with one copy, as the same token is tried first.
func TestPausedServer(t *testing.T) {
	own := stacktest.Start(t)
	f := setup(t, own, "", clickhouse.WithInsertTimeout(500*time.Millisecond))
	if err := f.Insert(t.Context(), block(1, 1), "3:1:1"); err != nil { // a connection to use
		t.Fatal(err)
	}
	if err := own.PauseClickHouse(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err := f.Insert(t.Context(), block(2, 100), "3:2:1")
	// Without an answer to the head of the INSERT the rows were not sent. A server that was quick to answer before it froze leaves a doubt.
	if !errors.Is(err, clickhouse.ErrTransient) && !errors.Is(err, clickhouse.ErrInDoubt) {
		t.Fatalf("insert into a paused server: %v, want transient or in doubt", err)
	}
	if took := time.Since(began); took > 20*time.Second { // the server would be paused for ever
		t.Fatalf("took %s, the limit is 0.5 s", took)
	}
	if err := own.ResumeClickHouse(); err != nil {
		t.Fatal(err)
	}
	if err := f.Settle(t.Context(), "3:2:"); err != nil {
		t.Fatal(err)
	}
	if err := f.Insert(t.Context(), block(2, 100), "3:2:1"); err != nil {
		t.Fatal(err)
	}
	f.wantSeqs(t, 1, 100)
}

// Ensure a server killed in the middle of an insert leaves a state that read-back describes and the same token completes.
func TestServerKilledInInsert(t *testing.T) {
	own := stacktest.Start(t)
	f := setup(t, own, "")
	f.slowView(t, 1)
	done := make(chan error, 1)
	c := block(1, 3)
	go func() { done <- f.Insert(context.Background(), c, "3:1:1") }()
	f.waitRunning(t, "3:1:")
	if err := own.KillClickHouse(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, clickhouse.ErrInDoubt) {
		t.Fatalf("insert: %v, want in doubt", err)
	}
	if err := f.Settle(t.Context(), "3:1:"); !errors.Is(err, clickhouse.ErrTransient) {
		t.Fatalf("settle while the only host is away: %v, want transient", err)
	}
	f.restart(t, own)
	f.exec(t, "DROP VIEW slow")
	f.settleByHand(t, c, "3:1:")
	f.wantSeqs(t, 1, 3)
}

// restart brings ClickHouse back.
func (f *fixture) restart(t testing.TB, s *stack.Stack) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.StartClickHouse(ctx); err != nil {
		t.Fatal(err)
	}
	for f.db.Ping(ctx) != nil && ctx.Err() == nil { // drops the connections that died
		time.Sleep(10 * time.Millisecond)
	}
}

// settleByHand does with a doubtful insert of c what the ingester does: wait, read back, the same token, read back, a fresh token.
func (f *fixture) settleByHand(t testing.TB, c *clickhouse.Columns, prefix string) (attempts int) {
	t.Helper()
	for attempts = 1; attempts <= 3; attempts++ {
		if err := f.Settle(t.Context(), prefix); err != nil {
			t.Fatal(err)
		}
		if got := f.readBack(t, 1, uint64(c.Rows())); len(got) == c.Rows() {
			return attempts
		} else if len(got) != 0 {
			t.Fatalf("%d of %d rows of one part are there", len(got), c.Rows())
		}
		if err := f.Insert(t.Context(), c, fmt.Sprint(prefix, attempts)); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the rows do not stay")
	return 0
}

// Ensure the crash that tokens alone do not survive is survived: ClickHouse dies after it has written the token into its log and before it has
// renamed the part. The same token then answers OK and writes nothing.
func TestServerKilledBetweenTokenAndRename(t *testing.T) {
	own := stacktest.Start(t)
	f := setup(t, own, "")
	f.exec(t, "SYSTEM STOP MERGES")
	if err := f.Insert(t.Context(), block(1001, 1001), "3:0:1"); err != nil { // the dedup log is there, and a connection
		t.Fatal(err)
	}
	f.killAtRename(t, own.ClickHousePID())
	c := block(1, 10)
	if err := f.Insert(t.Context(), c, "3:1:1"); !errors.Is(err, clickhouse.ErrInDoubt) {
		t.Fatalf("insert: %v, want in doubt", err)
	}
	if err := own.KillClickHouse(); err != nil { // the supervisor may have begun to start it again
		t.Fatal(err)
	}
	f.restart(t, own)
	if got := f.readBack(t, 1, 10); len(got) != 0 {
		t.Fatalf("%d rows are there: the server was not killed before the rename", len(got))
	}
	attempts := f.settleByHand(t, c, "3:1:")
	f.wantSeqs(t, 1, 10)
	// 3: read back nothing, same token, read back nothing, fresh token, read back all. 2 would be a server that no longer logs the token first.
	t.Logf("settled in %d rounds", attempts)
}

// killAtRename makes the process die of SIGKILL at its next rename, which it does not get to do.
func (f *fixture) killAtRename(t testing.TB, pid int) {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace (Debian package strace): %v", err)
	}
	out, err := os.CreateTemp(t.TempDir(), "strace")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-f", "-p", fmt.Sprint(pid), "-e", "trace=rename,renameat,renameat2",
		"-e", "inject=rename,renameat,renameat2:signal=SIGKILL")
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = out.Close()
	})
	f.waitTraced(t, pid, out.Name())
}

// waitTraced waits until strace has attached to every thread.
func (f *fixture) waitTraced(t testing.TB, pid int, log string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if untraced(pid) == 0 {
			return
		}
	}
	said, _ := os.ReadFile(log)
	t.Fatalf("strace has not attached within 20 s, it says: %.500s", said)
}

// untraced counts the threads of a process that nobody traces.
func untraced(pid int) (n int) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 1
	}
	for _, task := range tasks {
		file, err := os.Open(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
		if err != nil {
			continue // it has just ended
		}
		status, _ := io.ReadAll(file)
		_ = file.Close()
		if strings.Contains(string(status), "TracerPid:\t0\n") {
			n++
		}
	}
	return n
}
