// Package app is the ingester as a program: its settings, its service, its commands. The local stack runs the same service in its own process.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/pkg/service/ops"
	"example.com/auditlog/pkg/service/telemetry"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/erasure"
	"example.com/auditlog/services/ingester/internal/hourly"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/lease"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/lifecycle"
	"example.com/auditlog/services/ingester/internal/pipeline"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

// Deps is what the service takes from the process it runs in.
type Deps struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Waiting, when set, is told what New waits for, at each attempt that fails.
	Waiting func(error)
	// Traces makes spans; without it the service sends its own to where the settings say.
	Traces trace.TracerProvider
}

// Service is one ingester. New makes it, Run runs it, once.
type Service struct {
	cfg       Config
	log       *slog.Logger
	traces    *telemetry.Provider // nil when Deps.Traces was given
	nc        *nats.Conn          // ledger, positions, heartbeats, dead letters
	bulk      *nats.Conn          // what verification reads
	reader    *nats.Conn          // what is ingested
	store     *clickhouse.Store
	source    *jetstream.Source
	positions *ledger.Positions
	members   *lease.Members
	pipe      *pipeline.Pipeline
	state     *streamState
	checker   *verify.Checker
	hourly    *hourly.Counter
	setupLog  func(context.Context) error
	keeper    *lifecycle.Keeper
	decisions *control.Log
	erased    erasure.Live          // who is replaced as events come in
	schema    atomic.Pointer[error] // why the schema is not known to be right; to nil once it is
}

// errNotMigrated is why a service whose Run has not come to it yet is not ready.
var errNotMigrated = errors.New("the schema has not been looked at yet")

// New connects to NATS and makes or checks the streams there; ClickHouse may come later. It waits for NATS as long as ctx lasts, and returns an
// error that says what to do when NATS refuses it or a stream is not as it must be. Run must be called afterwards, also when ctx is done: it
// closes everything.
func New(ctx context.Context, cfg Config, deps Deps) (*Service, error) {
	return newService(ctx, cfg, deps, nil)
}

func newService(ctx context.Context, cfg Config, deps Deps, hook func(int, pipeline.Step)) (_ *Service, err error) {
	if deps.Waiting == nil {
		deps.Waiting = func(error) {}
	}
	instance := instanceName()
	log := slog.New(telemetry.LogHandler(deps.Log.Handler())).With(slog.String("instance", instance))
	s := &Service{cfg: cfg, log: log}
	s.schema.Store(&errNotMigrated)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if deps.Traces == nil {
		if s.traces, err = telemetry.Start(ctx, cfg.Telemetry, "auditlog-ingester", log); err != nil {
			return nil, err
		}
		deps.Traces = s.traces
	}
	traced := telemetry.Enabled(deps.Traces)
	js, bulk, err := s.connect(ctx, instance, traced, deps.Waiting)
	if err != nil {
		return nil, err
	}
	if s.store, err = clickhouse.Open(ctx, cfg.ClickHouseURL, log); err != nil {
		return nil, err
	}
	shape := cfg.shape()
	shape.TableLast = s.store.LastSequence
	l, heartbeats, err := s.setup(ctx, js, shape, deps.Waiting)
	if err != nil {
		return nil, err
	}
	s.setupLog = func(ctx context.Context) error {
		if _, err := jetstream.SetupControl(ctx, js, shape, s.store, log); err != nil {
			return err
		}
		_, err := s.loadErased(ctx)
		return err
	}
	s.decisions = control.New(js, s.store)
	s.source = jetstream.NewSource(js, s.reader, shape, log)
	s.source.Traced = traced
	heartbeat, ttl := cfg.lease()
	s.members = lease.New(lease.Config{Instance: instance, Partitions: cfg.Partitions, Shard: cfg.Shard, Heartbeat: heartbeat, TTL: ttl}, heartbeats, log, deps.Registerer)
	s.state = newStreamState(js, cfg.Partitions, log, deps.Registerer)
	pipe := cfg.pipeline()
	pipe.Instance, pipe.Hook = instance, hook
	s.pipe = pipeline.New(pipe, pipeline.Deps{
		Source: s.source, Ledger: l, Positions: s.positions, DeadLetters: jetstream.NewDeadLetters(js),
		Sink: sink{s.store}, Members: s.members, Erase: s.erased.Apply, Log: log, Registerer: deps.Registerer, Traces: deps.Traces,
	})
	s.checker = verify.NewChecker(verify.System{
		Ledger: l, Positions: s.positions, Reader: replay.New(bulk), Table: s.store, Control: s.decisions, Partitions: cfg.Partitions, Shard: cfg.Shard,
	}, s.pipe.Driven, verify.CheckerOptions{}, deps.Registerer, log)
	s.hourly = hourly.New(s.store, s.positions, s.pipe.Driven, cfg.HourlyEvery, deps.Registerer, log)
	s.keeper = lifecycle.NewKeeper(lifecycle.System{
		Log: s.decisions, Table: s.store, Positions: s.positions, Stream: replay.New(bulk), Counts: s.hourly, Announcer: lifecycle.NewEvents(s.nc),
		Partitions: cfg.Partitions, Shard: cfg.Shard, Logger: log,
	}, "ingester "+instance, cfg.RetentionEvery, s.first, deps.Registerer)
	return s, nil
}

