package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/lifecycle"
)

// maxActorBytes is how long an actor_id can be.
const maxActorBytes = 256

// errNamed is returned for a decision that would hold the name that is to go.
var errNamed = usageError{errors.New("--reason and --operator must not hold the actor's name: they are written down for good")}

func (c *commands) erase() *cobra.Command {
	var tenant, actor string
	var by who
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "erase",
		Short: "Replace an actor by a pseudonym, for good",
		Long: "Replaces an actor of a tenant by a random pseudonym in all events that are in the table and in all that are yet to come, and empties the metadata fields\n" +
			"that the tenant's rule names (ingester erase rule). The events stay. No rebuild brings the name back. The same command once more finishes what died and\n" +
			"gives the same pseudonym. A tenant on hold is refused. Messages in the stream, dead letters and backups keep the name until they go. Run it as the\n" +
			"ingester's user of NATS. --actor - reads the name from standard input, so that it stays out of the shell's history.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := tenantFlag(tenant)
			if err == nil && id == nil {
				err = usageError{errors.New("say of whom: --tenant UUID")}
			}
			if err == nil {
				actor, err = c.actorFlag(actor)
			}
			if err == nil {
				err = by.check(!dry)
			}
			if err == nil && !dry && (holdsWord(by.reason, actor) || holdsWord(by.operator, actor)) {
				err = errNamed
			}
			if err != nil {
				return err
			}
			return c.withLifecycle(cmd.Context(), "erase", func(s lifecycle.System) error {
				return c.eraseActor(cmd.Context(), s, *id, actor, by, dry, asJSON)
			})
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "of this tenant")
	cmd.Flags().StringVar(&actor, "actor", "", "the actor_id, byte for byte; - reads it from standard input")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would change")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	by.flags(cmd)
	cmd.AddCommand(c.eraseRule(), c.eraseList())
	return cmd
}

func (c *commands) actorFlag(actor string) (string, error) {
	if actor == "-" {
		line, err := bufio.NewReader(io.LimitReader(c.stdin, 2*maxActorBytes)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the actor from standard input: %w", err)
		}
		actor = strings.TrimRight(line, "\r\n")
	}
	if actor == "" || len(actor) > maxActorBytes {
		return "", usageError{fmt.Errorf("say whom: --actor ID, of 1 to %d bytes", maxActorBytes)}
	}
	return actor, nil
}

// holdsWord says whether a text has a name that is not a part of a longer word.
func holdsWord(text, name string) bool {
	word := func(r rune, n int) bool { return n > 0 && (unicode.IsLetter(r) || unicode.IsDigit(r)) }
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 {
			return false
		}
		from += i
		if !word(utf8.DecodeLastRuneInString(text[:from])) && !word(utf8.DecodeRuneInString(text[from+len(name):])) {
			return true
		}
		from++
	}
}

func (c *commands) eraseActor(ctx context.Context, s lifecycle.System, tenant uuid.UUID, actor string, by who, dry, asJSON bool) error {
	var r control.Record
	var report lifecycle.EraseReport
	var err error
	if dry {
		report, err = lifecycle.PlanErase(ctx, s, tenant, actor)
	} else {
		r, report, err = lifecycle.Erase(ctx, s, tenant, actor, lifecycle.Options{By: by.operator, Reason: by.reason})
	}
	if r.Seq > 0 && !asJSON {
		_, _ = fmt.Fprintf(c.stdout, "decision %d: %s\n", r.Seq, describe(r))
	}
	if err != nil && r.Seq > 0 {
		return fmt.Errorf("it is decided; run the same command again, or an ingester finishes it in a minute: %w", err)
	}
	if err != nil {
		return err
	}
	if asJSON {
		return c.printLines(report)
	}
	w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "YEAR\tEVENTS")
	for _, l := range report.Lines {
		_, _ = fmt.Fprintf(w, "%d\t%d\n", l.Year, l.Events)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if dry {
		_, err = fmt.Fprintf(c.stdout, "%d events would be changed\n", report.Events)
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "%d events changed: the actor is %s\n"+
		"what stays: messages in the stream until they are trimmed, dead letters, backups, and what other texts say of the actor\n", report.Events, report.Pseudonym)
	return err
}

func (c *commands) eraseRule() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rule",
		Short: "Say what goes with a tenant's actors who are erased",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("say what to do: ingester erase rule set|unset|list")}
		},
	}
	cmd.AddCommand(c.eraseRuleSet(), c.eraseRuleUnset(), c.eraseRuleList())
	return cmd
}

