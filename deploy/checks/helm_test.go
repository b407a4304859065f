package checks_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// needed are the values without which the chart is refused.
const needed = "nats: {existingSecret: audit-nats}\nclickhouse: {existingSecret: audit-clickhouse}\n"

// everything switches on all that is off by default.
const everything = `
fullnameOverride: evidence
commonLabels: {team: security}
image: {tag: v1.2.3, queryDigest: "sha256:` + digestOfNothing + `", pullSecrets: [{name: registry}]}
nats: {existingSecret: audit-nats, caSecret: nats-ca}
clickhouse: {existingSecret: audit-clickhouse, ingesterKeys: [shard1, shard2], caSecret: clickhouse-ca}
otel: {OTEL_EXPORTER_OTLP_ENDPOINT: "http://otel:4318"}
ingester: {settings: {AUDIT_FLUSHERS: 8}, priorityClassName: high, nodeSelector: {disk: nvme}, tolerations: [{operator: Exists}], podAnnotations: {a: b}}
query:
  settings: {AUDIT_READ_AUDIT_REQUIRED: true}
  autoscaling: {enabled: true}
  ingress: {enabled: true, className: nginx, host: audit.example.com, tlsSecret: audit-tls}
policies: {files: {default/roles.cedar: "permit (principal, action, resource);\n", guardrails/keys.cedar: "forbid (principal, action, resource) when { false };\n"}}
networkPolicy: {apiFrom: [{podSelector: {}}], egress: [{ports: [4222], to: [{podSelector: {matchLabels: {app: nats}}}]}]}
serviceMonitor: {enabled: true}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboards: {enabled: true}
`

const digestOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var readChart = sync.OnceValues(func() (*chart.Chart, error) {
	c, err := loader.Load(filepath.Join(root, "deploy/helm/auditlog"))
	if err != nil {
		return nil, err
	}
	return c, c.Validate()
})

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := readChart()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// renderChart is what helm would send to Kubernetes, document by document. Values that do not exist in a template are errors.
func renderChart(t *testing.T, values string) (docs []string, err error) {
	t.Helper()
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"}
	c := loadChart(t)
	if !chartutil.IsCompatibleRange(c.Metadata.KubeVersion, caps.KubeVersion.Version) {
		t.Fatalf("the chart is not for %s", caps.KubeVersion.Version)
	}
	full, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{Name: "log", Namespace: "audit", Revision: 1, IsInstall: true}, caps)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.Render(c, full)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(name) != ".yaml" {
			continue
		}
		for _, doc := range regexp.MustCompile(`(?m)^---\s*$`).Split(files[name], -1) {
			if strings.TrimSpace(doc) != "" {
				docs = append(docs, doc)
			}
		}
	}
	return docs, nil
}

// objects are the rendered objects, decoded by the types of Kubernetes' own API, which know every field.
type objects struct {
	deployments []*appsv1.Deployment
	services    []*corev1.Service
	configMaps  []*corev1.ConfigMap
	budgets     []*policyv1.PodDisruptionBudget
	scalers     []*autoscalingv2.HorizontalPodAutoscaler
	ingresses   []*networkingv1.Ingress
	policies    []*networkingv1.NetworkPolicy
	accounts    []*corev1.ServiceAccount
	others      map[string]map[string]any // of the Prometheus operator, by kind
}

func render(t *testing.T, values string) *objects {
	t.Helper()
	docs, err := renderChart(t, values)
	if err != nil {
		t.Fatal(err)
	}
	o := &objects{others: map[string]map[string]any{}}
	names := map[string]bool{}
	for _, doc := range docs {
		var head struct {
			APIVersion, Kind string
			Metadata         struct {
				Name   string
				Labels map[string]string
			}
		}
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		id := head.Kind + "/" + head.Metadata.Name
		if names[id] {
			t.Errorf("%s is there twice", id)
		}
		names[id] = true
		if head.Metadata.Labels["app.kubernetes.io/instance"] != "log" || head.Metadata.Labels["app.kubernetes.io/managed-by"] != "Helm" {
			t.Errorf("%s has labels %v", id, head.Metadata.Labels)
		}
		o.decode(t, head.APIVersion+" "+head.Kind, id, doc)
	}
	return o
}

