package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the top of the repository, where a reader of the README stands.
const root = "../../.."

// Ensure the README's shell commands work, in their order, in one shell, on a running stack. Only the addresses are
// replaced by those of the test's stack, and the two commands that run for ever or rebuild are run by the test itself.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	must(t, err)
	env := localEnv(t, t.TempDir())
	value := map[string]string{}
	for _, kv := range env {
		name, v, _ := strings.Cut(kv, "=")
		value[name] = v
	}
	startLocal(t, env) // make run

	work := t.TempDir()
	must(t, os.Symlink(filepath.Dir(bin(t, "query")), filepath.Join(work, "bin"))) // make build
	replace := strings.NewReplacer(
		"127.0.0.1:8080", value["AUDIT_HTTP_ADDR"], "127.0.0.1:8123", "127.0.0.1:"+value["AUDIT_CLICKHOUSE_HTTP_PORT"],
		"make run\n", "\n", "make build\n", "\n", "make demo\n", "bin/auditlog demo --events 500\n",
		"go run ./pkg/events/cmd/publish", "bin/publish",
	)
	// A person takes longer than the ingester does between publishing and reading; a script must wait.
	const wait = `until curl -s -H "X-API-Key: $KEY" -H "X-Tenant-ID: $TENANT" "http://$AUDIT_HTTP_ADDR/v1/audit-log" | grep -q '"id"'; do sleep 0.1; done
`
	steps := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(steps) < 6 {
		t.Fatalf("the README has %d shell blocks; did their fences change?", len(steps))
	}
	script := "set -euo pipefail\n"
	for _, step := range steps {
		script += "echo '== step'\n" + replace.Replace(step[1])
		if strings.Contains(step[1], "export KEY=") {
			script += wait
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = work
	cmd.Env = append(append(os.Environ(), env...), "AUDIT_NATS_URL=nats://127.0.0.1:"+value["AUDIT_NATS_PORT"])
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{`"reasoning":"within the delegated limit"`, `"has_more":false`, "shipment.track"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %s in what the README's commands print:\n%.2000s", want, out)
		}
	}
}
