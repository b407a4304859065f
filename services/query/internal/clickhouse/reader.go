package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/query/internal/audit"
)

// Connections and settings of queries.
const (
	// DefaultDialTimeout bounds connecting; dial_timeout in the DSN changes it. A store that is gone must be an answer soon.
	DefaultDialTimeout = 2 * time.Second
	// DefaultQueryTimeout is the time budget of one request to the store.
	DefaultQueryTimeout = 10 * time.Second
	// DefaultExportStall is how long the store may do nothing for an export, which has no time budget otherwise.
	DefaultExportStall = 30 * time.Second
	// DefaultMaxConns bounds the queries that run at the same time.
	DefaultMaxConns = 32

	clientName    = "auditlog-query"
	queryIDPrefix = "audit-"
	// pageThreads is enough for reading in order, which stops after a few granules; more threads cost more than they find.
	pageThreads = 1
)

// Config says how to read.
type Config struct {
	// DSN is clickhouse-go's: several hosts, user, password, database, TLS (AUDIT_CLICKHOUSE_URL).
	DSN string
	// Partitions is the P of the pipeline; with another number than the ingester's nothing would be found.
	Partitions int
	// QueryTimeout is the time budget of one request; 0 means DefaultQueryTimeout.
	QueryTimeout time.Duration
	// ExportStall is how long the store may neither send nor read a row of an export, and up to twice that; 0 means DefaultExportStall.
	ExportStall time.Duration
	// MaxConns bounds the connections; 0 means DefaultMaxConns.
	MaxConns int
	// Registerer takes the reader's metrics; nil for none.
	Registerer prometheus.Registerer
	// Traces makes a span for each query; nil for none.
	Traces trace.TracerProvider
}

// Reader reads events. It is safe for concurrent use. It connects when it is used, so that it can be made while the store is away.
type Reader struct {
	db         driver.Conn
	log        *slog.Logger
	partitions int
	timeout    time.Duration
	// exportStall is that of Config.
	exportStall time.Duration
	breaker     *gobreaker.CircuitBreaker[struct{}]
	metrics     *metrics
	paces       *paces
	tracer      trace.Tracer
}

// CheckDSN says what is wrong with a DSN, without repeating it: it may hold a password.
func CheckDSN(dsn string) error {
	_, err := parse(dsn)
	return err
}

func parse(dsn string) (*chgo.Options, error) {
	opts, err := chgo.ParseDSN(dsn)
	if err != nil {
		return nil, errors.New("not a ClickHouse DSN: write clickhouse://user:password@host:9000/database?setting=value")
	}
	if opts.Protocol != chgo.Native {
		return nil, errors.New("only the native protocol can cancel queries: write clickhouse://host:9000/database")
	}
	for i, addr := range opts.Addr {
		if !strings.Contains(addr, ":") {
			opts.Addr[i] = addr + ":9000"
		}
	}
	if opts.DialTimeout == 0 {
		opts.DialTimeout = DefaultDialTimeout
	}
	return opts, nil
}

// Open makes a Reader and does not connect; an error means that the configuration is wrong.
func Open(cfg Config, log *slog.Logger) (*Reader, error) {
	opts, err := parse(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("read AUDIT_CLICKHOUSE_URL: %w", err)
	}
	if cfg.Partitions < 1 {
		return nil, fmt.Errorf("open the event store: %d partitions", cfg.Partitions)
	}
	if cfg.QueryTimeout == 0 {
		cfg.QueryTimeout = DefaultQueryTimeout
	}
	if cfg.ExportStall == 0 {
		cfg.ExportStall = DefaultExportStall
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = DefaultMaxConns
	}
	opts.MaxOpenConns, opts.MaxIdleConns = cfg.MaxConns, cfg.MaxConns
	opts.ClientInfo.Products = append(opts.ClientInfo.Products, struct{ Name, Version string }{clientName, "1"})
	db, err := chgo.Open(opts)
	if err != nil {
		return nil, fmt.Errorf("open clickhouse %s: %w", strings.Join(opts.Addr, ","), err)
	}
	r := &Reader{db: db, log: log, partitions: cfg.Partitions, timeout: cfg.QueryTimeout, exportStall: cfg.ExportStall, metrics: newMetrics(), paces: newPaces()}
	if cfg.Traces == nil {
		cfg.Traces = noop.NewTracerProvider()
	}
	r.tracer = cfg.Traces.Tracer(tracerName)
	r.breaker = newBreaker(log)
	if cfg.Registerer != nil {
		if err := r.register(cfg.Registerer); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

// Close ends all connections.
func (r *Reader) Close() error { return r.db.Close() }

// Ping reads from the table, so that a missing table or right is found too. It goes around the circuit breaker.
func (r *Reader) Ping(ctx context.Context) error {
	var one uint8
	err := r.db.QueryRow(chgo.Context(ctx, chgo.WithSettings(r.settings(ctx, nil))), "SELECT count() = 0 FROM (SELECT 1 FROM event_log LIMIT 1)").Scan(&one)
	if err != nil {
		return explain(err)
	}
	return nil
}

func (r *Reader) partition(tenant uuid.UUID) int { return events.Partition(tenant, r.partitions) }

// each runs a statement and calls f for every row. The event is f's only until it returns.
func (r *Reader) each(ctx context.Context, s *statement, limit int, f func(*audit.Event)) (rows int, err error) {
	rows, err = r.try(ctx, s, limit, f)
	if rows == 0 && err != nil && isBroken(err) && ctx.Err() == nil {
		// A connection from the pool whose other end has gone; a new one may work, and reading twice changes nothing.
		rows, err = r.try(ctx, s, limit, f)
	}
	return rows, err
}

func (r *Reader) try(ctx context.Context, s *statement, limit int, f func(*audit.Event)) (n int, err error) {
	return r.scan(ctx, s, limit, func(e *audit.Event) error { f(e); return nil })
}

// scan runs a statement and calls f for every row until it fails. The event is f's until it returns; copies of it stay as they are.
func (r *Reader) scan(ctx context.Context, s *statement, limit int, f func(*audit.Event) error, options ...chgo.QueryOption) (n int, err error) {
	options = append([]chgo.QueryOption{chgo.WithSettings(r.settings(ctx, s))}, options...)
	rows, done, err := r.query(ctx, s.sql(limit), s.named(), options...)
	if err != nil {
		return 0, fmt.Errorf("query events: %w", err)
	}
	defer done()
	defer func() { _ = rows.Close() }()
	defer func() { r.metrics.returned.WithLabelValues(string(kindOf(ctx))).Add(float64(n)) }()
	var e audit.Event
	into := []any{&e.CreatedAt, &e.ID, &e.ActorID, &e.ActorType, &e.Action, &e.ResourceType, &e.ResourceID, &e.Metadata, &e.Reasoning, &e.IngestedAt, &e.Seq}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return n, fmt.Errorf("%w: %w", errRow, err)
		}
		n++
		if err := f(&e); err != nil {
			return n, err
		}
	}
	if err := rows.Err(); err != nil {
		return n, fmt.Errorf("read events: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return n, fmt.Errorf("read events: %w", err)
	}
	return n, nil
}
