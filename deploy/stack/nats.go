package stack

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"example.com/auditlog/deploy"
)

// startNATS runs the server in this process, with the embedded configuration, on 127.0.0.1:port,
// its streams below dir. It returns when clients can connect.
func startNATS(dir string, port int, log *slog.Logger) (*server.Server, error) {
	config, err := deploy.Files.ReadFile(deploy.NATSConfig)
	if err != nil {
		return nil, fmt.Errorf("read embedded NATS configuration: %w", err)
	}
	opts := &server.Options{}
	if err := opts.ProcessConfigString(string(config)); err != nil {
		return nil, fmt.Errorf("parse embedded NATS configuration: %w", err)
	}
	opts.Host, opts.Port = host, port
	opts.HTTPHost, opts.HTTPPort = "", 0
	opts.StoreDir = filepath.Join(dir, "nats")
	opts.NoSigs = true // signals are the program's
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("set up NATS: %w", err)
	}
	srv.SetLoggerV2(natsLog{log}, false, false, false)
	go srv.Start()
	if !srv.ReadyForConnections(natsReadyTimeout) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, errors.New("start NATS: not ready after " + natsReadyTimeout.String() + "; see the log for its reason")
	}
	return srv, nil
}

// natsLog writes what the server says as attributes of our log; its notices are debug lines here.
type natsLog struct{ log *slog.Logger }

func (l natsLog) Noticef(format string, v ...any) { l.log.Debug("nats", says(format, v)) }
func (l natsLog) Warnf(format string, v ...any)   { l.log.Warn("nats", says(format, v)) }
func (l natsLog) Fatalf(format string, v ...any)  { l.log.Error("nats", says(format, v)) }
func (l natsLog) Errorf(format string, v ...any)  { l.log.Error("nats", says(format, v)) }
func (l natsLog) Debugf(format string, v ...any)  { l.log.Debug("nats", says(format, v)) }
func (l natsLog) Tracef(format string, v ...any)  { l.log.Debug("nats", says(format, v)) }

func says(format string, v []any) slog.Attr {
	return slog.String("says", strings.TrimSpace(fmt.Sprintf(format, v...)))
}
