package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"example.com/auditlog/pkg/events"
)

// restartPause is how long a partition whose driver had to let go rests before this process drives it again, so that two processes that
// disagree about who should do not take it from each other without end.
const restartPause = time.Second

// recoveries is how many drivers look at the same time for what an earlier run has left. Those are small questions, one after the other, to servers that
// may take seconds for the answer after an outage: places among the flushers, which bound what is inserted and read into memory, would be too few.
const recoveries = 16

// Deps is what a pipeline works with.
type Deps struct {
	Source      Source
	Ledger      Ledger
	Positions   Positions
	DeadLetters DeadLetters
	Sink        Sink
	Members     Members
	// Erase replaces in an event of a tenant who was erased, before it becomes a row; nil for nobody. It is called by several goroutines.
	Erase      func(tenant uuid.UUID, ev *events.Raw)
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Traces makes the spans of batches with traced messages; nil for none.
	Traces trace.TracerProvider
}

// Pipeline runs the drivers of this process's partitions and the reader that feeds them.
type Pipeline struct {
	cfg       Config
	source    Source
	ledger    Ledger
	dead      DeadLetters
	sink      Sink
	members   Members
	erase     func(uuid.UUID, *events.Raw)
	log       *slog.Logger
	metrics   *metrics
	tracer    trace.Tracer
	positions *positionWriter
	memory    *memory
	pacer     *pacer
	flushers  chan struct{}
	// recoverers are the drivers that look for what an earlier run has left.
	recoverers chan struct{}
	behind     atomic.Uint64 // how many messages the reader had before it a moment ago
	blocks     *blockPool
	scouts     *scouts

	// Owned by Run.
	ended     chan ended         // drivers that have ended
	recovered chan int           // partitions whose driver has begun to read
	readEnded chan error         // the reader's end
	stopRead  context.CancelFunc // nil when no reader runs
	rest      map[int]time.Time  // until when partitions rest

	mu      sync.Mutex      // guards what follows
	drivers map[int]*driver // by partition
}

// ended is how a driver's run ended.
type ended struct {
	partition int
	err       error
}

// New makes a pipeline. The zero fields of cfg stand for their defaults.
func New(cfg Config, deps Deps) *Pipeline {
	cfg.setDefaults()
	if deps.Traces == nil {
		deps.Traces = noop.NewTracerProvider()
	}
	p := &Pipeline{
		cfg: cfg, source: deps.Source, ledger: deps.Ledger, dead: deps.DeadLetters, sink: deps.Sink, members: deps.Members, erase: deps.Erase, log: deps.Log,
		tracer:     deps.Traces.Tracer(tracerName),
		memory:     newMemory(cfg.Memory),
		pacer:      newPacer(cfg.InsertRate),
		flushers:   make(chan struct{}, cfg.Flushers),
		recoverers: make(chan struct{}, recoveries),
		blocks:     newBlockPool(deps.Sink.NewBlock, 2*cfg.Flushers),
		ended:      make(chan ended),
		scouts:     newScouts(),
		recovered:  make(chan int),
		readEnded:  make(chan error, 1),
		rest:       map[int]time.Time{},
		drivers:    map[int]*driver{},
	}
	p.metrics = newMetrics(deps.Registerer, p)
	p.positions = newPositionWriter(deps.Positions, p.log, p.metrics)
	return p
}

// Run drives the partitions that are this process's until ctx is done, then flushes what is in memory and returns nil. It returns an error,
// with what to do about it, when it cannot go on.
func (p *Pipeline) Run(ctx context.Context) error {
	// Drivers outlive ctx: their last flush comes after it.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var background sync.WaitGroup
	background.Go(func() { p.positions.run(work) })
	background.Go(func() { p.monitor(work) })

	err := p.supervise(ctx, work)
	start := time.Now()
	p.endReader()
	deadline := time.AfterFunc(p.cfg.Drain, func() {
		p.log.WarnContext(ctx, "the last batches take too long, the next start finishes them", slog.Duration("after", p.cfg.Drain))
		cancel()
	})
	defer deadline.Stop()
	for _, d := range p.running() {
		d.drain()
	}
	for len(p.running()) > 0 {
		select {
		case e := <-p.ended:
			err = errors.Join(err, p.forget(e))
		case <-p.recovered:
		}
	}
	p.positions.flush(work)
	cancel()
	background.Wait()
	p.log.InfoContext(ctx, "pipeline stopped", slog.Duration("drain", time.Since(start)), slog.Bool("failed", err != nil))
	return err
}

