// Package hourly keeps the counts by tenant, hour, actor and action that analysts read as audit.events_hourly. docs/design/004-hourly-counts.md says why this way.
//
// A count is made anew from the event table and replaces the one before, so it does not matter how often it is made, nor in what state the last attempt was
// killed. Which hours to count follows from the sequences that were committed since: late events and copies of old ones included. What sequences do not
// tell, that rows were deleted or changed, is found by a round over all days, which never ends.
package hourly

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/ledger"
)

const (
	// DefaultEvery is how often new events are counted.
	DefaultEvery = time.Minute
	// newShare and roundShare bound the part of the time that counting of new events and the round take: a pause is at least this many times as long as
	// the work before it. Where counting would take more, counts are older instead.
	newShare, roundShare = 10, 50
	// maxSequences bounds the sequences that are looked at in one step, and so what is to be counted again after a crash.
	maxSequences = 1 << 20
	// maxRun bounds the hours counted by one statement, which bounds its memory.
	maxRun = 24 * time.Hour
	// emptyAge is how old a count of 0 is before the round deletes its row: no count that began before it is still on its way then.
	emptyAge = time.Hour
	// stepTimeout bounds one statement.
	stepTimeout = 10 * time.Minute
)

// Table is the event table and the counts.
type Table interface {
	HoursProgress(ctx context.Context, partition int) (clickhouse.HoursProgress, error)
	SetHoursProgress(ctx context.Context, partition int, p clickhouse.HoursProgress) error
	HoursOf(ctx context.Context, partition int, after, through uint64) ([]clickhouse.Hours, error)
	NextSequence(ctx context.Context, partition int, after uint64) (uint64, error)
	CountHours(ctx context.Context, partition int, h clickhouse.Hours) (changed uint64, err error)
	CountedDays(ctx context.Context, partition int, tenant *uuid.UUID) ([]time.Time, error)
	DropEmptyHours(ctx context.Context, partition int, h clickhouse.Hours, age time.Duration) error
}

// Positions says up to which sequence a partition's events are in the table.
type Positions interface {
	Get(ctx context.Context, partition int) (ledger.Position, error)
}

// Counter counts for as long as the service runs.
type Counter struct {
	table     Table
	positions Positions
	// partitions says which ones to count: those this process drives, so that several processes share the work. Two that count the same do no harm.
	partitions func() []int
	every      time.Duration
	log        *slog.Logger

	mu sync.Mutex // over the progress of all partitions
	// days are those that are left of each partition's round. Round's alone.
	days map[int][]time.Time

	counted  prometheus.Gauge
	failures prometheus.Counter
	repaired prometheus.Counter
}

// New makes a Counter whose metrics go to reg. partitions is called before each pass.
func New(table Table, positions Positions, partitions func() []int, every time.Duration, reg prometheus.Registerer, log *slog.Logger) *Counter {
	c := &Counter{
		table: table, positions: positions, partitions: partitions, every: every, log: log, days: make(map[int][]time.Time),
		counted: prometheus.NewGauge(prometheus.GaugeOpts{Name: "audit_ingester_hourly_counted_timestamp_seconds",
			Help: "When all that was committed was last found to be in the hourly counts."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "audit_ingester_hourly_failures_total",
			Help: "Passes of the hourly counts that could not be done, mostly because a server was away."}),
		repaired: prometheus.NewCounter(prometheus.CounterOpts{Name: "audit_ingester_hourly_repaired_total",
			Help: "Hourly counts that the round over all days put right: after deletions, or after rows were changed."}),
	}
	reg.MustRegister(c.counted, c.failures, c.repaired)
	return c
}

// Run counts until ctx is done. What cannot be done is tried again at the next pass.
func (c *Counter) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.loop(ctx, newShare, c.CountNew) })
	wg.Go(func() { c.loop(ctx, roundShare, c.Round) })
	wg.Wait()
}

// loop calls pass for ever, with pauses.
func (c *Counter) loop(ctx context.Context, share int, pass func(context.Context) error) {
	pause := c.every
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		began := time.Now()
		if err := pass(ctx); err != nil && ctx.Err() == nil {
			c.failures.Inc()
			c.log.WarnContext(ctx, "hourly counts could not be brought up to date", slog.Any("error", err))
		}
		pause = max(c.every, time.Duration(share)*time.Since(began))
	}
}

// CountNew counts, for each partition, the hours of what was committed since it last did.
func (c *Counter) CountNew(ctx context.Context) error {
	var errs []error
	for _, p := range c.partitions() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := c.countNew(ctx, p); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		c.counted.SetToCurrentTime()
	}
	return errors.Join(errs...)
}

func (c *Counter) countNew(ctx context.Context, p int) error {
	pos, err := c.positions.Get(ctx, p)
	if err != nil {
		return err
	}
	done, err := c.table.HoursProgress(ctx, p)
	if err != nil {
		return err
	}
	for done.Through < pos.LastSeq {
		through := min(pos.LastSeq, done.Through+maxSequences)
		hours, err := c.table.HoursOf(ctx, p, done.Through, through)
		if err != nil {
			return err
		}
		if len(hours) == 0 {
			if through, err = c.skip(ctx, p, done.Through, pos.LastSeq); err != nil {
				return err
			}
		}
		for _, run := range runs(hours) {
			if _, err := c.count(ctx, p, run); err != nil {
				return err
			}
		}
		// If we die before this: the same hours are counted again, and found to be right.
		if done, err = c.note(ctx, p, func(now *clickhouse.HoursProgress) { now.Through = max(now.Through, through) }); err != nil {
			return err
		}
	}
	return nil
}

