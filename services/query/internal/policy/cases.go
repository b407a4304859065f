package policy

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// maxCasesBytes bounds a file of cases.
const maxCasesBytes = 4 << 20

// CaseResult is the outcome of one case.
type CaseResult struct {
	Name string `json:"name"`
	// Failures say what was expected and what came instead; none when the case passed.
	Failures []string `json:"failures,omitempty"`
	// SQL is the row filter of the case, empty when it was denied.
	SQL string `json:"sql,omitempty"`
}

// OK says whether the case passed.
func (r *CaseResult) OK() bool { return len(r.Failures) == 0 }

// RunCases runs a YAML file of cases against the policies of dir (the built-in ones when empty). Each case goes through the gate, and
// its rows through the row filter and through Cedar one by one; the two must agree. The error is for a directory that is refused and a
// file that cannot be understood, never for a case that fails.
func RunCases(dir, casesFile string) ([]CaseResult, error) {
	suite, err := readSuite(casesFile)
	if err != nil {
		return nil, err
	}
	e, err := Open(dir, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, err
	}
	results := make([]CaseResult, len(suite.Cases))
	for i := range suite.Cases {
		if results[i], err = e.runCase(suite, &suite.Cases[i]); err != nil {
			return nil, fmt.Errorf("read the cases of %s: case %d (%s): %w", casesFile, i+1, suite.Cases[i].Name, err)
		}
	}
	return results, nil
}

// suite is a file of cases.
type suite struct {
	Now    time.Time            `yaml:"now"`
	Events map[string]eventSpec `yaml:"events"`
	Cases  []caseSpec           `yaml:"cases"`
}

// eventSpec is a row that cases name. What is left out gets a value that no policy is likely to ask for.
type eventSpec struct {
	ID           string    `yaml:"id"`
	ActorID      string    `yaml:"actor_id"`
	ActorType    string    `yaml:"actor_type"`
	Action       string    `yaml:"action"`
	ResourceType string    `yaml:"resource_type"`
	ResourceID   string    `yaml:"resource_id"`
	Reasoning    *string   `yaml:"reasoning"`
	CreatedAt    time.Time `yaml:"created_at"`
}

type caseSpec struct {
	Name     string     `yaml:"name"`
	Key      keySpec    `yaml:"key"`
	Tenant   string     `yaml:"tenant"`
	Action   Action     `yaml:"action"`
	Filter   filterSpec `yaml:"filter"`
	Limit    int        `yaml:"limit"`
	SourceIP string     `yaml:"source_ip"`
	Now      time.Time  `yaml:"now"`
	Expect   expectSpec `yaml:"expect"`
}

type keySpec struct {
	Tenant        string    `yaml:"tenant"`
	Roles         []string  `yaml:"roles"`
	ActorID       string    `yaml:"actor_id"`
	ActorType     string    `yaml:"actor_type"`
	ResourceTypes []string  `yaml:"resource_types"`
	ExpiresAt     time.Time `yaml:"expires_at"`
}

type filterSpec struct {
	ActorIDs      []string  `yaml:"actor_id"`
	ResourceTypes []string  `yaml:"resource_type"`
	ResourceIDs   []string  `yaml:"resource_id"`
	Actions       []string  `yaml:"action"`
	From          time.Time `yaml:"from"`
	To            time.Time `yaml:"to"`
}

// expectSpec is what should come out. Code, notices and visible rows are compared when they are written down.
type expectSpec struct {
	Decision string    `yaml:"decision"`
	Code     string    `yaml:"code"`
	Notices  *[]string `yaml:"notices"`
	Visible  *[]string `yaml:"visible"`
}

func readSuite(name string) (*suite, error) {
	dir, base := filepath.Split(name)
	if dir == "" {
		dir = "."
	}
	info, err := fs.Stat(os.DirFS(dir), base)
	if err == nil && info.Size() > maxCasesBytes {
		err = fmt.Errorf("larger than %d bytes", maxCasesBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cases of %s: %w", name, err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the cases: %w", err)
	}
	var s suite
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&s); err != nil {
		return nil, fmt.Errorf("read the cases of %s: %w", name, err)
	}
	if len(s.Cases) == 0 {
		return nil, fmt.Errorf("read the cases of %s: no cases in it", name)
	}
	if s.Now.IsZero() {
		s.Now = time.Now().UTC()
	}
	return &s, nil
}

// caseTenant is the tenant of cases that name none.
var caseTenant = uuid.MustParse("00000000-0000-4000-8000-000000000001")

// runCase decides one case and compares.
func (e *Engine) runCase(s *suite, c *caseSpec) (CaseResult, error) {
	res := CaseResult{Name: c.Name}
	r, err := c.request(s)
	if err != nil {
		return res, err
	}
	ev := e.evaluate(context.Background(), &r)
	d := &ev.decision
	got := "deny"
	if d.Allowed {
		got = "allow"
		res.SQL, _ = d.Scope.Where()
	}
	fail := func(format string, args ...any) { res.Failures = append(res.Failures, fmt.Sprintf(format, args...)) }
	if c.Expect.Decision != got {
		fail("expected %s, got %s (code %q, notices %q, policies %q)", c.Expect.Decision, got, d.Code, d.Notices, d.Policies)
	}
	if c.Expect.Code != "" && c.Expect.Code != d.Code {
		fail("expected code %q, got %q", c.Expect.Code, d.Code)
	}
	if c.Expect.Notices != nil && !slices.Equal(sorted(*c.Expect.Notices), d.Notices) {
		fail("expected notices %q, got %q", sorted(*c.Expect.Notices), d.Notices)
	}
	return res, e.compareRows(s, c, &r, &ev, fail)
}

// compareRows finds the visible rows twice, by the row filter and by Cedar, and compares them with each other and with the case.
func (e *Engine) compareRows(s *suite, c *caseSpec, r *Request, ev *evaluation, fail func(string, ...any)) error {
	if c.Expect.Visible == nil {
		return nil
	}
	var filtered, decided []string
	if ev.decision.Allowed {
		full := e.current.Load().rules(r.Principal.Tenant, readEvent)
		for name, spec := range s.Events {
			event, err := spec.event(name, r.Now)
			if err != nil {
				return err
			}
			if !matches(&r.Filter, event) {
				continue
			}
			if ev.plan.cond().Match(r.Tenant, event) {
				filtered = append(filtered, name)
			}
			if ev.plan.authorize(full, event) {
				decided = append(decided, name)
			}
		}
	}
	filtered, decided = sorted(filtered), sorted(decided)
	if !slices.Equal(filtered, decided) {
		fail("the row filter shows %q and Cedar %q", filtered, decided)
	}
	want := sorted(*c.Expect.Visible)
	for _, name := range want {
		if _, ok := s.Events[name]; !ok {
			return fmt.Errorf("expects an event %q that the file does not describe", name)
		}
	}
	if !slices.Equal(want, filtered) {
		fail("expected to see %q, saw %q", want, filtered)
	}
	return nil
}

func sorted(vs []string) []string { return slices.Sorted(slices.Values(vs)) }

// matches says whether an event passes the caller's own filters.
func matches(f *audit.Filter, e *audit.Event) bool {
	in := func(vs []string, v string) bool { return len(vs) == 0 || slices.Contains(vs, v) }
	return in(f.ActorIDs, e.ActorID) && in(f.ResourceTypes, e.ResourceType) && in(f.ResourceIDs, e.ResourceID) && in(f.Actions, e.Action) &&
		(f.From.IsZero() || !e.CreatedAt.Before(f.From)) && (f.To.IsZero() || e.CreatedAt.Before(f.To))
}
