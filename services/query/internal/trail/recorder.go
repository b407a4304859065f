package trail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"example.com/auditlog/pkg/events"
)

// Bounds of the recorder.
const (
	// QueueSize is how many events wait in memory while NATS is away: some megabytes, 30 MB when all have long filters.
	QueueSize = 4096
	// groupSize is how many are published together.
	groupSize = 128
	// RequiredTimeout is how long a read waits for its acknowledgement where one is required.
	RequiredTimeout = 3 * time.Second
	// retryFor is how long the publisher tries before the recorder begins anew.
	retryFor  = 10 * time.Second
	retryWait = time.Second
	// drainTimeout is how long the end of the service waits for what is still queued.
	drainTimeout = 5 * time.Second
	// DenialsPerSecond bounds the events of denials of one key: denials cost a reader nothing and must not fill the log.
	DenialsPerSecond = 10
	maxLimiters      = 10_000
	// complainEvery bounds how often the log says that events are lost.
	complainEvery = 10 * time.Second
)

// ErrUnrecorded means that a read could not be recorded where that is required.
var ErrUnrecorded = errors.New("the read could not be recorded")

// Config says which reads are recorded, and how surely.
type Config struct {
	// On says that reads are recorded, those of the tenants in Off excepted. Otherwise only those of the tenants in Only are.
	On        bool
	Off, Only []uuid.UUID
	// Required makes a read wait until its event is stored, and fail otherwise.
	Required bool
}

// Recorder publishes the events of reads. It is safe for concurrent use. Its events go out while Run runs.
type Recorder struct {
	cfg   Config
	off   map[uuid.UUID]bool
	only  map[uuid.UUID]bool
	log   *slog.Logger
	pub   *events.Publisher
	queue chan events.Event
	walks *walks

	mu         sync.Mutex
	denials    map[string]*rate.Limiter
	complained time.Time

	waiting atomic.Int64
	results *prometheus.CounterVec
}

// Open makes a recorder that publishes over nc, which stays the caller's. NATS may be away.
func Open(nc *nats.Conn, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Recorder, error) {
	r := &Recorder{cfg: cfg, off: map[uuid.UUID]bool{}, only: map[uuid.UUID]bool{}, log: log, queue: make(chan events.Event, QueueSize), walks: newWalks(),
		denials: map[string]*rate.Limiter{}}
	for _, t := range cfg.Off {
		r.off[t] = true
	}
	for _, t := range cfg.Only {
		r.only[t] = true
	}
	r.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "audit_query_read_events_total",
		Help: "Events of reads by result: stored, dropped (lost: the queue was full or the service ended), unconfirmed (the read was refused), suppressed (denials beyond their rate).",
	}, []string{"result"})
	for _, result := range []string{resultStored, resultDropped, resultUnconfirmed, resultSuppressed} {
		r.results.WithLabelValues(result)
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "audit_query_read_events_waiting", Help: "Events of reads that are not stored yet."},
		func() float64 { return float64(r.waiting.Load()) })
	for _, c := range []prometheus.Collector{r.results, waiting} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics of read events: %w", err)
		}
	}
	var err error
	if r.pub, err = events.NewPublisher(nc, events.WithRetryFor(retryFor)); err != nil {
		return nil, fmt.Errorf("open the publisher of read events: %w", err)
	}
	r.announce()
	return r, nil
}

const (
	resultStored      = "stored"
	resultDropped     = "dropped"
	resultUnconfirmed = "unconfirmed"
	resultSuppressed  = "suppressed"
)

// announce says which reads are not recorded, in the service's log and, tenant by tenant, in the tenant's own.
func (r *Recorder) announce() {
	if !r.cfg.On {
		r.log.Warn("reads of the audit log are not recorded (AUDIT_READ_AUDIT is off)", slog.Int("tenants_excepted", len(r.cfg.Only)))
		return
	}
	host, _ := os.Hostname()                                                                     // without one, the event says less
	about, _ := json.Marshal(map[string]string{"setting": "AUDIT_READ_AUDIT_OFF", "host": host}) // texts have no way to fail
	for _, tenant := range r.cfg.Off {
		r.log.Warn("reads of a tenant's audit log are not recorded (AUDIT_READ_AUDIT_OFF)", slog.String("tenant", tenant.String()))
		r.enqueue(events.Event{ID: events.NewID(), TenantID: tenant, ActorID: ServiceID, ActorType: ActorService, Action: ActionDisabled,
			ResourceType: ResourceType, ResourceID: tenant.String(), CreatedAt: time.Now(), Metadata: about})
	}
}

// Record takes a read down. Only where that is required it waits, and fails with ErrUnrecorded: the read must then not be answered.
func (r *Recorder) Record(ctx context.Context, read Read) error {
	if !r.records(read.Tenant) {
		return nil
	}
	now := time.Now()
	known, err := r.known(&read, now)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnrecorded, err)
	}
	if known {
		return nil
	}
	e, err := read.event(now)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnrecorded, err)
	}
	if !r.cfg.Required || read.Outcome != "" { // what has been sent cannot be called back
		r.enqueue(e)
		return nil
	}
	return r.publish(ctx, e)
}

// records says whether a tenant's reads are recorded.
func (r *Recorder) records(tenant uuid.UUID) bool {
	if r.cfg.On {
		return !r.off[tenant]
	}
	return r.only[tenant]
}

// known says that there is nothing to record: a walk goes on, or denials come too fast.
func (r *Recorder) known(read *Read, now time.Time) (bool, error) {
	if read.Denied {
		if r.denialAllowed(read.KeyID, now) {
			return false, nil
		}
		r.results.WithLabelValues(resultSuppressed).Inc()
		return true, nil
	}
	if read.EventID != uuid.Nil || read.Export {
		return false, nil
	}
	id, err := read.walk()
	if err != nil {
		return false, err
	}
	return r.walks.seen(id, now) && read.Continued, nil
}

func (r *Recorder) denialAllowed(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.denials[key]
	if !ok {
		if len(r.denials) >= maxLimiters {
			clear(r.denials)
		}
		l = rate.NewLimiter(DenialsPerSecond, DenialsPerSecond)
		r.denials[key] = l
	}
	return l.AllowN(now, 1)
}

func (r *Recorder) publish(ctx context.Context, e events.Event) error {
	ctx, cancel := context.WithTimeout(ctx, RequiredTimeout)
	defer cancel()
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	if err := r.pub.Publish(ctx, e); err != nil {
		r.results.WithLabelValues(resultUnconfirmed).Inc()
		return fmt.Errorf("%w: %w", ErrUnrecorded, err)
	}
	r.results.WithLabelValues(resultStored).Inc()
	return nil
}

// enqueue never waits: what finds no room is lost, and counted.
func (r *Recorder) enqueue(e events.Event) {
	r.waiting.Add(1)
	select {
	case r.queue <- e:
	default:
		r.lost(1, "the queue is full")
	}
}

func (r *Recorder) lost(n int, why string) {
	r.waiting.Add(int64(-n))
	r.results.WithLabelValues(resultDropped).Add(float64(n))
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.complained) > complainEvery {
		r.complained = now
		r.log.Error("events of reads are lost", slog.String("why", why), slog.Int("at_least", n))
	}
}
