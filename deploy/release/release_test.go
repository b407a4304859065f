package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const root = "../.."

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkout copies what one has after a clone into a new folder.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	left := map[string]bool{".git": true, ".data": true, ".tools": true, "bin": true, "dist": true, "node_modules": true, "secrets": true}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, root))
		if d.IsDir() {
			if left[d.Name()] {
				return filepath.SkipDir
			}
			return os.MkdirAll(to, 0o755)
		}
		if link, err := os.Readlink(path); err == nil {
			return os.Symlink(link, to)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, text, 0o600)
	}))
	return dir
}

// build makes a program in a folder, with the Makefile, and returns its bytes.
func build(t *testing.T, dir, program, version string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", "bin/"+program, "VERSION="+version, "COMMIT=0123abcd")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=", "MAKEFLAGS=", "MAKELEVEL=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	binary, err := os.ReadFile(filepath.Join(dir, "bin", program))
	must(t, err)
	return binary
}

// Ensure the Makefile builds the same bytes from the same source wherever it lies, other bytes for another version, and that a program says the
// version and commit that it was built as.
func TestBuildIsReproducible(t *testing.T) {
	one, other := checkout(t), checkout(t)
	first, second := build(t, one, "publish", "v1.2.3"), build(t, other, "publish", "v1.2.3")
	if !bytes.Equal(first, second) {
		t.Errorf("%d and %d bytes, built in two folders, differ", len(first), len(second))
	}
	if bytes.Contains(first, []byte(one)) {
		t.Error("the program names the folder that it was built in")
	}
	said, err := exec.CommandContext(t.Context(), filepath.Join(one, "bin/publish"), "--version").CombinedOutput()
	if want := "publish v1.2.3 (commit 0123abcd, " + runtime.Version() + ")\n"; err != nil || string(said) != want {
		t.Errorf("it says %q (%v), want %q", said, err, want)
	}
	if bytes.Equal(build(t, other, "publish", "v1.2.4"), first) {
		t.Error("another version has the same bytes")
	}
	for _, program := range []string{"ingester", "query", "auditlog"} { // built by the same line, each with the stamp it reads
		out, err := exec.CommandContext(t.Context(), "make", "-n", "-C", one, "bin/"+program, "VERSION=v1.2.3", "COMMIT=0123abcd").Output()
		if err != nil || !bytes.Contains(out, []byte("-trimpath -buildvcs=false")) || !bytes.Contains(out, []byte("buildinfo.version=v1.2.3")) || !bytes.Contains(out, []byte("buildinfo.commit=0123abcd")) {
			t.Errorf("%s: %s %v", program, out, err)
		}
	}
}

// Ensure an archive has the same bytes whatever order its files are found in, belongs to nobody, and can be read.
func TestArchiveIsReproducible(t *testing.T) {
	files := []file{
		{path: "b", mode: 0o644, data: []byte("two")}, {path: "bin/a", mode: 0o755, data: []byte("one")},
		{path: "THIRD", mode: 0o644, data: bytes.Repeat([]byte("x"), 1<<20)}, {path: "c", mode: 0o644, link: "bin"},
	}
	at := time.Unix(1_700_000_000, 0)
	dir := t.TempDir()
	pack := func(name string, files []file) []byte {
		path := filepath.Join(dir, name)
		must(t, writeArchive(path, "auditlog_1", files, at))
		data, err := os.ReadFile(path)
		must(t, err)
		return data
	}
	first := pack("a.tar.gz", files)
	slices.Reverse(files)
	if !bytes.Equal(first, pack("b.tar.gz", files)) {
		t.Error("another order gives other bytes")
	}
	zip, err := gzip.NewReader(bytes.NewReader(first))
	must(t, err)
	var got []string
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		data, err := io.ReadAll(in)
		must(t, err)
		got = append(got, fmt.Sprint(h.Name, " ", h.Mode, " ", len(data), " ", h.Uid, h.Gid, h.Uname, " ", h.Linkname, " ", h.ModTime.Equal(at)))
	}
	want := []string{"auditlog_1/THIRD 420 1048576 0 0  true", "auditlog_1/b 420 3 0 0  true", "auditlog_1/bin/a 493 3 0 0  true", "auditlog_1/c 420 0 0 0 bin true"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if err := writeArchive(filepath.Join(dir, "c"), "x", append(files, files[0]), at); err == nil {
		t.Error("a file that is there twice was packed")
	}
	must(t, writeSums(filepath.Join(dir, "SHA256SUMS"), []string{filepath.Join(dir, "a.tar.gz")}))
	sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if want := fmt.Sprintf("%x  a.tar.gz\n", sha256.Sum256(first)); err != nil || string(sums) != want {
		t.Errorf("%q (%v), want %q", sums, err, want)
	}
}

// Ensure licences are told by their texts, what has none or one that is not permitted is refused, and the texts are passed on.
func TestLicences(t *testing.T) {
	l := newLicences()
	uuid, std := module{"github.com/google/licenseclassifier/v2", "v2.0.0"}, module{standard, runtime.Version()}
	must(t, l.find(t.Context(), []module{uuid, std}))
	if got := fmt.Sprint(l.of[uuid].names, l.of[std].names); !strings.Contains(got, "Apache-2.0") || !strings.Contains(got, "BSD-3-Clause") {
		t.Errorf("%s", got)
	}
	text := string(thirdParty(l.of))
	for _, want := range []string{"Apache-2.0", uuid.String(), "Redistribution and use in source and binary forms", "std@" + runtime.Version() + " LICENSE"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%.2000s", want, text)
		}
	}
	for _, tc := range []struct {
		names []string
		want  string
	}{{nil, "no licence is recognized"}, {[]string{"MIT", "AGPL-3.0"}, "AGPL-3.0 is not one of"}, {[]string{"MIT", "BSD-3-Clause"}, ""}} {
		err := check(map[module]licence{{"example.org/x", "v1.0.0"}: {names: tc.names}})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q", tc.names, err, tc.want)
		}
	}
}

// Ensure what a release takes from the repository is what Git knows, and nothing that is made beside it.
func TestRepositoryFiles(t *testing.T) {
	r := release{root: root}
	files, err := r.repositoryFiles(t.Context())
	must(t, err)
	there := map[string]int64{}
	for _, f := range files {
		there[f.path] = f.mode
		if strings.HasSuffix(f.path, "users.conf") || strings.Contains(f.path, "/secrets/") || strings.HasSuffix(f.path, ".go") {
			t.Errorf("%s is in a release", f.path)
		}
	}
	for name, mode := range map[string]int64{"LICENSE": 0o644, "docs/ingest.md": 0o644, "deploy/clickhouse/users.d/services.xml": 0o644, "deploy/nats/server.conf": 0o644, "deploy/helm/auditlog/Chart.yaml": 0o644, "deploy/secrets.sh": 0o755} {
		if there[name] != mode {
			t.Errorf("%s has the mode %o", name, there[name])
		}
	}
}
