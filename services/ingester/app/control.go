package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/jetstream"
)

func (c *commands) control() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Repair the log of decisions",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("say what to do: ingester control repair")}
		},
	}
	cmd.AddCommand(c.controlRepair())
	return cmd
}

func (c *commands) controlRepair() *cobra.Command {
	return &cobra.Command{
		Use:   "repair",
		Short: "Write lost decisions anew from their copy in ClickHouse",
		Long: "Writes the decisions that stream AUDIT_CONTROL has lost anew, from their copy in ClickHouse, so that ingesters start again. Use it when there\n" +
			"is no backup of NATS. Run it as the ingester's user of NATS. What the stream still has must be what the copy begins with; it may be run again.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withServers(cmd.Context(), "control repair", func(cfg Config, js natsjs.JetStream, store *clickhouse.Store, log *slog.Logger) error {
				n, err := jetstream.RepairControl(cmd.Context(), js, cfg.shape(), store, log)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.stdout, "%d decisions were lost and are written anew\n", n)
				return err
			})
		},
	}
}

// withServers calls fn with connections to the NATS and ClickHouse of a system that is as the settings say, for a command of the name.
func (c *commands) withServers(ctx context.Context, name string, fn func(Config, natsjs.JetStream, *clickhouse.Store, *slog.Logger) error) error {
	return c.withEmptyServers(ctx, name, func(cfg Config, js natsjs.JetStream, store *clickhouse.Store, log *slog.Logger) error {
		if err := preflight(ctx, cfg, js, store); err != nil {
			return err
		}
		return fn(cfg, js, store, log)
	})
}

// withEmptyServers is withServers for servers that may have nothing yet, not even the database, or whose number of partitions is being changed.
func (c *commands) withEmptyServers(ctx context.Context, name string, fn func(Config, natsjs.JetStream, *clickhouse.Store, *slog.Logger) error) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(c.stderr, &slog.HandlerOptions{Level: max(cfg.LogLevel, slog.LevelWarn)}))
	nc, err := natsconn.Connect(cfg.NATS, "ingester "+name, log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	store, err := clickhouse.Open(ctx, cfg.ClickHouseURL, log)
	if err != nil {
		return err
	}
	return errors.Join(fn(cfg, js, store, log), store.Close())
}
