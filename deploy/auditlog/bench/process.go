package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bounds of waiting for a process.
const (
	startPatience = 2 * time.Minute
	stopPatience  = time.Minute
)

// engines is a bin/auditlog --deps-only of the bench's own.
type engines struct {
	cmd                        *exec.Cmd
	dir                        string
	kept                       bool
	natsPort, nativePort, http int
}

// startEngines runs NATS and ClickHouse as the local stack does, in a process of their own, with their data in a temporary folder.
func startEngines(bin string) (*engines, error) { return startEnginesIn("", bin) }

// startEnginesIn is startEngines with a folder that stays, unless it is empty.
func startEnginesIn(dir, bin string) (_ *engines, err error) {
	e := &engines{dir: dir, kept: dir != ""}
	if !e.kept {
		if e.dir, err = os.MkdirTemp("", "auditlog-bench-"); err != nil {
			return nil, err
		}
	}
	for _, p := range []*int{&e.natsPort, &e.nativePort, &e.http} {
		if *p, err = freePort(); err != nil {
			return nil, err
		}
	}
	e.cmd = exec.Command(filepath.Join(bin, "auditlog"), "--deps-only")
	e.cmd.Env = append(os.Environ(), "AUDIT_DATA_DIR="+e.dir, "AUDIT_LOG_LEVEL=error",
		"AUDIT_NATS_PORT="+strconv.Itoa(e.natsPort), "AUDIT_CLICKHOUSE_PORT="+strconv.Itoa(e.nativePort), "AUDIT_CLICKHOUSE_HTTP_PORT="+strconv.Itoa(e.http))
	e.cmd.Stderr = os.Stderr
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan error, 1)
	go func() {
		in := bufio.NewScanner(out)
		for in.Scan() {
			if in.Text() == "Ready." {
				ready <- nil
			}
		}
		ready <- errors.New("the engines stopped")
	}()
	select {
	case err = <-ready:
	case <-time.After(startPatience):
		err = errors.New("the engines are not ready")
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *engines) natsURL() string { return "nats://127.0.0.1:" + strconv.Itoa(e.natsPort) }

func (e *engines) env() []string {
	return append(os.Environ(), "AUDIT_LOG_LEVEL=warn", "AUDIT_NATS_URL="+e.natsURL(),
		"AUDIT_CLICKHOUSE_URL=clickhouse://127.0.0.1:"+strconv.Itoa(e.nativePort)+"/audit")
}

// query runs SQL over HTTP and returns the answer's text.
func (e *engines) query(ctx context.Context, sql string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/?database=audit", e.http), strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

// cpu is how many CPU seconds the engines' process and its ClickHouse have used so far.
func (e *engines) cpu() float64 {
	total := processCPU(e.cmd.Process.Pid)
	// Children stand with the thread that started them.
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", e.cmd.Process.Pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(pid); err == nil {
				total += processCPU(n)
			}
		}
	}
	return total
}

// Close stops the engines and removes their data, if it is not to be kept.
func (e *engines) Close() error {
	_, err := stop(e.cmd)
	if e.kept {
		return err
	}
	return errors.Join(err, os.RemoveAll(e.dir))
}

// usage is what a process cost.
type usage struct {
	cpu     float64 // seconds, user and system
	peakMiB float64 // resident memory
}

// stop ends a process by SIGTERM, or by SIGKILL when that takes too long, and returns what it cost.
func stop(cmd *exec.Cmd) (usage, error) {
	peak := peakMiB(cmd.Process.Pid)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(stopPatience, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	err := cmd.Wait()
	return usage{cpu: cmd.ProcessState.UserTime().Seconds() + cmd.ProcessState.SystemTime().Seconds(), peakMiB: peak}, err
}

// peakMiB is the most memory a running process has had resident; 0 where /proc is missing. The kernel's account at the end
// of a process would not do: it begins with the memory of the process that forked it.
func peakMiB(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, _ := strconv.ParseFloat(kib, 64)
	return n / 1024
}

// processCPU reads the user and system seconds of a process and all its threads; 0 where /proc is missing.
func processCPU(pid int) float64 {
	const ticksPerSecond = 100 // USER_HZ on every Linux that Go runs on
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticksPerSecond
}

func freePort() (int, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer lis.Close()
	return lis.Addr().(*net.TCPAddr).Port, nil
}
