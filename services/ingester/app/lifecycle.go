package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/hourly"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/lifecycle"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

// who is who takes a decision and why, by flags.
type who struct{ operator, reason string }

// flags adds the flags; a reason may be required.
func (w *who) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.operator, "operator", "", "who decides; the name of the system's user when it is left out")
	cmd.Flags().StringVar(&w.reason, "reason", "", "why, for the log")
}

// maxOperatorBytes and maxReasonBytes are those of an event's actor and reasoning.
const (
	maxOperatorBytes = 256
	maxReasonBytes   = 16 << 10
)

// check fills in the operator and says what is wrong.
func (w *who) check(reason bool) error {
	if w.operator == "" {
		if u, err := user.Current(); err == nil {
			w.operator = u.Username
		}
	}
	switch {
	case w.operator == "":
		return usageError{errors.New("say who decides: --operator NAME")}
	case len(w.operator) > maxOperatorBytes || strings.ContainsFunc(w.operator, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return usageError{fmt.Errorf("--operator must be at most %d bytes without control characters", maxOperatorBytes)}
	case reason && w.reason == "":
		return usageError{errors.New("say why: --reason TEXT")}
	case len(w.reason) > maxReasonBytes:
		return usageError{fmt.Errorf("--reason must be at most %d bytes", maxReasonBytes)}
	}
	return nil
}

// withLifecycle calls fn with all that decisions and removals need.
func (c *commands) withLifecycle(ctx context.Context, name string, fn func(lifecycle.System) error) error {
	return c.withServers(ctx, name, func(cfg Config, js natsjs.JetStream, store *clickhouse.Store, log *slog.Logger) error {
		positions, err := ledger.OpenPositions(ctx, js)
		if err != nil {
			return err
		}
		return fn(lifecycle.System{
			Log: control.New(js, store), Table: store, Positions: positions, Stream: replay.New(js), Partitions: cfg.Partitions, Shard: cfg.Shard, Logger: log,
			Counts:    hourly.New(store, positions, func() []int { return nil }, hourly.DefaultEvery, prometheus.NewRegistry(), log),
			Announcer: lifecycle.NewEvents(js.Conn()),
		})
	})
}

// decide takes a decision, publishes it as an audit event, and says what was decided.
func (c *commands) decide(ctx context.Context, name string, choose func(*control.State) (control.Decision, error)) error {
	return c.withLifecycle(ctx, name, func(s lifecycle.System) error {
		r, err := lifecycle.Decide(ctx, s.Log, choose)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c.stdout, "decision %d: %s\n", r.Seq, describe(r)); err != nil {
			return err
		}
		if err := lifecycle.Announce(ctx, s, r); err != nil {
			return fmt.Errorf("the decision is in force; the next run of retention publishes it as an event: %w", err)
		}
		return nil
	})
}

// describe is a decision in words.
func describe(r control.Record) string {
	whose := "all tenants"
	if r.Tenant != nil {
		whose = "tenant " + r.Tenant.String()
	}
	switch r.Kind {
	case control.RetentionSet:
		return fmt.Sprintf("%s: %s are kept for %d days", whose, actionsOf(r.Retention.Prefix), r.Retention.Days)
	case control.RetentionUnset:
		return fmt.Sprintf("%s: no rule of their own for %s any more", whose, actionsOf(r.Retention.Prefix))
	case control.HoldSet:
		return whose + " is on hold: nothing of it is removed"
	case control.HoldRelease:
		return whose + " is not on hold any more"
	case control.Offboarded:
		return whose + " has left: all of its events are removed"
	case control.Erased:
		return fmt.Sprintf("%s: an actor is erased and is called %s", whose, r.Erase.Pseudonym)
	case control.EraseRuleSet:
		return fmt.Sprintf("%s: with actors who are erased go metadata fields %q and resources of types %q", whose, r.EraseRule.Fields, r.EraseRule.ResourceTypes)
	case control.EraseRuleUnset:
		return whose + ": with actors who are erased goes nothing else"
	}
	return whose + ": " + string(r.Kind)
}

