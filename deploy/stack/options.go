package stack

import (
	"log/slog"
	"time"
)

// Names of the environment variables that errors tell the user to change.
const (
	EnvNATSPort           = "AUDIT_NATS_PORT"
	EnvClickHousePort     = "AUDIT_CLICKHOUSE_PORT"
	EnvClickHouseHTTPPort = "AUDIT_CLICKHOUSE_HTTP_PORT"
	EnvClickHouseBin      = "AUDIT_CLICKHOUSE_BIN"
	EnvEngineDir          = "AUDIT_ENGINE_DIR"
	EnvDataDir            = "AUDIT_DATA_DIR"
)

// Limits of waiting. A start that takes longer is reported as failed, a stop that takes longer is
// ended with SIGKILL.
const (
	natsReadyTimeout       = 30 * time.Second
	clickHouseReadyTimeout = 60 * time.Second
	clickHouseStopTimeout  = 20 * time.Second
	// The engine gives clients five seconds to close their connections, which no setting of its
	// changes, and idle ones never do. A query gets this long to end. To kill it then takes nothing
	// away: what was answered is on the disk, and the logs do not outlive a restart anyway.
	engineStopGrace = time.Second
)

// Options say where a stack lives. The zero value of every field but Dir is usable.
type Options struct {
	// Dir is the data folder, made if missing. One stack at a time may use it.
	Dir string

	// NATSPort, ClickHousePort (native protocol) and ClickHouseHTTPPort are TCP ports on
	// 127.0.0.1; 0 picks a free one, which then stays the same for the life of the stack.
	NATSPort           int
	ClickHousePort     int
	ClickHouseHTTPPort int

	// NATSChild runs NATS as a child process too, so that KillNATS can kill it as a power cut would.
	// It then logs to nats.log in Dir.
	NATSChild bool

	// OpsLog takes what an operator should know: starts, stops, restarts, warnings of the
	// engines. Nil discards it.
	OpsLog *slog.Logger

	// Progress, when set, is called with one line per step that may take seconds.
	Progress func(step string)
}

func (o Options) withDefaults() Options {
	if o.OpsLog == nil {
		o.OpsLog = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}
