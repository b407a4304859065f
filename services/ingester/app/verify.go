package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/ledger"
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
			opts := verify.Options{Deep: deep}
			if tenant != "" {
				id, err := uuid.Parse(tenant)
				if err != nil || len(tenant) != 36 {
					return usageError{fmt.Errorf("--tenant %q is not a UUID", tenant)}
				}
				opts.Tenant = &id
			}
			report, err := c.runVerify(cmd, opts)
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

func (c *commands) runVerify(cmd *cobra.Command, opts verify.Options) (*verify.Report, error) {
	ctx := cmd.Context()
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewJSONHandler(c.stderr, &slog.HandlerOptions{Level: max(cfg.LogLevel, slog.LevelWarn)}))
	nc, err := natsconn.Connect(cfg.NATS, "ingester verify", log)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	system := verify.System{Reader: replay.New(js), Partitions: cfg.Partitions}
	if system.Ledger, err = ledger.Open(ctx, js); err != nil {
		return nil, err
	}
	if system.Positions, err = ledger.OpenPositions(ctx, js); err != nil {
		return nil, err
	}
	if system.Table, err = clickhouse.Open(ctx, cfg.ClickHouseURL, log); err != nil {
		return nil, err
	}
	report, err := verify.Run(ctx, system, opts)
	return report, errors.Join(err, system.Table.Close())
}
