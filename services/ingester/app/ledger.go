package app

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/repair"
	"example.com/auditlog/services/ingester/internal/verify"
)

func (c *commands) ledger() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Repair the ledger",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("say what to do: ingester ledger repair")}
		},
	}
	cmd.AddCommand(c.ledgerRepair())
	return cmd
}

func (c *commands) ledgerRepair() *cobra.Command {
	return &cobra.Command{
		Use:   "repair",
		Short: "Write lost entries of the ledger anew",
		Long: "Writes entries of the ledger that were lost anew, from what stream and table have, so that ingesters start again. Use it when there is\n" +
			"no backup of NATS that goes with the table: what the lost entries proved is not proved any more. Stop all ingesters first, and run it as\n" +
			"the ingester's user of NATS. Partitions that lack nothing are left alone; it may be run again.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withSystem(cmd.Context(), "ledger repair", func(system verify.System, log *slog.Logger) error {
				report, err := repair.Run(cmd.Context(), system, repair.Options{Writer: "repair " + instanceName()}, log)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.stdout, "%d partitions lacked entries: wrote %d for %d messages\n", report.Partitions, report.Entries, report.Messages)
				return err
			})
		},
	}
}
