// Package app is the query service: its commands, its settings, and the service itself for programs that run it in process.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"example.com/auditlog/pkg/service/buildinfo"
	"example.com/auditlog/pkg/service/ops"
	"example.com/auditlog/pkg/service/settings"
	"example.com/auditlog/pkg/service/telemetry"
)

// Exit statuses.
const (
	exitOK       = 0
	exitFailure  = 1
	exitSettings = 2
)

// settingsError is a fault in the settings or in how a command was called.
type settingsError struct{ error }

func (e *settingsError) Unwrap() error { return e.error }

// cli is the process as its commands see it.
type cli struct {
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// Main runs one command and returns the exit status: 0, 1 when it failed, 2 when it was called or configured wrongly.
func Main(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr}
	root := c.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintln(stderr, "query:", err)
	var wrong *settingsError
	if errors.As(err, &wrong) {
		return exitSettings
	}
	return exitFailure
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use: "query", Short: "The audit log's query service: REST API, keys, policies",
		Version:      buildinfo.Get().String(),
		SilenceUsage: true, SilenceErrors: true, Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Usage()
			return &settingsError{errors.New("name a command")}
		},
	}
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &settingsError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(c.serveCommand(), c.healthCommand(), c.keysCommand(), c.policyCommand(), c.versionCommand())
	return root
}

// usage makes a fault of the arguments a fault of the call.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &settingsError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
		}
		return nil
	}
}

func (c *cli) config() (Config, error) {
	cfg, err := ConfigFromEnv(c.getenv)
	if err != nil {
		return cfg, &settingsError{fmt.Errorf("settings:\n%w", err)}
	}
	return cfg, nil
}

func (c *cli) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Serve the API until SIGINT or SIGTERM", Args: usage(cobra.NoArgs),
		Long: "Serve the API until SIGINT or SIGTERM. Settings come from the environment: AUDIT_NATS_URL, AUDIT_NATS_CREDS, AUDIT_NATS_CA,\n" +
			"AUDIT_CLICKHOUSE_URL, AUDIT_HTTP_ADDR, AUDIT_OPS_ADDR, AUDIT_POLICY_DIR, AUDIT_UNREADABLE, AUDIT_PARTITIONS, AUDIT_RATE_LIMIT,\n" +
			"AUDIT_MAX_CONCURRENT, AUDIT_MAX_QUEUED, AUDIT_QUERY_TIMEOUT, AUDIT_CLIENT_STALL, AUDIT_READ_AUDIT, AUDIT_READ_AUDIT_OFF, AUDIT_READ_AUDIT_ON,\n" +
			"AUDIT_READ_AUDIT_REQUIRED, AUDIT_LOG_LEVEL.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, telemetry.NewLogger(c.stderr, cfg.LogLevel))
		},
	}
}

func serve(ctx context.Context, cfg Config, log *slog.Logger) error {
	reg := ops.NewRegistry()
	// It comes first, so that it can say what a start waits for.
	operations, err := ops.Listen(ctx, cfg.OpsAddr, reg)
	if err != nil {
		return err
	}
	log.Info("serving operations", slog.String("addr", operations.Addr()), slog.String("version", buildinfo.Get().String()))
	g, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	g.Go(func() error { return operations.Run(ctx) })
	g.Go(func() error {
		defer stop()
		s, err := New(ctx, cfg, Deps{Log: log, Registerer: reg, Waiting: operations.Waiting})
		if err != nil && ctx.Err() != nil {
			return nil // told to stop before the start was done
		}
		if err != nil {
			return err
		}
		operations.Add(s.Checks()...)
		return s.Run(ctx)
	})
	err = g.Wait()
	log.Info("stopped")
	return err
}

func (c *cli) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Ask the query service on this machine whether it is ready", Args: usage(cobra.NoArgs),
		Long: "Ask the query service on this machine, at AUDIT_OPS_ADDR, whether it is ready. Exit status 1 and what it says when it is not.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := settings.New(c.getenv)
			addr := r.Addr("AUDIT_OPS_ADDR", DefaultOpsAddr)
			if err := r.Err(); err != nil {
				return &settingsError{fmt.Errorf("settings:\n%w", err)}
			}
			return ops.Probe(cmd.Context(), addr, "/readyz")
		},
	}
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.stdout, "query", buildinfo.Get())
			return err
		},
	}
}
