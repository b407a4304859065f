package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/auditlog/deploy/auditlog/internal/proxy"
	"example.com/auditlog/deploy/stack"
)

const (
	// startPatience bounds how long a service may take to be ready.
	startPatience = time.Minute
	// blockBytes and askBytes are the least a client sends in one go when it inserts a block, or asks NATS to store something.
	blockBytes = 2048
	askBytes   = 400
)

// system is the whole system as separate processes, with a proxy on each connection of an ingester.
type system struct {
	stack      *stack.Stack
	log        *os.File
	ingester   [ingesters]*service
	ops        [ingesters]string
	clickhouse [ingesters]*proxy.Proxy
	nats       [ingesters]*proxy.Proxy
	query      *service
	api        string
	bin        string
}

// build makes the two services' programs in dir; breakage chooses a fault to be built into the ingester, empty for none.
func build(ctx context.Context, dir, breakage string) error {
	for name, tags := range map[string]string{"ingester": breakage, "query": ""} {
		args := []string{"build", "-o", filepath.Join(dir, name)}
		if tags != "" {
			args = append(args, "-tags", "faultinject")
		}
		if out, err := exec.CommandContext(ctx, "go", append(args, "example.com/auditlog/services/"+name)...).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// startSystem starts everything on free ports, with its data and logs in dir, and waits until it is ready.
func startSystem(ctx context.Context, dir, breakage string) (_ *system, err error) {
	s := &system{bin: dir}
	if s.log, err = os.Create(filepath.Join(dir, "stack.log")); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.stack, err = stack.Start(ctx, stack.Options{
		Dir: filepath.Join(dir, "data"), NATSChild: true, OpsLog: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return s, err
	}
	for i := range ingesters {
		if err := s.startIngester(dir, i, breakage); err != nil {
			return s, err
		}
	}
	for i := range ingesters {
		if err := waitReady(ctx, s.ops[i]); err != nil {
			return s, err
		}
	}
	return s, s.startQuery(ctx, dir)
}

func (s *system) startIngester(dir string, i int, breakage string) (err error) {
	if s.clickhouse[i], err = proxy.Listen(local(s.stack.ClickHousePort()), blockBytes); err != nil {
		return err
	}
	if s.nats[i], err = proxy.Listen(local(s.stack.NATSPort()), askBytes); err != nil {
		return err
	}
	if s.ops[i], err = freeAddr(); err != nil {
		return err
	}
	name := "ingester-" + strconv.Itoa(i)
	s.ingester[i] = &service{
		name: name, path: filepath.Join(dir, "ingester"), args: []string{"serve"}, log: filepath.Join(dir, name+".log"),
		env: []string{
			"AUDIT_NATS_URL=nats://" + s.nats[i].Addr(), "AUDIT_CLICKHOUSE_URL=clickhouse://" + s.clickhouse[i].Addr() + "/audit",
			"AUDIT_OPS_ADDR=" + s.ops[i], "AUDIT_LOG_LEVEL=info", "AUDIT_BREAK=" + breakage,
		},
	}
	return s.ingester[i].start()
}

func (s *system) startQuery(ctx context.Context, dir string) (err error) {
	if s.api, err = freeAddr(); err != nil {
		return err
	}
	ops, err := freeAddr()
	if err != nil {
		return err
	}
	s.query = &service{
		name: "query", path: filepath.Join(dir, "query"), args: []string{"serve"}, log: filepath.Join(dir, "query.log"),
		env: append(s.env(), "AUDIT_HTTP_ADDR="+s.api, "AUDIT_OPS_ADDR="+ops, "AUDIT_RATE_LIMIT=0"),
	}
	if err := s.query.start(); err != nil {
		return err
	}
	return waitReady(ctx, ops)
}

// env lets a program find the engines without a proxy.
func (s *system) env() []string {
	return []string{"AUDIT_NATS_URL=" + s.stack.NATSURL(), "AUDIT_CLICKHOUSE_URL=" + s.stack.ClickHouseURL(), "AUDIT_LOG_LEVEL=warn"}
}

// close stops everything. Nothing is left running, whatever the error.
func (s *system) close() error {
	var errs []error
	for _, svc := range append([]*service{s.query}, s.ingester[:]...) {
		if svc != nil {
			errs = append(errs, svc.close(syscall.SIGTERM))
		}
	}
	for i := range ingesters {
		for _, p := range []*proxy.Proxy{s.clickhouse[i], s.nats[i]} {
			if p != nil {
				errs = append(errs, p.Close())
			}
		}
	}
	if s.stack != nil {
		errs = append(errs, s.stack.Close())
	}
	return errors.Join(append(errs, s.log.Close())...)
}

// natsPID finds the NATS server among this process's children: the stack does not tell it.
func natsPID() (int, error) {
	procs, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range procs {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err == nil && strings.HasPrefix(string(cmdline), "auditlog-nats") {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, fmt.Errorf("find NATS: %w", errNoProcess)
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

func freeAddr() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return lis.Addr().String(), lis.Close()
}

// waitReady polls a service's readiness.
func waitReady(ctx context.Context, ops string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("the service at %s is not ready: %w", ops, ctx.Err())
		}
	}
}
