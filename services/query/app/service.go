package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/pkg/service/ops"
	"example.com/auditlog/pkg/service/telemetry"
	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/clickhouse"
	"example.com/auditlog/services/query/internal/httpapi"
	"example.com/auditlog/services/query/internal/keys"
	"example.com/auditlog/services/query/internal/policy"
	"example.com/auditlog/services/query/internal/positions"
	"example.com/auditlog/services/query/internal/trail"
)

// Deps are what a service is given; Log and Registerer are required.
type Deps struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Waiting, when set, is told what New waits for, at each attempt that fails.
	Waiting func(error)
	// Traces makes spans; without it the service sends its own to where the settings say.
	Traces trace.TracerProvider
}

// Service is a query service: it knows its keys and policies and has its address, and answers once Run runs.
type Service struct {
	log    *slog.Logger
	traces *telemetry.Provider // nil when Deps.Traces was given
	nc     *nats.Conn
	reader *clickhouse.Shards
	keys   *keys.Follower
	uses   *keys.Uses
	trail  *trail.Recorder
	engine *policy.Engine
	pos    *positions.Follower
	api    *httpapi.Server

	partitions int
}

// New connects to NATS, loads keys and policies, and listens. It waits for NATS as long as ctx lasts; ClickHouse may be away. What it opened is closed
// by Run or Close.
func New(ctx context.Context, cfg Config, deps Deps) (*Service, error) {
	if deps.Waiting == nil {
		deps.Waiting = func(error) {}
	}
	deps.Log = slog.New(telemetry.LogHandler(deps.Log.Handler()))
	s := &Service{log: deps.Log, partitions: cfg.Partitions}
	if err := s.open(ctx, cfg, deps); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Service) open(ctx context.Context, cfg Config, deps Deps) (err error) {
	if deps.Traces == nil {
		if s.traces, err = telemetry.Start(ctx, cfg.Telemetry, "auditlog-query", s.log); err != nil {
			return err
		}
		deps.Traces = s.traces
	}
	if s.engine, err = policy.Open(cfg.PolicyDir, s.log, deps.Registerer); err != nil {
		return err
	}
	s.engine.OnUnreadable = cfg.Unreadable
	s.reader, err = clickhouse.OpenShards(cfg.ClickHouseURLs, clickhouse.Config{
		Partitions: cfg.Partitions, QueryTimeout: cfg.QueryTimeout, MaxConns: cfg.MaxConcurrent + 2*httpapi.MaxExports,
		Registerer: deps.Registerer, Traces: deps.Traces,
	}, s.log)
	if err != nil {
		return err
	}
	if s.nc, err = natsconn.Await(ctx, cfg.NATS, "auditlog-query", s.log, deps.Waiting); err != nil {
		return err
	}
	partitions, err := await(ctx, s, deps.Waiting, streamPartitions)
	if err != nil {
		return err
	}
	if err := checkPartitions(cfg.Partitions, partitions); err != nil {
		return err
	}
	secret, err := await(ctx, s, deps.Waiting, keys.CursorSecret)
	if err != nil {
		return err
	}
	cursors, err := audit.NewCursors(secret)
	if err != nil {
		return fmt.Errorf("use the secret in bucket %s: %w", keys.SecretBucket, err)
	}
	s.keys, err = await(ctx, s, deps.Waiting, func(ctx context.Context, nc *nats.Conn) (*keys.Follower, error) { return keys.Follow(ctx, nc, s.log) })
	if err != nil {
		return err
	}
	if err := registerKeys(deps.Registerer, s.keys); err != nil {
		return err
	}
	s.uses = keys.NoteUses(s.keys, s.nc, s.log)
	if s.trail, err = trail.Open(s.nc, cfg.ReadAudit, s.log, deps.Registerer); err != nil {
		return err
	}
	if s.pos, err = positions.New(s.nc, cfg.Partitions, s.log); err != nil {
		return err
	}
	s.api, err = httpapi.Listen(ctx, httpapi.Config{
		Addr: cfg.HTTPAddr, RateLimit: cfg.RateLimit, MaxConcurrent: cfg.MaxConcurrent, MaxQueued: cfg.MaxQueued, QueryTimeout: cfg.QueryTimeout, ClientStall: cfg.ClientStall,
	}, httpapi.Deps{
		Events: s.reader, Keys: s.uses, Gate: s.engine, Trail: s.trail, Positions: s.pos, Cursors: cursors, Log: s.log, Registerer: deps.Registerer, Traces: deps.Traces,
	})
	return err
}

