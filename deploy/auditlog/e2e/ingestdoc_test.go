package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/auditlog/pkg/service/ops"
)

// Ensure every metric is named in the page it belongs to, and that no page names one that is not there.
func TestMetricsAreDocumented(t *testing.T) {
	s := startSystem(t)
	reg := ops.NewRegistry()
	serveOps(t, reg, s.checks)
	there := map[string][]string{}
	described(s.metrics, there)
	described(reg, there)
	named := map[string]string{} // the pages that name a metric
	for _, page := range []string{"docs/ingest.md", "docs/access.md", "docs/observability.md", "docs/runbook.md"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		must(t, err)
		for _, name := range regexp.MustCompile("`(audit_(?:ingester|stream|verify|query|policy|ready|build)[a-z_]*)[`{]").FindAllStringSubmatch(string(text), -1) {
			named[name[1]] += " " + page
			if _, ok := there[name[1]]; !ok {
				t.Errorf("%s names %s, which no service has", page, name[1])
			}
		}
	}
	home := map[string]string{
		"audit_ingester_": "docs/ingest.md", "audit_stream_": "docs/ingest.md", "audit_verify_": "docs/ingest.md", "audit_policy_": "docs/access.md",
		"audit_query_": "docs/observability.md", "audit_ready": "docs/observability.md", "audit_build_": "docs/observability.md",
	}
	found := 0
	for name := range there {
		for prefix, page := range home {
			if strings.HasPrefix(name, prefix) {
				found++
				if !strings.Contains(named[name], page) {
					t.Errorf("%s does not name %s", page, name)
				}
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d metrics found", found)
	}
}

// Ensure every test that the pages on ingest, NATS and backup call on is there, in the place they name.
func TestNamedTestsExist(t *testing.T) {
	there := map[string][]string{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || d.Name() == ".data") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			dir, _ := filepath.Rel(root, filepath.Dir(path))
			there[m[1]] = append(there[m[1]], filepath.ToSlash(dir))
		}
		return err
	}))
	// A place stands behind one name or several: `TestA`, `TestB` (deploy/x).
	groups := regexp.MustCompile("((?:`Test\\w+`(?:, )?)+)(?: \\(((?:deploy|pkg)/[a-z0-9/]+)\\))?")
	for page, elsewhere := range map[string]string{"docs/ingest.md": "services/ingester", "docs/nats.md": "deploy/auditlog/e2e", "docs/backup.md": "services/ingester"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		must(t, err)
		found := 0
		for _, group := range groups.FindAllStringSubmatch(string(text), -1) {
			for _, m := range regexp.MustCompile(`Test\w+`).FindAllString(group[1], -1) {
				found++
				place := strings.Join(there[m], " ")
				if place == "" || group[2] != "" && !strings.Contains(place, group[2]) && !strings.Contains(place, elsewhere) ||
					group[2] == "" && !strings.Contains(place, elsewhere) {
					t.Errorf("%s names %s, which is in %q", page, m, place)
				}
			}
		}
		if found < 3 {
			t.Errorf("%s names %d tests; did its form change?", page, found)
		}
	}
}