func (o *objects) decode(t *testing.T, kind, id, doc string) {
	t.Helper()
	switch kind {
	case "apps/v1 Deployment":
		strict(t, &o.deployments, id, doc)
	case "v1 Service":
		strict(t, &o.services, id, doc)
	case "v1 ConfigMap":
		strict(t, &o.configMaps, id, doc)
	case "v1 ServiceAccount":
		strict(t, &o.accounts, id, doc)
	case "policy/v1 PodDisruptionBudget":
		strict(t, &o.budgets, id, doc)
	case "autoscaling/v2 HorizontalPodAutoscaler":
		strict(t, &o.scalers, id, doc)
	case "networking.k8s.io/v1 Ingress":
		strict(t, &o.ingresses, id, doc)
	case "networking.k8s.io/v1 NetworkPolicy":
		strict(t, &o.policies, id, doc)
	case "monitoring.coreos.com/v1 ServiceMonitor", "monitoring.coreos.com/v1 PrometheusRule":
		var object map[string]any
		if err := yaml.UnmarshalStrict([]byte(doc), &object); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		o.others[strings.Fields(kind)[1]] = object
	default:
		t.Errorf("%s is a %s, which nobody expects here", id, kind)
	}
}

// strict decodes a document, in which no field may be unknown or twice.
func strict[T any](t *testing.T, into *[]*T, id, doc string) {
	t.Helper()
	object := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), object); err != nil {
		t.Errorf("%s: %v\n%s", id, err, doc)
	}
	*into = append(*into, object)
}

// Ensure what the chart renders is what Kubernetes takes, with as little as must be given and with everything switched on.
func TestChartRenders(t *testing.T) {
	o := render(t, needed)
	if len(o.deployments) != 2 || len(o.services) != 3 || len(o.budgets) != 2 || len(o.policies) != 2 || len(o.accounts) != 1 || len(o.configMaps)+len(o.scalers)+len(o.ingresses)+len(o.others) != 0 {
		t.Errorf("by default: %+v", o)
	}
	o = render(t, everything)
	if len(o.deployments) != 3 || len(o.services) != 4 || len(o.budgets) != 3 || len(o.scalers) != 1 || len(o.ingresses) != 1 || len(o.configMaps) != 3 || len(o.others) != 2 {
		t.Errorf("with everything: %+v", o)
	}
	for _, d := range o.deployments {
		if !strings.HasPrefix(d.Name, "evidence-") || d.Labels["team"] != "security" || d.Spec.Selector.MatchLabels["team"] != "" {
			t.Errorf("%s has labels %v and selects by %v", d.Name, d.Labels, d.Spec.Selector.MatchLabels)
		}
	}
}

// Ensure values that are missing, misspelt or dangerous are refused, and the message says which.
func TestChartRefusesWrongValues(t *testing.T) {
	for values, want := range map[string]string{
		"":                                      "existingSecret",
		"nats: {existingSecret: x}":             "clickhouse",
		needed + "qery: {}":                     "qery",
		needed + "partitions: 0":                "partitions",
		needed + "query: {readAudit: yes}":      "readAudit",
		needed + "query: {settings: {PATH: /}}": "PATH",
		needed + "query: {ingress: {enabled: true, host: a.example}}":             "tlsSecret",
		needed + "policies: {files: {defaults/x.cedar: x}}":                       "defaults/x.cedar",
		needed + "image: {queryDigest: latest}":                                   "queryDigest",
		"nats: {existingSecret: x, replicas: 2}\nclickhouse: {existingSecret: y}": "replicas",
	} {
		if _, err := renderChart(t, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want a word of %s", values, err, want)
		}
	}
}

// Ensure no pod has a right it does not need, and no secret stands in an environment or in the chart.
func TestChartHardensPods(t *testing.T) {
	for _, d := range append(render(t, needed).deployments, render(t, everything).deployments...) {
		p := d.Spec.Template.Spec
		s := p.SecurityContext
		if p.AutomountServiceAccountToken == nil || *p.AutomountServiceAccountToken || s == nil || !*s.RunAsNonRoot || *s.RunAsUser != 65532 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: pod %+v", d.Name, p)
		}
		for _, c := range p.Containers {
			s := c.SecurityContext
			if s == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s: %+v", d.Name, s)
			}
			if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
				t.Errorf("%s: resources %v", d.Name, c.Resources)
			}
			for _, m := range c.VolumeMounts {
				if !m.ReadOnly {
					t.Errorf("%s may write to %s", d.Name, m.MountPath)
				}
			}
			for _, e := range c.Env {
				if strings.Contains(e.Name, "_URL") && e.Name != "AUDIT_NATS_URL_FILE" && e.Name != "AUDIT_CLICKHOUSE_URL_FILE" {
					t.Errorf("%s: %s is in the environment", d.Name, e.Name)
				}
			}
		}
	}
	docs, err := renderChart(t, everything)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range docs {
		if regexp.MustCompile(`(?m)^kind: Secret$`).MatchString(doc) {
			t.Errorf("the chart holds a secret:\n%s", doc)
		}
	}
}

