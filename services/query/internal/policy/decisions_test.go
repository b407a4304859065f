package policy

import (
	"bufio"
	"cmp"
	"os"
	"strings"
	"testing"
	"time"
)

// The built-in policies, one decision a line: see testdata/decisions.txt.
func TestBuiltinDecisions(t *testing.T) {
	t.Parallel()
	e := open(t, "")
	f, err := os.Open("testdata/decisions.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	lines := 0
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		lines++
		text, want, ok := strings.Cut(line, "->")
		if !ok {
			t.Fatalf("no -> in %q", line)
		}
		got := describe(e.Decide(t.Context(), question(text)))
		if want = strings.TrimSpace(want); got != want {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
	if lines < 20 {
		t.Errorf("only %d decisions", lines)
	}
}

// question is the request of a line such as "auditor types=invoice,bill ?resource_type=payroll export".
func question(text string) Request {
	r := ask()
	for _, word := range strings.Fields(text) {
		name, value, _ := strings.Cut(word, "=")
		values := strings.Split(value, ",")
		switch name {
		case "export":
			r.Action = ExportLog
		case "other-tenant":
			r.Tenant = tenantB
		case "actor":
			r.Principal.ActorID = value
		case "actor_type":
			r.Principal.ActorType = value
		case "types":
			r.Principal.ResourceTypes = values
		case "expires":
			d, err := time.ParseDuration(value)
			if err != nil {
				panic(err)
			}
			r.Principal.ExpiresAt = noon.Add(d)
		case "?actor_id":
			r.Filter.ActorIDs = values
		case "?resource_type":
			r.Filter.ResourceTypes = values
		case "?action":
			r.Filter.Actions = values
		case "-":
		default:
			r.Principal.Roles = append(r.Principal.Roles, name)
		}
	}
	return r
}

func describe(d Decision) string {
	if d.Allowed {
		where, _ := d.Scope.Where()
		return "allow " + where
	}
	return "deny " + d.Code + " " + cmp.Or(strings.Join(d.Notices, " | "), "-")
}
