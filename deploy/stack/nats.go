package stack

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

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
	fatal := make(chan string, 1)
	srv.SetLoggerV2(natsLog{log, fatal}, false, false, false)
	go srv.Start()
	if err := waitNATS(srv, fatal); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, err
	}
	return srv, nil
}

// waitNATS returns when clients can connect, or with the reason why they never will.
func waitNATS(srv *server.Server, fatal <-chan string) error {
	for deadline := time.Now().Add(natsReadyTimeout); time.Now().Before(deadline); {
		if srv.ReadyForConnections(50 * time.Millisecond) {
			return nil
		}
		select {
		case reason := <-fatal:
			return fmt.Errorf("start NATS: %s", reason)
		default:
		}
	}
	return fmt.Errorf("start NATS: not ready after %s", natsReadyTimeout)
}

// natsLog writes what the server says as attributes of our log; its notices are debug lines here.
type natsLog struct {
	log   *slog.Logger
	fatal chan<- string // takes the first reason to give up
}

func (l natsLog) Noticef(format string, v ...any) { l.log.Debug("nats", says(format, v)) }
func (l natsLog) Warnf(format string, v ...any)   { l.log.Warn("nats", says(format, v)) }
func (l natsLog) Errorf(format string, v ...any)  { l.log.Error("nats", says(format, v)) }
func (l natsLog) Debugf(format string, v ...any)  { l.log.Debug("nats", says(format, v)) }
func (l natsLog) Tracef(format string, v ...any)  { l.log.Debug("nats", says(format, v)) }

// Fatalf must not end the program, as the server's own logger would: the start returns the reason.
func (l natsLog) Fatalf(format string, v ...any) {
	reason := says(format, v)
	l.log.Error("nats", reason)
	select {
	case l.fatal <- reason.Value.String():
	default:
	}
}

func says(format string, v []any) slog.Attr {
	return slog.String("says", strings.TrimSpace(fmt.Sprintf(format, v...)))
}
