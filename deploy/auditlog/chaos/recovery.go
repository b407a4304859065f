package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

const recoveryPoll = 200 * time.Millisecond

// recovery measures how long after a fault's end everything that was acknowledged by then is in the table.
type recovery struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	journal *journal

	mu      sync.Mutex // guards what follows
	waiting []healing
	longest time.Duration
	worst   string // the fault it took longest after
}

// healing is a fault that has ended, and how far the partitions must come.
type healing struct {
	what  string
	ended time.Time
	goals map[int]uint64
}

func newRecovery(url string, j *journal) (*recovery, error) {
	nc, err := nats.Connect(url, nats.Name("chaos"), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &recovery{nc: nc, js: js, journal: j}, nil
}

// after begins the measurement for a fault that has just ended.
func (r *recovery) after(number int, f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, healing{what: fmt.Sprintf("fault %d, %s", number, f), ended: time.Now(), goals: r.journal.reached()})
}

// run measures until ctx is done.
func (r *recovery) run(ctx context.Context) {
	for sleep(ctx, recoveryPoll) {
		r.mu.Lock()
		idle := len(r.waiting) == 0
		r.mu.Unlock()
		if idle {
			continue
		}
		if at, err := r.positions(ctx); err == nil {
			r.look(at)
		}
	}
}

// look takes off the list what has healed.
func (r *recovery) look(at map[int]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := r.waiting[:0]
	for _, h := range r.waiting {
		if behind(at, h.goals) != "" {
			rest = append(rest, h)
		} else if took := time.Since(h.ended); took > r.longest {
			r.longest, r.worst = took, h.what
		}
	}
	r.waiting = rest
}

// positions is how far each partition is known to be in the table.
func (r *recovery) positions(ctx context.Context) (map[int]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	kv, err := r.js.KeyValue(ctx, "audit_positions")
	if err != nil {
		return nil, fmt.Errorf("open the positions: %w", err)
	}
	out := map[int]uint64{}
	for p := range partitions {
		e, err := kv.Get(ctx, strconv.Itoa(p))
		if err != nil {
			continue // none yet, which is 0
		}
		var pos struct {
			LastSeq uint64 `json:"last_seq"`
		}
		if err := json.Unmarshal(e.Value(), &pos); err != nil {
			return nil, fmt.Errorf("read the position of partition %d: %w", p, err)
		}
		out[p] = pos.LastSeq
	}
	return out, ctx.Err()
}

// behind says which partition has not reached its goal, or nothing.
func behind(at, goals map[int]uint64) string {
	for p, goal := range goals {
		if at[p] < goal {
			return fmt.Sprintf("partition %d is at sequence %d of %d", p, at[p], goal)
		}
	}
	return ""
}

// drain waits until every message of the stream is committed. The error says which partition hangs.
func (r *recovery) drain(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var why string
	for {
		goals, err := r.ends(ctx)
		var at map[int]uint64
		if err == nil {
			at, err = r.positions(ctx)
		}
		if err != nil {
			why = err.Error()
		} else if why = behind(at, goals); why == "" {
			r.look(at)
			return nil
		}
		if !sleep(ctx, recoveryPoll) {
			return fmt.Errorf("not everything is in the table %s after the last fault: %s", patience, why)
		}
	}
}

// ends is the last sequence of each partition in the stream.
func (r *recovery) ends(ctx context.Context) (map[int]uint64, error) {
	stream, err := r.js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return nil, fmt.Errorf("open the stream: %w", err)
	}
	out := map[int]uint64{}
	for p := range partitions {
		m, err := stream.GetLastMsgForSubject(ctx, fmt.Sprintf("audit.log.%d.*", p))
		if err == nil {
			out[p] = m.Sequence
		} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, fmt.Errorf("read the end of partition %d: %w", p, err)
		}
	}
	return out, nil
}
