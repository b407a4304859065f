package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// maxLogBytes is the size past which the log of ClickHouse is set aside at the next start.
const maxLogBytes = 8 << 20

// engineQuery makes "clickhouse local" a server that lives until its standard input is closed. The database of
// [Stack.ClickHouseURL] is made before anybody can connect: the engine aborts when a native client names one that is not
// there and hangs up (an uncaught UNKNOWN_DATABASE, 7 of 7 times with clickhouse-go), where a real server only refuses it.
const engineQuery = "CREATE DATABASE IF NOT EXISTS audit; SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; " +
	"SELECT * FROM file('/dev/stdin', 'LineAsString') FORMAT Null"

// launcher starts ClickHouse, again and again, on the same data and ports.
type launcher struct {
	engine   Engine
	paths    chPaths
	port     int
	httpPort int
	log      *slog.Logger
}

// launch starts one ClickHouse and returns when it answers on both ports.
func (l *launcher) launch(ctx context.Context) (*child, error) {
	began := time.Now()
	token, err := writeClickHouseConfig(l.paths, l.port, l.httpPort)
	if err != nil {
		return nil, err
	}
	logFile, err := openLog(l.paths.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }() // the child has its own descriptor
	cmd, err := l.command()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	c, err := startChild(cmd, l.engine.Bin != "")
	if err != nil {
		return nil, err
	}
	if err := l.waitReady(ctx, c, token); err != nil {
		c.kill()
		return nil, fmt.Errorf("start ClickHouse (%s): %w; log %s ends: %s", l.engine, err, l.paths.log, tailOf(l.paths.log))
	}
	l.log.Info("clickhouse is ready", slog.Int("pid", c.pid), slog.Int("port", l.port),
		slog.Int("http_port", l.httpPort), slog.Duration("took", time.Since(began)))
	return c, nil
}

func (l *launcher) command() (*exec.Cmd, error) {
	config := "--config-file=" + filepath.Join(l.paths.conf, "config.xml")
	if l.engine.Bin != "" {
		cmd := exec.Command(l.engine.Bin, "server", config)
		cmd.Dir = l.paths.data
		return cmd, nil
	}
	// The engine attaches its own system tables before it reads the folder, and then fails on what
	// an earlier run left there. It holds logs only.
	if err := os.RemoveAll(filepath.Join(l.paths.data, "data", "system")); err != nil {
		return nil, fmt.Errorf("remove the system tables of the run before: %w", err)
	}
	self, err := selfPath()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, config, "--path="+l.paths.data, "--log-level=warning", "--query", engineQuery)
	cmd.Args[0] = "auditlog-clickhouse" // what ps shows
	cmd.Env = append(os.Environ(), envEngineHost+"="+l.engine.Lib)
	cmd.Dir = l.paths.data
	return cmd, nil
}

// waitReady polls until the server that holds token answers, the child is gone or time is up.
func (l *launcher) waitReady(ctx context.Context, c *child, token string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, clickHouseReadyTimeout,
		fmt.Errorf("not ready after %s", clickHouseReadyTimeout))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if l.isReady(ctx, token) {
			return nil
		}
		select {
		case <-c.exited:
			return errors.New("it ended at once: " + c.ending())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (l *launcher) isReady(ctx context.Context, token string) bool {
	answer, err := httpQuery(ctx, l.httpPort, "SELECT getMacro('stack')")
	if err != nil || strings.TrimSpace(answer) != token {
		return false
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address(l.port))
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// httpQuery runs one statement over HTTP as the default user.
func httpQuery(ctx context.Context, port int, query string) (string, error) {
	target := (&url.URL{Scheme: "http", Host: address(port), Path: "/"}).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(query))
	if err != nil {
		return "", err
	}
	req.Close = true // no idle connection that would outlive the server
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}

// openLog opens the log to append to, after setting a big one aside.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("set the ClickHouse log aside: %w", err)
		}
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the ClickHouse log: %w", err)
	}
	return file, nil
}

// tailOf returns the last lines of a log for an error message.
func tailOf(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const enough = 4 << 10
	return lastLines(string(text[max(0, len(text)-enough):]), 8)
}
