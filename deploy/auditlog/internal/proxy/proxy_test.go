package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// target answers every byte with the same byte and keeps what it got.
type target struct {
	lis net.Listener
	mu  sync.Mutex
	got []byte
}

func newTarget(t *testing.T) *target {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tg := &target{lis: lis}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = lis.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { tg.echo(conn) })
		}
	})
	return tg
}

func (tg *target) echo(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 1024)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		tg.mu.Lock()
		tg.got = append(tg.got, buf[:n]...)
		tg.mu.Unlock()
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (tg *target) received() []byte {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	return bytes.Clone(tg.got)
}

// connect runs a proxy to a new target and connects through it.
func connect(t *testing.T, minRequest int) (*target, *Proxy, net.Conn) {
	t.Helper()
	tg := newTarget(t)
	p, err := Listen(tg.lis.Addr().String(), minRequest)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return tg, p, dial(t, p)
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("heard %q (%v), want %q", got, err, text)
	}
}

// Ensure that what is said passes, both ways.
func TestPasses(t *testing.T) {
	_, _, conn := connect(t, 1)
	say(t, conn, "hello")
	hear(t, conn, "hello")
}

// Ensure that a stall holds everything back, on new connections too, and that nothing is lost when it ends.
func TestStall(t *testing.T) {
	tg, p, conn := connect(t, 1)
	p.Stall()
	say(t, conn, "held")
	second := dial(t, p)
	say(t, second, "back")
	time.Sleep(100 * time.Millisecond)
	if got := tg.received(); len(got) > 0 {
		t.Fatalf("%q passed a stall", got)
	}
	p.Flow()
	hear(t, conn, "held")
	hear(t, second, "back")
}

// Ensure that a reset ends open connections, stalled ones too, and that new ones work.
func TestReset(t *testing.T) {
	_, p, conn := connect(t, 1)
	say(t, conn, "a")
	hear(t, conn, "a")
	p.Stall()
	say(t, conn, "b")
	p.Reset()
	p.Flow()
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); err == nil || (errors.As(err, &timeout) && timeout.Timeout()) {
		t.Fatalf("read after the reset: %v", err)
	}
	again := dial(t, p)
	say(t, again, "c")
	hear(t, again, "c")
}

// Ensure that a lost reply is the reply to a request that was passed on, and that small talk is left alone.
func TestLose(t *testing.T) {
	tg, p, conn := connect(t, 4)
	p.Lose()
	say(t, conn, "abc")
	hear(t, conn, "abc")
	say(t, conn, "request")
	if n, err := conn.Read(make([]byte, 16)); err == nil {
		t.Fatalf("heard %d bytes of a reply that should be lost", n)
	}
	if got := string(tg.received()); got != "abcrequest" {
		t.Fatalf("the target got %q", got)
	}
	if p.Lost() != 1 {
		t.Fatalf("%d replies lost, want 1", p.Lost())
	}
	p.Flow()
	again := dial(t, p)
	say(t, again, "request")
	hear(t, again, "request")
}

// Ensure that a target nobody listens at is a reset, not a hang.
func TestNoTarget(t *testing.T) {
	tg, p, _ := connect(t, 1)
	_ = tg.lis.Close()
	conn, err := net.Dial("tcp", p.Addr())
	if err == nil { // else the reset came before the dial had ended
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a target nobody listens at: %v", err)
	}
}
