package checks_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

func cluster(t *testing.T) *types.Project {
	t.Helper()
	return project(t, "deploy/cluster/docker-compose.yml")
}

// Ensure docker compose takes the cluster profile, whose services are hardened as those of one machine are, with one published port.
func TestClusterProfile(t *testing.T) {
	p := cluster(t)
	if got := len(p.Services); got != 3+3+4+2+1+1 {
		t.Errorf("%d services", got)
	}
	published := 0
	pinned := regexp.MustCompile(`:[0-9]+\.[0-9]+`)
	for name, s := range p.Services {
		published += len(s.Ports)
		ours := s.Build != nil
		if !ours && !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %s names no version", name, s.Image)
		}
		if s.HealthCheck == nil || s.HealthCheck.StartInterval == nil {
			t.Errorf("%s has no whole health check", name)
		}
		if !strings.HasPrefix(s.Image, "clickhouse/") && (!s.ReadOnly || len(s.CapDrop) != 1) {
			t.Errorf("%s keeps rights", name)
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind && !v.ReadOnly {
				t.Errorf("%s may write to %s", name, v.Source)
			}
			if _, err := os.Stat(v.Source); v.Type == types.VolumeTypeBind && err != nil && filepath.Base(v.Source) != "users.conf" {
				t.Errorf("%s mounts %s: %v", name, v.Source, err)
			}
		}
		for variable, value := range s.Environment {
			secret, ok := strings.CutPrefix(*value, "/run/secrets/")
			if ok && !hasSecret(s, secret) {
				t.Errorf("%s: %s=%s is not given to it", name, variable, *value)
			}
		}
	}
	if published != 1 || len(p.Services["api"].Ports) != 1 || p.Services["api"].Ports[0].HostIP != "127.0.0.1" {
		t.Errorf("%d ports are published", published)
	}
}

func hasSecret(s types.ServiceConfig, name string) bool {
	for _, secret := range s.Secrets {
		if secret.Source == name {
			return true
		}
	}
	return false
}

// Ensure every secret of the profile is made by its script, and that servers, shards and addresses fit together.
func TestClusterFitsTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	makeSecrets := func() {
		if out, err := exec.Command("sh", filepath.Join(root, "deploy/cluster/secrets.sh"), dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	makeSecrets()
	p := cluster(t)
	first := map[string]string{}
	for name, s := range p.Secrets {
		text, err := os.ReadFile(filepath.Join(dir, filepath.Base(s.File)))
		if err != nil {
			t.Errorf("secret %s: %v", name, err)
		}
		first[s.File] = string(text)
	}
	makeSecrets()
	for name, s := range p.Secrets {
		if text, err := os.ReadFile(filepath.Join(dir, filepath.Base(s.File))); err != nil || string(text) != first[s.File] {
			t.Errorf("secret %s is another one the second time: %v", name, err)
		}
	}
	hosts := func(text string) {
		for _, host := range regexp.MustCompile(`\b(?:nats|keeper|clickhouse-\d)-\d\b`).FindAllString(text, -1) {
			if _, ok := p.Services[host]; !ok {
				t.Errorf("%s is named and not there", host)
			}
		}
	}
	secret := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	xml := string(read(t, "deploy/cluster/clickhouse/config.d/cluster.xml"))
	for _, text := range []string{
		xml, string(read(t, "deploy/cluster/clickhouse/keeper.xml")), string(read(t, "deploy/cluster/nats/cluster.conf")),
		secret("query_clickhouse_url"), secret("ingester_clickhouse_url_1"), secret("ingester_clickhouse_url_2"), secret("ingester_nats_url"),
	} {
		hosts(text)
	}
	shards := len(regexp.MustCompile(`<shard>\s`).FindAllString(xml, -1))
	if got := len(strings.Fields(secret("query_clickhouse_url"))); got != shards || shards != 2 {
		t.Errorf("the query services know %d shards, the file has %d", got, shards)
	}
	for i, name := range []string{"ingester-1", "ingester-2"} {
		env := p.Services[name].Environment
		n := string(rune('1' + i))
		if *env["AUDIT_SHARD"] != n+"/2" || *env["AUDIT_NATS_REPLICAS"] != "3" || !strings.Contains(secret(filepath.Base(*env["AUDIT_CLICKHOUSE_URL_FILE"])), "@clickhouse-"+n+"-1:9000/") {
			t.Errorf("%s: %v", name, env)
		}
	}
	for name, s := range p.Services {
		if !strings.HasPrefix(name, "clickhouse-") {
			continue
		}
		want := "clickhouse-" + *s.Environment["AUDIT_CH_SHARD"] + "-" + *s.Environment["AUDIT_CH_REPLICA"]
		if want != name || *s.Environment["AUDIT_CH_HOST"] != name || !strings.Contains(xml, "<host>"+name+"</host>") {
			t.Errorf("%s is %s", name, want)
		}
	}
}
