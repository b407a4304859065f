package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/keys"
	"example.com/auditlog/services/query/internal/policy"
)

// casesFile is where `policy test DIR` looks for its cases.
const casesFile = "cases.yaml"

// errPolicies means that policies or their tests failed; what is wrong has been printed.
var errPolicies = errors.New("the policies are not in order")

func (c *cli) policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Check, test and explain Cedar policies", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Usage()
			return &settingsError{errors.New("name a command: check, test or explain")}
		}}
	cmd.AddCommand(c.checkPolicies(), c.testPolicies(), c.explainPolicies())
	return cmd
}

func (c *cli) checkPolicies() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "check [DIR]", Short: "Find everything that keeps a directory of policies from going into force", Args: usage(cobra.MaximumNArgs(1)),
		Long: "Find everything that keeps a directory of policies from going into force. Without DIR: AUDIT_POLICY_DIR, or the built-in policies.",
		RunE: func(_ *cobra.Command, args []string) error {
			dir := c.dir(args)
			problems := policy.Check(dir)
			if err := c.printProblems(dir, problems, asJSON); err != nil {
				return err
			}
			if len(problems) > 0 {
				return fmt.Errorf("%w: problems found: %d", errPolicies, len(problems))
			}
			return nil
		}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of the problems")
	return cmd
}

func (c *cli) printProblems(dir string, problems []policy.Problem, asJSON bool) error {
	if asJSON {
		return c.printJSON(append([]policy.Problem{}, problems...)) // none is [], not null
	}
	for _, p := range problems {
		_, _ = fmt.Fprintln(c.stdout, p)
	}
	if len(problems) > 0 {
		return nil
	}
	_, err := fmt.Fprintf(c.stdout, "%s: in order\n", dirName(dir))
	return err
}

func (c *cli) dir(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return c.getenv("AUDIT_POLICY_DIR")
}

func dirName(dir string) string {
	if dir == "" {
		return "built-in policies"
	}
	return dir
}

func (c *cli) testPolicies() *cobra.Command {
	var cases string
	var asJSON bool
	cmd := &cobra.Command{Use: "test [DIR]", Short: "Run cases against a directory of policies", Args: usage(cobra.MaximumNArgs(1)),
		Long: "Run cases (who, what, expected decision, notices, visible rows) against a directory of policies: through the gate and the row filter.\n" +
			"Without DIR: AUDIT_POLICY_DIR, or the built-in policies."}
	cmd.Flags().StringVar(&cases, "cases", "", "YAML file of cases (default: "+casesFile+" in DIR)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of the cases")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		dir := c.dir(args)
		if cases == "" && dir == "" {
			return &settingsError{errors.New("the built-in policies have no cases beside them: name a file with --cases")}
		}
		if cases == "" {
			cases = filepath.Join(dir, casesFile)
		}
		results, err := policy.RunCases(dir, cases)
		if err != nil {
			return err
		}
		return c.printCases(results, asJSON)
	}
	return cmd
}

func (c *cli) printCases(results []policy.CaseResult, asJSON bool) error {
	failed := 0
	for i := range results {
		if !results[i].OK() {
			failed++
		}
	}
	if asJSON {
		if err := c.printJSON(results); err != nil {
			return err
		}
	} else {
		for i := range results {
			c.printCase(&results[i])
		}
		_, _ = fmt.Fprintf(c.stdout, "%d cases, %d failed\n", len(results), failed)
	}
	if failed > 0 {
		return fmt.Errorf("%w: %d of %d cases failed", errPolicies, failed, len(results))
	}
	return nil
}

func (c *cli) printCase(r *policy.CaseResult) {
	if r.OK() {
		_, _ = fmt.Fprintf(c.stdout, "ok    %s\n", r.Name)
		return
	}
	_, _ = fmt.Fprintf(c.stdout, "FAIL  %s\n", r.Name)
	for _, f := range r.Failures {
		_, _ = fmt.Fprintf(c.stdout, "      %s\n", f)
	}
	if r.SQL != "" {
		_, _ = fmt.Fprintf(c.stdout, "      row filter: %s\n", r.SQL)
	}
}

