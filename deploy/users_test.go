package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"gopkg.in/yaml.v3"
)

// The layer over compose must give NATS every variable its users' file refers to, and each service its own user.
func TestComposeWithNATSUsers(t *testing.T) {
	text, err := os.ReadFile("nats/compose.users.yml")
	if err != nil {
		t.Fatal(err)
	}
	var layer composeFile
	if err := yaml.Unmarshal(text, &layer); err != nil {
		t.Fatal(err)
	}
	users, err := os.ReadFile("nats/users.conf.example")
	if err != nil {
		t.Fatal(err)
	}
	set := layer.Services["nats"].Environment
	references := regexp.MustCompile(`\$(AUDIT_[A-Z_]+)`).FindAllStringSubmatch(string(users), -1)
	if len(references) != 3 {
		t.Errorf("the users' file has passwords %v", references)
	}
	for _, ref := range references {
		if want := "${" + ref[1] + ":?set a password}"; set[ref[1]] != want {
			t.Errorf("%s is %q for NATS, want %q", ref[1], set[ref[1]], want)
		}
	}
	for service, name := range map[string]string{"ingester": "INGESTER", "query": "QUERY"} {
		want := "nats://" + service + ":${AUDIT_NATS_" + name + "_PASSWORD:?set a password}@nats:4222"
		if got := layer.Services[service].Environment["AUDIT_NATS_URL"]; got != want {
			t.Errorf("%s connects to %s, want %s", service, got, want)
		}
	}
	// users.conf includes server.conf from its own folder, which is mounted whole.
	if got := layer.Services["nats"].Volumes; len(got) != 1 || got[0] != "./deploy/nats:/etc/nats/audit:ro" {
		t.Errorf("NATS mounts %v", got)
	}
	if _, err := os.Stat(filepath.Join("nats", "server.conf")); err != nil {
		t.Error(err)
	}
}
