package pipeline

import (
	"sync"
	"sync/atomic"
)

// memory bounds what all drivers hold together. Safe for concurrent use.
type memory struct {
	limit int64
	used  atomic.Int64

	mu    sync.Mutex
	freed sync.Cond
}

func newMemory(limit int) *memory {
	m := &memory{limit: int64(limit)}
	m.freed.L = &m.mu
	return m
}

// room waits until the limit is not reached, so that it is exceeded by one message for each reader at most. It returns false once stopped says
// so; wake must be called when that changes.
func (m *memory) room(stopped func() bool) bool {
	if m.used.Load() < m.limit {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.used.Load() >= m.limit {
		if stopped() {
			return false
		}
		m.freed.Wait()
	}
	return true
}

// take notes n bytes as used.
func (m *memory) take(n int) { m.used.Add(int64(n)) }

// give returns n bytes.
func (m *memory) give(n int) {
	m.used.Add(-int64(n))
	m.wake()
}

// wake makes every waiter look whether there is room or it should stop.
func (m *memory) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.freed.Broadcast()
}

// tight says that more than three quarters are taken: batches should go rather than grow, and the rest is for reading on meanwhile.
func (m *memory) tight() bool { return m.used.Load() > m.limit/4*3 }

func (m *memory) inUse() int { return int(m.used.Load()) }