// supervise starts and stops drivers as membership says, and the reader as drivers come and go, until ctx is done or something is fatal.
func (p *Pipeline) supervise(ctx, work context.Context) error {
	var reread backoffPlain
	for {
		wakeAt := p.reconcile(work)
		var wake <-chan time.Time
		if !wakeAt.IsZero() {
			wake = time.After(time.Until(wakeAt))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.members.Changed():
		case <-wake:
		case e := <-p.ended:
			if err := p.forget(e); err != nil {
				return err
			}
		case <-p.recovered:
			p.collectRecovered()
			p.restartReader(work)
		case err := <-p.readEnded:
			p.stopRead()
			p.stopRead = nil
			if err != nil && Classify(err, Transient) == Fatal {
				return fmt.Errorf("read the stream: %w", Advise(err))
			}
			pause := reread.next(time.Now())
			p.log.WarnContext(ctx, "reading the stream ended, going on", slog.Any("error", err), slog.Duration("pause", pause))
			p.metrics.retries.WithLabelValues("read").Inc()
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			p.restartReader(work)
		}
	}
}

// reconcile starts a driver for each partition that is wanted and drains those that are not. It returns when a resting partition may start,
// or the zero time.
func (p *Pipeline) reconcile(work context.Context) (wakeAt time.Time) {
	now := time.Now()
	wanted := map[int]bool{}
	for _, partition := range p.members.Wanted() {
		wanted[partition] = true
		if p.driver(partition) != nil {
			continue
		}
		if until := p.rest[partition]; until.After(now) {
			if wakeAt.IsZero() || until.Before(wakeAt) {
				wakeAt = until
			}
			continue
		}
		p.start(work, partition)
	}
	for _, d := range p.running() {
		if !wanted[d.partition] {
			d.drain()
		}
	}
	return wakeAt
}

func (p *Pipeline) start(work context.Context, partition int) {
	d := p.newDriver(partition)
	p.mu.Lock()
	p.drivers[partition] = d
	p.mu.Unlock()
	p.members.Hold(partition)
	go func() {
		err := d.run(work, func() { p.recovered <- partition })
		p.ended <- ended{partition, err}
	}()
}

// forget takes a driver that has ended off the list. It returns an error when its end is the end of the process.
func (p *Pipeline) forget(e ended) error {
	p.mu.Lock()
	delete(p.drivers, e.partition)
	p.mu.Unlock()
	p.members.Release(e.partition)
	if e.err == nil {
		return nil
	}
	switch Classify(e.err, Fatal) {
	case Lost, Transient:
		p.rest[e.partition] = time.Now().Add(restartPause)
		p.metrics.lost.Inc()
		p.log.Warn("let go of the partition", slog.Int("partition", e.partition), slog.Any("error", e.err))
		return nil
	case Stopping:
		return nil
	default:
		return Advise(e.err)
	}
}

// collectRecovered waits a moment for more partitions to begin reading: one new start of the reader serves them all.
func (p *Pipeline) collectRecovered() {
	const moment = 20 * time.Millisecond
	timer := time.NewTimer(moment)
	defer timer.Stop()
	for {
		select {
		case <-p.recovered:
		case <-timer.C:
			return
		}
	}
}

// restartReader starts a reader for all drivers that read, from where each of them is.
func (p *Pipeline) restartReader(work context.Context) {
	p.endReader()
	after := map[int]uint64{}
	drivers := map[int]*driver{}
	for _, d := range p.running() {
		if seq, ok := d.position(); ok {
			after[d.partition], drivers[d.partition] = seq, d
		}
	}
	if len(after) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(work)
	p.stopRead = cancel
	var stopped atomic.Bool
	context.AfterFunc(ctx, func() {
		stopped.Store(true)
		p.memory.wake()
	})
	go func() {
		p.readEnded <- p.source.Read(ctx, after, func(partition int, m Message) bool {
			p.behind.Store(m.Behind)
			d := drivers[partition]
			return d == nil || d.offer(m, stopped.Load)
		})
	}()
}

// endReader stops the reader and waits until it has.
func (p *Pipeline) endReader() {
	if p.stopRead == nil {
		return
	}
	p.stopRead()
	p.stopRead = nil
	if err := <-p.readEnded; err != nil {
		p.log.Debug("the reader had ended by itself", slog.Any("error", err)) // the next one will tell if it matters
	}
}

func (p *Pipeline) driver(partition int) *driver {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.drivers[partition]
}

func (p *Pipeline) running() []*driver {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*driver, 0, len(p.drivers))
	for _, d := range p.drivers {
		out = append(out, d)
	}
	return out
}

// Driven returns the partitions this process drives and reads now, in order.
func (p *Pipeline) Driven() (driven []int) {
	for _, d := range p.running() {
		if _, ok := d.position(); ok {
			driven = append(driven, d.partition)
		}
	}
	slices.Sort(driven)
	return driven
}
