package app

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/pkg/service/settings"
	"example.com/auditlog/pkg/service/telemetry"
	"example.com/auditlog/services/query/internal/clickhouse"
	"example.com/auditlog/services/query/internal/httpapi"
	"example.com/auditlog/services/query/internal/policy"
	"example.com/auditlog/services/query/internal/trail"
)

// Defaults of the settings.
const (
	DefaultHTTPAddr      = "127.0.0.1:8080"
	DefaultOpsAddr       = "127.0.0.1:9102"
	DefaultClickHouseURL = "clickhouse://127.0.0.1:9000/audit"
	// DefaultPartitions is the P of the pipeline.
	DefaultPartitions = 16
	// maxPartitions is as many as an ingester takes.
	maxPartitions = 256
)

// Config is the query service's settings. See ConfigFromEnv for the variables.
type Config struct {
	NATS natsconn.Config
	// ClickHouseURLs are clickhouse-go DSNs with the native protocol, one for each shard, in their order.
	ClickHouseURLs []string
	// HTTPAddr is where the API listens, OpsAddr where health and metrics do.
	HTTPAddr, OpsAddr string
	// PolicyDir holds *.cedar files; empty stands for the built-in policies.
	PolicyDir string
	// Unreadable says how to answer filters that leave only rows the key may not see.
	Unreadable policy.Unreadable
	// Partitions is the P of the stream's subject transform. With another number nothing would be found.
	Partitions int
	// RateLimit is requests per second and key; 0 means no limit.
	RateLimit float64
	// MaxConcurrent bounds the queries that run at the same time. Too many slow each other down, too few leave cores idle.
	MaxConcurrent int
	// MaxQueued bounds the requests that wait to be one of them.
	MaxQueued int
	// QueryTimeout is the time budget of one request at the store.
	QueryTimeout time.Duration
	// ClientStall is how long the client of an export may stand still.
	ClientStall time.Duration
	// ReadAudit says which reads become events of the log themselves.
	ReadAudit trail.Config
	// Telemetry says where traces go (OTEL_*).
	Telemetry telemetry.Config
	LogLevel  slog.Level
}

// ConfigFromEnv reads the settings. The error names every variable that is wrong.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	r := settings.New(getenv)
	cfg := Config{
		NATS:          natsconn.FromSettings(r),
		HTTPAddr:      r.Addr("AUDIT_HTTP_ADDR", DefaultHTTPAddr),
		OpsAddr:       r.Addr("AUDIT_OPS_ADDR", DefaultOpsAddr),
		PolicyDir:     policyDir(r),
		Unreadable:    unreadable(r),
		Partitions:    r.Int("AUDIT_PARTITIONS", DefaultPartitions, 1, maxPartitions),
		RateLimit:     r.Float("AUDIT_RATE_LIMIT", httpapi.DefaultRateLimit, 0, 1e6),
		MaxConcurrent: r.Int("AUDIT_MAX_CONCURRENT", httpapi.DefaultMaxConcurrent, 1, 10_000),
		MaxQueued:     r.Int("AUDIT_MAX_QUEUED", httpapi.DefaultMaxQueued, 4, 100_000),
		QueryTimeout:  r.Duration("AUDIT_QUERY_TIMEOUT", clickhouse.DefaultQueryTimeout, 100*time.Millisecond, 10*time.Minute),
		ClientStall:   r.Duration("AUDIT_CLIENT_STALL", httpapi.DefaultClientStall, 100*time.Millisecond, 10*time.Minute),
		ReadAudit:     readAudit(r),
		Telemetry:     telemetry.FromSettings(r),
		LogLevel:      r.LogLevel(),
	}
	cfg.ClickHouseURLs = clickHouseURLs(r, cfg.Partitions)
	return cfg, r.Err()
}

// clickHouseURLs are the DSNs of the shards, separated by white space. Their text never enters an error: it may hold passwords.
func clickHouseURLs(r *settings.Reader, partitions int) []string {
	urls := strings.Fields(r.String("AUDIT_CLICKHOUSE_URL", DefaultClickHouseURL))
	for i, dsn := range urls {
		if err := clickhouse.CheckDSN(dsn); err != nil {
			r.Faultf("AUDIT_CLICKHOUSE_URL", "number %d: %v", i+1, err)
		}
	}
	if len(urls) == 0 || len(urls) > partitions {
		r.Faultf("AUDIT_CLICKHOUSE_URL", "names %d shards, for %d partitions (AUDIT_PARTITIONS)", len(urls), partitions)
	}
	return urls
}

func policyDir(r *settings.Reader) string {
	dir := r.File("AUDIT_POLICY_DIR")
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		r.Faultf("AUDIT_POLICY_DIR", "%q must be a directory of *.cedar files", dir)
	}
	return dir
}

func unreadable(r *settings.Reader) policy.Unreadable {
	switch v := r.String("AUDIT_UNREADABLE", "forbid"); v {
	case "forbid":
		return policy.UnreadableForbid
	case "empty":
		return policy.UnreadableEmpty
	default:
		r.Faultf("AUDIT_UNREADABLE", "%q must be forbid (403) or empty (a page without events)", v)
		return policy.UnreadableForbid
	}
}

func readAudit(r *settings.Reader) trail.Config {
	var cfg trail.Config
	switch v := r.String("AUDIT_READ_AUDIT", "off"); v {
	case "on":
		cfg.On = true
	case "off":
	default:
		r.Faultf("AUDIT_READ_AUDIT", "%q must be on or off", v)
	}
	cfg.Off, cfg.Only = tenants(r, "AUDIT_READ_AUDIT_OFF"), tenants(r, "AUDIT_READ_AUDIT_ON")
	for _, tenant := range cfg.Only {
		if slices.Contains(cfg.Off, tenant) {
			r.Faultf("AUDIT_READ_AUDIT_ON", "%s is in AUDIT_READ_AUDIT_OFF too", tenant)
		}
	}
	cfg.Required = r.Bool("AUDIT_READ_AUDIT_REQUIRED", false)
	return cfg
}

// tenants is a list of UUIDs separated by commas, each once.
func tenants(r *settings.Reader, name string) []uuid.UUID {
	var out []uuid.UUID
	for text := range strings.SplitSeq(r.String(name, ""), ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		tenant, err := uuid.Parse(text)
		if err != nil || len(text) != 36 {
			r.Faultf(name, "%q must be the UUID of a tenant; separate several by commas", text)
			continue
		}
		if !slices.Contains(out, tenant) {
			out = append(out, tenant)
		}
	}
	return out
}
