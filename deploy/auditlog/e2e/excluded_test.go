package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// Ensure each check that chart and load balancer leave out of /readyz is one that the query service has, by the name it has there: another name is an
// error, and no service would ever be ready.
func TestExcludedChecksExist(t *testing.T) {
	s := startSystem(t)
	var names []string
	for _, c := range s.checks {
		names = append(names, c.Name)
	}
	for _, file := range []string{"deploy/helm/auditlog/templates/query.yaml", "deploy/cluster/haproxy/haproxy.cfg"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		must(t, err)
		excluded := regexp.MustCompile(`exclude=([^&"\s]+)`).FindAllStringSubmatch(string(text), -1)
		if len(excluded) == 0 {
			t.Errorf("%s leaves out nothing; did its form change?", file)
		}
		for _, m := range excluded {
			if !slices.Contains(names, "query-"+m[1]) {
				t.Errorf("%s leaves out %s, the checks are %v", file, m[1], names)
			}
		}
	}
}
