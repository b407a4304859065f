// Package alerts holds the tests of the alert rules in deploy/observability.
package alerts

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

const root = "../../.."

func groups(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	rules, errs := rulefmt.ParseFile(filepath.Join(root, "deploy/observability/alerts.yml"), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if rules == nil {
		t.FailNow()
	}
	return rules
}

// Ensure the rules are what Prometheus takes, and that each alert says how bad it is, what is wrong, and where to read what to do, which is there.
func TestEveryAlertHasARunbookEntry(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(page), -1) {
		entries[m[1]] = false
	}
	for _, g := range groups(t).Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" {
				t.Errorf("%s has no summary", r.Alert)
			}
			if want := "docs/runbook.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
				t.Errorf("%s: runbook_url %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
			}
			if _, there := entries[r.Alert]; !there {
				t.Errorf("docs/runbook.md has no entry %s", r.Alert)
			}
			entries[r.Alert] = true
		}
	}
	for name, used := range entries {
		if !used {
			t.Errorf("docs/runbook.md has the entry %s, which is no alert", name)
		}
	}
}

// cases are series, one value a minute, after an hour of which an alert must fire, and others where it must not.
var cases = map[string]struct{ fires, quiet string }{
	"AuditVerifyFinding":    {`audit_verify_findings_total{kind="missing"} 0+0x55 1+0x20`, `audit_verify_findings_total{kind="missing"} 3+0x80`},
	"AuditVerifyStalled":    {`audit_verify_last_ok_timestamp_seconds 2900+0x80`, `audit_verify_last_ok_timestamp_seconds 3500+0x80`},
	"AuditRetentionFailing": {`audit_ingester_retention_failures_total 0+1x80`, `audit_ingester_retention_failures_total 7+0x80`},
	"AuditRecheckDropped":   {`audit_policy_recheck_dropped_total 0+0x55 1+0x20`, `audit_policy_recheck_dropped_total 0+0x80`},
	"AuditReadEventsLost":   {`audit_query_read_events_total{result="dropped"} 0+1x80`, `audit_query_read_events_total{result="stored"} 0+1x80`},
	"AuditIngestLag":        {`audit_ingester_lag_seconds 61+0x80`, `audit_ingester_lag_seconds 30+0x80`},
	"AuditIngestBacklog":    {`audit_ingester_lag_messages 0+1000x80`, `audit_ingester_lag_messages 80000-1000x70`},
	"AuditStreamFilling":    {`audit_stream_fill_ratio 0.71+0x80`, `audit_stream_fill_ratio 0.5+0x80`},
	"AuditStreamAlmostFull": {`
  audit_stream_fill_ratio 0.6+0x80
  audit_stream_bytes 600+2x80
  audit_stream_max_bytes 1000+0x80`, `
  audit_stream_fill_ratio 0.6+0x80
  audit_stream_bytes 600+0x80
  audit_stream_max_bytes 1000+0x80`},
	"AuditStreamUnwritable": {`audit_stream_writable 0+0x80`, `audit_stream_writable 1+0x80`},
	"AuditPartitionsUndriven": {`
  audit_stream_partitions{instance="a"} 16+0x80
  audit_stream_partitions{instance="b"} 16+0x80
  audit_ingester_partitions_driven{instance="a"} 8+0x80
  audit_ingester_partitions_driven{instance="b"} 7+0x80`, `
  audit_stream_partitions{instance="a"} 16+0x80
  audit_stream_partitions{instance="b"} 16+0x80
  audit_ingester_partitions_driven{instance="a"} 8+0x80
  audit_ingester_partitions_driven{instance="b"} 8+0x80`},
	"AuditNoIngester":          {`audit_query_keys 1+0x80`, `audit_ingester_members 1+0x80`},
	"AuditLeaseInvalid":        {`audit_ingester_lease_valid 0+0x80`, `audit_ingester_lease_valid 1+0x80`},
	"AuditPartitionsContested": {`audit_ingester_partitions_lost_total 0+3x80`, `audit_ingester_partitions_lost_total 0+1x80`},
	"AuditDeadLetters":         {`audit_ingester_dead_letters_total 0+1x80`, `audit_ingester_dead_letters_total 7+0x80`},
	"AuditInsertsInDoubt":      {`audit_ingester_inserts_in_doubt_total 0+7x80`, `audit_ingester_inserts_in_doubt_total 0+1x80`},
	"AuditKeysStale":           {`audit_query_keys_stale_seconds{instance="a"} 0+60x80`, `audit_query_keys_stale_seconds{instance="a"} 2+0x80`},
	"AuditPoliciesStale":       {`audit_policy_stale{instance="a"} 1+0x80`, `audit_policy_stale{instance="a"} 0+0x80`},
	"AuditPolicyFailing": {`audit_policy_gaps_total 0+1x80`, `
  audit_policy_gaps_total 0+0x80
  audit_policy_errors_total{layer="default"} 2+0x80`},
	"AuditStoreUnreachable": {`audit_query_store_breaker_state{instance="a",state="open"} 1+0x80`, `
  audit_query_store_breaker_state{instance="a",state="open"} 0+0x80
  audit_query_store_breaker_state{instance="a",state="closed"} 1+0x80`},
	"AuditQuerySaturated": {`
  audit_query_slots_in_use 32+0x80
  audit_query_slots 32+0x80`, `
  audit_query_slots_in_use 3+0x80
  audit_query_slots 32+0x80`},
	"AuditQuerySlow": {`
  audit_query_http_request_duration_seconds_bucket{route="/v1/audit-log",le="1"} 0+90x80
  audit_query_http_request_duration_seconds_bucket{route="/v1/audit-log",le="+Inf"} 0+100x80
  audit_query_http_request_duration_seconds_bucket{route="/v1/audit-log",le="2"} 0+100x80`, `
  audit_query_http_request_duration_seconds_bucket{route="/v1/audit-log",le="0.1"} 0+100x80
  audit_query_http_request_duration_seconds_bucket{route="/v1/audit-log",le="+Inf"} 0+100x80`},
	"AuditErrorBudgetFast": {`
  audit_query_http_requests_total{status="200"} 0+98x80
  audit_query_http_requests_total{status="503"} 0+2x80`, `
  audit_query_http_requests_total{status="200"} 0+999x80
  audit_query_http_requests_total{status="404"} 0+500x80
  audit_query_http_requests_total{status="503"} 0+1x80`},
	"AuditErrorBudgetSlow": {`
  audit_query_http_requests_total{status="200"} 0+995x80
  audit_query_http_requests_total{status="503"} 0+5x80`, `
  audit_query_http_requests_total{status="200"} 0+999x80
  audit_query_http_requests_total{status="503"} 0+1x80`},
	"AuditNotReady":   {`audit_ready{check="nats"} 0+0x80`, `audit_ready{check="nats"} 1+0x80`},
	"AuditDown":       {`up{job="auditlog-query"} 0+0x80`, `up{job="auditlog-query"} 1+0x80`},
	"AuditRestarting": {`process_start_time_seconds{job="auditlog-query"} 0+60x80`, `process_start_time_seconds{job="auditlog-query"} 7+0x80`},
}

