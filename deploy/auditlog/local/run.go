package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/pkg/service/ops"
	ingester "example.com/auditlog/services/ingester/app"
	query "example.com/auditlog/services/query/app"
)

// readyPatience bounds the wait for the services, migrations included, once the engines answer.
const readyPatience = time.Minute

// run starts the engines and, unless only they are wanted, the services; then it waits for ctx and stops all of it in
// order: readers, ingester, engines.
func run(ctx context.Context, cfg Config, depsOnly bool, getenv func(string) string, out io.Writer, log *slog.Logger) (err error) {
	p := &progress{out: out}
	fmt.Fprintln(out, "Starting the audit log, data in", cfg.DataDir)
	engines, err := stack.Start(ctx, stack.Options{
		Dir: cfg.DataDir, OpsLog: log, Progress: p.step,
		NATSPort: cfg.NATSPort, ClickHousePort: cfg.ClickHousePort, ClickHouseHTTPPort: cfg.ClickHouseHTTPPort,
	})
	if err != nil {
		p.failed()
		return err
	}
	defer func() {
		began := time.Now()
		err = errors.Join(err, engines.Close())
		log.Info("engines have stopped", slog.Duration("took", time.Since(began)))
	}()
	if depsOnly {
		p.ready()
		printEngines(out, engines)
		fmt.Fprintln(out, "\nStop with Ctrl-C.")
		return waitForEngines(ctx, engines)
	}
	return runServices(ctx, cfg, engines, getenv, out, p, log)
}

// waitForEngines returns nil when ctx ends, or why the engines did before it.
func waitForEngines(ctx context.Context, engines *stack.Stack) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-engines.Failed():
		return err
	}
}

func runServices(ctx context.Context, cfg Config, engines *stack.Stack, getenv func(string) string, out io.Writer, p *progress, log *slog.Logger) error {
	p.step("starting the ingester and the query service")
	sv, err := startServices(ctx, cfg, engines, getenv, log)
	if err != nil {
		p.failed()
		return err
	}
	// Readers go first, then the ingester writes what it holds; both before the engines they need.
	ingCtx, stopIngester := context.WithCancel(context.WithoutCancel(ctx))
	defer stopIngester()
	readCtx, stop := context.WithCancel(ctx)
	defer stop()
	var readers, writer errgroup.Group
	writer.Go(func() error { defer stop(); return sv.ingester.Run(ingCtx) })
	readers.Go(func() error { defer stop(); return sv.query.Run(readCtx) })
	readers.Go(func() error { defer stop(); return sv.ops.Run(readCtx) })
	readers.Go(func() error { defer stop(); return waitForEngines(readCtx, engines) })

	err = announce(readCtx, cfg, engines, sv, out, p)
	if err != nil {
		stop()
	}
	err = errors.Join(err, readers.Wait())
	stopIngester()
	return errors.Join(err, writer.Wait())
}

// services are the parts that run in this process beside the engines.
type services struct {
	ingester *ingester.Service
	query    *query.Service
	ops      *ops.Server
	checks   []ops.Check
}

// startServices opens everything that can fail at once: connections, policies, keys and addresses.
func startServices(ctx context.Context, cfg Config, engines *stack.Stack, getenv func(string) string, log *slog.Logger) (_ *services, err error) {
	ingCfg, qCfg, err := serviceConfigs(overlay(getenv, engines))
	if err != nil {
		return nil, &settingsError{err}
	}
	reg := ops.NewRegistry()
	sv := &services{}
	defer func() {
		if err != nil {
			err = errors.Join(err, sv.close())
		}
	}()
	sv.ingester, err = ingester.New(ctx, ingCfg, ingester.Deps{Log: log.With(slog.String("service", "ingester")), Registerer: reg})
	if err != nil {
		return sv, fmt.Errorf("start the ingester: %w", err)
	}
	sv.query, err = query.New(ctx, qCfg, query.Deps{Log: log.With(slog.String("service", "query")), Registerer: reg})
	if err != nil {
		return sv, fmt.Errorf("start the query service: %w", err)
	}
	sv.checks = append(ops.Prefixed("ingester", sv.ingester.Checks()), ops.Prefixed("query", sv.query.Checks())...)
	sv.ops, err = ops.Listen(ctx, cfg.OpsAddr, reg, sv.checks...)
	return sv, err
}

// close gives back what was opened and never run.
func (sv *services) close() error {
	var err error
	if sv.query != nil {
		err = sv.query.Close()
	}
	if sv.ingester != nil {
		err = errors.Join(err, sv.ingester.Close())
	}
	return err
}

// announce waits until the whole path works and tells the user how to use it.
func announce(ctx context.Context, cfg Config, engines *stack.Stack, sv *services, out io.Writer, p *progress) error {
	p.step("migrating")
	if err := waitReady(ctx, sv.checks); err != nil {
		p.failed()
		return err
	}
	nc, err := nats.Connect(engines.NATSURL())
	if err != nil {
		p.failed()
		return fmt.Errorf("connect for the demo key: %w", err)
	}
	defer nc.Close()
	key, err := demoKey(ctx, nc, cfg.DataDir)
	if err != nil {
		p.failed()
		return err
	}
	p.ready()
	printEngines(out, engines)
	printServices(out, sv.query.Addr(), sv.ops.Addr(), key)
	return nil
}

// waitReady returns when every check passes.
func waitReady(ctx context.Context, checks []ops.Check) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	for _, c := range checks {
		for err := c.Run(ctx); err != nil; err = c.Run(ctx) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready: %w", c.Name, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// overlay is the environment with the addresses of the running engines, which the services must use whatever it says.
func overlay(getenv func(string) string, engines *stack.Stack) func(string) string {
	set := map[string]string{
		"AUDIT_NATS_URL": engines.NATSURL(), "AUDIT_NATS_URL_FILE": "",
		"AUDIT_CLICKHOUSE_URL": engines.ClickHouseURL(), "AUDIT_CLICKHOUSE_URL_FILE": "",
	}
	return func(name string) string {
		if v, ok := set[name]; ok {
			return v
		}
		// What somebody loads to look at may be old: here nothing goes by itself unless they say so.
		if name == "AUDIT_RETENTION_RUN" && getenv(name) == "" && getenv(name+"_FILE") == "" {
			return "0"
		}
		return getenv(name)
	}
}

func serviceConfigs(getenv func(string) string) (ingester.Config, query.Config, error) {
	i, errI := ingester.ConfigFromEnv(getenv)
	q, errQ := query.ConfigFromEnv(getenv)
	return i, q, errors.Join(errI, errQ)
}
