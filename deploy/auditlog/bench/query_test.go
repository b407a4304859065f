package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A part of the command has this shape.
var _ func(context.Context, options) error = benchQuery

// Ensure the measurement of queries runs from the load to the crowd: it reads the service's own queries from the query log and
// repeats them, which breaks silently when either side changes.
func TestBenchQuery(t *testing.T) {
	bin := t.TempDir()
	for name, pkg := range map[string]string{"auditlog": "..", "ingester": "../../../services/ingester", "query": "../../../services/query"} {
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, name), pkg).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	b := queryBench{parts: queryParts, concurrent: []string{""}, samples: 2, patience: time.Second, readers: 4, readFor: 200 * time.Millisecond, depths: []int{500, 10_000, 5_000_000}}
	if err := b.run(t.Context(), options{events: 20_000, bin: bin}); err != nil {
		t.Fatal(err)
	}
}
