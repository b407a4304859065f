package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/crypto/bcrypt"

	"example.com/auditlog/deploy"
	"example.com/auditlog/deploy/auditlog/internal/company"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
)

// docsPage is the text of a page of the docs.
func docsPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	must(t, err)
	return string(text)
}

// Ensure the commands of the page work, in their order: a backup of a system that takes events, restored into an empty stack, gives the readers with their
// old keys at least what was there when the backup began, and goes on to take events.
func TestBackupPage(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(docsPage(t, "backup.md"), -1)
	if len(blocks) != 3 {
		t.Fatalf("the page has %d shell blocks; did their fences change?", len(blocks))
	}
	work := t.TempDir()
	must(t, os.Symlink(filepath.Dir(bin(t, "ingester")), filepath.Join(work, "bin"))) // make bin/ingester
	from, to := localEnv(t, filepath.Join(work, ".data")), localEnv(t, filepath.Join(work, ".data-restored"))
	value := func(env []string, name string) string {
		for _, kv := range env {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				return v
			}
		}
		t.Fatalf("no %s", name)
		return ""
	}
	for _, name := range []string{"AUDIT_DATA_DIR", "AUDIT_NATS_PORT", "AUDIT_CLICKHOUSE_PORT", "AUDIT_CLICKHOUSE_HTTP_PORT", "AUDIT_HTTP_ADDR", "AUDIT_OPS_ADDR"} {
		if !strings.Contains(blocks[1][1], name+"=") {
			t.Errorf("the page's second stack does not set %s", name)
		}
	}
	run := func(env []string, script string) {
		t.Helper()
		script = strings.NewReplacer(
			"make backup DIR=", "bin/ingester backup ", "make restore DIR=", "bin/ingester restore ",
			"127.0.0.1:5222", "127.0.0.1:"+value(to, "AUDIT_NATS_PORT"), "127.0.0.1:9900", "127.0.0.1:"+value(to, "AUDIT_CLICKHOUSE_PORT"),
		).Replace(script)
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
		cmd.Dir, cmd.Env = work, append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	addresses := func(env []string) []string {
		return append(env, "AUDIT_NATS_URL=nats://127.0.0.1:"+value(env, "AUDIT_NATS_PORT"), "AUDIT_CLICKHOUSE_URL=clickhouse://127.0.0.1:"+value(env, "AUDIT_CLICKHOUSE_PORT")+"/audit")
	}

	source := startLocal(t, from)
	key, tenant := source.find(t, `demo key +(\S+)`), company.Tenants[0].ID
	run(addresses(from), "bin/auditlog demo --events 500")
	reader := &system{api: "http://" + value(from, "AUDIT_HTTP_ADDR") + "/v1/audit-log"}
	before := reader.walkUntil(t, key, tenant, 1000, 1)
	// Events go on coming until the backup is done.
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, "bin/auditlog", "demo", "--events", "300")
			cmd.Dir, cmd.Env = work, append(os.Environ(), addresses(from)...)
			if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
				t.Errorf("publish meanwhile: %v\n%s", err, out)
			}
		}
	})
	run(addresses(from), blocks[0][1])
	cancel()
	wg.Wait()

	engines := startLocal(t, to, "--deps-only")
	run(nil, blocks[2][1])
	must(t, engines.stop(t, syscall.SIGTERM))
	startLocal(t, to)
	reader.api = "http://" + value(to, "AUDIT_HTTP_ADDR") + "/v1/audit-log"
	after := map[uuid.UUID][]byte{}
	for _, e := range reader.walk(t, key, tenant, url.Values{"limit": {"1000"}}) {
		text, err := json.Marshal(e)
		must(t, err)
		after[e.ID] = text
	}
	for _, e := range before {
		want, err := json.Marshal(e)
		must(t, err)
		if !bytes.Equal(after[e.ID], want) {
			t.Errorf("event %s is %s, was %s", e.ID, after[e.ID], want)
		}
	}
	run(addresses(to), "bin/auditlog demo --events 100 && bin/ingester verify --deep")
}

// Ensure the users that the page and the example file describe can back a system up and restore it, on a NATS and a ClickHouse with users.
func TestBackupUsers(t *testing.T) {
	block := regexp.MustCompile("(?s)```conf\n(.*?)```").FindStringSubmatch(docsPage(t, "backup.md"))
	if block == nil {
		t.Fatal("the page has no user of NATS")
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(userPassword), bcrypt.MinCost)
	must(t, err)
	withUser := func(dir string) *guarded {
		fill := fillTenants(t)
		return startNATSWith(t, dir, func(text []byte) []byte {
			const list = "    users: [\n"
			if !bytes.Contains(text, []byte(list)) {
				t.Fatal("the example has no list of users")
			}
			return fill(bytes.Replace(text, []byte(list), []byte(list+strings.Replace(block[1], "PASSWORD_BCRYPT", string(hash), 1)), 1))
		})
	}
	sum := sha256.Sum256([]byte(userPassword))
	folder := func() string {
		dir := t.TempDir()
		users := filepath.Join(dir, "clickhouse", "conf", "users.d")
		must(t, os.MkdirAll(users, 0o750))
		text, err := deploy.Files.ReadFile(deploy.BackupExample)
		must(t, err)
		// The views of this system are the default user's, as its ingester is.
		filled := strings.NewReplacer("PASSWORD_SHA256", hex.EncodeToString(sum[:]), "SET DEFINER ON ingester", "SET DEFINER ON default").Replace(string(text))
		must(t, os.WriteFile(filepath.Join(users, "backup.xml"), []byte(filled), 0o600))
		return dir
	}
	env := func(g *guarded, clickhouse string) []string {
		return append(os.Environ(), "AUDIT_NATS_URL="+g.url("backup"), "AUDIT_CLICKHOUSE_URL="+strings.Replace(clickhouse, "://", "://backup:"+userPassword+"@", 1))
	}
	g := withUser(t.TempDir())
	s := g.startServices(stacktest.Dir(folder()))
	key := s.key(t, tenantA)
	pub, err := events.NewPublisher(g.connect(producerOf(tenantA)))
	must(t, err)
	publishMany(t, pub, tenantA, 20)
	must(t, pub.Close(t.Context()))
	s.walkUntil(t, key, tenantA, 1000, 20)
	dir := filepath.Join(t.TempDir(), "b")
	if out, err := command(t, env(g, s.ClickHouseURL()), bin(t, "ingester"), "backup", dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	to := withUser(t.TempDir())
	data := folder()
	empty := stacktest.Start(t, stacktest.Dir(data))
	if out, err := command(t, env(to, empty.ClickHouseURL()), bin(t, "ingester"), "restore", dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, empty.Close())
	s = to.startServices(stacktest.Dir(data))
	if n := len(s.walk(t, key, tenantA, url.Values{"limit": {"1000"}})); n != 20 {
		t.Errorf("%d events show, want 20", n)
	}
}