func actionsOf(prefix string) string {
	if prefix == "" {
		return "events"
	}
	return fmt.Sprintf("events with actions that begin with %q", prefix)
}

func (c *commands) retention() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Say how long events are kept, and remove those whose time is over",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("say what to do: ingester retention list|set|unset|run")}
		},
	}
	cmd.AddCommand(c.retentionList(), c.retentionSet(), c.retentionUnset(), c.retentionRun())
	return cmd
}

// ruleLine is a rule as it is listed.
type ruleLine struct {
	// TenantID is empty for all tenants.
	TenantID string `json:"tenant_id,omitempty"`
	Prefix   string `json:"action_prefix"`
	Days     int    `json:"days"`
	// The rest says who set it; absent for the rule that is built in.
	Decision uint64     `json:"decision,omitempty"`
	At       *time.Time `json:"at,omitempty"`
	By       string     `json:"by,omitempty"`
	Reason   string     `json:"reason,omitempty"`
}

func ruleLines(state *control.State) []ruleLine {
	var out []ruleLine
	builtIn := true
	for _, r := range state.Rules() {
		l := ruleLine{Prefix: r.Retention.Prefix, Days: r.Retention.Days, Decision: r.Seq, At: &r.At, By: r.By, Reason: r.Reason}
		if r.Tenant != nil {
			l.TenantID = r.Tenant.String()
		} else if r.Retention.Prefix == "" {
			builtIn = false
		}
		out = append(out, l)
	}
	if builtIn {
		out = append([]ruleLine{{Days: control.DefaultDays, By: "built in"}}, out...)
	}
	return out
}

func (c *commands) retentionList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List how long events are kept",
		Long: "Lists how long events are kept. A tenant's rules come before those of all tenants; among them the longest beginning of an action counts.\n" +
			"What is on hold is kept whatever a rule says: ingester hold list.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withLifecycle(cmd.Context(), "retention list", func(s lifecycle.System) error {
				state, err := s.Log.Load(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return c.printLines(ruleLines(state))
				}
				w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
				_, _ = fmt.Fprintln(w, "TENANT\tACTIONS\tDAYS\tBY\tREASON")
				for _, l := range ruleLines(state) {
					_, _ = fmt.Fprintf(w, "%s\t%s*\t%d\t%s\t%s\n", orAll(l.TenantID), l.Prefix, l.Days, l.By, l.Reason)
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON array")
	return cmd
}

func (c *commands) printLines(lines any) error { return json.NewEncoder(c.stdout).Encode(lines) }

func orAll(tenant string) string {
	if tenant == "" {
		return "all"
	}
	return tenant
}

// scopeFlags are --tenant and --all, of which one must be given.
type scopeFlags struct {
	tenant, prefix string
	all            bool
}

func (f *scopeFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.tenant, "tenant", "", "of this tenant")
	cmd.Flags().BoolVar(&f.all, "all", false, "of all tenants")
	cmd.Flags().StringVar(&f.prefix, "action-prefix", "", "only of events whose action begins with this")
}

func (f *scopeFlags) read(by *who) (*uuid.UUID, error) {
	id, err := tenantFlag(f.tenant)
	switch {
	case err != nil:
		return nil, err
	case (id == nil) != f.all:
		return nil, usageError{errors.New("say of whom: --tenant UUID, or --all")}
	case len(f.prefix) > control.MaxPrefixBytes:
		return nil, usageError{fmt.Errorf("--action-prefix must be at most %d bytes", control.MaxPrefixBytes)}
	}
	return id, by.check(false)
}