// connect opens three connections. What is read in bulk has its own: an answer of the ledger, or a heartbeat, must not queue behind
// megabytes of messages. Messages are ingested without headers, unless those of traces are to be seen.
func (s *Service) connect(ctx context.Context, instance string, traced bool, waiting func(error)) (control, bulk natsjs.JetStream, err error) {
	if s.nc, err = natsconn.Await(ctx, s.cfg.NATS, "ingester "+instance, s.log, waiting); err != nil {
		return nil, nil, err
	}
	if s.bulk, err = natsconn.Await(ctx, s.cfg.NATS, "ingester "+instance+" verification", s.log, waiting); err != nil {
		return nil, nil, err
	}
	var without []nats.Option
	if !traced {
		without = append(without, natsconn.WithoutHeaders())
	}
	if s.reader, err = natsconn.Await(ctx, s.cfg.NATS, "ingester "+instance+" reader", s.log, waiting, without...); err != nil {
		return nil, nil, err
	}
	if control, err = natsjs.New(s.nc); err != nil {
		return nil, nil, fmt.Errorf("use JetStream: %w", err)
	}
	if bulk, err = natsjs.New(s.bulk); err != nil {
		return nil, nil, fmt.Errorf("use JetStream: %w", err)
	}
	return control, bulk, nil
}

// disconnect closes what connect has opened.
func (s *Service) disconnect() {
	for _, nc := range []*nats.Conn{s.reader, s.bulk, s.nc} {
		if nc != nil {
			nc.Close()
		}
	}
}

func (c Config) shape() jetstream.Shape {
	_, ttl := c.lease()
	return jetstream.Shape{Partitions: c.Partitions, Replicas: c.Replicas, MaxBytes: c.StreamMaxBytes, HeartbeatTTL: ttl}
}

// pipeline are the bounds of the pipeline.
func (c Config) pipeline() pipeline.Config {
	_, ttl := c.lease()
	return pipeline.Config{
		BatchMaxEvents: c.BatchMaxEvents, BatchMaxBytes: c.BatchMaxBytes, LingerMax: c.BatchMaxWait, Memory: c.Memory, Flushers: c.Flushers,
		AppendMaxAge: ttl * 3 / 4, TokenPrefix: tokenPrefix(c.ClickHouseURL),
	}
}

// lease is the time between heartbeats, and how long one counts.
func (c Config) lease() (heartbeat, ttl time.Duration) {
	if c.heartbeat == 0 {
		return lease.DefaultHeartbeat, lease.DefaultTTL
	}
	return c.heartbeat, c.heartbeat * lease.DefaultTTL / lease.DefaultHeartbeat
}

// setupPause is between two attempts to make or check the streams.
const setupPause = time.Second

// setup makes or checks the streams and buckets and opens them. It tries until that succeeds, ctx is done, or a stream is not as it must be: a
// server that has just started has no JetStream yet, and a cluster without a leader may get one.
func (s *Service) setup(ctx context.Context, js natsjs.JetStream, shape jetstream.Shape, waiting func(error)) (*ledger.Ledger, natsjs.KeyValue, error) {
	for {
		l, heartbeats, err := s.trySetup(ctx, js, shape)
		if err == nil {
			return l, heartbeats, nil
		}
		if ctx.Err() != nil || pipeline.Classify(err, pipeline.Transient) != pipeline.Transient {
			return nil, nil, err
		}
		waiting(err)
		s.log.WarnContext(ctx, "JetStream is not ready, trying again until it is", slog.Any("error", err))
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("JetStream is not ready: %w", err)
		case <-time.After(setupPause):
		}
	}
}

func (s *Service) trySetup(ctx context.Context, js natsjs.JetStream, shape jetstream.Shape) (l *ledger.Ledger, heartbeats natsjs.KeyValue, err error) {
	// ctx has no deadline: the client then bounds each request, of which one that is lost with its connection is never answered.
	if err := jetstream.Setup(ctx, js, shape, s.log); err != nil {
		return nil, nil, err
	}
	if l, err = ledger.Open(ctx, js); err != nil {
		return nil, nil, err
	}
	if s.positions, err = ledger.OpenPositions(ctx, js); err != nil {
		return nil, nil, err
	}
	if heartbeats, err = js.KeyValue(ctx, jetstream.BucketIngesters); err != nil {
		return nil, nil, fmt.Errorf("open bucket %s: %w", jetstream.BucketIngesters, err)
	}
	return l, heartbeats, nil
}

