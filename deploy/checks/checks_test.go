// Package checks tests the files of deploy with the libraries of the programs that will read them: docker compose, docker build, helm, Kubernetes.
//
// It is a module of its own, outside the workspace, so that no program of ours depends on what these need.
package checks_test

import (
	"os"
	"path/filepath"
	"testing"
)

const root = "../.."

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
