package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	healed  []healing
}

// healing is a fault that has ended, and how far the partitions must come.
type healing struct {
	what  string
	kind  Kind
	ended time.Time
	goals map[int]uint64
	took  time.Duration // until they had come that far
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
	r.waiting = append(r.waiting, healing{what: fmt.Sprintf("fault %d, %s", number, f), kind: f.Kind, ended: time.Now(), goals: r.journal.reached()})
}

// healing says whether something has not recovered yet.
func (r *recovery) healing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting) > 0
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
		} else {
			h.took = time.Since(h.ended)
			r.healed = append(r.healed, h)
		}
	}
	r.waiting = rest
}

// kinds says for each kind of fault how long the recoveries took.
func (r *recovery) kinds() (lines []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range shapes {
		var took []time.Duration
		for _, h := range r.healed {
			if h.kind == s.kind {
				took = append(took, h.took)
			}
		}
		if len(took) > 0 {
			slices.Sort(took)
			lines = append(lines, fmt.Sprintf("%-28s %3d times, half within %s, at most %s", s.kind, len(took),
				took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond)))
		}
	}
	return lines
}

// slowest says how long half and nine of ten recoveries took at most, and after which faults the longest did.
func (r *recovery) slowest() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.healed) == 0 {
		return "nothing recovered"
	}
	sorted := slices.SortedFunc(slices.Values(r.healed), func(a, b healing) int { return cmp.Compare(b.took, a.took) })
	within := func(share float64) time.Duration {
		return sorted[int(float64(len(sorted)-1)*(1-share))].took.Round(time.Millisecond)
	}
	text := fmt.Sprintf("half within %s, nine of ten within %s, at most %s", within(0.5), within(0.9), within(1))
	for _, h := range sorted[:min(3, len(sorted))] {
		text += fmt.Sprintf("; %s: %s", h.what, h.took.Round(time.Millisecond))
	}
	return text
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
