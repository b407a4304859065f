package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/lifecycle"
)

func (c *commands) offboard() *cobra.Command {
	var tenant, confirm string
	var by who
	var dry bool
	cmd := &cobra.Command{
		Use:   "offboard",
		Short: "Remove everything of a tenant that has left",
		Long: "Removes all events of a tenant that has left from the table, for good: no rebuild brings them back, and what is ingested of it later goes with the next\n" +
			"run of retention. First stop its producers and revoke its API keys. The stream of events and the dead letters are not touched: messages leave the\n" +
			"stream by trimming (AUDIT_RETENTION). There is no way back. --confirm must repeat the tenant. Run it as the ingester's user of NATS.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := tenantFlag(tenant)
			switch {
			case err != nil:
				return err
			case id == nil:
				return usageError{errors.New("say whom: --tenant UUID")}
			case !dry && confirm != tenant:
				return usageError{errors.New("--confirm must repeat the tenant: all of its events are removed for good; --dry-run says how many")}
			}
			if err := by.check(!dry); err != nil {
				return err
			}
			return c.withLifecycle(cmd.Context(), "offboard", func(s lifecycle.System) error {
				if dry {
					return c.offboardDry(cmd.Context(), s, *id)
				}
				return c.offboardNow(cmd.Context(), s, *id, by)
			})
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "whom")
	cmd.Flags().StringVar(&confirm, "confirm", "", "the tenant once more")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	by.flags(cmd)
	return cmd
}

func (c *commands) offboardDry(ctx context.Context, s lifecycle.System, tenant uuid.UUID) error {
	report, err := lifecycle.PlanOffboard(ctx, s, tenant)
	if err != nil {
		return err
	}
	return c.printReport(report, true)
}

func (c *commands) offboardNow(ctx context.Context, s lifecycle.System, tenant uuid.UUID, by who) error {
	r, report, err := lifecycle.Offboard(ctx, s, tenant, lifecycle.Options{By: by.operator, Reason: by.reason})
	if r.Seq > 0 {
		_, _ = fmt.Fprintf(c.stdout, "decision %d: %s\n", r.Seq, describe(r))
	}
	if err != nil {
		return err
	}
	if err := c.printReport(report, false); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "what stays: its messages in the stream until they are trimmed, its dead letters, and its keys:\n"+
		"  query keys list --tenant %[1]s\n  query keys revoke ID\n", tenant)
	return err
}
