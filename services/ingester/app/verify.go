package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/rebuild"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

func (c *commands) verify() *cobra.Command {
	var tenant string
	var deep, asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare ledger, stream and table",
		Long: "Compares ledger, stream and table and reports what is missing, double, different or out of the chain of hashes. It may run beside\n" +
			"live ingest. Exit status 1 when anything was found, or when it could not be done.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := tenantFlag(tenant)
			if err != nil {
				return err
			}
			report, err := c.runVerify(cmd, verify.Options{Deep: deep, Tenant: id})
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(c.stdout).Encode(report)
			} else {
				err = report.WriteText(c.stdout)
			}
			if err == nil && !report.OK() {
				err = errors.New("ledger, stream and table do not agree")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "only this tenant, as thoroughly as --deep")
	cmd.Flags().BoolVar(&deep, "deep", false, "read every message of the stream again")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}

func (c *commands) runVerify(cmd *cobra.Command, opts verify.Options) (report *verify.Report, err error) {
	err = c.withSystem(cmd.Context(), "verify", func(system verify.System, _ *slog.Logger) error {
		report, err = verify.Run(cmd.Context(), system, opts)
		return err
	})
	return report, err
}

// withSystem calls fn with ledger, stream and table, for a command of the name.
func (c *commands) withSystem(ctx context.Context, name string, fn func(verify.System, *slog.Logger) error) error {
	return c.withServers(ctx, name, func(cfg Config, js natsjs.JetStream, store *clickhouse.Store, log *slog.Logger) error {
		system, err := openSystem(ctx, cfg, js, store)
		if err != nil {
			return err
		}
		return fn(system, log)
	})
}

// openPatience bounds how long a command waits for streams whose leader has just gone: until there is another, nobody answers.
const openPatience = 30 * time.Second

func openSystem(ctx context.Context, cfg Config, js natsjs.JetStream, store *clickhouse.Store) (verify.System, error) {
	for deadline := time.Now().Add(openPatience); ; {
		system, err := tryOpenSystem(ctx, cfg, js, store)
		// A request that nobody answers has taken its time already.
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || time.Now().After(deadline) {
			return system, err
		}
	}
}

func tryOpenSystem(ctx context.Context, cfg Config, js natsjs.JetStream, store *clickhouse.Store) (system verify.System, err error) {
	system = verify.System{Reader: replay.New(js), Table: store, Control: control.New(js, store), Partitions: cfg.Partitions, Shard: cfg.Shard}
	if system.Ledger, err = ledger.Open(ctx, js); err != nil {
		return system, err
	}
	system.Positions, err = ledger.OpenPositions(ctx, js)
	return system, err
}

func (c *commands) rebuild() *cobra.Command {
	var tenant, from string
	var abort bool
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Build the table anew from the stream and swap it in",
		Long: "Builds a new table from the stream beside the live one and swaps them, while ingesters go on. Rows older than --from, or than the\n" +
			"stream goes back, and those of other tenants are kept as they are. Until the swap nothing that is live changes.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var opts rebuild.Options
			var err error
			if opts.Tenant, err = tenantFlag(tenant); err != nil {
				return err
			}
			if opts.FromSeq, opts.FromTime, err = fromFlag(from); err != nil {
				return err
			}
			if abort && (tenant != "" || from != "") {
				return usageError{errors.New("--abort stands alone")}
			}
			return c.withSystem(cmd.Context(), "rebuild", func(system verify.System, log *slog.Logger) error {
				if abort {
					return rebuild.Abort(cmd.Context(), system)
				}
				report, err := rebuild.Run(cmd.Context(), system, opts, log)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.stdout, "%d rows made anew from sequence %d on, %d kept, in %s\n",
					report.Rebuilt, report.From, report.Kept, report.Took.Round(time.Millisecond))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "only this tenant's rows")
	cmd.Flags().StringVar(&from, "from", "", "only from this sequence, or time (RFC 3339), of the stream")
	cmd.Flags().BoolVar(&abort, "abort", false, "clear what an interrupted rebuild left behind")
	return cmd
}

// tenantFlag reads a tenant's UUID; nil for an empty text.
func tenantFlag(s string) (*uuid.UUID, error) {
	if s == "" {
		return nil, nil
	}
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 {
		return nil, usageError{fmt.Errorf("--tenant %q is not a UUID", s)}
	}
	return &id, nil
}

// fromFlag reads a sequence or a time.
func fromFlag(s string) (seq uint64, at time.Time, err error) {
	if s == "" {
		return 0, at, nil
	}
	if seq, err = strconv.ParseUint(s, 10, 64); err == nil {
		return seq, at, nil
	}
	if at, err = time.Parse(time.RFC3339, s); err != nil {
		return 0, at, usageError{fmt.Errorf("--from %q is neither a sequence nor an RFC 3339 time", s)}
	}
	return 0, at, nil
}
