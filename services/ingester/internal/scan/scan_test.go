package scan_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/ingester/internal/scan"
)

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

const name, subject = "SCAN", "scan.even.*"

// setup makes a stream with twenty messages, of which those with an even sequence are on the subject.
func setup(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(shared.NATSURL())
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	if err := js.DeleteStream(t.Context(), name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"scan.>"}})
	must(t, err)
	for n := range 20 {
		publish(t, js, n+1)
	}
	return js
}

func publish(t *testing.T, js jetstream.JetStream, seq int) {
	t.Helper()
	_, err := js.Publish(t.Context(), fmt.Sprintf("scan.%s.%d", []string{"even", "odd"}[seq%2], seq), []byte("data"))
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// evens are the sequences on the subject from one to another.
func evens(first, last uint64) (seqs []uint64) {
	for seq := first + first%2; seq <= last; seq += 2 {
		seqs = append(seqs, seq)
	}
	return seqs
}

// behind has its next readers on a server that has the messages up to a sequence alone.
type behind struct {
	jetstream.JetStream
	has     uint64
	readers int
}

func (b *behind) late() bool {
	b.readers--
	return b.readers >= 0
}

func (b *behind) OrderedConsumer(ctx context.Context, stream string, cfg jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	c, err := b.JetStream.OrderedConsumer(ctx, stream, cfg)
	if err == nil && b.late() {
		return lateConsumer{c, b.has}, nil
	}
	return c, err
}

func (b *behind) CreateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	c, err := b.JetStream.CreateConsumer(ctx, stream, cfg)
	if err == nil && b.late() {
		return lateConsumer{c, b.has}, nil
	}
	return c, err
}

type lateConsumer struct {
	jetstream.Consumer
	has uint64
}

func (c lateConsumer) CachedInfo() *jetstream.ConsumerInfo {
	info := *c.Consumer.CachedInfo()
	info.NumPending = 0
	return &info
}

func (c lateConsumer) Messages(opts ...jetstream.PullMessagesOpt) (jetstream.MessagesContext, error) {
	it, err := c.Consumer.Messages(opts...)
	return lateMessages{it, c.has}, err
}

type lateMessages struct {
	jetstream.MessagesContext
	has uint64
}

// Next waits for ever, as the server would, for what is after the last message that the server has.
func (l lateMessages) Next(opts ...jetstream.NextOpt) (jetstream.Msg, error) {
	for {
		m, err := l.MessagesContext.Next(opts...)
		if err != nil {
			return nil, err
		}
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream <= l.has {
			return m, err
		}
	}
}

// walk returns the sequences that a walk brings.
func walk(ctx context.Context, js jetstream.JetStream, first, last uint64, each func(seq uint64) error) (seqs []uint64, err error) {
	err = scan.Walk(ctx, js, scan.Range{Stream: name, Subject: subject, First: first, Last: last}, func(_ jetstream.Msg, meta *jetstream.MsgMetadata) error {
		seqs = append(seqs, meta.Sequence.Stream)
		if each != nil {
			return each(meta.Sequence.Stream)
		}
		return nil
	})
	return seqs, err
}

// Ensure a walk brings what there was when it began, between its borders.
func TestWalk(t *testing.T) {
	js := setup(t)
	for _, c := range []struct{ first, last, from, to uint64 }{
		{0, math.MaxUint64, 1, 20}, {1, 20, 1, 20}, {2, 18, 2, 18}, {3, 17, 4, 16}, {20, 20, 20, 20}, {19, 19, 20, 19}, {21, math.MaxUint64, 21, 20}, {9, 8, 9, 8},
	} {
		if got, err := walk(t.Context(), js, c.first, c.last, nil); err != nil || !slices.Equal(got, evens(c.from, c.to)) {
			t.Errorf("from %d to %d: %v %v, want %v", c.first, c.last, got, err, evens(c.from, c.to))
		}
	}
	next := 20
	got, err := walk(t.Context(), js, 0, math.MaxUint64, func(uint64) error {
		next++
		publish(t, js, next)
		return nil
	})
	if err != nil || !slices.Equal(got, evens(1, 20)) {
		t.Errorf("with messages that came meanwhile: %v %v", got, err)
	}
	stop := errors.New("stop")
	if got, err := walk(t.Context(), js, 0, math.MaxUint64, func(seq uint64) error {
		if seq == 6 {
			return stop
		}
		return nil
	}); !errors.Is(err, stop) || !slices.Equal(got, evens(1, 6)) {
		t.Errorf("stopped: %v %v", got, err)
	}
}

// Ensure a walk whose readers live on a server that lacks messages brings all of them, once and in order; and says so when no server has them.
func TestWalkBesideAServerThatIsBehind(t *testing.T) {
	js := setup(t)
	scan.LowerLimits(t, 200*time.Millisecond, 4)
	for _, has := range []uint64{0, 7, 18} {
		got, err := walk(t.Context(), &behind{JetStream: js, has: has, readers: 3}, 2, 20, nil)
		if err != nil || !slices.Equal(got, evens(2, 20)) {
			t.Errorf("a server has messages up to %d: %v %v", has, got, err)
		}
	}
	got, err := walk(t.Context(), &behind{JetStream: js, has: 7, readers: 4}, 0, math.MaxUint64, nil)
	if err != nil || !slices.Equal(got, evens(1, 20)) {
		t.Errorf("the first of four readers brings something: %v %v", got, err)
	}
	got, err = walk(t.Context(), &behind{JetStream: js, has: 7, readers: math.MaxInt}, 0, math.MaxUint64, nil)
	if !errors.Is(err, scan.ErrBehind) || !strings.Contains(err.Error(), "stream SCAN from sequence 7") || !slices.Equal(got, evens(1, 7)) {
		t.Errorf("all servers lack messages: %v %v", got, err)
	}
}