// explainFlags describe the request to explain.
type explainFlags struct {
	key, dir, from, to, source string
	filter                     audit.Filter
	limit                      int
	export, asJSON             bool
}

func (c *cli) explainPolicies() *cobra.Command {
	var x explainFlags
	cmd := &cobra.Command{Use: "explain --key ID", Short: "Show how the policies decide a key's request, and the SQL that filters its rows", Args: usage(cobra.NoArgs)}
	f := cmd.Flags()
	f.StringVar(&x.key, "key", "", "id of the key (required)")
	f.StringVar(&x.dir, "dir", "", "directory of policies (default: AUDIT_POLICY_DIR, or the built-in policies)")
	f.StringArrayVar(&x.filter.ActorIDs, "actor-id", nil, "filter of the request; may be repeated")
	f.StringArrayVar(&x.filter.ResourceTypes, "resource-type", nil, "filter of the request; may be repeated")
	f.StringArrayVar(&x.filter.ResourceIDs, "resource-id", nil, "filter of the request; may be repeated")
	f.StringArrayVar(&x.filter.Actions, "action", nil, "filter of the request; may be repeated")
	f.StringVar(&x.from, "from", "", "filter of the request, RFC 3339")
	f.StringVar(&x.to, "to", "", "filter of the request, RFC 3339")
	f.StringVar(&x.source, "source", "", "address that the request comes from")
	f.IntVar(&x.limit, "limit", audit.DefaultLimit, "page size of the request")
	f.BoolVar(&x.export, "export", false, "explain an export rather than a query")
	f.BoolVar(&x.asJSON, "json", false, "print one JSON object")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := x.request()
		if err != nil {
			return &settingsError{err}
		}
		if x.dir == "" {
			x.dir = c.getenv("AUDIT_POLICY_DIR")
		}
		return c.withKeys(cmd.Context(), func(ctx context.Context, s *keys.Store) error {
			k, err := s.Get(ctx, x.key)
			if err != nil {
				return err
			}
			return c.explain(&x, r, &k)
		})
	}
	return cmd
}

func (x *explainFlags) request() (r policy.Request, err error) {
	if x.key == "" {
		return r, errors.New("name the key with --key (see `query keys list`)")
	}
	r = policy.Request{Action: policy.QueryLog, Limit: x.limit, Now: time.Now()}
	if x.export {
		r.Action = policy.ExportLog
	}
	for _, b := range []struct {
		name, text string
		into       *time.Time
	}{{"from", x.from, &x.filter.From}, {"to", x.to, &x.filter.To}} {
		if b.text == "" {
			continue
		}
		if *b.into, err = time.Parse(time.RFC3339Nano, b.text); err != nil {
			return r, fmt.Errorf("--%s %q must be RFC 3339 with an offset", b.name, b.text)
		}
	}
	if x.source != "" {
		if r.SourceIP, err = netip.ParseAddr(x.source); err != nil {
			return r, fmt.Errorf("--source %q must be an address", x.source)
		}
	}
	x.filter.Normalize()
	r.Filter = x.filter
	return r, nil
}

func (c *cli) explain(x *explainFlags, r policy.Request, k *keys.Key) error {
	engine, err := policy.Open(x.dir, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	r.Principal, r.Tenant = k.Principal(), k.Tenant
	e := engine.Explain(r)
	if x.asJSON {
		return c.printJSON(e)
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("key", "%s (%s), %s", k.ID, k.Name, k.State(r.Now))
	line("policies", "%s, layer %s, digest %s", dirName(x.dir), e.Layer, e.Digest)
	if e.Allowed {
		line("decision", "allow")
	} else {
		line("decision", "deny, code %s", e.Code)
	}
	for _, p := range e.Policies {
		line("because of", "%s", p)
	}
	for _, n := range e.Notices {
		line("notice", "%s", n)
	}
	for _, failed := range e.Errors {
		line("error", "%s", failed)
	}
	for _, row := range e.Rows {
		line("row rule", "%s: %s", row.Policy, row.Cedar)
	}
	if e.SQL != "" {
		line("SQL", "%s", e.SQL)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Args)) {
		line("parameter", "%s = %q", name, e.Args[name])
	}
	_, err = c.stdout.Write([]byte(b.String()))
	return err
}