func (c *commands) retentionSet() *cobra.Command {
	var scope scopeFlags
	var by who
	var days int
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Set how long events are kept",
		Long: "Sets for how many days after their created_at events are kept, of one tenant or of all, with any action or with those that begin so. It is in\n" +
			"force at once; events go with the next run. The decision is written down for good and is an event of the log. Run it as the ingester's user of NATS.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tenant, err := scope.read(&by)
			if err != nil {
				return err
			}
			if days < 1 || days > control.MaxDays {
				return usageError{fmt.Errorf("--days must be from 1 to %d", control.MaxDays)}
			}
			return c.decide(cmd.Context(), "retention set", func(*control.State) (control.Decision, error) {
				return control.Decision{Kind: control.RetentionSet, Tenant: tenant, By: by.operator, Reason: by.reason,
					Retention: &control.Retention{Prefix: scope.prefix, Days: days}}, nil
			})
		},
	}
	scope.flags(cmd)
	by.flags(cmd)
	cmd.Flags().IntVar(&days, "days", 0, fmt.Sprintf("for how many days, from 1 to %d", control.MaxDays))
	return cmd
}

func (c *commands) retentionUnset() *cobra.Command {
	var scope scopeFlags
	var by who
	cmd := &cobra.Command{
		Use:   "unset",
		Short: "Take a rule back",
		Long:  "Takes a rule back, so that the next one that fits counts. Run it as the ingester's user of NATS.",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tenant, err := scope.read(&by)
			if err != nil {
				return err
			}
			return c.decide(cmd.Context(), "retention unset", func(state *control.State) (control.Decision, error) {
				for _, r := range state.Rules() {
					if r.Retention.Prefix == scope.prefix && (r.Tenant == nil) == (tenant == nil) && (tenant == nil || *r.Tenant == *tenant) {
						return control.Decision{Kind: control.RetentionUnset, Tenant: tenant, By: by.operator, Reason: by.reason,
							Retention: &control.Retention{Prefix: scope.prefix}}, nil
					}
				}
				return control.Decision{}, errors.New("there is no such rule: ingester retention list")
			})
		},
	}
	scope.flags(cmd)
	by.flags(cmd)
	return cmd
}

func (c *commands) retentionRun() *cobra.Command {
	var by who
	var dry, purge, asJSON bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Remove the events whose time is over",
		Long: "Removes the events whose time is over, as an ingester does by itself every AUDIT_RETENTION_RUN, and what earlier runs did not come to. It may run\n" +
			"beside live ingest, and waits for another run and for a rebuild. Nothing of a tenant on hold is removed. Run it as the ingester's user of NATS;\n" +
			"with --dry-run, which changes nothing, any user that reads will do.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := by.check(false); err != nil {
				return err
			}
			return c.withLifecycle(cmd.Context(), "retention run", func(s lifecycle.System) error {
				opts := lifecycle.Options{By: by.operator, Reason: by.reason, Purge: purge}
				do := lifecycle.Run
				if dry {
					do = lifecycle.Plan
				}
				report, err := do(cmd.Context(), s, opts)
				if err != nil {
					return err
				}
				if asJSON {
					return c.printLines(report)
				}
				return c.printReport(report, dry)
			})
		},
	}
	by.flags(cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	cmd.Flags().BoolVar(&purge, "purge", false, "make the rows leave the disk at once, which rewrites what they share with others, instead of within a week")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}

func (c *commands) printReport(report lifecycle.Report, dry bool) error {
	w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TENANT\tACTIONS\tROWS\tOLDEST\tNEWEST\tHOLD")
	var rows uint64
	for _, l := range report.Lines {
		hold := ""
		if l.Held {
			hold = "stays"
		} else {
			rows += l.Rows
		}
		_, _ = fmt.Fprintf(w, "%s\t%s*\t%d\t%s\t%s\t%s\n", l.Tenant, l.Prefix, l.Rows, l.Oldest.Format(time.RFC3339), l.Newest.Format(time.RFC3339), hold)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if dry {
		_, err := fmt.Fprintf(c.stdout, "%d rows would be removed\n", rows)
		return err
	}
	if report.Erased > 0 {
		_, _ = fmt.Fprintf(c.stdout, "%d rows had the name of somebody who was erased\n", report.Erased)
	}
	_, err := fmt.Fprintf(c.stdout, "%d rows removed by %d decisions, %d earlier ones finished\n", report.Rows, report.Cuts, report.Finished)
	return err
}
