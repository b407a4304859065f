package e2e

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"example.com/auditlog/pkg/service/ops"
)

// expressions are all PromQL of the alert rules and the dashboards, with where each stands, and the names that rules record.
func expressions(t *testing.T) (exprs map[string]string, recorded map[string]bool) {
	t.Helper()
	exprs, recorded = map[string]string{}, map[string]bool{}
	dir := filepath.Join(root, "deploy/observability")
	rules, errs := rulefmt.ParseFile(filepath.Join(dir, "alerts.yml"), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			exprs["rule "+r.Alert+r.Record] = r.Expr
			if r.Record != "" {
				recorded[r.Record] = true
			}
		}
	}
	paths, err := filepath.Glob(filepath.Join(dir, "dashboards/*.json"))
	must(t, err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(t, err)
		var d struct {
			UID    string `json:"uid"`
			Panels []struct {
				Title   string `json:"title"`
				Targets []struct {
					Expr string `json:"expr"`
				} `json:"targets"`
			} `json:"panels"`
		}
		must(t, json.Unmarshal(text, &d))
		if d.UID == "" || len(d.Panels) < 10 {
			t.Errorf("%s: uid %q, %d panels", path, d.UID, len(d.Panels))
		}
		for _, p := range d.Panels {
			for i, target := range p.Targets {
				exprs[filepath.Base(path)+", "+p.Title+" "+string(rune('A'+i))] = target.Expr
			}
		}
	}
	return exprs, recorded
}

// Ensure every metric, and every label asked for, in alerts and dashboards is one that the running services have.
func TestAlertsAndDashboardsNameRealMetrics(t *testing.T) {
	s := startSystem(t)
	process := ops.NewRegistry()
	at := serveOps(t, process, s.checks)
	s.traffic(t)
	there := map[string][]string{"up": {"job"}} // Prometheus's own
	for _, reg := range []*prometheus.Registry{s.metrics, process} {
		described(reg, there)
	}
	waitFailing(t, at)
	text := s.scrape(t, at)
	if !strings.Contains(text, "process_start_time_seconds") || !strings.Contains(text, `audit_ready{check="query-keys"} 1`) {
		t.Errorf("a scrape lacks what every process has:\n%s", text)
	}
	exprs, recorded := expressions(t)
	if len(exprs) < 60 {
		t.Errorf("only %d expressions found", len(exprs))
	}
	for where, expr := range exprs {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		for _, selector := range parser.ExtractSelectors(parsed) {
			checkSelector(t, where, selector, there, recorded)
		}
	}
}

func checkSelector(t *testing.T, where string, selector []*labels.Matcher, there map[string][]string, recorded map[string]bool) {
	t.Helper()
	name := ""
	for _, m := range selector {
		if m.Name == metricName {
			name = m.Value
		}
	}
	if recorded[name] {
		return
	}
	has, ok := there[name]
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(name, suffix); cut && !ok {
			has, ok = there[base]
		}
	}
	if !ok {
		t.Errorf("%s names %q, which no service has", where, name)
	}
	own := map[string]bool{metricName: true, "job": true, "instance": true, "le": true}
	for _, l := range has {
		own[l] = true
	}
	for _, m := range selector {
		if !own[m.Name] {
			t.Errorf("%s asks for label %q of %s, which has %q", where, m.Name, name, has)
		}
	}
}

// described adds the names and labels of all that is registered: a family without a sample yet does not show in a scrape.
func described(reg *prometheus.Registry, there map[string][]string) {
	descs := make(chan *prometheus.Desc)
	go func() {
		reg.Describe(descs)
		close(descs)
	}()
	form := regexp.MustCompile(`fqName: "([^"]+)".*constLabels: {(.*)}, variableLabels: {(.*)}}`)
	word := regexp.MustCompile(`[a-z_]+`)
	for d := range descs {
		m := form.FindStringSubmatch(d.String())
		names := word.FindAllString(m[3], -1)
		for _, pair := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
			names = append(names, pair[1])
		}
		there[m[1]] = append(there[m[1]], names...)
	}
}

func (s *system) scrape(t *testing.T, opsURL string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, opsURL+"/metrics", nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(body)
}

// metricName is the label under which PromQL keeps the name of a metric.
const metricName = "__name__"
