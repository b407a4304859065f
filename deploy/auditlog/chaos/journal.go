package main

import (
	"sync"
	"time"

	"github.com/google/uuid"
)

// entry is one event that was published.
type entry struct {
	tenant uuid.UUID
	writer int // the goroutine that published it
	n      int // its place among what the writer published
	acked  bool
	at     time.Duration // of the acknowledgement
	seq    uint64        // by the acknowledgement
}

// letter is one message that cannot be a row.
type letter struct {
	tenant uuid.UUID
	acked  bool
}

// journal is what the producer knows: the truth that the log is held against. Safe for concurrent use.
type journal struct {
	began time.Time

	mu      sync.Mutex // guards what follows
	events  map[uuid.UUID]*entry
	letters map[string]*letter // by their text
	acked   int
	again   int            // events published once more and acknowledged
	newest  map[int]uint64 // the highest acknowledged sequence of each partition
}

func newJournal() *journal {
	return &journal{
		began: time.Now(), events: map[uuid.UUID]*entry{}, letters: map[string]*letter{}, newest: map[int]uint64{},
	}
}

// published notes an event before it is sent.
func (j *journal) published(id, tenant uuid.UUID, writer, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events[id] = &entry{tenant: tenant, writer: writer, n: n}
}

// unsent takes back what was never sent: it must not be in the log.
func (j *journal) unsent(id uuid.UUID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.events, id)
}

// acknowledged notes that the stream has the event.
func (j *journal) acknowledged(id uuid.UUID, partition int, seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.events[id]
	e.acked, e.seq, e.at = true, seq, time.Since(j.began)
	j.acked++
	j.newest[partition] = max(j.newest[partition], seq)
}

// refuse notes a poison message before it is sent, refused that the stream has it.
func (j *journal) refuse(text string, tenant uuid.UUID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.letters[text] = &letter{tenant: tenant}
}

func (j *journal) refused(text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.letters[text].acked = true
}

func (j *journal) repeated() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.again++
}

// reached is the highest acknowledged sequence of each partition.
func (j *journal) reached() map[int]uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make(map[int]uint64, len(j.newest))
	for p, seq := range j.newest {
		out[p] = seq
	}
	return out
}
