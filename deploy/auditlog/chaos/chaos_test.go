package main

import (
	"bytes"
	"testing"
	"time"
)

// Ensure that a short run through faults of every kind ends with a log that holds every acknowledged event once and nothing else.
func TestShortRun(t *testing.T) {
	found, err := torment(t.Context(), options{length: 20 * time.Second, seed: 1, rate: 1000, out: testWriter{t}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

// Ensure that wrong arguments are refused before anything starts.
func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"-break", "everything"}, {"-for", "10ms"}, {"-rate", "0"}, {"now"}, {"-no-such-flag"}} {
		if code := command(t.Context(), args, &bytes.Buffer{}); code != exitUsage {
			t.Errorf("%q: exit status %d, want %d", args, code, exitUsage)
		}
	}
}

// testWriter writes to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimRight(p, "\n")))
	return len(p), nil
}
