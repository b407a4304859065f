package keys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Times of following the bucket.
const (
	// confirmEvery is how often the copy is compared with the bucket's own last sequence.
	confirmEvery = 2 * time.Second
	// confirmTimeout bounds one comparison.
	confirmTimeout = 2 * time.Second
	// retryWait is the pause before following is begun anew.
	retryWait = 500 * time.Millisecond
	// staleAfter is how old the last proof may be before the copy is called stale.
	staleAfter = 3 * confirmEvery
)

// ErrRefused is the one answer to a key that opens nothing: it does not tell malformed, unknown, expired and revoked keys apart.
var ErrRefused = errors.New("the API key is not valid")

// errBehind means that the watch has missed changes.
var errBehind = errors.New("the copy of the keys is behind the bucket")

// Follower authenticates keys from a copy of the bucket in memory, which follows every change and stays in use while NATS is away.
// It is safe for concurrent use.
type Follower struct {
	kv  jetstream.KeyValue
	log *slog.Logger

	mu        sync.RWMutex
	byID      map[string]*Key
	seen      uint64    // the newest revision in byID
	confirmed time.Time // when byID was last known to be all there is
	watch     jetstream.KeyWatcher
}

// Follow loads the bucket, making it if it is missing. When it returns, every key is known; Run keeps it so.
func Follow(ctx context.Context, nc *nats.Conn, log *slog.Logger) (*Follower, error) {
	s, err := OpenStore(ctx, nc)
	if err != nil {
		return nil, err
	}
	f := &Follower{kv: s.kv, log: log}
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

// Run follows the bucket until ctx ends and returns nil then.
func (f *Follower) Run(ctx context.Context) error {
	defer f.Close()
	for {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is the end of the work
		}
		f.log.Warn("following the API keys anew", slog.Any("error", err))
		for ctx.Err() == nil && err != nil {
			wait(ctx, retryWait)
			err = f.reload(ctx)
		}
	}
}

// Close ends the watch of a follower that is not running.
func (f *Follower) Close() {
	if w := f.currentWatch(); w != nil {
		_ = w.Stop()
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (f *Follower) currentWatch() jetstream.KeyWatcher {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.watch
}

func (f *Follower) reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	return f.load(ctx)
}

// load begins a watch and replaces the copy once all that is in the bucket has come in. Until then the old copy stays in use.
func (f *Follower) load(ctx context.Context) error {
	last, err := f.lastSequence(ctx)
	if err != nil {
		return err
	}
	w, err := f.kv.WatchAll(context.WithoutCancel(ctx))
	if err != nil {
		return fmt.Errorf("watch the API keys: %w", err)
	}
	byID := map[string]*Key{}
	for {
		select {
		case <-ctx.Done():
			_ = w.Stop()
			return fmt.Errorf("load the API keys: %w", ctx.Err())
		case entry, ok := <-w.Updates():
			switch {
			case !ok:
				return errors.New("load the API keys: the connection to NATS was closed")
			case entry != nil:
				f.apply(byID, entry)
				last = max(last, entry.Revision())
				continue
			}
		}
		break
	}
	f.mu.Lock()
	old := f.watch
	f.byID, f.watch, f.seen, f.confirmed = byID, w, last, time.Now()
	f.mu.Unlock()
	if old != nil {
		_ = old.Stop()
	}
	f.log.Info("API keys loaded", slog.Int("keys", len(byID)))
	return nil
}

// follow applies changes until the watch ends or proves to have missed some.
func (f *Follower) follow(ctx context.Context) error {
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	confirming := make(chan error, 1)
	busy, behind := false, 0
	updates := f.currentWatch().Updates()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, ok := <-updates:
			if !ok {
				return errors.New("the watch has ended")
			}
			if entry != nil {
				f.change(entry)
			}
		case <-tick.C:
			if !busy {
				busy = true
				go func() { confirming <- f.confirm(ctx) }()
			}
		case err := <-confirming:
			busy = false
			if errors.Is(err, errBehind) {
				behind++
			} else {
				behind = 0
			}
			if behind > 1 { // once may be a change that is on its way
				return err
			}
		}
	}
}

// confirm compares the copy with the bucket.
func (f *Follower) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	asked := time.Now()
	last, err := f.lastSequence(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen < last {
		return errBehind
	}
	f.confirmed = asked
	return nil
}

func (f *Follower) lastSequence(ctx context.Context) (uint64, error) {
	status, err := f.kv.Status(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask for the state of bucket %s: %w", Bucket, err)
	}
	bucket, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return 0, fmt.Errorf("ask for the state of bucket %s: unexpected answer %T", Bucket, status)
	}
	return bucket.StreamInfo().State.LastSeq, nil
}

func (f *Follower) change(entry jetstream.KeyValueEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apply(f.byID, entry)
	f.seen = max(f.seen, entry.Revision())
}

// apply fails closed: an entry that cannot be read opens nothing.
func (f *Follower) apply(byID map[string]*Key, entry jetstream.KeyValueEntry) {
	if entry.Operation() != jetstream.KeyValuePut {
		delete(byID, entry.Key())
		return
	}
	k, err := decode(entry.Key(), entry.Value())
	if err != nil {
		delete(byID, entry.Key())
		f.log.Error("an API key cannot be read and opens nothing", slog.String("key_id", entry.Key()), slog.Any("error", err))
		return
	}
	byID[k.ID] = &k
}

// Authenticate is the key of this text if it is valid now and from this address, else ErrRefused. The key must not be changed.
func (f *Follower) Authenticate(text string, source netip.Addr, now time.Time) (*Key, error) {
	id, ok := parse(text)
	if !ok {
		return nil, ErrRefused
	}
	f.mu.RLock()
	k, known := f.byID[id]
	f.mu.RUnlock()
	var want digest // of no text
	if known {
		want = k.Hash
	}
	// The same work for unknown keys as for wrong ones.
	if match := digestOf(text).equal(want); !match || !known || !k.usable(now, source) {
		return nil, ErrRefused
	}
	return k, nil
}

// Staleness is how long ago the copy was last proven to be complete.
func (f *Follower) Staleness() time.Duration {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return time.Since(f.confirmed)
}

// Check says since how long the copy could not be confirmed, nil when it was lately.
func (f *Follower) Check() error {
	if age := f.Staleness(); age > staleAfter {
		return fmt.Errorf("%d keys from memory: changes of the last %s may be missing (NATS cannot be asked)", f.Len(), age.Round(time.Second))
	}
	return nil
}

// Len is how many keys are known.
func (f *Follower) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.byID)
}

// Note tells an operator how many keys are known.
func (f *Follower) Note() string { return fmt.Sprintf("%d keys", f.Len()) }
