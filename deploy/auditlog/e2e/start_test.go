package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	tcp "example.com/auditlog/deploy/auditlog/internal/proxy"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	ingester "example.com/auditlog/services/ingester/app"
	query "example.com/auditlog/services/query/app"
)

// Ensure both services may start before everything they need: with no NATS, with one whose connections are reset, with no ClickHouse. They wait, say on
// /readyz what for, and then work.
func TestStartBeforeTheServers(t *testing.T) {
	s := &system{Stack: stacktest.Start(t)}
	must(t, s.StopClickHouse())
	must(t, s.StopNATS())
	natsProxy, err := tcp.Listen(fmt.Sprintf("127.0.0.1:%d", s.NATSPort()), 1)
	must(t, err)
	t.Cleanup(func() { must(t, natsProxy.Close()) })
	api := freeAddr(t)
	ingesterOps, queryOps := serveMain(t, ingester.Main, natsProxy.Addr(), s.ClickHouseURL(), ""), serveMain(t, query.Main, natsProxy.Addr(), s.ClickHouseURL(), api)
	s.api = "http://" + api + "/v1/audit-log"

	// The proxy resets what it cannot pass on.
	for _, ops := range []string{ingesterOps, queryOps} {
		s.waitFor(t, ops+" says that it waits for NATS", func() bool { return strings.Contains(readyz(t, ops), "NATS") })
	}
	resetting, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	must(t, s.StartNATS(t.Context()))
	for resetting.Err() == nil { // the first connections do not live
		natsProxy.Reset()
		time.Sleep(time.Millisecond)
	}
	for _, ops := range []string{ingesterOps, queryOps} {
		s.waitFor(t, ops+" says that it waits for ClickHouse", func() bool {
			text := readyz(t, ops)
			return strings.Contains(text, "clickhouse") && !strings.Contains(text, "NATS")
		})
	}
	must(t, s.StartClickHouse(t.Context()))
	for _, ops := range []string{ingesterOps, queryOps} {
		s.waitFor(t, ops+" is ready", func() bool { return strings.Contains(readyz(t, ops), `"ready":true`) })
	}
	s.nc, err = nats.Connect(s.NATSURL())
	must(t, err)
	t.Cleanup(s.nc.Close)
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	ev := someEvent(uuid.New(), 1)
	must(t, pub.Publish(t.Context(), ev))
	must(t, pub.Close(t.Context()))
	compareWalk(t, ev.TenantID, []events.Event{ev}, s.walkUntil(t, s.key(t, ev.TenantID), ev.TenantID, 10, 1))
}

// serveMain runs `serve` of a service until the test ends, which must be without an error, and returns its operations' address.
func serveMain(t *testing.T, main func(context.Context, []string, func(string) string, io.Reader, io.Writer, io.Writer) int, natsAddr, clickhouse, api string) string {
	t.Helper()
	ops := freeAddr(t)
	env := map[string]string{
		"AUDIT_NATS_URL": "nats://" + natsAddr, "AUDIT_CLICKHOUSE_URL": clickhouse, "AUDIT_OPS_ADDR": ops, "AUDIT_HTTP_ADDR": api, "AUDIT_LOG_LEVEL": "warn",
	}
	background(t, func(ctx context.Context) error {
		log := &testWriter{t}
		if code := main(ctx, []string{"serve"}, func(name string) string { return env[name] }, strings.NewReader(""), log, log); code != 0 {
			return fmt.Errorf("exit status %d", code)
		}
		return nil
	})
	return ops
}

func freeAddr(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer lis.Close()
	return lis.Addr().String()
}

// readyz is what a service says about its readiness; empty while it does not answer.
func readyz(t *testing.T, ops string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ops+"/readyz", nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var body json.RawMessage
	must(t, json.NewDecoder(resp.Body).Decode(&body))
	return string(body)
}
