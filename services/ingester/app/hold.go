package app

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/lifecycle"
)

func (c *commands) hold() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hold",
		Short: "Put a tenant on legal hold, or end that",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("say what to do: ingester hold set|release|list")}
		},
	}
	cmd.AddCommand(
		c.holdChange("set", "Put a tenant on legal hold: nothing of it is removed or changed", control.HoldSet),
		c.holdChange("release", "End a tenant's legal hold", control.HoldRelease),
		c.holdList())
	return cmd
}

func (c *commands) holdChange(use, short string, kind control.Kind) *cobra.Command {
	var tenant string
	var by who
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + ".\nThe decision is written down for good and is an event of the log. What a run decided to remove before it is still removed. Run it as the ingester's user of NATS.",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := tenantFlag(tenant)
			if err == nil && id == nil {
				err = usageError{errors.New("say whom: --tenant UUID")}
			}
			if err == nil {
				err = by.check(true)
			}
			if err != nil {
				return err
			}
			return c.decide(cmd.Context(), "hold "+use, func(state *control.State) (control.Decision, error) {
				if _, held := state.Held(*id); held == (kind == control.HoldSet) {
					return control.Decision{}, fmt.Errorf("tenant %s is so already: ingester hold list", id)
				}
				return control.Decision{Kind: kind, Tenant: id, By: by.operator, Reason: by.reason}, nil
			})
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "whom")
	by.flags(cmd)
	return cmd
}

func (c *commands) holdList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tenants on legal hold",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withLifecycle(cmd.Context(), "hold list", func(s lifecycle.System) error {
				state, err := s.Log.Load(cmd.Context())
				if err != nil {
					return err
				}
				lines := []decidedLine{}
				for _, r := range state.Holds() {
					lines = append(lines, newDecidedLine(r))
				}
				if asJSON {
					return c.printLines(lines)
				}
				w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
				_, _ = fmt.Fprintln(w, "TENANT\tSINCE\tBY\tREASON")
				for _, l := range lines {
					_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.TenantID, l.At.Format(time.RFC3339), l.By, l.Reason)
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON array")
	return cmd
}