// Ensure every setting of the chart is one of the page on settings, no setting is there twice, and every file that one names is mounted.
func TestChartSettingsExist(t *testing.T) {
	page := string(read(t, "docs/settings.md"))
	for _, d := range append(render(t, needed).deployments, render(t, everything).deployments...) {
		c := d.Spec.Template.Spec.Containers[0]
		seen := map[string]bool{}
		for _, e := range c.Env {
			if seen[e.Name] {
				t.Errorf("%s: %s is set twice", d.Name, e.Name)
			}
			seen[e.Name] = true
			if !strings.Contains(page, "`"+strings.TrimSuffix(e.Name, "_FILE")+"`") {
				t.Errorf("%s: docs/settings.md does not have %s", d.Name, e.Name)
			}
			if strings.HasPrefix(e.Value, "/") && !mounted(d.Spec.Template.Spec, e.Value) {
				t.Errorf("%s: nothing is mounted at %s=%s", d.Name, e.Name, e.Value)
			}
		}
	}
}

// mounted says whether a path is a mount, or a file that a mount of a secret or of policies brings.
func mounted(p corev1.PodSpec, file string) bool {
	for _, m := range p.Containers[0].VolumeMounts {
		i := slices.IndexFunc(p.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			return false
		}
		if m.MountPath == file {
			return true
		}
		if s := p.Volumes[i].Secret; s != nil && m.MountPath == path.Dir(file) {
			return slices.ContainsFunc(s.Items, func(k corev1.KeyToPath) bool { return k.Path == path.Base(file) })
		}
	}
	return false
}

// Ensure the ports are those that the services listen on by default, that they listen where the pod can be reached, and that every port and
// probe that names one means it.
func TestChartPortsAreTheServices(t *testing.T) {
	page := string(read(t, "docs/settings.md"))
	for _, values := range []string{needed, everything} {
		o := render(t, values)
		for _, d := range o.deployments {
			c := d.Spec.Template.Spec.Containers[0]
			ports := map[string]string{}
			for _, p := range c.Ports {
				ports[p.Name] = fmt.Sprint(p.ContainerPort)
				if !strings.Contains(page, "127.0.0.1:"+ports[p.Name]) {
					t.Errorf("%s: no service listens on %d", d.Name, p.ContainerPort)
				}
			}
			listens := map[string]string{"AUDIT_HTTP_ADDR": "http", "AUDIT_OPS_ADDR": "ops"}
			for _, e := range c.Env {
				if host, port, err := net.SplitHostPort(e.Value); listens[e.Name] != "" && (err != nil || host != "0.0.0.0" || port != ports[listens[e.Name]]) {
					t.Errorf("%s: %s=%s, its ports are %v", d.Name, e.Name, e.Value, ports)
				}
			}
			for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe} {
				if ports[probe.HTTPGet.Port.String()] == "" {
					t.Errorf("%s: a probe asks port %s", d.Name, probe.HTTPGet.Port.String())
				}
			}
			if c.LivenessProbe.HTTPGet.Path != "/healthz" || !strings.HasPrefix(c.ReadinessProbe.HTTPGet.Path, "/readyz") {
				t.Errorf("%s is asked at %s and %s", d.Name, c.LivenessProbe.HTTPGet.Path, c.ReadinessProbe.HTTPGet.Path)
			}
		}
		for _, s := range o.services {
			d := o.selected(s.Spec.Selector)
			if len(d) != 1 {
				t.Fatalf("service %s selects %d deployments", s.Name, len(d))
			}
			for _, p := range s.Spec.Ports {
				if !slices.ContainsFunc(d[0].Spec.Template.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.String() }) {
					t.Errorf("service %s leads to port %s, which %s has not", s.Name, p.TargetPort.String(), d[0].Name)
				}
			}
		}
	}
}

// selected are the deployments whose pods have the labels.
func (o *objects) selected(labels map[string]string) (out []*appsv1.Deployment) {
	for _, d := range o.deployments {
		has := d.Spec.Template.Labels
		matches := true
		for k, v := range labels {
			matches = matches && has[k] == v
		}
		if matches {
			out = append(out, d)
		}
	}
	return out
}

