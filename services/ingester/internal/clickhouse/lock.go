package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
)

const (
	// lockPoll is how long a process waits before it asks again for a lock that another one has.
	lockPoll = 200 * time.Millisecond
	// lockBeat is how often the query that is the lock gives a sign of life.
	lockBeat = 50 * time.Millisecond
	// codeSameQueryID is the server's answer to a query id that is in use.
	codeSameQueryID = 216
)

// errLockLost ends what a lock protects.
var errLockLost = errors.New("the query that holds the lock has ended")

// lock waits until this process alone has the lock of that name on the server. ClickHouse has no locks, but it refuses a query whose id is that of a
// running one, and ends the query of a client that has gone: a query that does nothing is a lock that nobody can leave behind. held ends when the lock
// is lost, and by release. A server that restarts forgets the lock: what it protects must bear that.
func (s *Store) lock(ctx context.Context, name string) (held context.Context, release func(), err error) {
	opts := *s.opts
	opts.MaxOpenConns, opts.MaxIdleConns = 1, 1
	db, err := chgo.Open(&opts)
	if err != nil {
		return nil, nil, fmt.Errorf("open clickhouse: %w", err)
	}
	for {
		held, end, err := hold(ctx, db, name)
		if err == nil {
			return held, func() { end(); _ = db.Close() }, nil
		}
		var e *chgo.Exception
		if ctx.Err() != nil || !errors.As(err, &e) || e.Code != codeSameQueryID {
			_ = db.Close()
			return nil, nil, fmt.Errorf("take the lock %s: %w", name, classify(err))
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
		}
	}
}

// hold starts the query and returns once it runs.
func hold(ctx context.Context, db chgo.Conn, name string) (held context.Context, release func(), err error) {
	held, cancel := context.WithCancelCause(ctx)
	running := make(chan struct{})
	once := sync.OnceFunc(func() { close(running) })
	ended := make(chan struct{})
	var ending error
	query := chgo.Context(held, chgo.WithQueryID(name), chgo.WithProgress(func(*chgo.Progress) { once() }),
		chgo.WithSettings(chgo.Settings{"max_block_size": 1, "max_execution_time": 0, "max_rows_to_read": 0, "max_threads": 1}))
	go func() {
		ending = db.Exec(query, fmt.Sprintf("SELECT max(sleepEachRow(%g)) FROM system.numbers", lockBeat.Seconds()))
		close(ended)
		cancel(fmt.Errorf("%w: %w", errLockLost, ending))
	}()
	select {
	case <-running:
		return held, func() { cancel(nil); <-ended }, nil
	case <-ended:
		return nil, nil, ending
	}
}
