package e2e

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/deploy"
	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
)

// image is the root folder of a container made by a Dockerfile of ours: the programs and nothing else.
type image struct{ root string }

// buildImage runs the go build commands that the Dockerfile of a service runs.
func buildImage(t *testing.T, service string) image {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "services", service, "Dockerfile"))
	must(t, err)
	commands := regexp.MustCompile(`CGO_ENABLED=0 go build -trimpath -ldflags="-s -w \$STAMP" -o /out/(\S+) (\S+)`).FindAllStringSubmatch(string(text), -1)
	if len(commands) == 0 {
		t.Fatalf("the Dockerfile of %s builds nothing", service)
	}
	// Not t.TempDir: that one's parents are closed to other users.
	dir, err := os.MkdirTemp("", "auditlog-image-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755)) //nolint:gosec // the user of the container enters it
	for _, c := range commands {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, c[1]), c[2])
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		static(t, filepath.Join(dir, c[1]))
	}
	return image{dir}
}

// static fails unless the program needs no other file to run.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	must(t, err)
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("%s needs %v (%v)", path, libs, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s needs a loader", path)
		}
	}
}

// command is a program as a container runs it: with no environment but env, in an empty folder; where the tests may, with the image for its
// root and as the image's user.
func (i image) command(t *testing.T, env []string, name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(filepath.Join(i.root, name), args...)
	cmd.Env, cmd.Dir = env, i.root
	if os.Geteuid() == 0 {
		cmd.Path, cmd.Dir = "/"+name, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: i.root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	return cmd, &out
}

// secret puts a file into the image, as a container platform mounts it, and returns its path there.
func (i image) secret(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(i.root, name)
	must(t, os.WriteFile(path, []byte(text+"\n"), 0o644)) //nolint:gosec // the user of the container reads it
	if os.Geteuid() == 0 {
		return "/" + name
	}
	return path
}

func (i image) start(t *testing.T, env []string, name string) {
	t.Helper()
	cmd, out := i.command(t, env, name, "serve")
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if t.Failed() {
			t.Logf("%s says:\n%s", name, out)
		}
	})
}

// waitHealthy runs the image's own health check until it passes.
func (i image) waitHealthy(t *testing.T, env []string, name string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		cmd, out := i.command(t, env, name, "health")
		if err := cmd.Run(); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%s is not healthy: %v\n%s", name, err, out)
		}
	}
}

// withServiceUsers is a stack with the users that the services have in containers, and their passwords by name.
func withServiceUsers(t *testing.T) (*stack.Stack, map[string]string) {
	t.Helper()
	dir, passwords := t.TempDir(), map[string]string{}
	secrets := "<clickhouse>"
	for _, name := range []string{"ingester", "query"} {
		passwords[name] = uuid.NewString()
		sum := sha256.Sum256([]byte(passwords[name]))
		secrets += "<" + name + "_password_sha256_hex>" + hex.EncodeToString(sum[:]) + "</" + name + "_password_sha256_hex>"
	}
	must(t, os.WriteFile(filepath.Join(dir, "secrets.xml"), []byte(secrets+"</clickhouse>"), 0o600))
	t.Setenv("AUDIT_CLICKHOUSE_SECRETS", filepath.Join(dir, "secrets.xml"))
	text, err := deploy.Files.ReadFile(deploy.ClickHouseServices)
	must(t, err)
	users := filepath.Join(dir, "clickhouse", "conf", "users.d")
	must(t, os.MkdirAll(users, 0o750))
	must(t, os.WriteFile(filepath.Join(users, "services.xml"), text, 0o600))
	return stacktest.Start(t, stacktest.Dir(dir)), passwords
}

// Ensure the programs as the Dockerfiles build them need nothing but their environment: no file, no shell, no place to write to, and no right in ClickHouse
// but those of their user there.
func TestProgramsRunInEmptyImages(t *testing.T) {
	s, passwords := withServiceUsers(t)
	ops := map[string]string{"ingester": fmt.Sprintf("127.0.0.1:%d", freePort(t)), "query": fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	api := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	images, envs := map[string]image{}, map[string][]string{}
	for _, name := range []string{"ingester", "query"} {
		img := buildImage(t, name)
		images[name] = img
		envs[name] = []string{
			"AUDIT_NATS_URL=" + s.NATSURL(), "AUDIT_CLICKHOUSE_URL_FILE=" + img.secret(t, "clickhouse_url", strings.Replace(s.ClickHouseURL(), "://", "://"+name+":"+passwords[name]+"@", 1)),
			"AUDIT_OPS_ADDR=" + ops[name], "AUDIT_HTTP_ADDR=" + api,
		}
		if cmd, _ := img.command(t, envs[name], name, "health"); cmd.Run() == nil {
			t.Errorf("%s is healthy before it runs", name)
		}
		img.start(t, envs[name], name)
		img.waitHealthy(t, envs[name], name)
	}

	tenant := uuid.New()
	id := uuid.NewString()
	event := `{"tenant_id":"` + tenant.String() + `","id":"` + id + `","actor_id":"a","actor_type":"user","action":"x","resource_type":"r","resource_id":"1","created_at":"2026-01-02T03:04:05Z"}`
	publish, out := images["ingester"].command(t, envs["ingester"], "publish")
	publish.Stdin = strings.NewReader(event)
	if err := publish.Run(); err != nil {
		t.Fatalf("publish: %v\n%s", err, out)
	}
	create, out := images["query"].command(t, envs["query"], "query", "keys", "create", "--tenant", tenant.String(), "--name", "c", "--json")
	if err := create.Run(); err != nil {
		t.Fatalf("create a key: %v\n%s", err, out)
	}
	var key struct{ Key string }
	must(t, json.Unmarshal(out.Bytes(), &key))
	reader := &system{Stack: s, api: "http://" + api + "/v1/audit-log"}
	reader.walkUntil(t, key.Key, tenant, 10, 1)
	if p := reader.get(t, key.Key, tenant, url.Values{}); len(p.Data) != 1 || p.Data[0].Action != "x" {
		t.Errorf("the log is %+v", p)
	}
	for _, question := range []string{"?actor_id=a&action=x", "/feed?actor_id=a", "/export?resource_type=r", "/" + id} {
		status, body := reader.ask(t, key.Key, tenant, question)
		if status != http.StatusOK || !strings.Contains(string(body), id) {
			t.Errorf("%s: %d %s", question, status, body)
		}
	}
	for name, img := range images {
		for _, e := range entries(t, img.root) {
			if e != name && e != "publish" && e != "clickhouse_url" {
				t.Errorf("%s has made %s", name, e)
			}
		}
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
