package ops_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/pkg/service/ops"
)

// Ensure a probe tells ready from not ready from not there, also when the server listens on every address.
func TestProbe(t *testing.T) {
	fault := errors.New("store is away")
	check := ops.Check{Name: "store", Run: func(context.Context) error { return fault }}
	server, err := ops.Listen(t.Context(), "127.0.0.1:0", prometheus.NewRegistry(), check)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Run(ctx) })
	_, port, _ := strings.Cut(server.Addr(), ":")
	for _, addr := range []string{server.Addr(), "0.0.0.0:" + port, ":" + port} {
		if err := ops.Probe(t.Context(), addr, "/healthz"); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		if err := ops.Probe(t.Context(), addr, "/readyz"); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "store is away") {
			t.Errorf("%s: %v, want what is wrong", addr, err)
		}
	}
	stop()
	wg.Wait()
	if err := ops.Probe(t.Context(), server.Addr(), "/healthz"); err == nil {
		t.Error("a server that is gone is alive")
	}
}
