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
)

const (
	// EventTable is the table of events, in the database of the DSN.
	EventTable = "event_log"
	// DefaultInsertTimeout bounds one insert from sending its first byte to the answer. When it passes, the outcome is in doubt. Too short, and a
	// server that is merely busy is asked over and over what it has; too long, and a dead network holds a partition up.
	DefaultInsertTimeout = time.Minute

	clientName = "auditlog-ingester"
)

// Store writes and reads the event table. It is safe for concurrent use. It connects when it is used, so that it can be made while the server is away.
type Store struct {
	opts          *chgo.Options
	inserts       *pool
	queries       driver.Conn
	log           *slog.Logger
	table         string
	insertTimeout time.Duration
}

// Option changes what Open makes.
type Option func(*Store)

// WithInsertTimeout replaces DefaultInsertTimeout.
func WithInsertTimeout(d time.Duration) Option {
	return func(s *Store) { s.insertTimeout = d }
}

// Open makes a Store for a clickhouse-go DSN: several hosts with fail-over, user, password, TLS (secure, skip_verify), dial_timeout, max_open_conns,
// compress; other parameters are settings of the server. It does not connect; an error means that the DSN is wrong.
func Open(_ context.Context, dsn string, log *slog.Logger, options ...Option) (*Store, error) {
	opts, err := parse(dsn)
	if err != nil {
		return nil, err
	}
	queries, err := chgo.Open(opts)
	if err != nil {
		return nil, fmt.Errorf("open clickhouse %s: %w", strings.Join(opts.Addr, ","), err)
	}
	s := &Store{opts: opts, inserts: newPool(opts), queries: queries, log: log, table: EventTable, insertTimeout: DefaultInsertTimeout}
	for _, o := range options {
		o(s)
	}
	return s, nil
}

// parse reads the DSN and fills in our defaults.
func parse(dsn string) (*chgo.Options, error) {
	opts, err := chgo.ParseDSN(dsn)
	if err != nil {
		return nil, fmt.Errorf("read the ClickHouse DSN: %w", err)
	}
	if opts.Protocol != chgo.Native {
		return nil, errors.New("read the ClickHouse DSN: inserts need the native protocol: write clickhouse://host:9000/database")
	}
	for i, addr := range opts.Addr {
		if addr = strings.TrimSpace(addr); !strings.Contains(addr, ":") {
			addr += ":9000"
		}
		opts.Addr[i] = addr
	}
	if opts.Auth.Database == "" {
		opts.Auth.Database = "default"
	}
	if opts.Auth.Username == "" {
		opts.Auth.Username = "default"
	}
	if opts.MaxOpenConns == 0 {
		opts.MaxOpenConns = DefaultMaxConns
	}
	if opts.DialTimeout == 0 {
		opts.DialTimeout = DefaultDialTimeout
	}
	opts.ClientInfo.Products = append(opts.ClientInfo.Products, struct{ Name, Version string }{clientName, "1"})
	return opts, nil
}

// Close closes the connections. Inserts that are under way end with ErrInDoubt.
func (s *Store) Close() error {
	s.inserts.close()
	return s.queries.Close()
}

// Ping asks the server for a sign of life. The error is classified as that of Insert.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.queries.Ping(ctx); err != nil {
		return fmt.Errorf("ping clickhouse: %w", classify(err))
	}
	return nil
}

// WithTable is a Store on the same connections for another table of the same shape, such as one being rebuilt.
func (s *Store) WithTable(name string) *Store {
	other := *s
	other.table = name
	return &other
}

// quote makes an identifier of name.
func quote(name string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}
