package keys

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/deploy/stack/stacktest"
)

// Ensure uses are written apart from the keys, at most once in a while, after NATS was away too, and that refused keys leave none.
func TestUses(t *testing.T) {
	own := stacktest.Start(t)
	nc := connect(t, own)
	s, f := open(t, nc), follow(t, nc)
	k, text := create(t, s, Spec{})
	unused, unusedText := create(t, s, Spec{Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	within(t, time.Second, "a new key", func() bool { return opens(f, text) })
	if uses, err := LastUses(t.Context(), nc); err != nil || len(uses) != 0 {
		t.Fatalf("before any use: %v, %v", uses, err)
	}
	u := NoteUses(f, nc, slog.New(slog.DiscardHandler))
	now := time.Now()
	use := func(at time.Time) {
		t.Helper()
		_, err := u.Authenticate(text, anywhere, at)
		must(t, err)
		if _, err := u.Authenticate(unusedText, anywhere, at); err == nil {
			t.Fatal("used from a network it may not be used from")
		}
		must(t, u.flush(t.Context()))
	}
	for _, at := range []time.Duration{0, time.Second, UseEvery - time.Second} {
		use(now.Add(at))
	}
	uses, err := LastUses(t.Context(), nc)
	must(t, err)
	if at := uses[k.ID]; len(uses) != 1 || !at.Equal(now.Truncate(time.Second)) {
		t.Errorf("uses %v, want %s at %s", uses, k.ID, now)
	}
	if n := lastSequence(t, u); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	use(now.Add(UseEvery))
	if n := lastSequence(t, u); n != 2 {
		t.Errorf("%d writes, want 2", n)
	}
	if f.seen != 2 {
		t.Errorf("the bucket of the keys has revision %d after the uses, want 2", f.seen)
	}
	own.StopNATS()
	later := now.Add(2 * UseEvery)
	_, err = u.Authenticate(text, anywhere, later)
	must(t, err)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	if err := u.flush(short); err == nil {
		t.Error("written without NATS")
	}
	cancel()
	must(t, own.StartNATS(t.Context()))
	within(t, patience, "the use noted without NATS", func() bool { return u.flush(t.Context()) == nil })
	uses, err = LastUses(t.Context(), nc)
	must(t, err)
	if at := uses[k.ID]; !at.Equal(later.Truncate(time.Second)) {
		t.Errorf("the use while NATS was away is lost: %s, want %s", at, later)
	}
	if _, ok := uses[unused.ID]; ok {
		t.Error("a refused key counts as used")
	}
}

func lastSequence(t *testing.T, u *Uses) uint64 {
	t.Helper()
	kv, err := u.bucket(t.Context())
	must(t, err)
	status, err := kv.Status(t.Context())
	must(t, err)
	return status.(*jetstream.KeyValueBucketStatus).StreamInfo().State.LastSeq
}

// Ensure keys whose id is known and keys whose id is not are refused in the same time: the quickest of many rounds, taken in turn, so that what
// else the machine does counts for nothing. Leaving the hash out for unknown ids would make that three times as quick.
func TestRefusalsTakeTheSameTime(t *testing.T) {
	nc := connect(t, shared)
	s, f := open(t, nc), follow(t, nc)
	k, text := create(t, s, Spec{})
	within(t, time.Second, "a new key", func() bool { return opens(f, text) })
	_, stranger := newText()
	other := Prefix + k.ID + "_" + strings.Repeat("a", secretLength)
	now := time.Now()
	const rounds, calls = 60, 300
	quickest := map[string]time.Duration{}
	for range rounds {
		for name, text := range map[string]string{"unknown": stranger, "wrong": other + checksum(other)} {
			began := time.Now()
			for range calls {
				if _, err := f.Authenticate(text, anywhere, now); err == nil {
					t.Fatalf("%s: opened", name)
				}
			}
			if took := time.Since(began); quickest[name] == 0 || took < quickest[name] {
				quickest[name] = took
			}
		}
	}
	if u, w := quickest["unknown"], quickest["wrong"]; u*2 < w || w*2 < u {
		t.Errorf("%d refusals of an unknown key take %s, of a wrong one %s", calls, u, w)
	}
}
