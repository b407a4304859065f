package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Ensure the page on ingest names every metric of the ingester, and none that is not there.
func TestIngestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/ingest.md"))
	must(t, err)
	named := map[string]bool{}
	for _, name := range regexp.MustCompile(`audit_(?:ingester|stream|verify|query|policy)_[a-z_]+`).FindAllString(string(page), -1) {
		named[name] = true
	}
	s := startSystem(t)
	descs := make(chan *prometheus.Desc)
	go func() {
		s.metrics.Describe(descs) // the registered ones: a family without a sample yet does not show on /metrics
		close(descs)
	}()
	there := map[string]bool{}
	for d := range descs {
		there[regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]] = true
	}
	for name := range named {
		if !there[name] {
			t.Errorf("docs/ingest.md names %s, which no service has", name)
		}
	}
	for name := range there {
		if regexp.MustCompile(`^audit_(ingester|stream|verify)_`).MatchString(name) && !named[name] {
			t.Errorf("docs/ingest.md does not name %s", name)
		}
	}
	if len(named) < 20 {
		t.Errorf("only %d metrics found in the page", len(named))
	}
}

// Ensure every test that the pages on ingest and NATS call on is there, in the place they name.
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
	for page, elsewhere := range map[string]string{"docs/ingest.md": "services/ingester", "docs/nats.md": "deploy/auditlog/e2e"} {
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