// Ensure a walk that waits ends with its context.
func TestWalkIsCancelled(t *testing.T) {
	js := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	got, err := walk(ctx, &behind{JetStream: js, has: 7, readers: math.MaxInt}, 0, math.MaxUint64, func(seq uint64) error {
		if seq == 6 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, evens(1, 6)) {
		t.Errorf("%v %v", got, err)
	}
}

// Ensure a walk comes to its end when what it would end with is removed while it reads.
func TestWalkOfWhatIsRemoved(t *testing.T) {
	js := setup(t)
	scan.LowerLimits(t, 200*time.Millisecond, 4)
	stream, err := js.Stream(t.Context(), name)
	must(t, err)
	got, err := walk(t.Context(), &behind{JetStream: js, has: 7, readers: 1}, 0, math.MaxUint64, func(seq uint64) error {
		if seq == 6 {
			return stream.Purge(t.Context())
		}
		return nil
	})
	if err != nil || !slices.Equal(got, evens(1, 6)) {
		t.Errorf("%v %v", got, err)
	}
}

// Ensure a count is never 0 while the leader has messages, and that the oldest is theirs.
func TestCount(t *testing.T) {
	js := setup(t)
	second, found, err := scan.Next(t.Context(), js.Conn(), name, 2, subject)
	if err != nil || !found || second.Seq != 2 {
		t.Fatal(second, found, err)
	}
	for _, c := range []struct{ from, want uint64 }{{0, 10}, {2, 10}, {3, 9}, {20, 1}, {21, 0}} {
		n, oldest, err := scan.Count(t.Context(), js, name, []string{subject}, c.from)
		if err != nil || n != c.want || c.from == 2 && !oldest.Equal(second.Time) || oldest.IsZero() != (n == 0) {
			t.Errorf("from %d: %d, the oldest of %s, %v; want %d", c.from, n, oldest, err, c.want)
		}
		late, _, err := scan.Count(t.Context(), &behind{JetStream: js, readers: 1}, name, []string{subject}, c.from)
		if err != nil || (late > 0) != (c.want > 0) {
			t.Errorf("from %d, of a server that has none: %d %v", c.from, late, err)
		}
	}
	n, oldest, err := scan.Count(t.Context(), js, name, []string{"scan.none", subject, "scan.odd.19"}, 3)
	if err != nil || n != 10 || !oldest.After(second.Time) {
		t.Errorf("of several subjects: %d of %s, %v", n, oldest, err)
	}
}

// Ensure a time is found as the first sequence that is not older.
func TestSince(t *testing.T) {
	js := setup(t)
	for _, seq := range []uint64{2, 10, 20} {
		m, _, err := scan.Next(t.Context(), js.Conn(), name, seq, subject)
		must(t, err)
		for after, want := range map[time.Duration]uint64{0: seq, 1: seq + 2} {
			got, err := scan.Since(t.Context(), js.Conn(), name, subject, 1, 21, m.Time.Add(after))
			if want = min(want, 21); err != nil || got != want {
				t.Errorf("%s after message %d: %d %v, want %d", after, seq, got, err, want)
			}
		}
	}
	if got, err := scan.Since(t.Context(), js.Conn(), name, subject, 1, 21, time.Time{}); err != nil || got != 2 {
		t.Errorf("of the beginning of time: %d %v", got, err)
	}
}

// Ensure the last message is the last one on the subject, and that of a key says whether it stands for the key's end.
func TestLast(t *testing.T) {
	js := setup(t)
	for of, want := range map[string]uint64{subject: 20, "scan.odd.*": 19, "scan.odd.7": 7, "scan.none": 0} {
		m, found, err := scan.Last(t.Context(), js.Conn(), name, of)
		if err != nil || m.Seq != want || found != (want > 0) || m.Deleted() {
			t.Errorf("%s: %+v %t %v, want sequence %d", of, m, found, err, want)
		}
	}
	if _, _, err := scan.Last(t.Context(), js.Conn(), "NONE", subject); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("of no stream: %v", err)
	}
	kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "scan"})
	must(t, err)
	for range 2 {
		_, err = kv.PutString(t.Context(), "key", "value")
		must(t, err)
		if m, found, err := scan.Last(t.Context(), js.Conn(), "KV_scan", "$KV.scan.key"); err != nil || !found || m.Deleted() {
			t.Errorf("a key that is there: %+v %t %v", m, found, err)
		}
		must(t, kv.Delete(t.Context(), "key"))
		if m, found, err := scan.Last(t.Context(), js.Conn(), "KV_scan", "$KV.scan.key"); err != nil || !found || !m.Deleted() {
			t.Errorf("a key that was deleted: %+v %t %v", m, found, err)
		}
	}
}
