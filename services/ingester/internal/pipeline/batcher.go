package pipeline

import "time"

// batch is consecutive messages of one partition.
type batch struct {
	msgs  []Message
	bytes int       // of payload
	cost  int       // of memory
	since time.Time // when the first one came in
}

// batcher gathers the messages of one partition and says when they should go. It is pure: the caller brings the time, and guards it.
type batcher struct {
	maxEvents, maxBytes  int
	lingerMin, lingerMax time.Duration

	closed []batch // full, oldest first
	open   batch
	spare  []Message // memory of a batch that is done, for the next one
}

// add takes in a message that came at now.
func (b *batcher) add(m Message, now time.Time) {
	if n := len(b.open.msgs); n > 0 && (n >= b.maxEvents || b.open.bytes+len(m.Data) > b.maxBytes) {
		b.closed = append(b.closed, b.open)
		b.open = batch{}
	}
	if len(b.open.msgs) == 0 {
		b.open.since = now
	}
	if b.open.msgs == nil {
		b.open.msgs, b.spare = b.spare, nil
	}
	b.open.msgs = append(b.open.msgs, m)
	b.open.bytes += len(m.Data)
	b.open.cost += m.bytes()
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
	// must: it is full, or has waited as long as is good at all.
	must
)

// ready says what to do at now and, for wait and may, when that changes by itself.
func (b *batcher) ready(now time.Time) (readiness, time.Time) {
	age := now.Sub(b.open.since)
	switch {
	case len(b.closed) > 0:
		return must, now
	case len(b.open.msgs) == 0:
		return empty, time.Time{}
	case len(b.open.msgs) >= b.maxEvents, b.open.bytes >= b.maxBytes, age >= b.lingerMax:
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
	out := b.open
	b.open = batch{}
	return out
}

// reuse takes back the memory of a batch that take returned and nobody looks at any more.
func (b *batcher) reuse(msgs []Message) {
	clear(msgs) // the payloads are large
	b.spare = msgs[:0]
}

// oldest is when the oldest message came into the stream; the zero time when there is none.
func (b *batcher) oldest() time.Time {
	switch {
	case len(b.closed) > 0:
		return b.closed[0].msgs[0].Time
	case len(b.open.msgs) > 0:
		return b.open.msgs[0].Time
	}
	return time.Time{}
}

// events is how many messages wait.
func (b *batcher) events() int {
	n := len(b.open.msgs)
	for _, c := range b.closed {
		n += len(c.msgs)
	}
	return n
}
