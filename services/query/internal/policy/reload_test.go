package policy

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// logText collects what is logged, for several goroutines.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// watched is an engine that follows dir until the test ends.
func watched(t *testing.T, dir string) (*Engine, *logText) {
	t.Helper()
	log := &logText{}
	e, err := Open(dir, slog.New(slog.NewJSONHandler(log, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.watch(ctx, 2*time.Millisecond, time.Millisecond) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e, log
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: " + what)
		}
	}
}

// A changed directory goes into force as one; a broken one leaves everything as it was, and is named in the log once.
func TestReloadKeepsTheLastGoodPolicies(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll})
	e, log := watched(t, dir)
	first := e.Digest()
	refused := func() float64 { return testutil.ToFloat64(e.metrics.reloads.WithLabelValues("refused")) }
	undo := func(name string) func() { return func() { _ = os.RemoveAll(filepath.Join(dir, name)) } }
	keep := func() { write(t, dir, map[string]string{"a.cedar": gateForAll + rowsForAll}) }
	for _, c := range []struct {
		name, want string
		harm, heal func()
	}{
		{"syntax", "b.cedar:1: does not parse", func() { write(t, dir, map[string]string{"b.cedar": "permit("}) }, undo("b.cedar")},
		{"schema", "does not fit the schema", func() { write(t, dir, map[string]string{"b.cedar": readRule("resource.nope == 1")}) }, undo("b.cedar")},
		{"no SQL", "cannot be turned into SQL", func() { write(t, dir, map[string]string{"b.cedar": readRule(`[resource.action].contains("x")`)}) }, undo("b.cedar")},
		{"guardrail that permits", "a guardrail that permits", func() { write(t, dir, map[string]string{"guardrails/b.cedar": gateForAll}) }, undo("guardrails")},
		{"too large", "is larger than", func() { write(t, dir, map[string]string{"b.cedar": strings.Repeat(" ", MaxFileBytes+1)}) }, undo("b.cedar")},
		{"id twice", "the same @id", func() { write(t, dir, map[string]string{"b.cedar": rowsForAll}) }, undo("b.cedar")},
		{"all gone", "no policy for the default layer", undo("a.cedar"), keep},
		{"emptied", "no policy for the default layer", func() { write(t, dir, map[string]string{"a.cedar": ""}) }, keep},
	} {
		before, logged := refused(), len(log.String()) // a file that is just being written may be refused once more
		c.harm()
		eventually(t, c.name, func() bool { return refused() > before && strings.Contains(log.String()[logged:], c.want) })
		if e.Digest() != first || testutil.ToFloat64(e.metrics.stale) != 1 || !strings.Contains(e.Note(), "refusing") || !e.Decide(t.Context(), ask("x")).Allowed {
			t.Errorf("%s: the last good policies are not in force", c.name)
		}
		c.heal()
		eventually(t, c.name+", healed", func() bool {
			return testutil.ToFloat64(e.metrics.stale) == 0 && !strings.Contains(e.Note(), "refusing")
		})
		if e.Digest() != first {
			t.Errorf("%s, healed: digest %s, want %s", c.name, e.Digest(), first)
		}
	}
	if n := strings.Count(log.String(), "b.cedar:1: does not parse"); n != 1 {
		t.Errorf("a problem that stays is logged %d times", n)
	}
}

// A request keeps the policies it began with: gate, SQL and re-check belong together.
func TestOneSnapshotPerRequest(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll})
	e, _ := watched(t, dir)
	before := e.Decide(t.Context(), ask("x"))
	row := prefixRow("breakglass.open")
	write(t, dir, map[string]string{"b.cedar": breakGlass})
	eventually(t, "reload", func() bool {
		return strings.Contains(describe(e.Decide(t.Context(), ask("x"))), "NOT startsWith(action")
	})
	if where, _ := before.Scope.Where(); where != "tenant_id = {az0:UUID}" || !before.Scope.Permits(row) {
		t.Errorf("the scope from before changed: %s", where)
	}
	if e.Decide(t.Context(), ask("x")).Scope.Permits(row) {
		t.Error("the new policies are not in force")
	}
}

// A mounted ConfigMap changes by swapping the link ..data.
func TestReloadFollowsConfigMapLinks(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"..1/a.cedar": gateForAll + rowsForAll, "..2/a.cedar": gateForAll + rowsForAll + breakGlass})
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/a.cedar", "a.cedar")
	e, _ := watched(t, dir)
	first := e.Digest()
	link("..2", "..tmp")
	if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the swapped link", func() bool { return e.Digest() != first })
}

// Run ends with its context, with and without a directory; goleak watches in TestMain.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll})} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- open(t, dir).Run(ctx) }()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Decisions and reloads at the same time, for the race detector.
func TestDecideWhileReloading(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a.cedar": gateForAll + rowsForAll})
	e, _ := watched(t, dir)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 300 {
				d := e.Decide(t.Context(), ask("x"))
				if d.Scope.Where(); !d.Allowed || !d.Scope.Permits(prefixRow("a")) {
					t.Error("denied while reloading")
				}
			}
		})
	}
	for i := range 10 {
		write(t, dir, map[string]string{"b.cedar": strings.Repeat(breakGlass, i%2)})
		time.Sleep(5 * time.Millisecond)
	}
	wg.Wait()
}
