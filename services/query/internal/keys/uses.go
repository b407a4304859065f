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

// UsesBucket holds when a key was last used: key id → RFC 3339. It is not the bucket of the keys, whose followers must not be woken by reads.
const UsesBucket = "audit_key_uses"

const (
	// UseEvery is how exact the time of a key's last use is: it is written at most once in that time by each service.
	UseEvery = 5 * time.Minute
	// flushEvery is how soon a first use is written.
	flushEvery   = time.Second
	usesTimeout  = 5 * time.Second
	usesRetry    = time.Minute
	usesNoteLife = 2 * UseEvery
)

// Uses authenticates and notes when keys are used. Its notes are written while Run runs; when they cannot be, reads go on. It is safe for
// concurrent use.
type Uses struct {
	follower *Follower
	nc       *nats.Conn
	log      *slog.Logger

	mu    sync.Mutex
	noted map[string]time.Time // the last use that is written or due
	due   map[string]time.Time // what is to be written
}

// NoteUses puts notes of uses around a follower.
func NoteUses(f *Follower, nc *nats.Conn, log *slog.Logger) *Uses {
	return &Uses{follower: f, nc: nc, log: log, noted: map[string]time.Time{}, due: map[string]time.Time{}}
}

// Authenticate asks the follower, and notes the use of a key that is valid.
func (u *Uses) Authenticate(text string, source netip.Addr, now time.Time) (*Key, error) {
	k, err := u.follower.Authenticate(text, source, now)
	if err == nil {
		u.note(k.ID, now)
	}
	return k, err
}

func (u *Uses) note(id string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.noted[id]) >= UseEvery {
		u.noted[id], u.due[id] = now, now
	}
}

// Run writes notes until ctx ends, then those that are due. It returns nil.
func (u *Uses) Run(ctx context.Context) error {
	wait := flushEvery
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = flushEvery
		if err := u.flush(context.WithoutCancel(ctx)); err != nil {
			wait = usesRetry
			u.log.Warn("the last uses of API keys cannot be written", slog.Any("error", err))
		}
	}
	return nil
}

// flush writes what is due. What fails stays due.
func (u *Uses) flush(ctx context.Context) error {
	due := u.take()
	if len(due) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, usesTimeout)
	defer cancel()
	err := func() error {
		kv, err := u.bucket(ctx)
		if err != nil {
			return err
		}
		for id, at := range due {
			if _, err := kv.PutString(ctx, id, at.UTC().Format(time.RFC3339)); err != nil {
				return fmt.Errorf("write the last use of key %s: %w", id, err)
			}
			delete(due, id)
		}
		return nil
	}()
	u.giveBack(due)
	return err
}

func (u *Uses) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	js, err := jetstream.New(u.nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return EnsureBucket(ctx, js, jetstream.KeyValueConfig{Bucket: UsesBucket, Description: "when API keys were last used", Storage: jetstream.FileStorage})
}

// take removes what is due, and forgets keys that are not in use.
func (u *Uses) take() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	due := u.due
	u.due = map[string]time.Time{} // a new one even for an empty one: note writes to it while the caller reads the old
	for id, at := range u.noted {
		if time.Since(at) > usesNoteLife {
			delete(u.noted, id)
		}
	}
	return due
}

func (u *Uses) giveBack(due map[string]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range due {
		if newer, ok := u.due[id]; !ok || newer.Before(at) {
			u.due[id] = at
		}
	}
}

// LastUses is when keys were last used, as the services noted it; keys that never were are not in it.
func LastUses(ctx context.Context, nc *nats.Conn) (map[string]time.Time, error) {
	uses := map[string]time.Time{}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	kv, err := js.KeyValue(ctx, UsesBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return uses, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open key-value bucket %s: %w", UsesBucket, err)
	}
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("read the last uses of keys: %w", err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read the last uses of keys: %w", ctx.Err())
		case entry, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("read the last uses of keys: the connection to NATS was closed")
			}
			if entry == nil {
				return uses, nil
			}
			if at, err := time.Parse(time.RFC3339, string(entry.Value())); err == nil {
				uses[entry.Key()] = at
			}
		}
	}
}
