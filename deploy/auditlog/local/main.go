package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/pkg/service/buildinfo"
	"example.com/auditlog/pkg/service/telemetry"
)

// Exit codes of the command.
const (
	exitOK       = 0
	exitFailed   = 1
	exitSettings = 2
)

// Main runs the command and returns its exit code: 0, 1 for a failure, 2 for wrong settings or usage.
func Main(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	root := command(getenv, stdout, stderr)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var wrong *settingsError
	switch {
	case err == nil, errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitOK
	case errors.As(err, &wrong):
		fmt.Fprintln(stderr, err)
		return exitSettings
	default:
		fmt.Fprintln(stderr, "auditlog:", err)
		return exitFailed
	}
}

// distinctLines drops the lines of err that stand in it already: the parts of the stack share some settings.
func distinctLines(err error) error {
	var out []string
	for line := range strings.Lines(err.Error() + "\n") {
		if !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return errors.New(strings.TrimSpace(strings.Join(out, "")))
}

// settingsError marks faults of settings and usage, which exit with their own code.
type settingsError struct{ err error }

func (e *settingsError) Error() string { return e.err.Error() }
func (e *settingsError) Unwrap() error { return e.err }

func command(getenv func(string) string, stdout, stderr io.Writer) *cobra.Command {
	var depsOnly, installOnly bool
	root := &cobra.Command{
		Use:   "auditlog",
		Short: "The whole audit log on one machine: NATS, ClickHouse, ingester and query service",
		Long: "Runs NATS (JetStream, in process), ClickHouse (a child process), the ingester and the query service.\n" +
			"Settings are environment variables: AUDIT_DATA_DIR, AUDIT_HTTP_ADDR, AUDIT_OPS_ADDR, AUDIT_NATS_PORT,\n" +
			"AUDIT_CLICKHOUSE_PORT, AUDIT_CLICKHOUSE_HTTP_PORT, AUDIT_CLICKHOUSE_BIN, AUDIT_LOG_LEVEL and those of the services.",
		Version:       buildinfo.Get().String(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if installOnly {
				return install(cmd.Context(), stdout)
			}
			cfg, err := ConfigFromEnv(getenv)
			if !depsOnly {
				_, _, serviceErr := serviceConfigs(getenv)
				err = errors.Join(err, serviceErr)
			}
			if err != nil {
				return &settingsError{distinctLines(err)}
			}
			return run(cmd.Context(), cfg, depsOnly, getenv, stdout, logger(stderr, cfg.LogLevel))
		},
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &settingsError{err} })
	root.Flags().BoolVar(&depsOnly, "deps-only", false, "run NATS and ClickHouse alone")
	root.Flags().BoolVar(&installOnly, "install-only", false, "install the ClickHouse engine and stop")
	root.AddCommand(demoCommand(demoEnv(getenv), stdout, stderr))
	return root
}

func logger(w io.Writer, level slog.Level) *slog.Logger {
	return telemetry.NewLogger(w, level)
}

func install(ctx context.Context, out io.Writer) error {
	engine, err := stack.EnsureEngine(ctx, func(step string) { fmt.Fprintln(out, step) })
	if err != nil {
		return fmt.Errorf("install ClickHouse: %w", err)
	}
	fmt.Fprintln(out, "ClickHouse engine:", engine)
	return nil
}
