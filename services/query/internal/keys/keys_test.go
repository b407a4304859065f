package keys

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
)

// shared is for tests that leave NATS alone; those that stop it start their own.
var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

const patience = 20 * time.Second

var (
	tenant   = uuid.MustParse("11111111-2222-4333-8444-555555555555")
	anywhere = netip.MustParseAddr("203.0.113.9")
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, s *stack.Stack) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.NATSURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// follow runs a follower until the test ends.
func follow(t *testing.T, nc *nats.Conn) *Follower {
	t.Helper()
	f, err := Follow(t.Context(), nc, slog.New(slog.DiscardHandler))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	return f
}

func open(t *testing.T, nc *nats.Conn) *Store {
	t.Helper()
	s, err := OpenStore(t.Context(), nc)
	must(t, err)
	return s
}

func create(t *testing.T, s *Store, spec Spec) (Key, string) {
	t.Helper()
	if spec.Tenant == uuid.Nil {
		spec.Tenant = tenant
	}
	spec.Name = "test"
	k, text, err := s.Create(t.Context(), spec)
	must(t, err)
	return k, text
}

// within fails unless f holds within a limit, and returns how long that took.
func within(t *testing.T, limit time.Duration, what string, f func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !f() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

func opens(f *Follower, text string) bool {
	_, err := f.Authenticate(text, anywhere, time.Now())
	return err == nil
}

// Ensure a new key works and a revoked one stops working within a second, without a restart.
func TestKeysAreFollowedLive(t *testing.T) {
	nc := connect(t, shared)
	s, f := open(t, nc), follow(t, nc)
	k, text := create(t, s, Spec{Roles: []string{"self"}, Actor: "user_1", ActorType: "user", ResourceTypes: []string{"invoice"}})
	t.Logf("known after %s", within(t, time.Second, "a new key", func() bool { return opens(f, text) }))
	got, err := f.Authenticate(text, anywhere, time.Now())
	must(t, err)
	if got.ID != k.ID || got.Tenant != tenant || got.Roles[0] != "self" || got.Actor != "user_1" || got.ActorType != "user" || got.ResourceTypes[0] != "invoice" {
		t.Errorf("authenticated as %+v", got)
	}
	if changed, err := s.Revoke(t.Context(), k.ID); err != nil || !changed {
		t.Fatalf("revoke: %v, %v", changed, err)
	}
	t.Logf("revoked after %s", within(t, time.Second, "a revoked key", func() bool { return !opens(f, text) }))
	if changed, err := s.Revoke(t.Context(), k.ID); err != nil || changed {
		t.Errorf("revoke again: %v, %v", changed, err)
	}
	if _, err := s.Revoke(t.Context(), "nosuchkey123"); !errors.Is(err, ErrUnknown) {
		t.Errorf("revoke an unknown key: %v", err)
	}
	if _, err := s.Get(t.Context(), "*"); !errors.Is(err, ErrUnknown) {
		t.Errorf("get a pattern: %v", err)
	}
}

// Ensure a follower knows all keys the moment it exists, and that a deleted entry opens nothing.
func TestKeysAreLoadedBeforeServing(t *testing.T) {
	nc := connect(t, shared)
	s := open(t, nc)
	k, text := create(t, s, Spec{})
	f, err := Follow(t.Context(), nc, slog.New(slog.DiscardHandler))
	must(t, err)
	if !opens(f, text) {
		t.Error("the key is not known")
	}
	f.Close()
	g := follow(t, nc)
	must(t, s.kv.Delete(t.Context(), k.ID))
	within(t, time.Second, "a deleted key", func() bool { return !opens(g, text) })
}

// Ensure an entry that cannot be read, or that stands under another id, opens nothing and harms nobody else.
func TestBrokenEntryFailsClosed(t *testing.T) {
	nc := connect(t, shared)
	s, f := open(t, nc), follow(t, nc)
	k, text := create(t, s, Spec{})
	_, other := create(t, s, Spec{})
	within(t, time.Second, "new keys", func() bool { return opens(f, text) && opens(f, other) })
	_, err := s.kv.Put(t.Context(), k.ID, []byte(`{"id":"`+k.ID+`","hash":"00"}`))
	must(t, err)
	within(t, time.Second, "a broken key", func() bool { return !opens(f, text) })
	if !opens(f, other) {
		t.Error("a broken entry closed another key")
	}
	must(t, s.kv.Delete(t.Context(), k.ID))
}

// Ensure every way for a key to be wrong gets the one answer.
func TestRefusals(t *testing.T) {
	nc := connect(t, shared)
	s, f := open(t, nc), follow(t, nc)
	_, good := create(t, s, Spec{})
	_, short := create(t, s, Spec{Expires: time.Hour})
	_, bound := create(t, s, Spec{Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}})
	within(t, time.Second, "new keys", func() bool { return opens(f, good) && opens(f, short) })
	within(t, time.Second, "a bound key", func() bool {
		_, err := f.Authenticate(bound, netip.MustParseAddr("198.51.100.7"), time.Now())
		return err == nil
	})
	id, _ := parse(good)
	_, stranger := newText()
	forged := Prefix + id + stranger[len(Prefix)+IDLength:]
	forged = forged[:textLength-checksumLength] + checksum(forged[:textLength-checksumLength])
	later := time.Now().Add(time.Hour + time.Second)
	for name, c := range map[string]struct {
		text   string
		source string
		now    time.Time
		ok     bool
	}{
		"Good":           {good, "203.0.113.9", time.Now(), true},
		"Forever":        {good, "203.0.113.9", later.Add(1e6 * time.Hour), true},
		"Empty":          {"", "203.0.113.9", time.Now(), false},
		"Typo":           {swapped(good), "203.0.113.9", time.Now(), false},
		"Unknown":        {stranger, "203.0.113.9", time.Now(), false},
		"WrongSecret":    {forged, "203.0.113.9", time.Now(), false},
		"Longer":         {good + "x", "203.0.113.9", time.Now(), false},
		"Case":           {strings.ToUpper(good), "203.0.113.9", time.Now(), false},
		"InTime":         {short, "203.0.113.9", time.Now().Add(59 * time.Minute), true},
		"Expired":        {short, "203.0.113.9", later, false},
		"Elsewhere":      {bound, "203.0.113.9", time.Now(), false},
		"Network":        {bound, "198.51.100.7", time.Now(), true},
		"MappedNetwork":  {bound, "::ffff:198.51.100.7", time.Now(), true},
		"OtherFamily":    {bound, "2001:db8::1", time.Now(), true},
		"UnknownAddress": {bound, "", time.Now(), false},
	} {
		source, _ := netip.ParseAddr(c.source)
		_, err := f.Authenticate(c.text, source, c.now)
		if c.ok != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && err != ErrRefused { //nolint:errorlint // it must be exactly this
			t.Errorf("%s: the answer tells more: %v", name, err)
		}
	}
}

