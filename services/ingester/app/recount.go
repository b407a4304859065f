package app

import (
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/hourly"
	"example.com/auditlog/services/ingester/internal/verify"
)

func (c *commands) recount() *cobra.Command {
	var tenant string
	cmd := &cobra.Command{
		Use:   "recount",
		Short: "Count the hours of audit.events_hourly anew, all of them or one tenant's",
		Long: "Counts the hours of audit.events_hourly anew, all of them or one tenant's, and says how many counts were not right. Ingesters do that all\n" +
			"the time, a day after the other; this does it now: after deletions, erasure, or a rebuild that changed rows.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := tenantFlag(tenant)
			if err != nil {
				return err
			}
			return c.withSystem(cmd.Context(), "recount", func(system verify.System, log *slog.Logger) error {
				all := func() (out []int) {
					for p := range system.Partitions {
						out = append(out, p)
					}
					return out
				}
				counter := hourly.New(system.Table, system.Positions, all, hourly.DefaultEvery, prometheus.NewRegistry(), log)
				changed, err := counter.Recount(cmd.Context(), id)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.stdout, "%d counts put right\n", changed)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "only this tenant's")
	return cmd
}