// skip returns the last sequence, up to a given one, before the next that has a row: there may be thousands of millions in between, after a stream was lost.
func (c *Counter) skip(ctx context.Context, p int, after, upTo uint64) (uint64, error) {
	next, err := c.table.NextSequence(ctx, p, after)
	if err != nil || next == 0 || next > upTo {
		return upTo, err
	}
	return next - 1, nil
}

// count counts one run. It is not cut short when the service stops: a client that goes away in the middle of a statement is no friend of the server's.
func (c *Counter) count(ctx context.Context, p int, run clickhouse.Hours) (changed uint64, err error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
	defer cancel()
	return c.table.CountHours(ctx, p, run)
}

// note changes the progress of a partition.
func (c *Counter) note(ctx context.Context, p int, change func(*clickhouse.HoursProgress)) (clickhouse.HoursProgress, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := c.table.HoursProgress(ctx, p)
	if err != nil {
		return now, err
	}
	change(&now)
	return now, c.table.SetHoursProgress(ctx, p, now)
}

// Round counts one day more of each partition, and begins anew behind the last.
func (c *Counter) Round(ctx context.Context) error {
	var errs []error
	for _, p := range c.partitions() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := c.nextDay(ctx, p); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c *Counter) nextDay(ctx context.Context, p int) error {
	if len(c.days[p]) == 0 {
		if err := c.beginRound(ctx, p); err != nil {
			return err
		}
	}
	if len(c.days[p]) == 0 {
		return nil
	}
	day := c.days[p][0]
	changed, err := c.day(ctx, p, day, nil, emptyAge)
	if err != nil {
		return err
	}
	if changed > 0 {
		c.repaired.Add(float64(changed))
		c.log.InfoContext(ctx, "hourly counts put right", slog.Int("partition", p), slog.String("day", day.Format(time.DateOnly)), slog.Uint64("counts", changed))
	}
	c.days[p] = c.days[p][1:]
	_, err = c.note(ctx, p, func(now *clickhouse.HoursProgress) { now.NextDay = day.AddDate(0, 0, 1) })
	return err
}

// beginRound lists the days of a round: all of them, or after a restart those that are left.
func (c *Counter) beginRound(ctx context.Context, p int) error {
	done, err := c.table.HoursProgress(ctx, p)
	if err != nil {
		return err
	}
	days, err := c.table.CountedDays(ctx, p, nil)
	if err != nil {
		return err
	}
	left := slices.IndexFunc(days, func(d time.Time) bool { return !d.Before(done.NextDay) })
	c.days[p] = days[max(0, left):]
	return nil
}

// day counts one day, and deletes what has been empty for that long.
func (c *Counter) day(ctx context.Context, p int, day time.Time, tenants []uuid.UUID, empty time.Duration) (changed uint64, err error) {
	run := clickhouse.Hours{From: day, To: day.AddDate(0, 0, 1), Tenants: tenants}
	if changed, err = c.count(ctx, p, run); err != nil {
		return changed, err
	}
	return changed, c.table.DropEmptyHours(ctx, p, run, empty)
}

// Recount counts everything anew, or all of one tenant, deletes what is empty at once, and returns how many counts were not right.
func (c *Counter) Recount(ctx context.Context, tenant *uuid.UUID) (changed uint64, err error) {
	var tenants []uuid.UUID
	if tenant != nil {
		tenants = []uuid.UUID{*tenant}
	}
	for _, p := range c.partitions() {
		days, err := c.table.CountedDays(ctx, p, tenant)
		if err != nil {
			return changed, err
		}
		for _, d := range days {
			n, err := c.day(ctx, p, d, tenants, 0)
			changed += n
			if err != nil {
				return changed, fmt.Errorf("day %s: %w", d.Format(time.DateOnly), err)
			}
		}
	}
	return changed, nil
}

// RecountDays counts the days from one time to another, both included, anew, and deletes what is empty at once: for who has just removed events. Only days that
// have events or counts are looked at; of these tenants, or of all when tenants is nil.
func (c *Counter) RecountDays(ctx context.Context, p int, from, to time.Time, tenants []uuid.UUID) error {
	var only *uuid.UUID
	if len(tenants) == 1 {
		only = &tenants[0]
	}
	days, err := c.table.CountedDays(ctx, p, only)
	if err != nil {
		return err
	}
	first := from.Truncate(24 * time.Hour)
	for _, d := range days {
		if d.Before(first) || d.After(to) {
			continue
		}
		if _, err := c.day(ctx, p, d, tenants, 0); err != nil {
			return fmt.Errorf("day %s: %w", d.Format(time.DateOnly), err)
		}
	}
	return nil
}

// runs joins hours that follow each other, up to maxRun.
func runs(hours []clickhouse.Hours) (out []clickhouse.Hours) {
	seen := map[uuid.UUID]bool{}
	for _, h := range hours {
		last := len(out) - 1
		if last < 0 || !out[last].To.Equal(h.From) || h.To.Sub(out[last].From) > maxRun {
			clear(seen)
			out = append(out, clickhouse.Hours{From: h.From, To: h.To, Tenants: []uuid.UUID{}})
			last++
		}
		out[last].To = h.To
		if h.Tenants == nil {
			out[last].Tenants = nil
		}
		for _, t := range h.Tenants {
			if out[last].Tenants != nil && !seen[t] {
				seen[t] = true
				out[last].Tenants = append(out[last].Tenants, t)
			}
		}
	}
	return out
}
