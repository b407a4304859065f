// Package lease decides which ingester drives which partition.
//
// Every ingester keeps a heartbeat in a key-value bucket, which says what it drives. From the members heard of lately each computes the same
// assignment. Who gets a partition waits until the former driver has let go of it or is not heard of any more. This is for order, not for
// safety: two that disagree are kept apart by the ledger.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/pkg/service/shard"
)

// Timing of heartbeats.
const (
	// DefaultHeartbeat is the time between two heartbeats.
	DefaultHeartbeat = time.Second
	// DefaultTTL is how long a member that is not heard of counts as alive.
	DefaultTTL = 4 * time.Second
)

// Config names a member.
type Config struct {
	// Instance is the member's name, unique, and fit for a key: letters, digits, dash and underscore.
	Instance   string
	Partitions int
	// Shard is whose partitions this member shares, with the other members of the same shard.
	Shard     shard.Shard
	Heartbeat time.Duration
	TTL       time.Duration
}

// Members is this process's view of who drives what. It implements pipeline.Members.
type Members struct {
	cfg     Config
	kv      jetstream.KeyValue
	log     *slog.Logger
	changed chan struct{}
	beat    chan struct{} // asks for a heartbeat at once

	mu     sync.Mutex // guards what follows
	holds  map[int]bool
	others map[string]member // by instance
	known  bool              // the bucket's content has been read once
	valid  time.Time         // until when the others count on us
	mine   []int             // last assignment, for the log
}

// member is another ingester, as last heard of.
type member struct {
	holds []int
	heard time.Time
}

// heartbeat is the value of a member's key.
type heartbeat struct {
	Holds []int `json:"holds"`
	// Shard is absent when there is one alone.
	Shard string `json:"shard,omitempty"`
}

// ours says whether the heartbeat is of a member of our shard.
func (m *Members) ours(h heartbeat) bool {
	return h.Shard == m.cfg.Shard.String() || h.Shard == "" && m.cfg.Shard.Alone()
}

// New returns the view of the member; Run makes it one.
func New(cfg Config, kv jetstream.KeyValue, log *slog.Logger, reg prometheus.Registerer) *Members {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	m := &Members{
		cfg: cfg, kv: kv, log: log,
		changed: make(chan struct{}, 1), beat: make(chan struct{}, 1),
		holds: map[int]bool{}, others: map[string]member{},
	}
	gauge := func(name, help string, fn func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "audit", Subsystem: "ingester", Name: name, Help: help},
			func() float64 { return float64(fn()) }))
	}
	gauge("members", "Ingesters alive, this one included.", func() int { m.mu.Lock(); defer m.mu.Unlock(); return len(m.alive(time.Now())) })
	gauge("lease_partitions", "Partitions assigned to this process.", func() int { m.mu.Lock(); defer m.mu.Unlock(); return len(m.assigned(time.Now())) })
	gauge("lease_valid", "1 while the other ingesters count on this one.", func() int {
		if m.Valid() {
			return 1
		}
		return 0
	})
	return m
}

// Run keeps the heartbeat and listens to those of others until ctx is done. It never gives up: without NATS it tries again.
func (m *Members) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { m.watch(ctx) })
	m.keepAlive(ctx)
	wg.Wait()
	return nil
}

// Leave takes this process off the list at once. Call it when nothing is driven any more and Run has returned.
func (m *Members) Leave(ctx context.Context) error {
	if err := m.kv.Delete(ctx, m.cfg.Instance); err != nil {
		return fmt.Errorf("take own heartbeat away: %w", err)
	}
	return nil
}

// Wanted implements pipeline.Members.
func (m *Members) Wanted() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	held := map[int]bool{}
	for _, name := range m.alive(now) {
		for _, p := range m.others[name].holds {
			held[p] = true
		}
	}
	return slices.DeleteFunc(m.assigned(now), func(p int) bool { return held[p] && !m.holds[p] })
}

// Changed implements pipeline.Members.
func (m *Members) Changed() <-chan struct{} { return m.changed }

// Hold implements pipeline.Members.
func (m *Members) Hold(partition int) {
	m.mu.Lock()
	m.holds[partition] = true
	m.mu.Unlock()
	poke(m.beat)
}

// Release implements pipeline.Members.
func (m *Members) Release(partition int) {
	m.mu.Lock()
	delete(m.holds, partition)
	m.mu.Unlock()
	poke(m.beat)
}

