package stack

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// emptyPath makes programs findable in dir only, next to the shell's own.
func emptyPath(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	if fileExists("/usr/bin/npm") || fileExists("/bin/npm") || fileExists("/usr/bin/clickhouse") {
		t.Setenv("PATH", dir)
	}
	t.Setenv(EnvClickHouseBin, "")
	return dir
}

func TestEnsureEngineTakesTheNamedBinary(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "my-clickhouse")
	t.Setenv(EnvClickHouseBin, bin)
	if _, err := EnsureEngine(t.Context(), nil); err == nil || !strings.Contains(err.Error(), EnvClickHouseBin) {
		t.Errorf("a missing binary: %v", err)
	}
	script(t, bin, "exit 0")
	engine, err := EnsureEngine(t.Context(), nil)
	if err != nil || engine != (Engine{Bin: bin}) {
		t.Errorf("got %+v, %v", engine, err)
	}
}

func TestEnsureEnginePrefersClickHouseOnPath(t *testing.T) {
	dir := emptyPath(t)
	script(t, filepath.Join(dir, "clickhouse"), "exit 0")
	engine, err := EnsureEngine(t.Context(), nil)
	if err != nil || engine.Bin != filepath.Join(dir, "clickhouse") {
		t.Errorf("got %+v, %v", engine, err)
	}
}

func TestEnsureEngineWithoutNpmSaysWhatToInstall(t *testing.T) {
	emptyPath(t)
	t.Setenv(EnvEngineDir, t.TempDir())
	_, err := EnsureEngine(t.Context(), nil)
	if err == nil {
		t.Fatal("found an engine")
	}
	for _, want := range []string{"npm", EnvClickHouseBin} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
}

// Several packages' tests start at once on a fresh machine. npm is replaced by one that counts its
// runs and checks what it is given: the real one fetches 180 MB.
func TestEnsureEngineInstallsOnce(t *testing.T) {
	path, dir := emptyPath(t), filepath.Join(t.TempDir(), "engine")
	t.Setenv(EnvEngineDir, dir)
	script(t, filepath.Join(path, "npm"), `
[ "$1" = ci ] && [ -s package.json ] && [ -s package-lock.json ] && [ -s .npmrc ] || exit 9
echo run >> runs
/bin/mkdir -p node_modules/@chdb/lib-linux-x64-gnu
echo engine > node_modules/@chdb/lib-linux-x64-gnu/libchdb.so`)
	var progress []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			engine, err := EnsureEngine(context.Background(), func(step string) {
				mu.Lock()
				defer mu.Unlock()
				progress = append(progress, step)
			})
			if err != nil || !fileExists(engine.Lib) {
				t.Errorf("got %+v, %v", engine, err)
			}
		})
	}
	wg.Wait()
	runs, err := os.ReadFile(filepath.Join(dir, "runs"))
	if err != nil || string(runs) != "run\n" {
		t.Errorf("npm ran %q, %v", runs, err)
	}
	if len(progress) != 1 || !strings.Contains(progress[0], dir) {
		t.Errorf("progress %q", progress)
	}
}

func TestEnsureEngineReportsWhatNpmSaid(t *testing.T) {
	path := emptyPath(t)
	t.Setenv(EnvEngineDir, t.TempDir())
	script(t, filepath.Join(path, "npm"), `echo "disk is full" >&2; exit 1`)
	_, err := EnsureEngine(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("got %v", err)
	}
}

// A binary that was copied to another place keeps the package files in the user's cache.
func TestEngineDirOutsideAWorkspace(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	t.Chdir(t.TempDir())
	dir, err := engineDir()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(dir, cache) {
		t.Errorf("folder %s, want one below %s", dir, cache)
	}
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc"} {
		if !fileExists(filepath.Join(dir, name)) {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestEngineDirInAWorkspace(t *testing.T) {
	root, ok := workspaceRoot()
	if !ok {
		t.Fatal("this package is not in a workspace")
	}
	dir, err := engineDir()
	if err != nil || dir != filepath.Join(root, "deploy", "engine") {
		t.Errorf("got %s, %v", dir, err)
	}
}
