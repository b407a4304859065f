package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// checkTimeout bounds each check.
	checkTimeout = 3 * time.Second
	// checkEvery is how often the checks are made when nobody asks, so that "since" and the metric do not depend on who does.
	checkEvery = 5 * time.Second
)

// Check answers whether one dependency works. Name is what /readyz, its parameter exclude and the metric audit_ready call it: lower case, one word.
type Check struct {
	Name string
	// Run returns nil, or what is wrong. It honours ctx.
	Run func(ctx context.Context) error
	// Note, when set, adds a remark to a passing check, such as how stale a copy is.
	Note func() string
}

// Prefixed returns the checks under names that begin with prefix, for a process that runs several services.
func Prefixed(prefix string, checks []Check) []Check {
	out := slices.Clone(checks)
	for i := range out {
		out[i].Name = prefix + "-" + out[i].Name
	}
	return out
}

// errStarting is why a server without checks is not ready.
var errStarting = errors.New("the process is starting")

var readyDesc = prometheus.NewDesc("audit_ready", "1 while the check passes, 0 while it fails, by check. /readyz says why.", []string{"check"}, nil)

// readiness makes the checks, remembers since when which of them fails, and tells it over HTTP and as a metric.
type readiness struct {
	mu       sync.Mutex
	checks   []Check
	starting error            // why there are no checks yet
	states   map[string]state // by check
}

// state is what the last run of a check came to.
type state struct {
	ok    bool
	since time.Time // of the first of the runs that came to the same
}

func newReadiness(checks []Check) *readiness {
	return &readiness{checks: checks, starting: errStarting, states: map[string]state{}}
}

func (r *readiness) wait(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting = fmt.Errorf("%w: %w", errStarting, err)
}

func (r *readiness) add(checks []Check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks = append(slices.Clip(r.checks), checks...)
}

func (r *readiness) all() []Check {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checks
}

func (r *readiness) start() status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return status{Name: "start", Error: r.starting.Error()}
}

// watch makes the checks from time to time until ctx is done.
func (r *readiness) watch(ctx context.Context) {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		r.run(ctx, r.all())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// status is a check in the answer to /readyz.
type status struct {
	Name  string     `json:"name"`
	OK    bool       `json:"ok"`
	Error string     `json:"error,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	Note  string     `json:"note,omitempty"`
}

// run makes the checks at the same time. One that was cut short because ctx ended says nothing and is not remembered.
func (r *readiness) run(ctx context.Context, checks []Check) []status {
	out := make([]status, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() {
			limited, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			out[i] = r.note(ctx, c, c.Run(limited))
		})
	}
	wg.Wait()
	return out
}

// note remembers what a check came to.
func (r *readiness) note(ctx context.Context, c Check, err error) status {
	now := time.Now().UTC().Truncate(time.Millisecond)
	r.mu.Lock()
	st, seen := r.states[c.Name]
	if (!seen || st.ok != (err == nil)) && ctx.Err() == nil {
		st = state{ok: err == nil, since: now}
		r.states[c.Name] = st
	}
	r.mu.Unlock()
	if err != nil {
		return status{Name: c.Name, Error: err.Error(), Since: &st.since}
	}
	s := status{Name: c.Name, OK: true}
	if c.Note != nil {
		s.Note = c.Note()
	}
	return s
}

// ServeHTTP answers /readyz: 200 when every check passes, else 503, with what fails and since when. ?exclude=NAME, any number of times, leaves checks
// out, for whoever is to send traffic here also while that part is away; a name that does not exist is 400, as nobody would notice it otherwise.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	checks := r.all()
	if len(checks) == 0 {
		answer(w, []status{r.start()})
		return
	}
	excluded := req.URL.Query()["exclude"]
	for _, name := range excluded {
		if !slices.ContainsFunc(checks, func(c Check) bool { return c.Name == name }) {
			http.Error(w, fmt.Sprintf("exclude=%q names no check", name), http.StatusBadRequest)
			return
		}
	}
	answer(w, r.run(req.Context(), slices.DeleteFunc(slices.Clone(checks), func(c Check) bool { return slices.Contains(excluded, c.Name) })))
}

func answer(w http.ResponseWriter, out []status) {
	code := http.StatusOK
	for _, st := range out {
		if !st.OK {
			code = http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"ready": code == http.StatusOK, "checks": out})
}

// Describe implements prometheus.Collector.
func (r *readiness) Describe(c chan<- *prometheus.Desc) { c <- readyDesc }

// Collect implements prometheus.Collector.
func (r *readiness) Collect(c chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, st := range r.states {
		value := 0.0
		if st.ok {
			value = 1
		}
		c <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, value, name)
	}
}
