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
	env, value := namedEnv(t)
	startLocal(t, env) // make run

	replace := strings.NewReplacer(
		"127.0.0.1:8080", value["AUDIT_HTTP_ADDR"], "127.0.0.1:8123", "127.0.0.1:"+value["AUDIT_CLICKHOUSE_HTTP_PORT"],
		"make run\n", "\n", "make build\n", "\n", "make demo\n", "bin/auditlog demo --events 500\n",
		"go run ./pkg/events/cmd/publish", "bin/publish",
	)
	// A person takes longer than the ingester does between publishing and reading; a script must wait.
	const wait = `until curl -s -H "X-API-Key: $KEY" -H "X-Tenant-ID: $TENANT" "http://$AUDIT_HTTP_ADDR/v1/audit-log" | grep -q '"id"'; do sleep 0.1; done
`
	script := ""
	for _, step := range shellBlocks(t, "README.md", 6) {
		script += "echo '== step'\n" + replace.Replace(step)
		if strings.Contains(step, "export KEY=") {
			script += wait
		}
	}
	out := runShell(t, env, t.TempDir(), script)
	for _, want := range []string{`"reasoning":"within the delegated limit"`, `"has_more":false`, "shipment.track"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %s in what the README's commands print:\n%.2000s", want, out)
		}
	}
}

// Ensure a newcomer who follows the page on operations top to bottom, on one machine, meets no step that is missing or fails. What starts for ever is
// started by the test, and the addresses are those of its stack.
func TestOperations(t *testing.T) {
	env, value := namedEnv(t)
	startLocal(t, env) // bin/auditlog
	replace := strings.NewReplacer("127.0.0.1:8080", value["AUDIT_HTTP_ADDR"], "127.0.0.1:9100", value["AUDIT_OPS_ADDR"])
	work := t.TempDir()
	must(t, os.Mkdir(filepath.Join(work, "deploy"), 0o750))
	copyFile(t, filepath.Join(root, "deploy/secrets.sh"), filepath.Join(work, "deploy/secrets.sh"), nil)
	must(t, os.Chmod(filepath.Join(work, "deploy/secrets.sh"), 0o700)) //nolint:gosec // a script
	script := ""
	for _, step := range shellBlocks(t, "docs/operations.md", 9) {
		if step != "bin/auditlog\n" {
			script += "echo '== step'\n" + replace.Replace(step)
		}
	}
	out := runShell(t, env, work, script)
	for _, want := range []string{
		"auditlog devel", "query_clickhouse_url", `"action":"log.install"`, "audit_ready{", "audit_stream_dead_letters 0", "OK", "1 rows made anew", "revoked",
	} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %s in what the commands print:\n%.4000s", want, out)
		}
	}
}

// namedEnv is an environment for a local stack, and its values by name.
func namedEnv(t *testing.T) (env []string, value map[string]string) {
	t.Helper()
	env, value = localEnv(t, t.TempDir()), map[string]string{}
	for _, kv := range env {
		name, v, _ := strings.Cut(kv, "=")
		value[name] = v
	}
	return append(env, "AUDIT_NATS_URL=nats://127.0.0.1:"+value["AUDIT_NATS_PORT"],
		"AUDIT_CLICKHOUSE_URL=clickhouse://127.0.0.1:"+value["AUDIT_CLICKHOUSE_PORT"]+"/audit"), value
}

// shellBlocks are the blocks of a page that are marked sh, of which there must be some.
func shellBlocks(t *testing.T, page string, atLeast int) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, page))
	must(t, err)
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) < atLeast {
		t.Fatalf("%s has %d shell blocks; did their fences change?", page, len(blocks))
	}
	return blocks
}

// runShell runs a script in a folder that has bin, and returns what it prints. It ends at the first command that fails.
func runShell(t *testing.T, env []string, dir, script string) []byte {
	t.Helper()
	must(t, os.Symlink(filepath.Dir(bin(t, "query")), filepath.Join(dir, "bin"))) // make build
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "set -euo pipefail\n"+script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}
