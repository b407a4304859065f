package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"example.com/auditlog/pkg/service/buildinfo"
	"example.com/auditlog/pkg/service/ops"
	"example.com/auditlog/pkg/service/settings"
	"example.com/auditlog/pkg/service/telemetry"
)

// Exit statuses.
const (
	exitOK    = 0
	exitFault = 1 // it was tried and failed, or something was found
	exitUsage = 2 // wrong arguments or settings; nothing was tried
)

// usageError is an error that nothing was done for: arguments or settings are wrong.
type usageError struct{ error }

// commands is what all commands share.
type commands struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// Main runs the ingester's command line and returns its exit status: 0, 1 when something failed, 2 when arguments or settings are wrong.
func Main(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &commands{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr}
	root := c.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(stderr, "ingester: %v\n", err)
		return exitUsage
	case ctx.Err() != nil: // what went wrong then is what was being done
		_, _ = fmt.Fprintf(stderr, "ingester: interrupted: %v\n", err)
	default:
		_, _ = fmt.Fprintf(stderr, "ingester: %v\n", err)
	}
	return exitFault
}

func (c *commands) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ingester",
		Short: "Moves audit events from NATS JetStream into ClickHouse, each exactly once",
		Long: "Moves audit events from NATS JetStream into ClickHouse, each exactly once.\n\n" +
			"Settings come from environment variables (AUDIT_...), all of which have defaults for one machine.\n" +
			"Exit status: 0, 1 when something failed, 2 when arguments or settings are wrong.",
		Version:       buildinfo.Get().String(),
		SilenceErrors: true, SilenceUsage: true,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("say what to do; --help lists the commands")}
		},
	}
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(c.serve(), c.health(), c.dlq(), c.verify(), c.rebuild(), c.recount(), c.ledger(), c.control(), c.backup(), c.restore(),
		c.retention(), c.hold(), c.offboard(), c.erase(), c.repartition(), c.version())
	return root
}

// usage makes wrong arguments a usage error.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// config reads the settings.
func (c *commands) config() (Config, error) {
	cfg, err := ConfigFromEnv(c.getenv)
	if err != nil {
		return cfg, usageError{fmt.Errorf("wrong settings:\n%w", err)}
	}
	return cfg, nil
}

func (c *commands) serve() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Ingest until told to stop (SIGTERM, Ctrl-C)",
		Long: "Ingests until told to stop by SIGTERM or Ctrl-C, then writes what it has in memory and hands its partitions over.\n" +
			"Any number of ingesters share the partitions. It waits for ClickHouse as long as it takes. Logs are JSON lines on stderr.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			if c.getenv("GOGC") == "" {
				debug.SetGCPercent(gcPercent)
			}
			return serve(cmd.Context(), cfg, telemetry.NewLogger(c.stderr, cfg.LogLevel))
		},
	}
}

// gcPercent is how much garbage may gather, in percent of what is in use, unless GOGC says otherwise. Nearly all that is in use is columns,
// which hold no pointers and cost a collection nothing: to collect twice as often as Go does by default saves memory and next to no time.
const gcPercent = 50

// serve runs a service and its ops server until ctx is done or one of them fails. The ops server comes first, so that it can say what a start waits for,
// and goes last, when the last batch is written.
func serve(ctx context.Context, cfg Config, log *slog.Logger) error {
	reg := ops.NewRegistry()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server, err := ops.Listen(ctx, cfg.OpsAddr, reg)
	if err != nil {
		return err
	}
	opsCtx, stopOps := context.WithCancel(context.WithoutCancel(ctx))
	defer stopOps()
	var wg sync.WaitGroup
	var opsErr error
	wg.Go(func() {
		if opsErr = server.Run(opsCtx); opsErr != nil {
			cancel()
		}
	})
	err = ingest(ctx, cfg, reg, server, log)
	stopOps()
	wg.Wait()
	return errors.Join(err, opsErr)
}

// ingest starts a service, which may take as long as NATS is away, and runs it.
func ingest(ctx context.Context, cfg Config, reg *prometheus.Registry, server *ops.Server, log *slog.Logger) error {
	start := time.Now()
	log.InfoContext(ctx, "ingester starting", slog.String("version", buildinfo.Get().String()), slog.String("ops", server.Addr()))
	svc, err := New(ctx, cfg, Deps{Log: log, Registerer: reg, Waiting: server.Waiting})
	if err != nil && ctx.Err() != nil {
		log.InfoContext(ctx, "told to stop before the start was done", slog.Any("waited_for", err))
		return nil
	}
	if err != nil {
		return err
	}
	server.Add(svc.Checks()...)
	log.InfoContext(ctx, "ingester started", slog.Int("partitions", cfg.Partitions), slog.String("shard", cfg.Shard.String()), slog.Duration("retention", cfg.Retention))
	err = svc.Run(ctx)
	log.InfoContext(ctx, "ingester stopped", slog.Duration("uptime", time.Since(start)))
	return err
}

func (c *commands) health() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Ask the ingester that serves on this machine whether it is ready",
		Long:  "Asks the ingester that serves on this machine, at AUDIT_OPS_ADDR, whether it is ready. Exit status 1 and what it says when it is not.",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := settings.New(c.getenv)
			addr := r.Addr("AUDIT_OPS_ADDR", DefaultOpsAddr)
			if err := r.Err(); err != nil {
				return usageError{fmt.Errorf("wrong settings:\n%w", err)}
			}
			return ops.Probe(cmd.Context(), addr, "/readyz")
		},
	}
}

func (c *commands) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.stdout, "ingester", buildinfo.Get())
			return err
		},
	}
}
