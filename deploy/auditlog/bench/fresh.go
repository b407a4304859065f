package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"example.com/auditlog/pkg/events"
)

// Shape of the freshness measurements.
const (
	trickleRate    = 10 // events a second
	trickleEvents  = 150
	steadyRate     = 1000
	steadyFor      = 20 * time.Second
	visiblePatient = 30 * time.Second
	floodRate      = 20_000
)

// benchFreshness measures how long after its acknowledgement an event shows in the API under a trickle, and what a steady
// load costs.
func benchFreshness(ctx context.Context, o options, targets *verdicts) (err error) {
	e, err := startEngines(o.bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	ing, ops, err := startIngester(e, o.bin)
	if err != nil {
		return err
	}
	defer func() { _, stopErr := stop(ing); err = errors.Join(err, stopErr) }()
	if err := waitReady(ctx, ops); err != nil {
		return err
	}
	api, err := startQuery(ctx, e, o.bin)
	if err != nil {
		return err
	}
	defer func() { _, stopErr := stop(api.cmd); err = errors.Join(err, stopErr) }()
	nc, err := nats.Connect(e.natsURL())
	if err != nil {
		return err
	}
	defer nc.Close()
	p50, p99, err := trickle(ctx, nc, api, e, o.bin, "alone")
	if err != nil {
		return fmt.Errorf("trickle: %w", err)
	}
	targets.atMost("publish to visible, alone, p50 in ms", float64(p50.Milliseconds()), 250)
	targets.atMost("publish to visible, alone, p99 in ms", float64(p99.Milliseconds()), 1000)
	cores, err := steady(ctx, nc, e, ing)
	if err != nil {
		return fmt.Errorf("steady load: %w", err)
	}
	targets.below(fmt.Sprintf("ingester and ClickHouse at %d events/s, cores", steadyRate), cores, 0.5)
	flooding, stopFlood := context.WithCancel(ctx)
	flooded := make(chan error, 1)
	go func() { flooded <- flood(flooding, nc) }()
	_, _, err = trickle(ctx, nc, api, e, o.bin, fmt.Sprintf("beside %d events/s of one other tenant", floodRate))
	stopFlood()
	return errors.Join(err, <-flooded)
}

// flood publishes as one tenant until ctx ends.
func flood(ctx context.Context, nc *nats.Conn) error {
	pub, err := events.NewPublisher(nc)
	if err != nil {
		return err
	}
	backlog := makeBacklog(options{events: floodRate, tenants: 1})
	began := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / floodRate)))
		ev, err := events.Decode(withTenant(backlog[i%len(backlog)]), time.Now())
		if err != nil {
			return err
		}
		ev.ID = uuid.New()
		if _, err := pub.PublishAsync(context.WithoutCancel(ctx), ev); err != nil {
			return err
		}
	}
	return pub.Close(context.WithoutCancel(ctx))
}

// trickle returns how long after their publish half, and 99 of 100, of the events showed in the API.
func trickle(ctx context.Context, nc *nats.Conn, api *queryProcess, e *engines, bin, label string) (p50, p99 time.Duration, err error) {
	backlog := makeBacklog(options{events: trickleEvents, tenants: 1})
	key, err := makeKey(ctx, e, bin, backlog[0].tenant.String())
	if err != nil {
		return 0, 0, err
	}
	pub, err := events.NewPublisher(nc)
	if err != nil {
		return 0, 0, err
	}
	var waits []time.Duration
	tick := time.NewTicker(time.Second / trickleRate)
	defer tick.Stop()
	type result struct {
		took time.Duration
		err  error
	}
	results := make(chan result, len(backlog))
	for i, ev := range backlog {
		<-tick.C
		decoded, err := events.Decode(withTenant(ev), time.Now())
		if err != nil {
			return 0, 0, err
		}
		decoded.ResourceID = fmt.Sprintf("fresh_%d", i)
		began := time.Now()
		if err := pub.Publish(ctx, decoded); err != nil {
			return 0, 0, err
		}
		go func() {
			err := api.waitVisible(ctx, key, backlog[0].tenant.String(), decoded.ResourceID)
			results <- result{time.Since(began), err}
		}()
	}
	for range backlog {
		r := <-results
		if r.err != nil {
			return 0, 0, r.err
		}
		waits = append(waits, r.took)
	}
	slices.Sort(waits)
	p50, p99 = waits[len(waits)/2], waits[len(waits)*99/100]
	fmt.Printf("  trickle of %d events/s %s, publish to visible in the API: p50 %s, p99 %s\n",
		trickleRate, label, p50.Round(time.Millisecond), p99.Round(time.Millisecond))
	return p50, p99, pub.Close(ctx)
}

