package deploy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// makeSecrets runs the script that makes the secrets of the containers.
func makeSecrets(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command("sh", "secrets.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func readSecrets(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = strings.TrimSuffix(string(text), "\n")
	}
	return out
}

// password is that of the user in a secret that is a URL.
func password(t *testing.T, secrets map[string]string, name, user string) string {
	t.Helper()
	u, err := url.Parse(secrets[name])
	if err != nil || u.User.Username() != user {
		t.Fatalf("%s: %v, %v", name, u, err)
	}
	p, _ := u.User.Password()
	return p
}

// Both ends of each connection hold the same password, no two are the same, and nothing that is there is made anew.
func TestSecrets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	makeSecrets(t, dir)
	first := readSecrets(t, dir)
	passwords := map[string]string{}
	for _, user := range []string{"ingester", "query"} {
		p := password(t, first, user+"_clickhouse_url", user)
		sum := sha256.Sum256([]byte(p))
		if want := "<" + user + "_password_sha256_hex>" + hex.EncodeToString(sum[:]) + "</"; !strings.Contains(first["clickhouse_users.xml"], want) {
			t.Errorf("ClickHouse does not know the password of %s", user)
		}
		passwords["clickhouse "+user] = p
	}
	for _, user := range []string{"ingester", "query", "operator"} {
		p := password(t, first, user+"_nats_url", user)
		if first["nats_"+user+"_password"] != p {
			t.Errorf("NATS does not know the password of %s", user)
		}
		passwords["nats "+user] = p
	}
	seen := map[string]string{}
	for whose, p := range passwords {
		if !regexp.MustCompile("^p[0-9a-f]{48}$").MatchString(p) || seen[p] != "" {
			t.Errorf("password of %s is %q, that of %q", whose, p, seen[p])
		}
		seen[p] = whose
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is open: %v, %v", info.Mode(), err)
	}

	if err := os.Remove(filepath.Join(dir, "query_nats_url")); err != nil {
		t.Fatal(err)
	}
	makeSecrets(t, dir)
	for name, text := range readSecrets(t, dir) {
		if changed := first[name] != text; changed != (name == "query_nats_url" || name == "nats_query_password") {
			t.Errorf("%s: changed is %t", name, changed)
		}
	}
}

// fakeDocker stands for docker, which tests have not: it notes how it is called and makes a key.
const fakeDocker = `#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
*" config --services") echo query; case "$*" in *users*) echo operator ;; esac ;;
*"keys create"*) echo '{"id":"k1","key":"alk_demo","tenant_id":"t"}' ;;
*" up "*) exit "${UP_STATUS:-0}" ;;
esac
`

// up runs up.sh in a copy of the repository's files that it needs, with the fake docker.
func up(t *testing.T, dir string, env []string, args ...string) (out string, calls []string, err error) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte(fakeDocker), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "deploy"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"up.sh", "secrets.sh"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "deploy", name), text, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(bin, "calls")
	cmd := exec.Command(filepath.Join(dir, "deploy", "up.sh"), args...)
	cmd.Env = append(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CALLS="+log), env...)
	text, err := cmd.CombinedOutput()
	noted, readErr := os.ReadFile(log)
	if readErr != nil {
		t.Fatalf("docker was not called: %v\n%s", err, text)
	}
	return string(text), strings.Split(strings.TrimSpace(string(noted)), "\n"), err
}

// What is printed is what the local stack prints; the key is made once and kept, by the one who may where NATS has users.
func TestUp(t *testing.T) {
	dir := t.TempDir()
	out, calls, err := up(t, dir, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"Ready.", "demo tenant 5eed0001-0000-4000-8000-000000000001", "demo key    alk_demo",
		"curl -s -H 'X-API-Key: alk_demo' -H 'X-Tenant-ID: 5eed0001-0000-4000-8000-000000000001' 'http://127.0.0.1:8080/v1/audit-log?limit=5'",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not print %q:\n%s", want, out)
		}
	}
	if calls[0] != "compose up --detach --build --wait" {
		t.Errorf("first call %q", calls[0])
	}
	if !strings.HasPrefix(calls[2], "compose exec --no-TTY query query keys create --tenant 5eed0001") {
		t.Errorf("calls %q", calls)
	}
	if again, calls, err := up(t, dir, nil); err != nil || len(calls) != 1 || again != out {
		t.Errorf("again: %v, calls %q\n%s", err, calls, again)
	}
	if _, calls, err := up(t, t.TempDir(), nil, "-f", "users.yml"); err != nil || !strings.HasPrefix(calls[2], "compose -f users.yml run --rm --no-TTY operator keys create ") {
		t.Errorf("with users: %v, calls %q", err, calls)
	}
	if out, calls, err := up(t, t.TempDir(), []string{"UP_STATUS=1"}); err == nil || len(calls) != 1 || strings.Contains(out, "Ready") {
		t.Errorf("when it does not get ready: %v, calls %q\n%s", err, calls, out)
	}
}