// awaitTimeout bounds one attempt of await, awaitPause is between two.
const (
	awaitTimeout = 10 * time.Second
	awaitPause   = time.Second
)

// await asks NATS for something until it succeeds or ctx is done: a server that has just started has no JetStream yet.
func await[T any](ctx context.Context, s *Service, waiting func(error), ask func(context.Context, *nats.Conn) (T, error)) (T, error) {
	for {
		actx, cancel := context.WithTimeout(ctx, awaitTimeout)
		v, err := ask(actx, s.nc)
		cancel()
		if err == nil || ctx.Err() != nil {
			return v, err
		}
		waiting(err)
		s.log.WarnContext(ctx, "JetStream is not ready, trying again until it is", slog.Any("error", err))
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(awaitPause):
		}
	}
}

// registerKeys makes the state of the copy of the keys known to reg.
func registerKeys(reg prometheus.Registerer, f *keys.Follower) error {
	for _, c := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "audit_query_keys_stale_seconds", Help: "Time since the copy of the API keys was last proven to be complete.",
		}, func() float64 { return f.Staleness().Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "audit_query_keys", Help: "API keys known, revoked and expired ones included."},
			func() float64 { return float64(f.Len()) }),
	} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register the metrics of the keys: %w", err)
		}
	}
	return nil
}

// Addr is where the API listens, with the real port when 0 was asked for.
func (s *Service) Addr() string { return s.api.Addr() }

// Run serves until ctx is done, lets requests that are under way finish, and closes everything.
func (s *Service) Run(ctx context.Context) error {
	s.log.Info("serving the API", slog.String("addr", s.Addr()))
	g, serving := errgroup.WithContext(ctx)
	// Requests that are under way still need the keys and policies when serving ends.
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g.Go(func() error { defer stop(); return s.api.Run(serving) })
	g.Go(func() error { return s.keys.Run(following) })
	g.Go(func() error { return s.engine.Run(following) })
	g.Go(func() error { return s.pos.Run(following) })
	g.Go(func() error { return s.uses.Run(following) })
	g.Go(func() error { return s.trail.Run(following) })
	g.Go(func() error { return s.watchPartitions(serving) })
	err := g.Wait()
	return errors.Join(err, s.Close())
}

// Close ends a service that does not run. It may be called after Run.
func (s *Service) Close() error {
	var errs []error
	if s.api != nil {
		_ = s.api.Close() // closed already when it has run
	}
	if s.keys != nil {
		s.keys.Close()
	}
	if s.trail != nil {
		s.trail.Close()
	}
	if s.nc != nil {
		s.nc.Close()
	}
	if s.reader != nil {
		errs = append(errs, s.reader.Close())
	}
	if s.traces != nil {
		if err := s.traces.Close(context.Background()); err != nil {
			s.log.Warn("the last traces are lost", slog.Any("error", err))
		}
	}
	return errors.Join(errs...)
}

// Checks are what makes the service ready. Without NATS it answers readers from what it knows, and is not ready all the same: new keys and
// revocations do not come in. Who is to send it requests meanwhile leaves out the checks nats and keys. Policies that were refused leave older
// ones in force, which is a note.
func (s *Service) Checks() []ops.Check {
	return []ops.Check{
		{Name: "nats", Run: func(context.Context) error { return natsconn.Check(s.nc) }},
		{Name: "keys", Run: func(context.Context) error { return s.keys.Check() }, Note: s.keys.Note},
		{Name: "clickhouse", Run: s.reader.Ping, Note: s.reader.Note},
		{Name: "policies", Run: func(context.Context) error { return nil }, Note: s.engine.Note},
	}
}
