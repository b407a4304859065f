package pipeline

import "sync"

// memory bounds the messages held by all drivers together. Safe for concurrent use.
type memory struct {
	mu    sync.Mutex
	freed sync.Cond
	used  int
	limit int
}

func newMemory(limit int) *memory {
	m := &memory{limit: limit}
	m.freed.L = &m.mu
	return m
}

// take waits until there is room for n bytes and takes it; a single message always finds room in an empty memory. It returns false, and
// takes nothing, once stopped says so; wake must be called when that changes.
func (m *memory) take(n int, stopped func() bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.used > 0 && m.used+n > m.limit {
		if stopped() {
			return false
		}
		m.freed.Wait()
	}
	m.used += n
	return true
}

// give returns n bytes.
func (m *memory) give(n int) {
	m.mu.Lock()
	m.used -= n
	m.mu.Unlock()
	m.freed.Broadcast()
}

// wake makes every waiter look whether it should stop.
func (m *memory) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.freed.Broadcast()
}

// tight says that more than half is taken: batches should go rather than grow.
func (m *memory) tight() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used > m.limit/2
}

func (m *memory) inUse() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}
