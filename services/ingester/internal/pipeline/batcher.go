package pipeline

import (
	"time"

	"example.com/auditlog/services/ingester/internal/ledger"
)

// batch is consecutive messages of one partition, judged.
type batch struct {
	judgement
	bytes int       // of payload
	cost  int       // of memory
	since time.Time // when the first one came in
	// traced are the messages with a producer's span.
	traced []tracedMessage
}

// batcher judges the messages of one partition as they come, gathers what they come to, and says when it should go. It is pure: the caller
// brings the time, and guards it.
type batcher struct {
	maxEvents, maxBytes  int
	lingerMin, lingerMax time.Duration
	lingerBehind         time.Duration

	judge  *judge
	hash   ledger.Digest // of the newest batch that is full or was taken: the next one's begins with it
	closed []batch       // full, oldest first
	open   batch
}

// add takes in a message that came at now, and returns what it costs of memory. The message may be reused afterwards.
func (b *batcher) add(m *Message, now time.Time) (cost int) {
	if n := b.open.entry.Messages; n > 0 && (n >= b.maxEvents || b.open.bytes+len(m.Data) > b.maxBytes) {
		b.closed = append(b.closed, b.seal())
	}
	if b.open.entry.Messages == 0 {
		b.open = batch{judgement: b.judge.begin(b.hash), since: now}
	}
	cost = b.judge.add(&b.open.judgement, m)
	b.open.bytes += len(m.Data)
	b.open.cost += cost
	if m.Parent != nil {
		b.open.trace(m)
	}
	return cost
}

// seal ends the open batch and returns it.
func (b *batcher) seal() batch {
	out := b.open
	b.judge.seal(&out.judgement)
	b.open, b.hash = batch{}, out.entry.Hash
	return out
}

// readiness is a batcher's opinion on whether its oldest batch should go.
type readiness int

const (
	// empty: there is nothing to send.
	empty readiness = iota
	// wait: more may come and nobody has waited long.
	wait
	// may: it has waited as long as is good when there is little else to do.
	may
	// must: it has waited as long as is good at all.
	must
	// full: there is no room in it.
	full
)

// ready says what to do at now and, for wait and may, when that changes by itself. behind says that there is much to read and room for it.
func (b *batcher) ready(now time.Time, behind bool) (readiness, time.Time) {
	age := now.Sub(b.open.since)
	switch {
	case len(b.closed) > 0:
		return full, now
	case b.open.entry.Messages == 0:
		return empty, time.Time{}
	case b.open.entry.Messages >= b.maxEvents, b.open.bytes >= b.maxBytes:
		return full, now
	case behind && age < b.lingerBehind:
		return wait, b.open.since.Add(b.lingerBehind)
	case age >= b.lingerMax:
		return must, now
	case age >= b.lingerMin:
		return may, b.open.since.Add(b.lingerMax)
	}
	return wait, b.open.since.Add(b.lingerMin)
}

// take removes and returns the oldest batch.
func (b *batcher) take() batch {
	if len(b.closed) > 0 {
		out := b.closed[0]
		b.closed = b.closed[1:]
		return out
	}
	return b.seal()
}

// forget drops everything that was gathered and returns what it cost of memory.
func (b *batcher) forget() (cost int) {
	for _, gone := range append(b.closed, b.open) {
		b.judge.release(&gone.judgement)
		cost += gone.cost
	}
	b.closed, b.open = nil, batch{}
	return cost
}

// oldest is when the oldest message came into the stream; the zero time when there is none.
func (b *batcher) oldest() time.Time {
	if len(b.closed) > 0 {
		return b.closed[0].firstTime
	}
	return b.open.firstTime
}

// events is how many messages wait.
func (b *batcher) events() int {
	n := b.open.entry.Messages
	for _, c := range b.closed {
		n += c.entry.Messages
	}
	return n
}