func (c *commands) eraseRuleSet() *cobra.Command {
	var tenant string
	var rule control.EraseRule
	var by who
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Set what goes with a tenant's actors who are erased",
		Long: "Sets what goes with the name of a tenant's actors who are erased from now on: the values of metadata fields, by their keys at any depth, and resource_id of\n" +
			"the types of resources that are people, where it is the actor. For who is erased already run `ingester erase` once more. It replaces the rule before.\n" +
			"The decision is written down for good and is an event of the log. Run it as the ingester's user of NATS.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := eraseScope(tenant, &by)
			if err != nil {
				return err
			}
			for _, names := range []*[]string{&rule.Fields, &rule.ResourceTypes} {
				slices.Sort(*names)
				*names = slices.Compact(*names)
			}
			if len(rule.Fields)+len(rule.ResourceTypes) == 0 {
				return usageError{errors.New("say what goes: --fields KEY,... or --resource-types TYPE,...")}
			}
			if err := rule.Validate(); err != nil {
				return usageError{err}
			}
			return c.decide(cmd.Context(), "erase rule set", func(*control.State) (control.Decision, error) {
				return control.Decision{Kind: control.EraseRuleSet, Tenant: id, By: by.operator, Reason: by.reason, EraseRule: &rule}, nil
			})
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "of this tenant")
	cmd.Flags().StringSliceVar(&rule.Fields, "fields", nil, "keys of metadata, separated by commas")
	cmd.Flags().StringSliceVar(&rule.ResourceTypes, "resource-types", nil, "values of resource_type, separated by commas")
	by.flags(cmd)
	return cmd
}

func eraseScope(tenant string, by *who) (*uuid.UUID, error) {
	id, err := tenantFlag(tenant)
	switch {
	case err != nil:
		return nil, err
	case id == nil:
		return nil, usageError{errors.New("say of whom: --tenant UUID")}
	}
	return id, by.check(false)
}

func (c *commands) eraseRuleUnset() *cobra.Command {
	var tenant string
	var by who
	cmd := &cobra.Command{
		Use:   "unset",
		Short: "Take a tenant's rule back",
		Long:  "Takes a tenant's rule back: only names go from then on. What was erased stays so. Run it as the ingester's user of NATS.",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := eraseScope(tenant, &by)
			if err != nil {
				return err
			}
			return c.decide(cmd.Context(), "erase rule unset", func(state *control.State) (control.Decision, error) {
				if !slices.ContainsFunc(state.EraseRules(), func(r control.Record) bool { return *r.Tenant == *id }) {
					return control.Decision{}, errors.New("there is no such rule: ingester erase rule list")
				}
				return control.Decision{Kind: control.EraseRuleUnset, Tenant: id, By: by.operator, Reason: by.reason}, nil
			})
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "of this tenant")
	by.flags(cmd)
	return cmd
}

// decidedLine is who took a decision, when and why, as it is listed.
type decidedLine struct {
	TenantID string    `json:"tenant_id"`
	Decision uint64    `json:"decision"`
	At       time.Time `json:"at"`
	By       string    `json:"by"`
	Reason   string    `json:"reason"`
}

func newDecidedLine(r control.Record) decidedLine {
	return decidedLine{r.Tenant.String(), r.Seq, r.At, r.By, r.Reason}
}

// eraseRuleLine is a rule as it is listed.
type eraseRuleLine struct {
	decidedLine
	control.EraseRule
}

func (c *commands) eraseRuleList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what goes with actors who are erased",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withLifecycle(cmd.Context(), "erase rule list", func(s lifecycle.System) error {
				state, err := s.Log.Load(cmd.Context())
				if err != nil {
					return err
				}
				lines := []eraseRuleLine{}
				for _, r := range state.EraseRules() {
					lines = append(lines, eraseRuleLine{newDecidedLine(r), *r.EraseRule})
				}
				if asJSON {
					return c.printLines(lines)
				}
				w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
				_, _ = fmt.Fprintln(w, "TENANT\tFIELDS\tRESOURCE TYPES\tBY\tREASON")
				for _, l := range lines {
					_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.TenantID, strings.Join(l.Fields, ","), strings.Join(l.ResourceTypes, ","), l.By, l.Reason)
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON array")
	return cmd
}

// erasureLine is an erasure as it is listed.
type erasureLine struct {
	decidedLine
	Pseudonym string `json:"pseudonym"`
	control.EraseRule
	// Done says that the table is known to follow it.
	Done bool `json:"done"`
}

func (c *commands) eraseList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List who was erased, by their pseudonyms",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withLifecycle(cmd.Context(), "erase list", func(s lifecycle.System) error {
				state, err := s.Log.Load(cmd.Context())
				if err != nil {
					return err
				}
				lines := []erasureLine{}
				for _, t := range state.ErasedTenants() {
					for _, r := range state.Erasures(t) {
						lines = append(lines, erasureLine{newDecidedLine(r), r.Erase.Pseudonym, r.Erase.EraseRule, !state.IsErasing(r.Seq)})
					}
				}
				if asJSON {
					return c.printLines(lines)
				}
				w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
				_, _ = fmt.Fprintln(w, "TENANT\tPSEUDONYM\tAT\tBY\tREASON")
				for _, l := range lines {
					_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.TenantID, l.Pseudonym, l.At.Format(time.RFC3339), l.By, l.Reason)
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON array")
	return cmd
}