func swapped(s string) string {
	b := []byte(s)
	i := len(b) - checksumLength - 2
	b[i]++
	return string(b)
}

// Ensure keys go on from memory while NATS is away, say so, and take up changes when it is back.
func TestGoesOnWithoutNATS(t *testing.T) {
	own := stacktest.Start(t)
	nc := connect(t, own)
	s, f := open(t, nc), follow(t, nc)
	k, text := create(t, s, Spec{})
	within(t, time.Second, "a new key", func() bool { return opens(f, text) })
	if err := f.Check(); err != nil || f.Note() != "1 keys" {
		t.Errorf("fresh, and says %v, %q", err, f.Note())
	}
	own.StopNATS()
	within(t, 2*staleAfter, "staleness", func() bool { err := f.Check(); return err != nil && strings.Contains(err.Error(), "from memory") })
	if !opens(f, text) {
		t.Error("the key stopped working without NATS")
	}
	must(t, own.StartNATS(t.Context()))
	within(t, patience, "NATS to come back", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Revoke(ctx, k.ID)
		return err == nil
	})
	within(t, patience, "a revocation after NATS was away", func() bool { return !opens(f, text) })
	within(t, patience, "freshness", func() bool { return f.Check() == nil })
}

// Ensure a watch that has silently missed changes is found out and replaced.
func TestDeadWatchIsReplaced(t *testing.T) {
	nc := connect(t, shared)
	s := open(t, nc)
	f, err := Follow(t.Context(), nc, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, f.watch.Stop())
	_, text := create(t, s, Spec{})
	f.watch = deaf{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	within(t, 5*confirmEvery, "a change that the watch did not see", func() bool { return opens(f, text) })
	cancel()
	must(t, <-done)
}

// deaf is a watch that never says anything.
type deaf struct{}

func (deaf) Updates() <-chan jetstream.KeyValueEntry { return nil }
func (deaf) Stop() error                             { return nil }

// Ensure rotating hands all attributes on and ends the old key, at once or after a while.
func TestRotate(t *testing.T) {
	nc := connect(t, shared)
	s := open(t, nc)
	old, _ := create(t, s, Spec{Roles: []string{"self"}, Actor: "a", Expires: 90 * 24 * time.Hour, Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	k, text, err := s.Rotate(t.Context(), old.ID, time.Hour, 0)
	must(t, err)
	if id, ok := parse(text); !ok || id != k.ID || k.ID == old.ID {
		t.Errorf("new key %q", text)
	}
	if k.Actor != "a" || k.Roles[0] != "self" || !k.ExpiresAt.Equal(*old.ExpiresAt) || len(k.Sources) != 1 {
		t.Errorf("attributes were lost: %+v", k)
	}
	retired, err := s.Get(t.Context(), old.ID)
	must(t, err)
	if left := time.Until(*retired.ExpiresAt); left > time.Hour || left < 50*time.Minute || retired.RevokedAt != nil {
		t.Errorf("the old key lives on for %s", left)
	}
	if _, _, err := s.Rotate(t.Context(), k.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Rotate(t.Context(), k.ID, 0, 0); err == nil {
		t.Error("a revoked key was rotated")
	}
}

// Ensure the secret of the cursors is made once, whoever asks at the same time.
func TestCursorSecretIsMadeOnce(t *testing.T) {
	own := stacktest.Start(t)
	nc := connect(t, own)
	got := make(chan string, 8)
	for range cap(got) {
		go func() {
			secret, err := CursorSecret(t.Context(), nc)
			if err != nil {
				t.Error(err)
			}
			got <- string(secret)
		}()
	}
	first := <-got
	for range cap(got) - 1 {
		if next := <-got; next != first || len(next) < 32 {
			t.Fatal("instances have different secrets")
		}
	}
}

// Ensure no key text, nor its secret, is in the bucket.
func TestOnlyTheHashIsKept(t *testing.T) {
	nc := connect(t, shared)
	s := open(t, nc)
	k, text := create(t, s, Spec{})
	entry, err := s.kv.Get(t.Context(), k.ID)
	must(t, err)
	if strings.Contains(string(entry.Value()), text[len(Prefix)+IDLength+1:][:10]) {
		t.Error("the secret is kept")
	}
}

// Ensure every fault of a spec is reported at once.
func TestSpecFaults(t *testing.T) {
	err := (&Spec{Name: "a\nb", Roles: []string{"self", "no role"}, ActorType: "user", ResourceTypes: []string{""}, Expires: -1}).Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"--name", "--tenant", `"no role"`, "--actor", "--actor-type", "--resource-type", "--expires"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%s", want, err)
		}
	}
}

// Ensure following leaves nothing running behind.
func TestFollowerStops(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	nc, err := nats.Connect(shared.NATSURL())
	must(t, err)
	f, err := Follow(t.Context(), nc, slog.New(slog.DiscardHandler))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	cancel()
	must(t, <-done)
	nc.Close()
	goleak.VerifyNone(t, ignore)
}
