package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// envNATSHost, when set, turns this process into a NATS server: port, a colon, data folder. Private,
// like envEngineHost.
const envNATSHost = "AUDITLOG_NATS_HOST"

// natsStopTimeout bounds the stop of a NATS that is a child; past it, it is killed.
const natsStopTimeout = 20 * time.Second

// natsServer is a running NATS, in this process or as a child.
type natsServer interface {
	// stop cuts all connections, stops the server and waits for it. The server is gone in any case;
	// an error says that it had to be killed.
	stop() error
	// kill ends the server with SIGKILL, where it is a process of its own.
	kill() error
}

type natsInProcess struct{ *server.Server }

func (n natsInProcess) stop() error {
	n.Shutdown()
	n.WaitForShutdown()
	return nil
}

func (n natsInProcess) kill() error { return n.stop() }

type natsChild struct{ *child }

func (n natsChild) stop() error { return n.child.stop(natsStopTimeout) }

func (n natsChild) kill() error {
	n.child.kill()
	return nil
}

// startNATSChild runs the server that startNATS would run here in a process of its own.
func startNATSChild(ctx context.Context, dir string, port int) (natsServer, error) {
	logPath := filepath.Join(dir, "nats.log")
	logFile, err := openLog(logPath)
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }() // the child has its own descriptor
	self, err := selfPath()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Args[0] = "auditlog-nats" // what ps shows
	cmd.Env = append(os.Environ(), envNATSHost+"="+strconv.Itoa(port)+":"+dir)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	c, err := startChild(cmd, false)
	if err != nil {
		return nil, err
	}
	if err := waitNATSChild(ctx, c, port); err != nil {
		c.kill()
		return nil, fmt.Errorf("start NATS: %w; log %s ends: %s", err, logPath, tailOf(logPath))
	}
	return natsChild{c}, nil
}

func waitNATSChild(ctx context.Context, c *child, port int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, natsReadyTimeout, fmt.Errorf("not ready after %s", natsReadyTimeout))
	defer cancel()
	for !greets(ctx, port) {
		select {
		case <-c.exited:
			return errors.New("it ended at once: " + c.ending())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// greets reports whether a NATS server answers on port: it speaks first.
func greets(ctx context.Context, port int) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address(port))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second)) // a connection that refuses it fails the read
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasPrefix(line, "INFO ")
}

// hostNATS runs the server until standard input is closed. It returns the exit status.
func hostNATS(spec string) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP) // the parent stops the child in order
	portText, dir, _ := strings.Cut(spec, ":")
	port, err := strconv.Atoi(portText)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s=%s: %v\n", envNATSHost, spec, err)
		return 1
	}
	srv, err := startNATS(dir, port, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // ends when the parent closes it, or is gone
	srv.Shutdown()
	srv.WaitForShutdown()
	return 0
}
