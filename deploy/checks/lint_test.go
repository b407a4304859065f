package checks_test

import (
	"path/filepath"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	helmlint "helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

// Ensure `helm lint` finds nothing to say of the chart but that it has no icon, with as little as must be given and with everything switched on.
//
// What it renders is held against the types of Kubernetes' own API by the tests of helm_test.go, strictly. That is what kubeconform does with schemas,
// which it fetches from the network when it runs, and so cannot where there is none.
func TestChartLints(t *testing.T) {
	for _, values := range []string{needed, everything} {
		given, err := chartutil.ReadValues([]byte(values))
		if err != nil {
			t.Fatal(err)
		}
		linter := helmlint.AllWithKubeVersion(filepath.Join(root, "deploy/helm/auditlog"), given, "audit", &chartutil.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"})
		for _, m := range linter.Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s", m)
			}
		}
		if linter.HighestSeverity != support.InfoSev || len(linter.Messages) != 1 {
			t.Errorf("highest severity %d of %v; did it look at the chart?", linter.HighestSeverity, linter.Messages)
		}
	}
}