// Valid implements pipeline.Members. A heartbeat counts from before it was sent, so that others always see us alive for longer than we do.
func (m *Members) Valid() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.valid)
}

// assigned returns the partitions that are ours; none before it is known who else is there. The caller holds mu.
func (m *Members) assigned(now time.Time) (mine []int) {
	if !m.known {
		return nil
	}
	own := m.cfg.Shard.Partitions(m.cfg.Partitions)
	for i, name := range Assign(m.alive(now), len(own)) {
		if name == m.cfg.Instance {
			mine = append(mine, own[i])
		}
	}
	return mine
}

// alive returns all members heard of lately, sorted, this one included. The caller holds mu.
func (m *Members) alive(now time.Time) []string {
	names := []string{m.cfg.Instance}
	for name, o := range m.others {
		if now.Sub(o.heard) < m.cfg.TTL {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// keepAlive writes the heartbeat, in time and when asked, and looks for members that have fallen silent.
func (m *Members) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(m.cfg.Heartbeat)
	defer ticker.Stop()
	for {
		m.write(ctx)
		m.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-m.beat:
		}
	}
}

func (m *Members) write(ctx context.Context) {
	m.mu.Lock()
	h := heartbeat{Holds: []int{}}
	if !m.cfg.Shard.Alone() {
		h.Shard = m.cfg.Shard.String()
	}
	for p := range m.holds {
		h.Holds = append(h.Holds, p)
	}
	m.mu.Unlock()
	slices.Sort(h.Holds)
	data, err := json.Marshal(h)
	if err != nil {
		return // a list of numbers always encodes
	}
	start := time.Now()
	wctx, cancel := context.WithTimeout(ctx, m.cfg.TTL/2)
	defer cancel()
	if _, err := m.kv.Put(wctx, m.cfg.Instance, data); err != nil {
		if ctx.Err() == nil {
			m.log.WarnContext(ctx, "could not write the heartbeat, trying again", slog.Any("error", err))
		}
		return
	}
	m.mu.Lock()
	m.valid = start.Add(m.cfg.TTL)
	m.mu.Unlock()
}

// look forgets members that have fallen silent and says so when what is ours changes.
func (m *Members) look(ctx context.Context) {
	now := time.Now()
	m.mu.Lock()
	for name, o := range m.others {
		if now.Sub(o.heard) >= m.cfg.TTL {
			delete(m.others, name)
			m.log.WarnContext(ctx, "an ingester is not heard of any more", slog.String("instance", name), slog.Any("held", o.holds))
		}
	}
	mine := m.assigned(now)
	differs := !slices.Equal(mine, m.mine)
	m.mine = mine
	members := len(m.others) + 1
	m.mu.Unlock()
	if differs {
		m.log.InfoContext(ctx, "partitions assigned", slog.Any("partitions", mine), slog.Int("members", members))
	}
	poke(m.changed)
}

// watch follows the heartbeats of the others.
func (m *Members) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			m.log.WarnContext(ctx, "lost sight of the other ingesters, trying again", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(m.cfg.Heartbeat / 2):
		}
	}
}

func (m *Members) follow(ctx context.Context) error {
	w, err := m.kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch heartbeats: %w", err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Updates():
			if !ok {
				return errors.New("watch of heartbeats ended")
			}
			m.heard(ctx, e)
		}
	}
}

// heard takes in one heartbeat; nil marks the end of those that were there before.
func (m *Members) heard(ctx context.Context, e jetstream.KeyValueEntry) {
	m.mu.Lock()
	if e == nil {
		m.known = true
	} else if e.Key() != m.cfg.Instance {
		m.heardOther(ctx, e)
	}
	m.mu.Unlock()
	m.look(ctx)
}

// heardOther takes in the heartbeat of another member. The caller holds mu.
func (m *Members) heardOther(ctx context.Context, e jetstream.KeyValueEntry) {
	name := e.Key()
	_, before := m.others[name]
	if e.Operation() != jetstream.KeyValuePut {
		if before {
			delete(m.others, name)
			m.log.InfoContext(ctx, "an ingester has left", slog.String("instance", name))
		}
		return
	}
	var h heartbeat
	_ = json.Unmarshal(e.Value(), &h) // one that cannot be read holds nothing
	if !m.ours(h) {
		return // another shard's, whose partitions are others
	}
	m.others[name] = member{holds: h.Holds, heard: time.Now()}
	if !before {
		m.log.InfoContext(ctx, "another ingester is there", slog.String("instance", name))
	}
}

// poke leaves a value in a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
