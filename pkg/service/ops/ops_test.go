package ops_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"example.com/auditlog/pkg/service/ops"
)

// run starts an ops server and returns its URL.
func run(t *testing.T, checks ...ops.Check) (*ops.Server, string) {
	t.Helper()
	s, err := ops.Listen(t.Context(), "127.0.0.1:0", ops.NewRegistry(), checks...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, "http://" + s.Addr()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

type answer struct {
	Ready  bool `json:"ready"`
	Checks []struct {
		Name, Error, Note string
		OK                bool
		Since             *time.Time
	} `json:"checks"`
}

func readyz(t *testing.T, url string) (int, answer) {
	t.Helper()
	status, body := get(t, url)
	var a answer
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return status, a
}

// Ensure a process that has not come to its checks yet is alive and not ready.
func TestNotReadyBeforeItHasChecks(t *testing.T) {
	s, url := run(t)
	if status, _ := get(t, url+"/healthz"); status != http.StatusOK {
		t.Errorf("alive: %d", status)
	}
	if status, a := readyz(t, url+"/readyz"); status != http.StatusServiceUnavailable || a.Ready || !strings.Contains(a.Checks[0].Error, "starting") {
		t.Errorf("starting: %d %+v", status, a)
	}
	s.Add(ops.Check{Name: "one", Run: func(context.Context) error { return nil }, Note: func() string { return "fine" }})
	if status, a := readyz(t, url+"/readyz"); status != http.StatusOK || !a.Ready || a.Checks[0].Note != "fine" {
		t.Errorf("with a check: %d %+v", status, a)
	}
}

// Ensure the answer says which part fails, why, and since when, that the time stays while it fails, and that a part can be left out.
func TestReadySaysWhatIsWrongSinceWhen(t *testing.T) {
	var broken atomic.Bool
	checks := []ops.Check{
		{Name: "good", Run: func(context.Context) error { return nil }},
		{Name: "bad", Run: func(context.Context) error {
			if broken.Load() {
				return errors.New("out of paper")
			}
			return nil
		}},
	}
	_, url := run(t, ops.Prefixed("x", checks)...)
	if status, a := readyz(t, url+"/readyz"); status != http.StatusOK || a.Checks[1].Since != nil {
		t.Fatalf("%d %+v", status, a)
	}
	before := time.Now().Truncate(time.Millisecond)
	broken.Store(true)
	status, first := readyz(t, url+"/readyz")
	bad := first.Checks[1]
	if status != http.StatusServiceUnavailable || first.Ready || !first.Checks[0].OK || bad.Name != "x-bad" || bad.OK || bad.Error != "out of paper" ||
		bad.Since == nil || bad.Since.Before(before) || bad.Since.After(time.Now()) {
		t.Fatalf("%d %+v", status, first)
	}
	time.Sleep(5 * time.Millisecond)
	if _, again := readyz(t, url+"/readyz"); !again.Checks[1].Since.Equal(*bad.Since) {
		t.Errorf("fails since %s, later since %s", bad.Since, again.Checks[1].Since)
	}
	if status, a := readyz(t, url+"/readyz?exclude=x-bad"); status != http.StatusOK || len(a.Checks) != 1 {
		t.Errorf("left out: %d %+v", status, a)
	}
	if status, a := readyz(t, url+"/readyz?exclude=x-bad&exclude=x-good"); status != http.StatusOK || !a.Ready {
		t.Errorf("all left out: %d %+v", status, a)
	}
	if status, body := get(t, url+"/readyz?exclude=bad"); status != http.StatusBadRequest {
		t.Errorf("a name that is none: %d %s", status, body)
	}
	_, text := get(t, url+"/metrics")
	for _, want := range []string{`audit_ready{check="x-bad"} 0`, `audit_ready{check="x-good"} 1`, `audit_build_info{commit="`} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	broken.Store(false)
	if status, a := readyz(t, url+"/readyz"); status != http.StatusOK || a.Checks[1].Since != nil {
		t.Errorf("mended: %d %+v", status, a)
	}
}

// Ensure the checks are made without anybody asking, so that "since" is when it broke and not when somebody looked.
func TestChecksRunByThemselves(t *testing.T) {
	ran := make(chan struct{}, 1)
	run(t, ops.Check{Name: "one", Run: func(context.Context) error {
		select {
		case ran <- struct{}{}:
		default:
		}
		return nil
	}})
	select {
	case <-ran:
	case <-time.After(time.Minute):
		t.Error("nobody asked, and nothing was checked")
	}
}

// Ensure the metrics that every process has keep the conventions.
func TestProcessMetricsKeepTheConventions(t *testing.T) {
	reg := ops.NewRegistry()
	s, err := ops.Listen(t.Context(), "127.0.0.1:0", reg, ops.Check{Name: "one", Run: func(context.Context) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
