package checks_test

import (
	"path/filepath"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// project loads compose files as docker compose does: schema, interpolation, merging, and that everything referred to is declared.
func project(t *testing.T, files ...string) *types.Project {
	t.Helper()
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = filepath.Join(root, f)
	}
	options, err := cli.NewProjectOptions(paths, cli.WithWorkingDirectory(filepath.Dir(paths[0])), cli.WithProfiles([]string{"*"}), cli.WithInterpolation(true))
	if err != nil {
		t.Fatal(err)
	}
	p, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatalf("docker compose refuses %v: %v", files, err)
	}
	return p
}

// Ensure docker compose takes the files, alone and with the layer that adds users to NATS, and understands them as they are meant.
func TestComposeFiles(t *testing.T) {
	for _, files := range [][]string{{"docker-compose.yml"}, {"docker-compose.yml", "deploy/nats/compose.users.yml"}} {
		p := project(t, files...)
		for _, name := range []string{"nats", "clickhouse", "ingester", "query"} {
			s, err := p.GetService(name)
			if err != nil {
				t.Fatal(err)
			}
			if s.HealthCheck == nil || s.HealthCheck.StartInterval == nil || s.HealthCheck.Retries == nil {
				t.Errorf("%v: %s has no whole health check: %+v", files, name, s.HealthCheck)
			}
			if name != "clickhouse" && (!s.ReadOnly || len(s.CapDrop) != 1) {
				t.Errorf("%v: %s keeps rights", files, name)
			}
			if got := len(s.Ports); (got == 1) != (name == "query") {
				t.Errorf("%v: %s publishes %d ports", files, name, got)
			}
		}
	}
	// The layer takes the plain address from the services: a setting and its file together are an error.
	p := project(t, "docker-compose.yml", "deploy/nats/compose.users.yml")
	for _, name := range []string{"ingester", "query"} {
		env := p.Services[name].Environment
		if url := env["AUDIT_NATS_URL"]; url != nil && *url != "" || env["AUDIT_NATS_URL_FILE"] == nil {
			t.Errorf("%s: AUDIT_NATS_URL is still set: %v", name, env)
		}
	}
}
