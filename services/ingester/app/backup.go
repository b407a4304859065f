package app

import (
	"fmt"
	"log/slog"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/backup"
	"example.com/auditlog/services/ingester/internal/clickhouse"
)

func (c *commands) backup() *cobra.Command {
	var tableOnly bool
	cmd := &cobra.Command{
		Use:   "backup FOLDER",
		Short: "Copy streams, buckets and table to a new folder",
		Long: "Copies streams, buckets and table to a folder, which must not be there, while everything runs. What was acknowledged before it began is in it.\n" +
			"A backup is whole once the folder has its name; until then it ends in .part. It holds everything that the log does: keep it as safe.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withServers(cmd.Context(), "backup", func(cfg Config, js natsjs.JetStream, table *clickhouse.Store, _ *slog.Logger) error {
				m, err := backup.Write(cmd.Context(), c.backupSystem(cfg, js, table, tableOnly), args[0])
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.stdout, "backed up to %s: %d streams, %d bytes\n", args[0], len(m.Streams), m.Bytes())
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&tableOnly, "table-only", false, "leave NATS out: for every ClickHouse shard but the first, after the first's backup")
	return cmd
}

func (c *commands) restore() *cobra.Command {
	var tableOnly bool
	cmd := &cobra.Command{
		Use:   "restore FOLDER",
		Short: "Restore a backup into empty servers",
		Long: "Restores what ingester backup wrote into a NATS and a ClickHouse that have nothing of an audit log, while no service runs. Start the services\n" +
			"when it is done: they go on as after a crash.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withEmptyServers(cmd.Context(), "restore", func(cfg Config, js natsjs.JetStream, table *clickhouse.Store, _ *slog.Logger) error {
				r, err := backup.Restore(cmd.Context(), c.backupSystem(cfg, js, table, tableOnly), args[0])
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.stdout, "restored %s: %d rows; %d more are ingested again from the stream\n", args[0], r.Rows, r.Again)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&tableOnly, "table-only", false, "restore a backup that was made with --table-only, after the one that has the streams")
	return cmd
}

// backupSystem is what is backed up or restored.
func (c *commands) backupSystem(cfg Config, js natsjs.JetStream, table *clickhouse.Store, tableOnly bool) backup.System {
	return backup.System{JetStream: js, Shape: cfg.shape(), Table: table, Shard: cfg.Shard, TableOnly: tableOnly,
		Progress: func(line string) { _, _ = fmt.Fprintln(c.stdout, line) }}
}
