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
	references := regexp.MustCompile(`\$(AUDIT_[A-Z_]+)`).FindAllStringSubmatch(string(users), -1)
	if len(references) != 3 {
		t.Errorf("the users' file has passwords %v", references)
	}
	command := strings.Join(layer.Services["nats"].Command, " ")
	for _, ref := range references {
		user := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(ref[1], "AUDIT_NATS_"), "_PASSWORD"))
		secret := "nats_" + user + "_password"
		if want := ref[1] + "=$$(cat /run/secrets/" + secret + ")"; !strings.Contains(command, want) || !slices.Contains(layer.Services["nats"].Secrets, secret) {
			t.Errorf("NATS is not given %s: %s, %v", want, command, layer.Services["nats"].Secrets)
		}
		service := layer.Services[user]
		if got, want := service.Environment["AUDIT_NATS_URL_FILE"], "/run/secrets/"+user+"_nats_url"; got != want || !slices.Contains(service.Secrets, user+"_nats_url") {
			t.Errorf("%s connects to what %q says, want %q; it is given %v", user, got, want, service.Secrets)
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
