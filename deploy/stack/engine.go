package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"example.com/auditlog/deploy"
)

// installTimeout bounds "npm ci" (180 MB to fetch).
const installTimeout = 15 * time.Minute

// Engine says which ClickHouse a stack runs. Exactly one of the fields is set.
type Engine struct {
	// Bin is a clickhouse binary, run as "clickhouse server".
	Bin string
	// Lib is the engine library, run in a child process of this executable.
	Lib string
}

// String names the file that is run.
func (e Engine) String() string {
	return e.Bin + e.Lib
}

// EnsureEngine finds the ClickHouse to run and installs it when there is none. In this order:
// the binary named by AUDIT_CLICKHOUSE_BIN; clickhouse on PATH; the engine library below
// AUDIT_ENGINE_DIR, or below deploy/engine of the workspace around the working directory, or in the
// user's cache folder, installed there by "npm ci" from the package files of this module.
//
// Several processes may call it at once: one installs, the others wait. progress is told when
// something takes long; it may be nil. The error says what to install.
func EnsureEngine(ctx context.Context, progress func(step string)) (Engine, error) {
	if progress == nil {
		progress = func(string) {}
	}
	if bin := os.Getenv(EnvClickHouseBin); bin != "" {
		path, err := exec.LookPath(bin)
		if err != nil {
			return Engine{}, fmt.Errorf("%s=%s: %w", EnvClickHouseBin, bin, err)
		}
		return Engine{Bin: path}, nil
	}
	if path, err := exec.LookPath("clickhouse"); err == nil {
		return Engine{Bin: path}, nil
	}
	dir, err := engineDir()
	if err != nil {
		return Engine{}, err
	}
	lib, err := engineLib(dir)
	if err != nil {
		return Engine{}, err
	}
	if err := installEngine(ctx, dir, lib, progress); err != nil {
		return Engine{}, err
	}
	return Engine{Lib: lib}, nil
}

// engineLib returns where the package for this machine puts its library, below dir.
func engineLib(dir string) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("no ClickHouse: the engine library is locked for linux/amd64 only, not for %s/%s; "+
			"install ClickHouse, or set %s to a clickhouse binary", runtime.GOOS, runtime.GOARCH, EnvClickHouseBin)
	}
	return filepath.Join(dir, "node_modules", "@chdb", "lib-linux-x64-gnu", "libchdb.so"), nil
}

// engineDir returns the folder of package.json, with the package files in it.
func engineDir() (string, error) {
	if dir := os.Getenv(EnvEngineDir); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("%s: %w", EnvEngineDir, err)
		}
		return dir, writeEngineFiles(dir)
	}
	if root, ok := workspaceRoot(); ok {
		dir := filepath.Join(root, "deploy", deploy.EngineDir)
		if _, err := os.Stat(filepath.Join(dir, "package.json")); err == nil {
			return dir, nil
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for the ClickHouse engine: %w; set %s", err, EnvEngineDir)
	}
	dir := filepath.Join(cache, "auditlog", deploy.EngineDir)
	return dir, writeEngineFiles(dir)
}

// workspaceRoot walks up from the working directory to the folder of go.work.
func workspaceRoot() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}

// writeEngineFiles puts the embedded package files into dir, where they are missing or differ.
func writeEngineFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the engine folder: %w", err)
	}
	return fs.WalkDir(deploy.Files, deploy.EngineDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return writeFile(filepath.Join(dir, entry.Name()), path)
	})
}

// installEngine runs "npm ci" in dir unless lib is there. The lock is held while it runs, so that
// the test binaries of several packages, started at once, install once.
func installEngine(ctx context.Context, dir, lib string, progress func(string)) error {
	if fileExists(lib) {
		return nil
	}
	lock := flock.New(filepath.Join(dir, ".install.lock"))
	if _, err := lock.TryLockContext(ctx, 200*time.Millisecond); err != nil {
		return fmt.Errorf("wait for another installation of the ClickHouse engine in %s: %w", dir, err)
	}
	defer func() { _ = lock.Unlock() }()
	if fileExists(lib) {
		return nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return fmt.Errorf("no ClickHouse: install Node.js with npm (it fetches the engine into %s), "+
			"or install ClickHouse, or set %s to a clickhouse binary", dir, EnvClickHouseBin)
	}
	progress("installing the ClickHouse engine (180 MB, once) into " + dir)
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--no-audit", "--no-fund")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("install the ClickHouse engine: npm ci in %s: %w: %s", dir, err, lastLines(string(out), 5))
	}
	if !fileExists(lib) {
		return fmt.Errorf("install the ClickHouse engine: npm ci in %s succeeded, but %s is missing (is libc glibc?); "+
			"set %s to a clickhouse binary", dir, lib, EnvClickHouseBin)
	}
	return nil
}

// writeFile writes an embedded file to path, only when it differs: readers may hold it open.
func writeFile(path, embedded string) error {
	want, err := deploy.Files.ReadFile(embedded)
	if err != nil {
		return fmt.Errorf("read embedded file: %w", err)
	}
	if have, err := os.ReadFile(path); err == nil && string(have) == string(want) {
		return nil
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// lastLines returns the last n lines of text that are not empty, joined by " | ".
func lastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}
