package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script writes an executable shell script.
func script(t *testing.T, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// fakeServer puts a ClickHouse binary into dir: the real engine behind the command line and the
// signals of "clickhouse server", which is what a machine with ClickHouse would run. It refuses to
// start while the file dir/broken exists.
func fakeServer(t *testing.T, dir string) string {
	t.Helper()
	engine, err := EnsureEngine(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if engine.Lib == "" {
		return engine.Bin
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "clickhouse-binary")
	script(t, bin, fmt.Sprintf(`
[ -e %[1]s/broken ] && { echo "cannot open the door" >&2; exit 3; }
[ "$1" = server ] || { echo "unexpected command $1" >&2; exit 4; }
sleep 1000 | %[2]s=%[3]s %[4]s "$2" --log-level=warning --query "%[5]s" &
trap 'kill 0' TERM
wait`, dir, envEngineHost, engine.Lib, self, engineQuery))
	return bin
}

func TestServerBinaryIsUsedAndStopped(t *testing.T) {
	bin := fakeServer(t, t.TempDir())
	t.Setenv(EnvClickHouseBin, bin)
	s, err := Start(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if s.Engine().Bin != bin {
		t.Errorf("engine %+v, want %s", s.Engine(), bin)
	}
	group := s.ClickHousePID()
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > clickHouseStopTimeout/2 {
		t.Errorf("the server did not stop on SIGTERM: %s", took)
	}
	if err := syscall.Kill(-group, 0); err == nil {
		t.Error("processes of the server are left")
	}
}

func TestFailedStartNamesTheLogAndItsEnd(t *testing.T) {
	dir := t.TempDir()
	bin := fakeServer(t, dir)
	breakServer(t, dir)
	t.Setenv(EnvClickHouseBin, bin)
	_, err := Start(t.Context(), Options{Dir: dir})
	if err == nil {
		t.Fatal("started")
	}
	for _, want := range []string{clickHousePaths(dir).log, "cannot open the door", "exit status 3", bin} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	// The failed start has given the folder and the ports back.
	if err := os.Remove(filepath.Join(dir, "broken")); err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestRestartsAreBounded(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(EnvClickHouseBin, fakeServer(t, dir))
	s, err := Start(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.KillClickHouse(); err != nil {
		t.Fatal(err)
	}
	s.clickhouse.pause = time.Millisecond // nobody reads it while ClickHouse is down
	if err := s.StartClickHouse(t.Context()); err != nil {
		t.Fatal(err)
	}
	breakServer(t, dir)
	if err := s.CrashClickHouse(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.Failed():
		if !strings.Contains(err.Error(), clickHousePaths(dir).log) {
			t.Errorf("the error does not name the log: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it tries for ever")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func breakServer(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "broken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestStartIsBoundedByItsContext(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "clickhouse-binary")
	script(t, bin, "sleep 1000")
	t.Setenv(EnvClickHouseBin, bin)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := Start(ctx, Options{Dir: dir})
	if err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}
