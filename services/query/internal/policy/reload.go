package policy

import (
	"context"
	"io/fs"
	"log/slog"
	"time"
)

// Times of the watch over the policy directory.
const (
	// pollInterval is how often the directory is read: polling follows links that are swapped, which is how mounted ConfigMaps change.
	pollInterval = time.Second
	// settleTime is how long the files must stay the same before they are loaded, so that a half-written file is not.
	settleTime = 100 * time.Millisecond
)

// Run follows the policy directory until ctx ends, and returns nil then. Changed policies are checked as Check does and go into force as
// one; requests that are under way keep those they began with. If anything is wrong, the policies in force stay, the log names every
// problem, and audit_policy_stale is 1 until the directory is right again.
func (e *Engine) Run(ctx context.Context) error { return e.watch(ctx, pollInterval, settleTime) }

func (e *Engine) watch(ctx context.Context, poll, settle time.Duration) error {
	if e.dir == "" {
		<-ctx.Done()
		return nil
	}
	w := &watcher{engine: e, fsys: e.source(), settle: settle, seen: e.seen()}
	for wait(ctx, poll) {
		w.look(ctx)
	}
	return nil
}

// wait waits and says whether to go on.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// watcher remembers what it has seen in the directory.
type watcher struct {
	engine *Engine
	fsys   fs.FS
	settle time.Duration
	seen   string
}

// state identifies what the directory holds, unreadable files included.
func (w *watcher) state() string {
	files, problems := readFiles(w.fsys)
	s := digest(files)
	for _, p := range problems {
		s += "\n" + p.String()
	}
	return s
}

// look loads the directory if it has changed and come to rest.
func (w *watcher) look(ctx context.Context) {
	now := w.state()
	if now == w.seen || !wait(ctx, w.settle) || w.state() != now {
		return
	}
	w.seen = now
	w.engine.reload(w.fsys)
}

// seen is the state of the directory that is in force.
func (e *Engine) seen() string { return e.current.Load().source }

// reload puts the policies of fsys into force, or says loudly why not.
func (e *Engine) reload(fsys fs.FS) {
	s, problems := load(e.model, fsys)
	if len(problems) == 0 {
		e.metrics.reloads.WithLabelValues("loaded").Inc()
		e.swap(s)
		return
	}
	e.metrics.reloads.WithLabelValues("refused").Inc()
	e.metrics.stale.Set(1)
	now := time.Now()
	e.refused.CompareAndSwap(nil, &now)
	e.log.Error("changed policies refused: the policies from before stay in force", slog.String("dir", e.dir),
		slog.String("digest", e.Digest()), slog.Int("problems", len(problems)))
	for _, p := range problems {
		e.log.Error("policy problem", slog.String("problem", p.String()))
	}
}
