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
}

type composeService struct {
	Image       string            `yaml:"image"`
	Build       *composeBuild     `yaml:"build"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	NetworkMode string            `yaml:"network_mode"`
	Privileged  bool              `yaml:"privileged"`
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

var envReference = regexp.MustCompile(`from_env="([A-Z_]+)"`)

// A variable the server's files refer to and compose does not set would keep ClickHouse from starting.
func TestComposeSetsWhatTheUserFilesNeed(t *testing.T) {
	server := compose(t).Services["clickhouse"].Environment
	files, err := filepath.Glob("clickhouse/users.d/*.xml")
	if err != nil || len(files) == 0 {
		t.Fatalf("user files %v, %v", files, err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range envReference.FindAllStringSubmatch(string(text), -1) {
			if server[match[1]] == "" {
				t.Errorf("%s needs %s", path, match[1])
			}
		}
	}
	for service, variable := range map[string]string{"ingester": "AUDIT_INGESTER_PASSWORD", "query": "AUDIT_QUERY_PASSWORD"} {
		url := compose(t).Services[service].Environment["AUDIT_CLICKHOUSE_URL"]
		want := "clickhouse://" + service + ":" + server[variable] + "@clickhouse:9000/audit"
		if url != want {
			t.Errorf("%s connects to %s, want %s", service, url, want)
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
			"CGO_ENABLED=0 go build -trimpath ", " ./services/" + name + "\n", "\nUSER 65532:65532\n",
			`ENTRYPOINT ["` + name + `"]`, `CMD ["serve"]`,
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s does not say %q", build.Dockerfile, want)
			}
		}
		for _, from := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(string(text), -1) {
			if !regexp.MustCompile(`:[0-9]+\.[0-9]+`).MatchString(from[1]) {
				t.Errorf("%s: base image %s names no version", build.Dockerfile, from[1])
			}
		}
	}
}
