package natsconn_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"example.com/auditlog/pkg/service/natsconn"
)

// server is as much of a NATS server as a client needs to connect. behave is told the number of each connection, from 1, and says what becomes of it.
func server(t *testing.T, behave func(n int32) string) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	var count atomic.Int32
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			n := count.Add(1)
			go serveConn(conn, behave(n))
		}
	}()
	return "nats://" + lis.Addr().String()
}

func serveConn(conn net.Conn, behaviour string) {
	defer func() { _ = conn.Close() }()
	if behaviour == "reset" {
		_ = conn.(*net.TCPConn).SetLinger(0)
		return
	}
	_, _ = fmt.Fprintf(conn, "INFO {\"server_id\":\"fake\",\"version\":\"2.15.2\",\"headers\":true,\"max_payload\":1048576}\r\n")
	lines, pings := bufio.NewScanner(conn), 0
	for lines.Scan() {
		if lines.Text() != "PING" {
			continue
		}
		if pings++; pings > 1 && behaviour == "vanish" {
			continue // as a machine without power: nothing comes any more, not even an end
		}
		if behaviour == "refuse" {
			_, _ = fmt.Fprint(conn, "-ERR 'Authorization Violation'\r\n")
			return
		}
		_, _ = fmt.Fprint(conn, "PONG\r\n")
	}
}

var quiet = slog.New(slog.DiscardHandler)

// Ensure a service outlasts connections that are reset at its start, and is told why it waits.
func TestAwaitOutlastsResets(t *testing.T) {
	url := server(t, func(n int32) string {
		if n <= 2 {
			return "reset"
		}
		return ""
	})
	reasons := 0
	nc, err := natsconn.Await(t.Context(), natsconn.Config{URL: url}, "test", quiet, func(err error) {
		if err == nil {
			t.Error("waits for no reason")
		}
		reasons++
	})
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if reasons != 2 {
		t.Errorf("waited %d times, want 2", reasons)
	}
}

// Ensure nothing but the context bounds the wait, and that its end says what was missing.
func TestAwaitEndsWithContext(t *testing.T) {
	url := server(t, func(int32) string { return "reset" })
	ctx, cancel := context.WithCancel(t.Context())
	_, err := natsconn.Await(ctx, natsconn.Config{URL: url}, "test", quiet, func(error) { cancel() })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "AUDIT_NATS_URL") {
		t.Errorf("ended with %v", err)
	}
}

// Ensure what only a person can put right ends the start.
func TestAwaitRefused(t *testing.T) {
	url := server(t, func(int32) string { return "refuse" })
	_, err := natsconn.Await(t.Context(), natsconn.Config{URL: url}, "test", quiet, func(err error) { t.Errorf("waits: %v", err) })
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("ended with %v", err)
	}
}

// Ensure a connection whose server vanishes without a word is replaced within seconds, and that one the server refuses for a while is not given up.
func TestConnectionComesBack(t *testing.T) {
	url := server(t, func(n int32) string { return map[int32]string{1: "vanish", 2: "refuse", 3: "refuse", 4: "refuse"}[n] })
	nc, err := natsconn.Connect(natsconn.Config{URL: url}, "test", quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	back := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	select {
	case status := <-back:
		if status != nats.CONNECTED {
			t.Errorf("the connection is %s", status)
		}
	case <-time.After(40 * time.Second): // nats.go by itself takes minutes
		t.Error("a server that has vanished is still waited for")
	}
}

// Ensure a connection without headers says so to the server, however the server's first line is cut on its way, and any other says that it takes them.
func TestWithoutHeaders(t *testing.T) {
	for _, c := range []struct {
		opts []nats.Option
		want string
	}{{nil, `"headers":true`}, {[]nats.Option{natsconn.WithoutHeaders()}, `"headers":false`}} {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		said := make(chan string, 1)
		go func() {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			// A name that begins like the word itself must not hide it.
			for _, b := range []byte("INFO {\"server_id\":\"fake\",\"server_name\":\"\\\"head\",\"version\":\"2.15.2\",\"headers\":true,\"max_payload\":1048576}\r\n") {
				_, _ = conn.Write([]byte{b})
			}
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "CONNECT ") {
					said <- lines.Text()
				}
				if lines.Text() == "PING" {
					_, _ = fmt.Fprint(conn, "PONG\r\n")
				}
			}
		}()
		nc, err := natsconn.Connect(natsconn.Config{URL: "nats://" + lis.Addr().String()}, "test", quiet, c.opts...)
		if err != nil {
			t.Fatal(err)
		}
		if got := <-said; !strings.Contains(got, c.want) {
			t.Errorf("said %s, want %s in it", got, c.want)
		}
		nc.Close()
		_ = lis.Close()
	}
}
