package pipeline

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"example.com/auditlog/services/ingester/internal/ledger"
)

func testJudge() *judge { return newJudge(0, newBlockPool(func() Block { return &block{} }, 1), nil) }

// Ensure that, whatever comes and whenever a batch is taken, each message leaves exactly once, in order, and no batch is over a bound.
func TestBatcherProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := batcher{
			judge: testJudge(), maxEvents: rapid.IntRange(1, 10).Draw(t, "maxEvents"), maxBytes: rapid.IntRange(1, 100).Draw(t, "maxBytes"),
			lingerMin: 40 * time.Millisecond, lingerMax: 750 * time.Millisecond,
		}
		now := time.Unix(0, 0)
		in, out := uint64(0), uint64(0)
		waiting, cost := 0, 0
		var hash ledger.Digest
		take := func() {
			got := b.take()
			bytes, n := 0, got.entry.Messages
			hasher := ledger.NewHasher(hash)
			for i, l := range got.dead { // none of these messages is an event
				out++
				if l.Seq != out || i == 0 && got.entry.FirstSeq != out {
					t.Fatalf("message %d left, want %d", l.Seq, out)
				}
				bytes += len(l.Data)
				cost -= l.bytes()
				hasher.Add(l.Seq, l.Time, l.Subject, l.Data)
			}
			waiting -= n
			if n == 0 || n != len(got.dead) || got.entry.LastSeq != out || n > b.maxEvents || (bytes > b.maxBytes && n > 1) || bytes != got.bytes {
				t.Fatalf("batch of %d messages and %d bytes (says %d), bounds are %d and %d", n, bytes, got.bytes, b.maxEvents, b.maxBytes)
			}
			if got.entry.PrevHash != hash || got.entry.Hash != hasher.Sum() {
				t.Fatal("the chain of hashes is broken")
			}
			hash = got.entry.Hash
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				in++
				m := Message{Seq: in, Data: make([]byte, rapid.IntRange(0, 120).Draw(t, "size"))}
				waiting++
				cost += b.add(&m, now)
			},
			"pass time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 800).Draw(t, "ms")) * time.Millisecond)
			},
			"take when due": func(*rapid.T) {
				if r, _ := b.ready(now, false); r >= may {
					take()
				}
			},
			"": func(t *rapid.T) {
				r, until := b.ready(now, false)
				if (r == empty) != (waiting == 0) || b.events() != waiting {
					t.Fatalf("readiness %d and %d events with %d messages waiting", r, b.events(), waiting)
				}
				if r == wait && !until.After(now) {
					t.Fatalf("waits until %s, now is %s", until, now)
				}
			},
		})
		for waiting > 0 {
			take()
		}
		if out != in || cost != 0 || b.open.cost != 0 {
			t.Fatalf("%d in, %d out, cost left %d", in, out, cost)
		}
	})
}

// Ensure the waits: young batches wait, older ones may go, old or full ones must; behind the stream they wait longer, until they are full.
func TestBatcherReadiness(t *testing.T) {
	start := time.Unix(0, 0)
	b := batcher{judge: testJudge(), maxEvents: 2, maxBytes: 100, lingerMin: 40 * time.Millisecond, lingerMax: 750 * time.Millisecond, lingerBehind: 3 * time.Second}
	behind := false
	check := func(after time.Duration, want readiness) {
		t.Helper()
		if got, _ := b.ready(start.Add(after), behind); got != want {
			t.Errorf("after %s: %d, want %d", after, got, want)
		}
	}
	check(time.Hour, empty)
	b.add(&Message{}, start)
	check(0, wait)
	check(39*time.Millisecond, wait)
	check(40*time.Millisecond, may)
	check(749*time.Millisecond, may)
	check(750*time.Millisecond, must)
	behind = true
	check(2999*time.Millisecond, wait)
	check(3*time.Second, must)
	b.add(&Message{}, start)
	check(0, full)
}

// Ensure a trickle goes at once while a steady stream over many partitions is held to the rate.
func TestPacer(t *testing.T) {
	const rate, partitions = DefaultInsertRate, 16
	cfg := Config{}
	cfg.setDefaults()
	p := newPacer(rate)
	now := time.Unix(0, 0)
	for i := range 50 { // ten a second
		now = now.Add(100 * time.Millisecond)
		if ok, _ := p.take(now, false); !ok {
			t.Fatalf("trickle: event %d has to wait", i)
		}
	}
	var batchers [partitions]batcher
	for i := range batchers {
		batchers[i] = batcher{judge: testJudge(), maxEvents: 1 << 20, maxBytes: 1 << 30, lingerMin: cfg.LingerMin, lingerMax: cfg.LingerMax}
	}
	inserts, oldest := 0, time.Duration(0)
	const seconds = 60
	for ms := range seconds * 1000 { // a thousand a second
		now = now.Add(time.Millisecond)
		batchers[ms*7%partitions].add(&Message{}, now)
		for i := range batchers {
			r, _ := batchers[i].ready(now, false)
			if r < may {
				continue
			}
			if ok, _ := p.take(now, r == must); ok {
				inserts++
				oldest = max(oldest, now.Sub(batchers[i].take().since))
			}
		}
	}
	if perSecond := float64(inserts) / seconds; perSecond > 1.1*partitions/cfg.LingerMax.Seconds() || oldest > cfg.LingerMax+time.Millisecond {
		t.Errorf("%.1f inserts a second, oldest event waited %s", perSecond, oldest)
	}
}

// Ensure what goes for want of room, in the batch or in memory, leaves the permits to what is small when a backlog has come to its end.
func TestFullBatchesTakeNoPermit(t *testing.T) {
	cfg := Config{}
	cfg.setDefaults()
	now := time.Unix(1_000_000, 0)
	for name, c := range map[string]struct {
		messages, memory int
		want             float64 // permits left of three
	}{
		"small":  {messages: 1, want: 2},
		"full":   {messages: 2, want: 3},
		"closed": {messages: 3, want: 3},
		"tight":  {messages: 1, memory: 90, want: 3},
	} {
		p := &Pipeline{cfg: cfg, pacer: &pacer{rate: 1, burst: 3, level: 3}, memory: newMemory(100)}
		d := &driver{Pipeline: p, gather: batcher{judge: testJudge(), maxEvents: 2, maxBytes: 1 << 20, lingerMin: cfg.LingerMin, lingerMax: cfg.LingerMax}}
		for range c.messages {
			d.gather.add(&Message{}, now)
		}
		p.memory.take(c.memory)
		if ok, _ := d.due(now.Add(cfg.LingerMin)); !ok || p.pacer.level != c.want {
			t.Errorf("%s: due %t, %.0f permits left, want %.0f", name, ok, p.pacer.level, c.want)
		}
	}
}
