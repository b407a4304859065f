// Package local runs the whole system in one process, with ClickHouse as its child, and demonstrates it.
package local

import (
	"log/slog"

	"example.com/auditlog/pkg/service/settings"
)

// Defaults of the local stack. The query service listens where it always does.
const (
	DefaultDataDir            = ".data"
	DefaultOpsAddr            = "127.0.0.1:9100"
	DefaultHTTPAddr           = "127.0.0.1:8080"
	DefaultNATSPort           = 4222
	DefaultClickHousePort     = 9000
	DefaultClickHouseHTTPPort = 8123
)

// Config is what the local stack itself needs to know; the services in it read their own settings.
type Config struct {
	// DataDir holds everything that is kept between runs (AUDIT_DATA_DIR).
	DataDir string
	// OpsAddr serves health, readiness, metrics and profiles of all that runs (AUDIT_OPS_ADDR).
	OpsAddr string
	// HTTPAddr is the API's address (AUDIT_HTTP_ADDR).
	HTTPAddr string
	// Ports of the engines; 0 takes a free one.
	NATSPort, ClickHousePort, ClickHouseHTTPPort int
	LogLevel                                     slog.Level
}

// ConfigFromEnv reads the settings and reports every fault at once.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	r := settings.New(getenv)
	cfg := Config{
		DataDir:            r.String("AUDIT_DATA_DIR", DefaultDataDir),
		OpsAddr:            r.Addr("AUDIT_OPS_ADDR", DefaultOpsAddr),
		HTTPAddr:           r.Addr("AUDIT_HTTP_ADDR", DefaultHTTPAddr),
		NATSPort:           r.Int("AUDIT_NATS_PORT", DefaultNATSPort, 0, 65535),
		ClickHousePort:     r.Int("AUDIT_CLICKHOUSE_PORT", DefaultClickHousePort, 0, 65535),
		ClickHouseHTTPPort: r.Int("AUDIT_CLICKHOUSE_HTTP_PORT", DefaultClickHouseHTTPPort, 0, 65535),
		LogLevel:           r.LogLevel(),
	}
	return cfg, r.Err()
}

// demoEnv is the environment as the demo commands see it: AUDIT_NATS_URL, where it is not set, follows AUDIT_NATS_PORT, so
// that they find a local stack on other ports.
func demoEnv(getenv func(string) string) func(string) string {
	return func(name string) string {
		if name == "AUDIT_NATS_URL" && getenv(name) == "" && getenv("AUDIT_NATS_PORT") != "" {
			return "nats://127.0.0.1:" + getenv("AUDIT_NATS_PORT")
		}
		return getenv(name)
	}
}