// Close gives back what New opened, of a service that is not run.
func (s *Service) Close() error {
	s.disconnect()
	var err error
	if s.store != nil {
		err = s.store.Close()
	}
	return errors.Join(err, s.flushTraces())
}

// flushTraces sends the last spans.
func (s *Service) flushTraces() error {
	if s.traces == nil {
		return nil
	}
	return s.traces.Close(context.Background())
}

// Run ingests until ctx is done, then writes what it has in memory, hands its partitions over, and closes everything. The error is nil, or why
// it cannot go on and what to do about it.
func (s *Service) Run(ctx context.Context) (err error) {
	defer s.disconnect()
	defer func() {
		if terr := s.flushTraces(); terr != nil {
			s.log.WarnContext(ctx, "the last traces are lost", slog.Any("error", terr))
		}
	}()
	defer func() { err = errors.Join(err, s.store.Close()) }()
	if err := s.migrate(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	if err := s.setupControl(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	// Heartbeats go on until the last batch is written.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.members.Run(background) })
	wg.Go(func() { s.state.run(background) })
	wg.Go(func() { s.trim(background) })
	wg.Go(func() { _ = s.checker.Run(background) })
	wg.Go(func() { s.hourly.Run(background) })
	wg.Go(func() { s.followErased(background) })
	working, stop := context.WithCancel(ctx)
	defer stop()
	var lost error
	wg.Go(func() {
		if lost = s.keeper.Run(background); lost != nil {
			stop()
		}
	})
	err = s.pipe.Run(working)
	cancel()
	wg.Wait()
	if lost != nil {
		err = errors.Join(err, pipeline.Advise(lost))
	}
	leave, cancelLeave := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancelLeave()
	if lerr := s.members.Leave(leave); lerr != nil {
		s.log.WarnContext(leave, "the others will notice in a few seconds that this ingester is gone", slog.Any("error", lerr))
	}
	return err
}

// migrate brings the schema up to date, and waits for ClickHouse as long as it takes.
func (s *Service) migrate(ctx context.Context) error {
	const pause = time.Second
	for try := 0; ; try++ {
		err := s.store.Migrate(ctx)
		s.schema.Store(&err)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, clickhouse.ErrTransient) {
			return fmt.Errorf("bring the schema up to date: %w", err)
		}
		if try%10 == 0 {
			s.log.WarnContext(ctx, "ClickHouse is not ready, trying again until it is", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// setupControl makes or checks the log of decisions, and waits for both servers as long as it takes. What is ingested before it is known what was erased
// or removed might have to go again, so nothing is.
func (s *Service) setupControl(ctx context.Context) error {
	for {
		err := s.setupLog(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if pipeline.Classify(err, pipeline.Transient) != pipeline.Transient {
			return pipeline.Advise(err)
		}
		s.log.WarnContext(ctx, "the log of decisions is not ready, trying again until it is", slog.Any("error", err))
		select {
		case <-ctx.Done():
		case <-time.After(setupPause):
		}
	}
}

// first says whether this process drives the first partition of its shard: of several, it does what one has to do.
func (s *Service) first() bool {
	return slices.Contains(s.pipe.Driven(), s.cfg.Shard.Partitions(s.cfg.Partitions)[0])
}

// trim removes from the stream what is in the table and old, from time to time. One process does it: the one that drives partition 0.
func (s *Service) trim(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.TrimEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !slices.Contains(s.pipe.Driven(), 0) {
			continue
		}
		first, err := s.source.Trim(ctx, s.positions, s.cfg.Retention)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "could not trim the stream, trying again later", slog.Any("error", err))
			continue
		}
		s.log.DebugContext(ctx, "trimmed the stream", slog.Uint64("first_seq", first))
	}
}

// Checks says whether the whole path works: NATS and its disk, ClickHouse, its schema, and a driver for each partition that is this process's.
func (s *Service) Checks() []ops.Check {
	return []ops.Check{
		{Name: "nats", Run: func(context.Context) error { return natsconn.Check(s.nc) }},
		{Name: "clickhouse", Run: s.store.Ping},
		{Name: "schema", Run: func(context.Context) error { return *s.schema.Load() }},
		{Name: "partitions", Run: func(context.Context) error {
			if !s.members.Valid() {
				return errors.New("the heartbeat is not written")
			}
			if have, want := s.pipe.Reading(); have < want {
				return fmt.Errorf("%d of %d partitions are driven", have, want)
			}
			return nil
		}},
		{Name: "stream", Run: func(context.Context) error { return s.state.writable() }},
	}
}

// instanceName is unique to this process and fit for a key.
func instanceName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, host)
	id := nuid.Next()
	return host + "-" + strconv.Itoa(os.Getpid()) + "-" + id[len(id)-8:]
}

// tokenPrefix is the database's name: tokens are query ids as well, and those are the whole server's.
func tokenPrefix(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return ""
	}
	return strings.Trim(u.Path, "/") + ":"
}
