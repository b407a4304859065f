package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/services/ingester/internal/erasure"
	"example.com/auditlog/services/ingester/internal/ledger"
)

const (
	// DefaultCheckEvery is how often a Checker looks at what was committed since it last did.
	DefaultCheckEvery = 15 * time.Second
	// checkTimeout bounds the check of one partition. It is not cut short when the service stops, which mostly takes milliseconds: a client that
	// goes away in the middle of a query is no friend of the server's.
	checkTimeout = 10 * time.Second
	// DefaultRoundBatches is how many older batches it goes over again each time, over all partitions: all of a million batches in about four days.
	DefaultRoundBatches = 50
)

// Checker verifies in the shallow form for as long as the service runs: batches as they are committed, and all older ones slowly, round and round.
type Checker struct {
	system  System
	every   time.Duration
	batches int
	// partitions says which ones to check: those this process drives, so that several processes share the work.
	partitions func() []int
	log        *slog.Logger

	mu     sync.Mutex
	states map[int]*checkState

	checked  prometheus.Counter
	findings *prometheus.CounterVec
	folded   prometheus.Counter
	lastOK   prometheus.Gauge
	failures prometheus.Counter
}

// checkState is how far a partition was checked.
type checkState struct {
	newest ledger.Record // the newest entry that was checked when it was new
	round  ledger.Record // the newest one of the slow round
}

// CheckerOptions bounds a Checker. The zero value of a field stands for its default.
type CheckerOptions struct {
	Every        time.Duration
	RoundBatches int
}

// NewChecker makes a Checker whose metrics go to reg. partitions is called before each check.
func NewChecker(s System, partitions func() []int, opts CheckerOptions, reg prometheus.Registerer, log *slog.Logger) *Checker {
	c := &Checker{
		system: s, every: opts.Every, batches: opts.RoundBatches, partitions: partitions, log: log, states: make(map[int]*checkState),
		checked: prometheus.NewCounter(prometheus.CounterOpts{Name: "audit_verify_batches_total",
			Help: "Batches of the ledger compared with the table."}),
		findings: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "audit_verify_findings_total",
			Help: "What did not agree between ledger, stream and table, by kind. Anything but 0 needs somebody: run ingester verify."}, []string{"kind"}),
		folded: prometheus.NewCounter(prometheus.CounterOpts{Name: "audit_verify_folded_total",
			Help: "Messages found to be copies of an older event, which their rows were folded into."}),
		lastOK: prometheus.NewGauge(prometheus.GaugeOpts{Name: "audit_verify_last_ok_timestamp_seconds",
			Help: "When the newest batches were last compared and agreed."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "audit_verify_failures_total",
			Help: "Checks that could not be done, mostly because a server was away."}),
	}
	if c.every == 0 {
		c.every = DefaultCheckEvery
	}
	if c.batches == 0 {
		c.batches = DefaultRoundBatches
	}
	for _, k := range []Kind{Missing, Duplicate, Differing, Unerased, Surplus, Skipped, Undelivered, Chain, Changed, Tombstones} {
		c.findings.WithLabelValues(string(k))
	}
	reg.MustRegister(c.checked, c.findings, c.folded, c.lastOK, c.failures)
	return c
}

// Run checks until ctx is done, and returns nil then. A check that cannot be done is counted and tried again at the next one.
func (c *Checker) Run(ctx context.Context) error {
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r, err := c.Check(ctx)
		if err != nil && ctx.Err() == nil {
			c.failures.Inc()
			c.log.WarnContext(ctx, "verification could not be done", slog.Any("error", err))
		}
		if r != nil && !r.OK() {
			c.log.ErrorContext(ctx, "ledger, stream and table do not agree: run ingester verify", slog.Any("counts", r.Counts), slog.Any("first", r.Findings[0]))
		}
	}
}

// Check does one check and returns what it found, up to where it came when there is an error.
func (c *Checker) Check(ctx context.Context) (*Report, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	report := new(Report)
	var errs []error
	mine := c.partitions()
	for _, p := range mine {
		if ctx.Err() != nil {
			break
		}
		s := c.states[p]
		if s == nil {
			s = &checkState{newest: none(p), round: none(p)}
			c.states[p] = s
		}
		pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		err := c.partition(pctx, p, s, c.batches/len(mine)+1, report)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("verify partition %d: %w", p, err))
		}
	}
	c.checked.Add(float64(report.Batches))
	c.folded.Add(float64(report.Folded))
	for k, n := range report.Counts {
		c.findings.WithLabelValues(string(k)).Add(float64(n))
	}
	if len(errs) == 0 && report.OK() {
		c.lastOK.SetToCurrentTime()
	}
	return report, errors.Join(errs...)
}

// none stands before the first entry.
func none(p int) ledger.Record { return ledger.Record{Entry: ledger.Entry{Partition: p}} }

// partition checks the committed entries after s.newest, and n after s.round, which starts again when it has come to the newest one.
func (c *Checker) partition(ctx context.Context, p int, s *checkState, n int, report *Report) error {
	state, err := c.system.Control.Load(ctx)
	if err != nil {
		return err
	}
	v := &verifier{System: c.system, state: state, erased: erasure.Of(state), report: report}
	at, err := v.progress(ctx, p)
	if err != nil || at.committed == 0 {
		return err
	}
	if s.newest.Seq == 0 {
		// The first check begins near the end: what is older comes with the round.
		if s.newest, err = c.recent(ctx, at); err != nil {
			return err
		}
	}
	if s.newest, err = c.span(ctx, v, at, s.newest, -1); err != nil {
		return err
	}
	if s.round.Batch >= s.newest.Batch {
		s.round = none(p)
	}
	s.round, err = c.span(ctx, v, at, s.round, n)
	return err
}

// recent is the entry before the newest committed one.
func (c *Checker) recent(ctx context.Context, at progress) (ledger.Record, error) {
	r := at.last
	for r.Seq != 0 && r.Batch >= at.committed {
		if r.Follows == 0 {
			return none(r.Partition), nil
		}
		before, err := c.system.Ledger.At(ctx, r.Follows)
		if err != nil {
			return r, err
		}
		r = before
	}
	return r, nil
}

// errEnough ends a span.
var errEnough = errors.New("enough")

// span checks up to n committed entries after the given one (any number when n is negative) and returns the last one checked.
func (c *Checker) span(ctx context.Context, v *verifier, at progress, after ledger.Record, n int) (ledger.Record, error) {
	w := walk{verifier: v, partition: after.Partition, at: at, prev: after}
	err := v.Reader.Entries(ctx, after.Partition, after.Seq+1, func(r ledger.Record) error {
		if n == 0 || r.Batch > at.committed {
			return errEnough
		}
		n--
		return w.entry(ctx, r)
	})
	if !errors.Is(err, errEnough) {
		if err = v.unreadable(after.Partition, err); err != nil {
			return after, err
		}
	}
	if err := w.flush(ctx, 0); err != nil {
		return after, err
	}
	return w.prev, nil
}
