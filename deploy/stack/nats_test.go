package stack

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"example.com/auditlog/deploy"
)

func TestNATSConfigurationPromises(t *testing.T) {
	text, err := deploy.Files.ReadFile(deploy.NATSConfig)
	if err != nil {
		t.Fatal(err)
	}
	var opts server.Options
	if err := opts.ProcessConfigString(string(text)); err != nil {
		t.Fatal(err)
	}
	if !opts.JetStream || !opts.SyncAlways {
		t.Errorf("JetStream %t, sync always %t: an acknowledged event could be lost with the power", opts.JetStream, opts.SyncAlways)
	}
	if opts.MaxPayload != 1<<20 {
		t.Errorf("max_payload %d, want 1 MiB", opts.MaxPayload)
	}
}

// The server must run with what the file says, not only parse it, and listen on this machine alone.
func TestNATSRunsWithItsConfiguration(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	srv, err := startNATS(dir, port, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	vars, err := srv.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	config := vars.JetStream.Config
	if config == nil || !config.SyncAlways || !strings.HasPrefix(config.StoreDir, dir) {
		t.Errorf("JetStream runs with %+v", config)
	}
	if vars.Host != host || vars.HTTPPort != 0 || vars.MaxPayload != 1<<20 {
		t.Errorf("host %s, monitoring port %d, max payload %d", vars.Host, vars.HTTPPort, vars.MaxPayload)
	}
}

func TestNATSThatCannotListenSaysWhyAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", address(0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	began := time.Now()
	_, err = startNATS(t.TempDir(), l.Addr().(*net.TCPAddr).Port, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to say so", took)
	}
}