// steady returns how many cores ingester and ClickHouse took together.
func steady(ctx context.Context, nc *nats.Conn, e *engines, ing *exec.Cmd) (cores float64, err error) {
	n := int(steadyFor.Seconds()) * steadyRate
	backlog := makeBacklog(options{events: n, tenants: 500})
	pub, err := events.NewPublisher(nc)
	if err != nil {
		return 0, err
	}
	clickhouse, ingester := e.clickhouseCPU(), processCPU(ing.Process.Pid)
	began := time.Now()
	for i, ev := range backlog {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / steadyRate)))
		decoded, err := events.Decode(withTenant(ev), time.Now())
		if err != nil {
			return 0, err
		}
		if _, err := pub.PublishAsync(ctx, decoded); err != nil {
			return 0, err
		}
	}
	if err := pub.Close(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began).Seconds()
	clickhouse, ingester = e.clickhouseCPU()-clickhouse, processCPU(ing.Process.Pid)-ingester
	parts, err := e.query(ctx, "SELECT count() FROM system.parts WHERE active AND table = 'event_log'")
	if err != nil {
		return 0, err
	}
	fmt.Printf("  steady %d events/s: ingester %.2f cores, ClickHouse %.2f cores; %s parts at the end\n",
		steadyRate, ingester/took, clickhouse/took, parts)
	return (ingester + clickhouse) / took, nil
}

// clickhouseCPU is how many CPU seconds the ClickHouse child has used so far.
func (e *engines) clickhouseCPU() float64 { return e.cpu() - processCPU(e.cmd.Process.Pid) }

type queryProcess struct {
	cmd  *exec.Cmd
	addr string
}

func startQuery(ctx context.Context, e *engines, bin string, env ...string) (*queryProcess, error) {
	api, err := freePort()
	if err != nil {
		return nil, err
	}
	opsPort, err := freePort()
	if err != nil {
		return nil, err
	}
	q := &queryProcess{cmd: exec.Command(filepath.Join(bin, "query"), "serve"), addr: "127.0.0.1:" + strconv.Itoa(api)}
	ops := "127.0.0.1:" + strconv.Itoa(opsPort)
	q.cmd.Env = append(e.env(), "AUDIT_HTTP_ADDR="+q.addr, "AUDIT_OPS_ADDR="+ops, "AUDIT_RATE_LIMIT=0")
	q.cmd.Env = append(q.cmd.Env, env...)
	q.cmd.Stderr = os.Stderr
	if err := q.cmd.Start(); err != nil {
		return nil, err
	}
	return q, waitReady(ctx, ops)
}

// waitVisible polls the API until the resource's event shows.
func (q *queryProcess) waitVisible(ctx context.Context, key, tenant, resource string) error {
	for deadline := time.Now().Add(visiblePatient); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+q.addr+"/v1/audit-log?limit=1&resource_id="+resource, nil)
		if err != nil {
			return err
		}
		req.Header.Set("X-API-Key", key)
		req.Header.Set("X-Tenant-ID", tenant)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusOK && strings.Contains(string(body), resource) {
			return nil
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
			return fmt.Errorf("%s: %s", resp.Status, body)
		}
	}
	return fmt.Errorf("%s does not show after %s", resource, visiblePatient)
}

func makeKey(ctx context.Context, e *engines, bin, tenant string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "query"), "keys", "create", "--tenant", tenant, "--name", "bench", "--json")
	cmd.Env = e.env()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	_, rest, _ := strings.Cut(string(out), `"key":"`)
	key, _, ok := strings.Cut(rest, `"`)
	if !ok {
		return "", fmt.Errorf("no key in %s", out)
	}
	return key, nil
}

// waitReady polls a service's readiness.
func waitReady(ctx context.Context, ops string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", ops, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
