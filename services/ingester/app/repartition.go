package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/repartition"
)

const (
	// defaultRepartitionWait is how long the ingesters have to finish, and then to be stopped: as long are producers refused.
	defaultRepartitionWait = 5 * time.Minute
	// readersWait is five times what a query service takes to look whether the partitions are still its own.
	readersWait = 10 * time.Second
)

func (c *commands) repartition() *cobra.Command {
	var to int
	var wait time.Duration
	var finish, abort bool
	var keep string
	cmd := &cobra.Command{
		Use:   "repartition --to N",
		Short: "Change the number of partitions (AUDIT_PARTITIONS)",
		Long: "Changes the number of partitions of a system that has data, from AUDIT_PARTITIONS to --to, in two runs, with AUDIT_PARTITIONS as it was:\n" +
			"without --finish it closes the stream, waits until the ingesters have written everything and were stopped, opens the stream and copies the\n" +
			"table; with --finish, once no query service runs, it swaps the tables and makes the ledger anew. Both can be run again after they died.\n" +
			"docs/upgrade.md has the whole procedure. It needs an administrator of NATS.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			switch {
			case to < 1 || to > maxPartitions || to == cfg.Partitions:
				return usageError{fmt.Errorf("--to %d must be from 1 to %d and not AUDIT_PARTITIONS, which is the number there is: %d", to, maxPartitions, cfg.Partitions)}
			case !cfg.Shard.Alone():
				return usageError{errors.New("with several shards (AUDIT_SHARD) the number of partitions cannot be changed")}
			case finish && abort, finish != (keep != ""):
				return usageError{errors.New("--finish needs --keep-ledger FILE, and neither goes with --abort")}
			}
			return c.withEmptyServers(cmd.Context(), "repartition", func(cfg Config, js natsjs.JetStream, store *clickhouse.Store, log *slog.Logger) error {
				if err := store.Ping(cmd.Context()); err != nil {
					return fmt.Errorf("reach ClickHouse (AUDIT_CLICKHOUSE_URL): %w", err)
				}
				system, err := openSystem(cmd.Context(), cfg, js, store)
				if err != nil {
					return err
				}
				change := &repartition.Change{System: system, JS: js, Shape: cfg.shape(), To: to, Wait: wait, ReadersWait: readersWait,
					Writer: "repartition " + instanceName(), Say: func(s string) { _, _ = fmt.Fprintln(c.stdout, s) }, Log: log}
				return c.runRepartition(cmd.Context(), change, finish, abort, keep)
			})
		},
	}
	cmd.Flags().IntVar(&to, "to", 0, "the new number of partitions")
	cmd.Flags().DurationVar(&wait, "wait", defaultRepartitionWait, "how long to wait for the ingesters to finish, and then to be stopped")
	cmd.Flags().BoolVar(&finish, "finish", false, "swap the tables and make the ledger anew")
	cmd.Flags().StringVar(&keep, "keep-ledger", "", "with --finish: file for the ledger as it was")
	cmd.Flags().BoolVar(&abort, "abort", false, "open the stream again after a run that died while it was closed")
	return cmd
}

func (c *commands) runRepartition(ctx context.Context, change *repartition.Change, finish, abort bool, keep string) error {
	switch {
	case abort:
		return change.Abort(ctx)
	case finish:
		report, err := change.Finish(ctx, keep)
		if err != nil {
			return err
		}
		change.Say(fmt.Sprintf("There are %d partitions; %d of them have rows, %d in all. Start everything with AUDIT_PARTITIONS=%d.", change.To, report.Partitions, report.Messages, change.To))
		return nil
	}
	if err := change.Begin(ctx); err != nil {
		return err
	}
	change.Say(fmt.Sprintf("The table is copied and compared. Stop all query services, then: ingester repartition --to %d --finish --keep-ledger FILE", change.To))
	return nil
}