// Ensure each shard has ingesters of its own, that budgets, network policies and the autoscaler are about the pods they mean, and that policies
// are mounted under their own names.
func TestChartFitsTogether(t *testing.T) {
	o := render(t, everything)
	for i, d := range o.deployments[:2] {
		shard, key := "", d.Spec.Template.Spec.Volumes[1].Secret.Items[0].Key
		for _, e := range d.Spec.Template.Spec.Containers[0].Env {
			if e.Name == "AUDIT_SHARD" {
				shard = e.Value
			}
		}
		if shard != fmt.Sprintf("%d/2", i+1) || key != fmt.Sprintf("shard%d", i+1) {
			t.Errorf("%s is shard %q with the address %q", d.Name, shard, key)
		}
		if got := o.selected(d.Spec.Selector.MatchLabels); len(got) != 1 || got[0] != d {
			t.Errorf("%s selects %d deployments", d.Name, len(got))
		}
	}
	for _, b := range o.budgets {
		if got := o.selected(b.Spec.Selector.MatchLabels); len(got) != 1 || got[0].Name != b.Name {
			t.Errorf("budget %s is about %d deployments", b.Name, len(got))
		}
	}
	if all, api := o.selected(o.policies[0].Spec.PodSelector.MatchLabels), o.selected(o.policies[1].Spec.PodSelector.MatchLabels); len(all) != 3 || len(api) != 1 || api[0].Name != "evidence-query" {
		t.Errorf("the network policies are about %d and %d deployments", len(all), len(api))
	}
	query := o.selected(o.policies[1].Spec.PodSelector.MatchLabels)[0]
	if o.scalers[0].Spec.ScaleTargetRef.Name != query.Name || query.Spec.Replicas != nil {
		t.Errorf("the autoscaler is about %s, which has %v replicas", o.scalers[0].Spec.ScaleTargetRef.Name, query.Spec.Replicas)
	}
	if image := query.Spec.Template.Spec.Containers[0].Image; image != "auditlog/query@sha256:"+digestOfNothing {
		t.Errorf("image %s", image)
	}
	volumes := query.Spec.Template.Spec.Volumes
	items := volumes[len(volumes)-1].ConfigMap.Items
	i := slices.IndexFunc(o.configMaps, func(m *corev1.ConfigMap) bool { return m.Name == volumes[len(volumes)-1].ConfigMap.Name })
	if i < 0 || len(items) != 2 {
		t.Fatalf("policies are mounted as %v from %d", items, i)
	}
	for _, item := range items {
		if text := o.configMaps[i].Data[item.Key]; !strings.HasSuffix(text, ";\n") || !regexp.MustCompile(`^[-._a-zA-Z0-9]+$`).MatchString(item.Key) {
			t.Errorf("%s is %q from key %s", item.Path, text, item.Key)
		}
	}
}

// Ensure alerts and dashboards of the chart are the files of deploy/observability, and that what is scraped has the names they look for.
func TestChartShipsTheAlerts(t *testing.T) {
	o := render(t, everything)
	var want map[string]any
	if err := yaml.Unmarshal(read(t, "deploy/observability/alerts.yml"), &want); err != nil {
		t.Fatal(err)
	}
	if got := o.others["PrometheusRule"]["spec"]; !reflect.DeepEqual(got, want) || len(want) == 0 {
		t.Errorf("the rules differ:\n%v\n%v", got, want)
	}
	found := 0
	for _, m := range o.configMaps {
		for name, text := range m.Data {
			if strings.HasSuffix(name, ".json") {
				found++
				if !json.Valid([]byte(text)) || text != string(read(t, "deploy/observability/dashboards/"+name)) {
					t.Errorf("dashboard %s differs", name)
				}
			}
		}
	}
	if found != 2 {
		t.Errorf("%d dashboards", found)
	}
	var monitor struct {
		Spec struct {
			Selector  struct{ MatchLabels map[string]string }
			Endpoints []struct {
				Port, Path  string
				Relabelings []struct {
					SourceLabels                    []string
					Regex, TargetLabel, Replacement string
				}
			}
		}
	}
	text, err := json.Marshal(o.others["ServiceMonitor"])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &monitor); err != nil {
		t.Fatal(err)
	}
	scraped := 0
	for _, s := range o.services {
		matches := true
		for k, v := range monitor.Spec.Selector.MatchLabels {
			matches = matches && s.Labels[k] == v
		}
		if matches && s.Spec.Ports[0].Name == monitor.Spec.Endpoints[0].Port {
			scraped++
		}
	}
	relabel := monitor.Spec.Endpoints[0].Relabelings[0]
	jobs := map[string]bool{}
	for _, d := range o.deployments {
		component := d.Spec.Template.Labels["app.kubernetes.io/component"]
		jobs[regexp.MustCompile("^(?:"+relabel.Regex+")$").ReplaceAllString(component, relabel.Replacement)] = true
	}
	if scraped != 3 || !jobs["auditlog-ingester"] || !jobs["auditlog-query"] || len(jobs) != 2 {
		t.Errorf("%d services are scraped, as the jobs %v", scraped, jobs)
	}
	for job := range jobs {
		if !strings.Contains(string(read(t, "deploy/observability/prometheus.yml")), "job_name: "+job+"\n") {
			t.Errorf("deploy/observability has no job %s", job)
		}
	}
}