// Ensure each alert's expression is true in the case it is for and false in an ordinary one. How long it must be true is Prometheus's own affair.
func TestAlertsFireWhenTheyShould(t *testing.T) {
	recorded := map[string]string{}
	seen := 0
	for _, g := range groups(t).Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				recorded[r.Record] = r.Expr
				continue
			}
			c, ok := cases[r.Alert]
			if !ok {
				t.Errorf("%s has no case", r.Alert)
				continue
			}
			seen++
			expr := r.Expr
			for name, of := range recorded {
				expr = strings.ReplaceAll(expr, name, "("+of+")")
			}
			if !holds(t, expr, c.fires) {
				t.Errorf("%s does not fire with %s", r.Alert, c.fires)
			}
			if holds(t, expr, c.quiet) {
				t.Errorf("%s fires with %s", r.Alert, c.quiet)
			}
		}
	}
	if seen != len(cases) {
		t.Errorf("%d cases for %d alerts", len(cases), seen)
	}
}

// holds evaluates an expression after an hour of the series.
func holds(t *testing.T, expr, series string) bool {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m\n  "+strings.TrimSpace(series)+"\n")
	defer storage.Close()
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 1_000_000)
	q, err := engine.NewInstantQuery(t.Context(), storage, promql.NewPrometheusQueryOpts(false, 0), expr, time.Unix(3600, 0))
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer q.Close()
	result := q.Exec(t.Context())
	if result.Err != nil {
		t.Fatalf("%s: %v", expr, result.Err)
	}
	vector, err := result.Vector()
	if err != nil {
		t.Fatal(err)
	}
	return len(vector) > 0
}
