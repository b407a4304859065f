package lease

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// bucket takes heartbeats, and has entries of another member that a server with a clock from another year has stamped.
type bucket struct{ jetstream.KeyValue }

func (bucket) Put(context.Context, string, []byte) (uint64, error) { return 1, nil }

type entry struct{ jetstream.KeyValueEntry }

func (entry) Key() string                     { return "other" }
func (entry) Value() []byte                   { return []byte(`{"holds":[1]}`) }
func (entry) Operation() jetstream.KeyValueOp { return jetstream.KeyValuePut }
func (entry) Created() time.Time              { return time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC) }

// Ensure who counts as alive, here and at the others, follows from clocks that do not jump: not from the wall clock, and not from the server's.
func TestAliveByMonotonicClock(t *testing.T) {
	m := New(Config{Instance: "me", Partitions: 4}, bucket{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	m.write(t.Context())
	m.heard(t.Context(), entry{})
	m.heard(t.Context(), nil)
	if got := m.Wanted(); !m.Valid() || !slices.Equal(got, []int{3}) {
		t.Errorf("valid is %v, %v are wanted; want 3, for 1 is ours too and the other holds it", m.Valid(), got)
	}
	for what, at := range map[string]time.Time{"we are valid until": m.valid, "the other was heard at": m.others["other"].heard} {
		if !strings.Contains(at.String(), " m=") {
			t.Errorf("%s %s, which has no monotonic reading", what, at)
		}
	}
}
