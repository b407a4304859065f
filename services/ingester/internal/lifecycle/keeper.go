package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/services/ingester/internal/control"
)

// lookEvery is how often a Keeper looks whether a run is due, or more often when runs are.
var lookEvery = time.Minute

// Keeper runs again and again for as long as the service does.
type Keeper struct {
	system System
	by     string
	every  time.Duration
	mine   func() bool

	rows, failures prometheus.Counter
	lastRun        prometheus.Gauge
}

// NewKeeper makes a Keeper that runs each time every has passed since the last run of anybody, 0 for never, while mine says that this process is the one to
// do it. by is what it is called in the log. Its metrics go to reg.
func NewKeeper(s System, by string, every time.Duration, mine func() bool, reg prometheus.Registerer) *Keeper {
	k := &Keeper{
		system: s, by: by, every: every, mine: mine,
		rows: prometheus.NewCounter(prometheus.CounterOpts{Name: "audit_ingester_retention_removed_rows_total",
			Help: "Rows removed because their time was over, or their tenant has left."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "audit_ingester_retention_failures_total",
			Help: "Runs of retention that could not be done; the next one goes on where they ended."}),
		lastRun: prometheus.NewGauge(prometheus.GaugeOpts{Name: "audit_ingester_retention_last_run_timestamp_seconds",
			Help: "When a run of retention over all tenants last came to its end, whoever ran it; 0 for never."}),
	}
	reg.MustRegister(k.rows, k.failures, k.lastRun)
	return k
}

// Run runs until ctx is done. It returns an error only when decisions are lost: nothing may be ingested then.
func (k *Keeper) Run(ctx context.Context) error {
	pause := lookEvery
	if k.every > 0 {
		pause = min(pause, k.every)
	}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := k.look(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, control.ErrLost) || errors.Is(err, control.ErrCorrupt):
			return err
		default:
			k.failures.Inc()
			k.system.Logger.WarnContext(ctx, "retention could not be run, trying again later", slog.Any("error", err))
		}
	}
}

// look runs when it is time.
func (k *Keeper) look(ctx context.Context) error {
	state, err := k.system.Log.Load(ctx)
	if err != nil {
		return err
	}
	last := state.LastRun(k.system.Shard.String()).At
	if last.IsZero() {
		last = k.system.Log.Made()
	} else {
		k.lastRun.Set(float64(last.Unix()))
	}
	if !k.mine() {
		return nil
	}
	if err := k.erase(ctx, state); err != nil {
		return err
	}
	if k.every == 0 || time.Since(last) < k.every {
		return nil
	}
	report, err := Run(ctx, k.system, Options{By: k.by})
	k.rows.Add(float64(report.Rows))
	if err != nil {
		return err
	}
	k.system.Logger.InfoContext(ctx, "retention was run", slog.Uint64("rows", report.Rows), slog.Int("cuts", report.Cuts), slog.Int("finished", report.Finished))
	return nil
}

// erase finishes erasures whose command died, and what came in beside one that did not.
func (k *Keeper) erase(ctx context.Context, state *control.State) error {
	opts := Options{By: k.by}
	if len(newRun(k.system, opts).settled(state)) == 0 {
		return nil
	}
	report, err := FinishErasures(ctx, k.system, opts)
	if err != nil {
		return err
	}
	k.system.Logger.InfoContext(ctx, "erasures were finished", slog.Uint64("rows", report.Events))
	return nil
}
