package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/shard"
	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// Shards reads from one or several ClickHouse servers. All of a tenant's events are on one of them, and a request goes to that one alone: when it is
// away, its tenants' requests fail, and nobody gets a part of an answer.
type Shards struct {
	readers    []*Reader
	partitions int

	mu   sync.Mutex
	away []string // what the last Ping found, when it was not all of them
}

// OpenShards makes a Reader for each DSN, in the order of the shards. cfg.DSN is not used.
func OpenShards(dsns []string, cfg Config, log *slog.Logger) (*Shards, error) {
	s := &Shards{partitions: cfg.Partitions}
	reg := cfg.Registerer
	for i, dsn := range dsns {
		cfg.DSN = dsn
		if len(dsns) > 1 && reg != nil {
			cfg.Registerer = prometheus.WrapRegistererWith(prometheus.Labels{"shard": strconv.Itoa(i + 1)}, reg)
		}
		r, err := Open(cfg, log)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.readers = append(s.readers, r)
	}
	if len(s.readers) == 0 {
		return nil, errors.New("open the event store: no shard is named")
	}
	return s, nil
}

// of is the reader of a tenant's shard.
func (s *Shards) of(tenant uuid.UUID) *Reader {
	return s.readers[shard.Of(events.Partition(tenant, s.partitions), len(s.readers))]
}

// Page is that of the tenant's Reader.
func (s *Shards) Page(ctx context.Context, scope policy.Scope, q audit.PageQuery) (audit.Page, error) {
	return s.of(q.Tenant).Page(ctx, scope, q)
}

// Event is that of the tenant's Reader.
func (s *Shards) Event(ctx context.Context, scope policy.Scope, id uuid.UUID) (audit.Event, error) {
	return s.of(scope.Tenant()).Event(ctx, scope, id)
}

// Feed is that of the tenant's Reader.
func (s *Shards) Feed(ctx context.Context, scope policy.Scope, q audit.FeedQuery) (audit.FeedPage, error) {
	return s.of(q.Tenant).Feed(ctx, scope, q)
}

// Export is that of the tenant's Reader.
func (s *Shards) Export(ctx context.Context, scope policy.Scope, f audit.Filter, sink func(*audit.Event) error) error {
	return s.of(scope.Tenant()).Export(ctx, scope, f, sink)
}

// Ping reads from every shard. It fails when none answers: while one does, its tenants are to be served. Note names the others.
func (s *Shards) Ping(ctx context.Context) error {
	errs := make([]error, len(s.readers))
	var wg sync.WaitGroup
	for i, r := range s.readers {
		wg.Go(func() { errs[i] = r.Ping(ctx) })
	}
	wg.Wait()
	if len(errs) == 1 {
		return errs[0]
	}
	var away []string
	for i, err := range errs {
		if err != nil {
			away = append(away, fmt.Sprintf("shard %d of %d: %v", i+1, len(errs), err))
		}
	}
	s.mu.Lock()
	s.away = away
	s.mu.Unlock()
	if len(away) == len(errs) {
		return errors.Join(errs...)
	}
	return nil
}

// Note is what the last Ping that passed found wrong all the same.
func (s *Shards) Note() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.away) == 0 {
		return ""
	}
	return fmt.Sprint("not all tenants can be served: ", s.away)
}

// Close ends all connections.
func (s *Shards) Close() error {
	var errs []error
	for _, r := range s.readers {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}
