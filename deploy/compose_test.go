package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const root = ".."

type composeFile struct {
	Services map[string]composeService `yaml:"services"`
	Volumes  map[string]any            `yaml:"volumes"`
	Secrets  map[string]struct {
		File string `yaml:"file"`
	} `yaml:"secrets"`
}

type composeService struct {
	Image       string            `yaml:"image"`
	Build       *composeBuild     `yaml:"build"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	NetworkMode string            `yaml:"network_mode"`
	Privileged  bool              `yaml:"privileged"`
	Secrets     []string          `yaml:"secrets"`
	ReadOnly    bool              `yaml:"read_only"`
	CapDrop     []string          `yaml:"cap_drop"`
	SecurityOpt []string          `yaml:"security_opt"`
	Healthcheck struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
	DependsOn map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
}

type composeBuild struct {
	Context    string `yaml:"context"`
	Dockerfile string `yaml:"dockerfile"`
}

func compose(t *testing.T) composeFile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file composeFile
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nats", "clickhouse", "ingester", "query"} {
		if _, ok := file.Services[name]; !ok {
			t.Fatalf("service %s is missing", name)
		}
	}
	return file
}

func TestComposePublishesTheAPIAlone(t *testing.T) {
	for name, s := range compose(t).Services {
		var want []string
		if name == "query" {
			want = []string{"127.0.0.1:8080:8080"}
		}
		if !slices.Equal(s.Ports, want) {
			t.Errorf("%s publishes %q, want %q", name, s.Ports, want)
		}
		if s.NetworkMode != "" || s.Privileged {
			t.Errorf("%s: network mode %q, privileged %t", name, s.NetworkMode, s.Privileged)
		}
	}
}

func TestComposeImagesArePinned(t *testing.T) {
	pinned := regexp.MustCompile(`^[a-z/-]+:[0-9]+\.[0-9]+(\.[0-9]+)*(-[a-z]+)?$`)
	for name, s := range compose(t).Services {
		if s.Build == nil && !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %q names no version", name, s.Image)
		}
	}
	if got := compose(t).Services["nats"].Image; !strings.HasPrefix(got, "nats:"+natsServerVersion(t)) {
		t.Errorf("compose runs %s, the local stack %s", got, natsServerVersion(t))
	}
}

// natsServerVersion is the version of the server that the local stack links.
func natsServerVersion(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`nats-server/v2 v([0-9.]+)`).FindSubmatch(text)
	if match == nil {
		t.Fatal("go.mod does not name nats-server")
	}
	return string(match[1])
}

func TestComposeMountsWhatExists(t *testing.T) {
	file := compose(t)
	for name, s := range file.Services {
		for _, mount := range s.Volumes {
			source, rest, _ := strings.Cut(mount, ":")
			if !strings.HasPrefix(source, "./") {
				if _, ok := file.Volumes[source]; !ok {
					t.Errorf("%s: volume %s is not declared", name, source)
				}
				continue
			}
			if _, err := os.Stat(filepath.Join(root, source)); err != nil {
				t.Errorf("%s mounts %s: %v", name, source, err)
			}
			if !strings.HasSuffix(rest, ":ro") {
				t.Errorf("%s may write to %s", name, source)
			}
		}
	}
	// The very files that are embedded for the local stack.
	for name, source := range map[string]string{
		"nats": "./deploy/nats/server.conf:", "clickhouse": "./deploy/clickhouse/config.d/audit.xml:",
	} {
		if !slices.ContainsFunc(file.Services[name].Volumes, func(v string) bool { return strings.HasPrefix(v, source) }) {
			t.Errorf("%s does not read %s", name, source)
		}
	}
}

// Nothing starts before what it needs is healthy, and health is asked of every service.
func TestComposeStartsInOrderOfHealth(t *testing.T) {
	services := compose(t).Services
	for name, s := range services {
		if len(s.Healthcheck.Test) < 2 || s.Healthcheck.Test[0] != "CMD" {
			t.Errorf("%s has no health check", name)
		}
		for on, d := range s.DependsOn {
			if _, ok := services[on]; !ok || d.Condition != "service_healthy" {
				t.Errorf("%s depends on %s by %q", name, on, d.Condition)
			}
		}
	}
	for name, on := range map[string][]string{"ingester": {"nats", "clickhouse"}, "query": {"nats", "ingester"}} {
		for _, needed := range on {
			if _, ok := services[name].DependsOn[needed]; !ok {
				t.Errorf("%s does not wait for %s", name, needed)
			}
		}
	}
}

// Every program but ClickHouse, whose image gives folders to its user when it starts, can write nowhere but to its volume and has no rights.
func TestComposeGivesNoRights(t *testing.T) {
	for name, s := range compose(t).Services {
		if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may gain rights: %v", name, s.SecurityOpt)
		}
		if name != "clickhouse" && (!s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"})) {
			t.Errorf("%s: read-only %t, drops %v", name, s.ReadOnly, s.CapDrop)
		}
	}
}

// Passwords are in files alone, which up.sh makes: none is in the compose file, and none has a default.
func TestComposeSecretsAreFiles(t *testing.T) {
	dir := t.TempDir()
	makeSecrets(t, dir)
	file := compose(t)
	for name, secret := range file.Secrets {
		if _, err := os.Stat(filepath.Join(dir, filepath.Base(secret.File))); err != nil || filepath.Dir(secret.File) != "deploy/secrets" {
			t.Errorf("secret %s is %s: %v", name, secret.File, err)
		}
	}
	for name, s := range file.Services {
		for variable, value := range s.Environment {
			if strings.Contains(variable, "PASSWORD") || strings.Contains(value, "@") {
				t.Errorf("%s: a secret is in the environment: %s=%s", name, variable, value)
			}
			if secret, ok := strings.CutPrefix(value, "/run/secrets/"); ok && !slices.Contains(s.Secrets, secret) {
				t.Errorf("%s: %s=%s, but it is given %v", name, variable, value, s.Secrets)
			}
		}
		for _, secret := range s.Secrets {
			if _, ok := file.Secrets[secret]; !ok {
				t.Errorf("%s: secret %s is not declared", name, secret)
			}
		}
	}
	for name, want := range map[string][2]string{
		"clickhouse": {"AUDIT_CLICKHOUSE_SECRETS", "/run/secrets/clickhouse_users"},
		"ingester":   {"AUDIT_CLICKHOUSE_URL_FILE", "/run/secrets/ingester_clickhouse_url"},
		"query":      {"AUDIT_CLICKHOUSE_URL_FILE", "/run/secrets/query_clickhouse_url"},
	} {
		if got := file.Services[name].Environment[want[0]]; got != want[1] {
			t.Errorf("%s: %s=%q, want %q", name, want[0], got, want[1])
		}
	}
}

func TestDockerfiles(t *testing.T) {
	for _, name := range []string{"ingester", "query"} {
		build := compose(t).Services[name].Build
		if build == nil || build.Context != "." || build.Dockerfile != "services/"+name+"/Dockerfile" {
			t.Fatalf("%s is built by %+v", name, build)
		}
		text, err := os.ReadFile(filepath.Join(root, build.Dockerfile))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"CGO_ENABLED=0 go build -trimpath ", " ./services/" + name, "\nFROM scratch\n", "\nUSER 65532:65532\n",
			`ENTRYPOINT ["` + name + `"]`, `CMD ["serve"]`, ` CMD ["` + name + `", "health"]`,
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s does not say %q", build.Dockerfile, want)
			}
		}
		for _, from := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(string(text), -1) {
			if from[1] != "scratch" && !regexp.MustCompile(`:[0-9]+\.[0-9]+`).MatchString(from[1]) {
				t.Errorf("%s: base image %s names no version", build.Dockerfile, from[1])
			}
		}
	}
}
